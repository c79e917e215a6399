//! What must hold on either database, under threads.

use crate::support::{BOTH, Database, Postgres};
use embervault::db::{self, Db, DbError};
use embervault::model::id::{JobId, ProjectId, StorageId, VolumeId};
use embervault::model::job::{Job, JobArgs, JobState, Lane, Lease};
use embervault::model::time::Timestamp;
use embervault::model::vault::StorageRow;
use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Barrier, Mutex};
use std::time::{Duration, Instant};

struct Bed {
    _dir: tempfile::TempDir,
    _postgres: Option<Postgres>,
    db: Db,
}

fn bed(database: Database) -> Bed {
    let dir = tempfile::tempdir().unwrap();
    let postgres = (database == Database::Postgres).then(Postgres::start);
    let url = match &postgres {
        Some(postgres) => postgres.url(),
        None => format!("sqlite:{}", dir.path().join("db").display()),
    };
    Bed {
        db: Db::open(&url).unwrap(),
        _dir: dir,
        _postgres: postgres,
    }
}

fn job() -> Job {
    let volume_id = VolumeId::random();
    Job::new(JobArgs::CreateVolume { volume_id }, Timestamp(100))
}

#[test]
fn each_job_is_claimed_exactly_once() {
    for database in BOTH {
        let bed = bed(database);
        for _ in 0..120 {
            bed.db
                .write(|c| db::jobs::insert(c, &job()).map_err(DbError::from))
                .unwrap();
        }
        let claimed = Mutex::new(HashSet::new());
        std::thread::scope(|scope| {
            for worker in 0..8 {
                let (db, claimed) = (&bed.db, &claimed);
                scope.spawn(move || {
                    let name = format!("w{worker}");
                    let mut misses = 0;
                    while misses < 20 {
                        let claim = |c: &mut db::DbConnection| {
                            db::jobs::claim(
                                c,
                                Lane::Quick,
                                (&name, "place"),
                                Timestamp(200),
                                Timestamp(1000),
                                &[],
                            )
                            .map_err(DbError::from)
                        };
                        match db.write(claim).unwrap() {
                            Some(job) => {
                                assert!(claimed.lock().unwrap().insert(job.id), "claimed twice")
                            }
                            None => misses += 1,
                        }
                    }
                });
            }
        });
        assert_eq!(claimed.lock().unwrap().len(), 120, "{database:?}");
    }
}

#[test]
fn a_lease_that_ran_out_is_claimed_again_and_the_old_owner_changes_nothing() {
    for database in BOTH {
        let bed = bed(database);
        let wanted = job();
        bed.db
            .write(|c| db::jobs::insert(c, &wanted).map_err(DbError::from))
            .unwrap();
        let claim = |now, abandoned: &[(JobId, i64)]| claim(&bed.db, Timestamp(now), abandoned);
        assert!(claim(99, &[]).is_none(), "it is not due yet");
        let first = claim(100, &[]).unwrap();
        assert!(claim(1000, &[]).is_none(), "nobody has seen it stand still");
        let at = |beats| [(wanted.id.clone(), beats)];
        assert!(claim(1000, &at(0)).is_none(), "it has beaten since");
        let second = claim(1001, &at(first.beats)).unwrap();
        assert_eq!((first.attempt, second.attempt), (1, 2));
        assert!(claim(1001, &at(first.beats)).is_none(), "claimed twice");
        let settle = |attempt| {
            let job_id = wanted.id.clone();
            let lease = Lease { job_id, attempt };
            bed.db
                .write(|c| {
                    db::jobs::settle(c, &lease, JobState::Completed, None, Timestamp(1500))
                        .map_err(DbError::from)
                })
                .unwrap()
        };
        assert!(!settle(1), "a stale owner settled the job");
        assert!(settle(2));
        assert!(!settle(2), "it was settled twice");
        assert!(claim(9999, &[]).is_none());
    }
}

fn claim(db: &db::Db, now: Timestamp, abandoned: &[(JobId, i64)]) -> Option<Job> {
    let until = Timestamp(now.0 + 1000);
    db.write(|c| {
        db::jobs::claim(c, Lane::Quick, ("w", "p"), now, until, abandoned).map_err(DbError::from)
    })
    .unwrap()
}

