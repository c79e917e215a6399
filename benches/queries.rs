//! How long the queries take that are asked most often, with a million packs, a hundred thousand backups and ten
//! thousand vaults: `cargo bench --bench queries`. `-- --small` is a hundredth of that, for a look whether it runs.
//! `EMBERVAULT_BENCH_DATABASE=postgresql://…` takes an empty database of yours in the place of a PostgreSQL of
//! its own; what is put there stays.

#![allow(
    clippy::unwrap_used,
    reason = "a benchmark may stop at whatever goes wrong"
)]

#[path = "../tests/suite/filled.rs"]
#[allow(dead_code, reason = "the tests need more of it")]
mod filled;
#[path = "../tests/suite/support.rs"]
#[allow(dead_code, reason = "the tests need more of it")]
mod support;

use embervault::config::Quota;
use embervault::db::backups::Finished;
use embervault::db::jobs::Claimer;
use embervault::db::{self, Db, DbConnection, DbError, DbResult};
use embervault::model::backup::{Backup, BackupEvent, BackupStatus, COLUMNS};
use embervault::model::id::{BackupId, JobId, ProjectId, StorageId, VaultId, VolumeId};
use embervault::model::job::{BackupSource, Job, JobArgs, JobState, Lease, Queue};
use embervault::model::number::PackNumber;
use embervault::model::pack::PackKind;
use embervault::model::page::{Filter, Order, Page, column};
use embervault::model::time::Timestamp;
use filled::{Size, id, time};
use std::time::{Duration, Instant};
use support::{BOTH, Database, Postgres};

/// Each is measured for about this long, and at least a few times.
const DURATION: Duration = Duration::from_secs(2);
const TIMES_MIN: usize = 5;
/// The vault and the project that have a tenth of everything, and a common one.
const BIG: i64 = 1;
const COMMON: i64 = 77;

type Queries = fn(&mut DbConnection, &Size) -> DbResult<()>;

const MEASURED: &[(&str, Queries)] = &[
    ("a runner looks for a job and takes it", claim),
    ("a runner prolongs its lease", renew),
    ("a backup is accepted: quota, parent, row, job", accept),
    (
        "a backup is committed: hold, packs, references, row",
        commit,
    ),
    ("packs are referenced, 1000 at once", reference),
    ("chunks are looked up, 500 at once", look_up),
    ("first page of backups", first_page),
    ("first page of backups, a big project", first_big_page),
    ("a page in the middle, a big project", middle_page),
    ("first page of all projects' backups", page_of_all),
    ("a page by name, a big project", page_by_name),
    ("how many backups a big project has", count),
    ("quota usage of a big project", usage),
    ("a token is looked up", token),
    ("the live job of a backup", live_job),
    ("other backups with the same root", sharing),
    ("collector: what a common vault needs", |c, _| {
        census(c, COMMON)
    }),
    ("collector: what a big vault needs", |c, _| census(c, BIG)),
    (
        "collector: which packs of a big vault may be compacted",
        settled,
    ),
    ("verification: packs of a big vault", verified),
    ("damaged packs of a big vault", damaged),
    ("which vault is due", due),
    ("what waits for a job that is not there", orphans),
    ("jobs by kind and state", tally),
    ("the jobs shown to an administrator", recent),
    ("old jobs, sessions and messages are forgotten", prune),
    ("64 packs of a shredded vault are removed", remove_packs),
];

fn main() {
    let is_small = std::env::args().any(|argument| argument == "--small");
    let scale = if is_small { 100 } else { 1 };
    let size = Size {
        vaults: 10_000 / scale,
        backups: 100_000 / scale,
        packs: 1_000_000 / scale,
        biggest: 10,
    };
    println!("| database | asked | times | p50 ms | p99 ms |");
    println!("|---|---|---|---|---|");
    for database in BOTH {
        let dir = tempfile::tempdir().unwrap();
        let given = std::env::var("EMBERVAULT_BENCH_DATABASE").ok();
        let own = (database == Database::Postgres && given.is_none()).then(Postgres::start);
        let url = match (database, &own) {
            (Database::Sqlite, _) => format!("sqlite:{}", dir.path().join("db").display()),
            (Database::Postgres, Some(postgres)) => postgres.url(),
            (Database::Postgres, None) => given.unwrap(),
        };
        let db = Db::open(&url).unwrap();
        let started = Instant::now();
        filled::fill(&url, size);
        println!(
            "| {database:?} | (tables are filled) | 1 | {:.0} | |",
            started.elapsed().as_secs_f64() * 1000.0
        );
        for (name, queries) in MEASURED {
            let (times, p50, p99) = measure(&db, &size, name, *queries);
            println!("| {database:?} | {name} | {times} | {p50:.2} | {p99:.2} |");
        }
    }
}

