//! Connections and transactions.

use super::*;
use diesel::RunQueryDsl;
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};

#[test]
fn a_failed_transaction_leaves_nothing_and_the_connection_works_on() {
    for database in BOTH {
        let bed = bed(database);
        let wanted = job();
        let failed: Result<(), DbError> = bed.db.write(|c| {
            db::jobs::insert(c, &wanted)?;
            db::jobs::insert(c, &wanted)?;
            Ok(())
        });
        assert!(failed.is_err());
        let found = bed.db.read(|c| db::jobs::find(c, &wanted.id)).unwrap();
        assert!(found.is_none(), "{database:?}");
        bed.db.write(|c| db::jobs::insert(c, &wanted)).unwrap();
    }
}

#[derive(diesel::QueryableByName)]
struct Language {
    #[diesel(sql_type = diesel::sql_types::Text)]
    lc_messages: String,
}

/// The language in which the server speaks to a connection.
fn language(db: &Db) -> String {
    let show = |c: &mut db::DbConnection| match c {
        db::DbConnection::Postgres(c) => {
            let shown: Language = diesel::sql_query("SHOW lc_messages").get_result(c)?;
            Ok::<_, DbError>(shown.lc_messages)
        }
        db::DbConnection::Sqlite(_) => Ok(String::new()),
    };
    db.read(show).unwrap()
}

#[test]
fn the_server_speaks_english_to_whoever_may_ask_for_it() {
    // No other language is installed where this runs, so that another name for English stands for one.
    let postgres = Postgres::start_with(&["lc_messages=POSIX"]);
    let ours = Db::open(&postgres.url()).unwrap();
    assert_eq!(language(&ours), "C");
    ours.write(|c| -> Result<(), DbError> {
        c.batch_execute(
            "CREATE ROLE plain LOGIN; GRANT ALL ON ALL TABLES IN SCHEMA public TO plain; \
             GRANT ALL ON SCHEMA public TO plain",
        )?;
        Ok(())
    })
    .unwrap();
    let url = postgres.url().replace("embervault@", "plain@");
    let theirs = Db::open(&url).unwrap();
    assert_eq!(language(&theirs), "POSIX");
    assert!(theirs.read(db::vaults::all).unwrap().is_empty());
}

#[test]
fn a_transaction_that_a_deadlock_threw_out_is_run_again() {
    for database in BOTH {
        let bed = bed(database);
        let (meeting, runs) = (Barrier::new(2), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for names in [["a", "b"], ["b", "a"]] {
                let (db, meeting, runs) = (&bed.db, &meeting, &runs);
                scope.spawn(move || {
                    let mut is_first = true;
                    db.write(|c| -> Result<(), DbError> {
                        runs.fetch_add(1, Ordering::SeqCst);
                        db::lock(c, names[0])?;
                        // SQLite lets one transaction in at a time.
                        if database == Database::Postgres && std::mem::take(&mut is_first) {
                            meeting.wait();
                        }
                        db::lock(c, names[1])
                    })
                    .unwrap();
                });
            }
        });
        let runs = runs.into_inner();
        let expected = if database == Database::Postgres { 3 } else { 2 };
        assert_eq!(runs, expected);
    }
}

#[test]
fn a_sign_of_life_waits_for_no_other_work() {
    let bed = bed(Database::Postgres);
    let (entered, leave) = (Barrier::new(9), Barrier::new(9));
    std::thread::scope(|scope| {
        // Every connection of the others is taken.
        for _ in 0..8 {
            scope.spawn(|| {
                bed.db
                    .write(|_| -> Result<(), DbError> {
                        entered.wait();
                        leave.wait();
                        Ok(())
                    })
                    .unwrap();
            });
        }
        entered.wait();
        let asked = Instant::now();
        let renewed = bed.db.renew(db::jobs::tally);
        let waited = asked.elapsed();
        leave.wait();
        assert!(
            renewed.is_ok() && waited < Duration::from_secs(2),
            "{waited:?}"
        );
    });
}