#[test]
fn projects_take_turns_and_a_clock_that_was_set_back_holds_nothing_up() {
    for database in BOTH {
        let bed = bed(database);
        let add = |project: &str, run_at| {
            let job = Job {
                project_id: Some(ProjectId::new(project)),
                run_at: Timestamp(run_at),
                ..job()
            };
            bed.db
                .write(|c| db::jobs::insert(c, &job).map_err(DbError::from))
                .unwrap();
        };
        for turn in 0..3 {
            add("greedy", turn);
        }
        add("modest", 50);
        let project = || claim(&bed.db, Timestamp(100), &[]).map(|job| job.project_id.unwrap());
        let order: Vec<_> = std::iter::from_fn(project).collect();
        let named: Vec<&str> = order.iter().map(|project| project.as_str()).collect();
        assert_eq!(named, ["greedy", "modest", "greedy", "greedy"]);
        let (hour, day) = (3_600_000_000, 86_400_000_000);
        add("late", day);
        assert!(claim(&bed.db, Timestamp(day - hour / 60), &[]).is_none());
        assert!(claim(&bed.db, Timestamp(day - hour), &[]).is_some());
    }
}

#[test]
fn a_session_is_the_latest_run_s_and_ends_for_good() {
    for database in BOTH {
        let bed = bed(database);
        let job_id = JobId::random();
        let lease = |attempt| Lease {
            job_id: job_id.clone(),
            attempt,
        };
        let begin = |attempt| {
            let begin = |c: &mut db::DbConnection| db::sessions::begin(c, &lease(attempt));
            bed.db.write(|c| begin(c).map_err(DbError::from)).unwrap()
        };
        let hold = |attempt| {
            let hold = |c: &mut db::DbConnection| db::sessions::hold(c, &lease(attempt));
            bed.db.write(|c| hold(c).map_err(DbError::from)).unwrap()
        };
        assert!(begin(1) && hold(1));
        assert!(begin(3) && !hold(1) && hold(3));
        assert!(!begin(2), "a run that was overtaken begins");
        bed.db
            .write(|c| db::packs::end_session(c, &job_id).map_err(DbError::from))
            .unwrap();
        assert!(!hold(3) && !begin(4));
        // A job that ended before its session began.
        let other = Lease::unclaimed(&JobId::random());
        bed.db
            .write(|c| db::packs::end_session(c, &other.job_id).map_err(DbError::from))
            .unwrap();
        let late = bed
            .db
            .write(|c| db::sessions::begin(c, &other).map_err(DbError::from));
        assert!(!late.unwrap());
        let pruned = bed
            .db
            .write(|c| db::sessions::prune(c).map_err(DbError::from));
        assert_eq!(pruned.unwrap(), 2);
    }
}

#[test]
fn a_subject_has_one_live_job() {
    for database in BOTH {
        let bed = bed(database);
        let one = job();
        let two = Job {
            id: JobId::random(),
            ..one.clone()
        };
        let insert = |job: &Job| {
            bed.db
                .write(|c| db::jobs::insert(c, job).map_err(DbError::from))
        };
        insert(&one).unwrap();
        match insert(&two) {
            Err(DbError::Query(error)) => assert!(db::is_duplicate(&error), "{error}"),
            other => panic!("{other:?}"),
        }
    }
}

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
        let found = bed
            .db
            .read(|c| db::jobs::find(c, &wanted.id).map_err(DbError::from))
            .unwrap();
        assert!(found.is_none(), "{database:?}");
        bed.db
            .write(|c| db::jobs::insert(c, &wanted).map_err(DbError::from))
            .unwrap();
    }
}

#[test]
fn threads_that_ask_for_a_vault_get_the_same_and_pack_numbers_never_repeat() {
    for database in BOTH {
        let bed = bed(database);
        let storage = StorageId::random();
        let row = StorageRow {
            id: storage.clone(),
            name: "s".to_owned(),
            master_key_check: String::new(),
            created_at: Timestamp(0),
        };
        bed.db
            .write(|c| db::vaults::insert_storage(c, &row).map_err(DbError::from))
            .unwrap();
        let project = ProjectId::new("p");
        let vault = bed
            .db
            .write(|c| {
                db::vaults::find_or_insert(c, &project, &storage, Timestamp(0))
                    .map_err(DbError::from)
            })
            .unwrap();
        let numbers = Mutex::new(HashSet::new());
        std::thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| {
                    for _ in 0..20 {
                        let session = JobId::random();
                        let pack = bed
                            .db
                            .write(|c| {
                                let kind = embervault::model::pack::PackKind::Data;
                                db::packs::open(c, vault.number, kind, &session)
                                    .map_err(DbError::from)
                            })
                            .unwrap();
                        assert!(
                            numbers.lock().unwrap().insert(pack.number),
                            "a number came twice"
                        );
                    }
                });
            }
        });
        assert_eq!(numbers.lock().unwrap().len(), 120);
    }
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
                        Ok(db::lock(c, names[1])?)
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
        let renewed = bed.db.renew(|c| db::jobs::tally(c).map_err(DbError::from));
        let waited = asked.elapsed();
        leave.wait();
        assert!(
            renewed.is_ok() && waited < Duration::from_secs(2),
            "{waited:?}"
        );
    });
}