/// How often the queries could be asked, each time in a transaction that is undone, and their median and 99th
/// percentile in ms.
fn measure(db: &Db, size: &Size, name: &str, queries: Queries) -> (usize, f64, f64) {
    let mut times = Vec::new();
    let started = Instant::now();
    while times.len() < TIMES_MIN || started.elapsed() < DURATION {
        let undone: Result<(), DbError> = db.write(|c| {
            let asked = Instant::now();
            queries(c, size).unwrap_or_else(|error| panic!("{name}: {error}"));
            times.push(asked.elapsed());
            Err(DbError::Query(diesel::result::Error::RollbackTransaction))
        });
        assert!(undone.is_err());
    }
    times.sort_unstable();
    let at = |share: usize| {
        let place = (times.len() * share / 100).min(times.len() - 1);
        times[place].as_secs_f64() * 1000.0
    };
    (times.len(), at(50), at(99))
}

fn big_project() -> ProjectId {
    ProjectId::new(id(BIG))
}

fn big_vault() -> VaultId {
    VaultId::new(id(BIG))
}

/// A job that runs, whose session has references.
fn lease() -> Lease {
    Lease {
        job_id: JobId::new(id(*filled::RUNNING.start())),
        attempt: 1,
    }
}

fn now(size: &Size) -> Timestamp {
    Timestamp(time(size.backups))
}

fn claim(c: &mut DbConnection, size: &Size) -> DbResult<()> {
    db::jobs::running_elsewhere(c, Queue::Backup, Vec::new())?;
    let us = Claimer {
        worker: "w".to_owned(),
        place: "p".to_owned(),
        places: 2,
        reserves: true,
        others: Vec::new(),
    };
    let claimed = db::jobs::claim(c, Queue::Backup, &us, now(size), now(size), &[])?;
    assert!(claimed.is_some());
    Ok(())
}

fn renew(c: &mut DbConnection, size: &Size) -> DbResult<()> {
    db::jobs::renew(c, &lease(), now(size), (1, 2), now(size)).map(drop)
}

fn accept(c: &mut DbConnection, size: &Size) -> DbResult<()> {
    let (project, storage) = (big_project(), StorageId::new(id(1)));
    db::lock_project(c, &project)?;
    db::quotas::limits(c, Some(&project), &Quota::default())?;
    db::backups::usage(c, &project)?;
    let volume_id = VolumeId::new(id(size.backups / 40));
    let parent = db::backups::parent_for(c, &volume_id, &project, &storage, None)?;
    let one = db::backups::find(c, &BackupId::new(id(3)))?.unwrap();
    let backup = Backup {
        id: BackupId::random(),
        parent_id: parent.map(|parent| parent.id),
        status: BackupStatus::Creating,
        pack_set: None,
        ..one
    };
    db::backups::insert(c, &backup)?;
    let args = JobArgs::CreateBackup {
        backup_id: backup.id,
        source: BackupSource {
            volume_id,
            snapshot_id: None,
        },
        force: false,
    };
    db::jobs::insert(c, &Job::new(args, now(size)))
}

fn commit(c: &mut DbConnection, size: &Size) -> DbResult<()> {
    let (lease, backup) = (lease(), BackupId::new(id(1)));
    assert!(db::sessions::hold(c, &lease)?);
    let pack = db::packs::open(c, BIG, PackKind::Data, &lease.job_id)?;
    assert!(db::packs::go_live(c, &pack, &lease.job_id)?);
    db::packs::is_rewritten(c, &lease.job_id)?;
    db::packs::end_session(c, &lease.job_id)?;
    let finished = Finished {
        pack_set: vec![0; 4096],
        object_count: 1,
        logical_bytes: 1,
        read_bytes: 1,
        stored_bytes: 1,
        deduplicated_bytes: 0,
    };
    db::backups::set_finished(c, &backup, &finished)?;
    assert!(db::backups::transition(
        c,
        &backup,
        BackupEvent::Finished,
        now(size)
    )?);
    db::jobs::settle(c, &lease, JobState::Completed, None, now(size)).map(drop)
}

fn reference(c: &mut DbConnection, _: &Size) -> DbResult<()> {
    let numbers: Vec<PackNumber> = (1..=1000).map(PackNumber::from).collect();
    db::packs::reference(c, BIG, &lease().job_id, &numbers).map(drop)
}

fn look_up(c: &mut DbConnection, _: &Size) -> DbResult<()> {
    // Half of them are there.
    let number = |number: i64| if number % 2 == 0 { number } else { -number };
    let ids: Vec<Vec<u8>> = (1..=500).map(|i| id(number(i)).into_bytes()).collect();
    let found = db::chunks::lookup(c, BIG, &ids)?;
    assert_eq!(found.len(), 250);
    Ok(())
}

fn page(
    c: &mut DbConnection,
    project: Option<i64>,
    marker: Option<i64>,
    first: &str,
) -> DbResult<()> {
    let mut keys = vec![first, "created_at", "id"];
    keys.dedup();
    let filter = Filter {
        project: project.map(|number| ProjectId::new(id(number))),
        conditions: Vec::new(),
    };
    let order = |key: &&str| Order {
        column: column(COLUMNS, key).unwrap(),
        descending: true,
    };
    let page = Page {
        limit: 100,
        offset: 0,
        marker: marker.map(id),
        sort: keys.iter().map(order).collect(),
        bytes_max: 1 << 20,
    };
    assert!(!db::backups::list(c, &filter, &page)?.rows.is_empty());
    Ok(())
}

fn first_page(c: &mut DbConnection, _: &Size) -> DbResult<()> {
    page(c, Some(COMMON), None, "created_at")
}

fn first_big_page(c: &mut DbConnection, _: &Size) -> DbResult<()> {
    page(c, Some(BIG), None, "created_at")
}

fn middle_page(c: &mut DbConnection, size: &Size) -> DbResult<()> {
    page(c, Some(BIG), Some(size.backups / 20), "created_at")
}

fn page_of_all(c: &mut DbConnection, _: &Size) -> DbResult<()> {
    page(c, None, None, "created_at")
}

fn page_by_name(c: &mut DbConnection, _: &Size) -> DbResult<()> {
    page(c, Some(BIG), None, "name")
}

fn count(c: &mut DbConnection, _: &Size) -> DbResult<()> {
    let filter = Filter {
        project: Some(big_project()),
        conditions: Vec::new(),
    };
    db::backups::count(c, &filter).map(drop)
}

fn usage(c: &mut DbConnection, _: &Size) -> DbResult<()> {
    let project = big_project();
    db::backups::usage(c, &project)?;
    db::standalone::volumes::usage(c, &project)?;
    db::standalone::snapshots::usage(c, &project)?;
    db::standalone::volumes::usage_by_type(c, &project).map(drop)
}

fn token(c: &mut DbConnection, size: &Size) -> DbResult<()> {
    let found =
        db::standalone::identity::find_token(c, id(size.backups / 2).as_bytes(), Timestamp(0))?;
    assert!(found.is_some());
    Ok(())
}

fn live_job(c: &mut DbConnection, _: &Size) -> DbResult<()> {
    db::jobs::live_for(c, &id(33)).map(drop)
}

fn sharing(c: &mut DbConnection, _: &Size) -> DbResult<()> {
    let backup = db::backups::find(c, &BackupId::new(id(40)))?.unwrap();
    db::backups::sharing(c, &backup).map(drop)
}

fn census(c: &mut DbConnection, vault: i64) -> DbResult<()> {
    db::gc::held_by_sessions(c, vault)?;
    db::gc::pack_sets(c, &VaultId::new(id(vault)))?;
    db::gc::packs(c, vault).map(drop)
}

fn settled(c: &mut DbConnection, _: &Size) -> DbResult<()> {
    db::gc::settled(c, BIG)?;
    db::gc::needed(c, &big_vault()).map(drop)
}

fn verified(c: &mut DbConnection, _: &Size) -> DbResult<()> {
    db::health::packs(c, BIG).map(drop)
}

fn damaged(c: &mut DbConnection, _: &Size) -> DbResult<()> {
    db::health::damaged(c, BIG).map(drop)
}

fn due(c: &mut DbConnection, _: &Size) -> DbResult<()> {
    db::jobs::maintained(c)?;
    db::vaults::maintained(c).map(drop)
}

fn orphans(c: &mut DbConnection, _: &Size) -> DbResult<()> {
    db::orphans::sessions(c)?;
    db::orphans::backups(c)?;
    db::standalone::volumes::busy(c)?;
    db::orphans::live(c).map(drop)
}

fn tally(c: &mut DbConnection, _: &Size) -> DbResult<()> {
    db::jobs::tally(c).map(drop)
}

fn recent(c: &mut DbConnection, _: &Size) -> DbResult<()> {
    db::jobs::recent(c, 1000).map(drop)
}

fn prune(c: &mut DbConnection, size: &Size) -> DbResult<()> {
    db::messages::prune(c, now(size))?;
    db::jobs::prune(c, now(size))?;
    db::sessions::prune(c).map(drop)
}

fn remove_packs(c: &mut DbConnection, _: &Size) -> DbResult<()> {
    assert!(db::vaults::remove_packs(c, BIG)?);
    Ok(())
}
