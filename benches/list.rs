//! How fast a page of backups is, on SQLite and PostgreSQL, and whether the table's size matters:
//! `cargo bench --bench list`.

#![allow(
    clippy::unwrap_used,
    reason = "a benchmark may stop at whatever goes wrong"
)]

#[path = "../tests/suite/support.rs"]
#[allow(dead_code, reason = "the tests need more of it")]
mod support;

use embervault::db::{self, Db, DbError};
use embervault::model::backup::{Backup, BackupStatus};
use embervault::model::column::Json;
use embervault::model::id::{BackupId, ProjectId, UserId, VolumeId};
use embervault::model::time::Timestamp;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use support::{BOTH, Bed, Client};

const CLIENTS: usize = 4;
const DURATION: Duration = Duration::from_secs(8);

fn main() {
    println!("| database | backups | request | requests/s | p50 ms | p99 ms |");
    println!("|---|---|---|---|---|---|");
    for database in BOTH {
        let bed = Bed::new(database);
        let service = bed.start();
        let demo = bed.client(&service, "demo");
        let url = match &bed.postgres {
            Some(postgres) => postgres.url(),
            None => format!("sqlite:{}", bed.data().join("embervault.db").display()),
        };
        let db = Db::open(&url).unwrap();
        let mut filled = 0;
        for backups in [10_000, 100_000] {
            fill(&db, &demo, filled..backups);
            filled = backups;
            let middle = id(backups / 2);
            for path in [
                "/backups/detail?limit=100".to_owned(),
                format!("/backups/detail?limit=100&marker={middle}"),
                "/backups/detail?limit=100&sort=name:asc".to_owned(),
                "/backups?limit=100&with_count=true".to_owned(),
            ] {
                let name = path.replace(&middle, "<middle>");
                let (rate, p50, p99) = measure(&demo, &path);
                println!(
                    "| {database:?} | {backups} | `{name}` | {rate:.0} | {p50:.1} | {p99:.1} |"
                );
            }
        }
    }
}

fn id(number: i64) -> String {
    uuid::Uuid::from_u128(u128::try_from(number).unwrap()).to_string()
}

/// Adds rows as they stand after backups of 300 volumes.
fn fill(db: &Db, demo: &Client, numbers: std::ops::Range<i64>) {
    let storage = db
        .read(|c| db::vaults::find_storage(c, "local"))
        .unwrap()
        .unwrap();
    let numbers: Vec<i64> = numbers.collect();
    for batch in numbers.chunks(2000) {
        db.write(|c| -> Result<(), DbError> {
            for number in batch {
                let created_at = Timestamp(1_700_000_000_000_000 + number * 1_000_000);
                let backup = Backup {
                    id: BackupId::new(id(*number)),
                    project_id: ProjectId::new(&demo.project),
                    user_id: UserId::new("u"),
                    storage_id: storage.id.clone(),
                    vault_id: None,
                    volume_id: VolumeId::new(id(number % 300)),
                    snapshot_id: None,
                    parent_id: (number % 10 != 0).then(|| BackupId::new(id(number - 1))),
                    name: Some(format!("backup {}", number * 7919 % 100_003)),
                    description: Some("nightly".to_owned()),
                    status: BackupStatus::Available,
                    size_gib: 10,
                    object_count: 3,
                    fail_reason: None,
                    availability_zone: Some("nova".to_owned()),
                    container: Some("local".to_owned()),
                    metadata: Json::default(),
                    data_timestamp: Some(created_at),
                    restore_volume_id: None,
                    root_id: None,
                    pack_set: Some(vec![0; 64]),
                    logical_bytes: 1 << 30,
                    read_bytes: 1 << 20,
                    stored_bytes: 1 << 20,
                    deduplicated_bytes: 0,
                    created_at,
                    updated_at: Some(created_at),
                    volume_type: None,
                    volume_zone: None,
                };
                db::backups::insert(c, &backup)?;
            }
            Ok(())
        })
        .unwrap();
    }
}

/// Requests per second of several clients, and the median and 99th percentile of one, in ms.
fn measure(demo: &Client, path: &str) -> (f64, f64, f64) {
    let items = demo.get(path).body["backups"].as_array().unwrap().len();
    assert_eq!(items, 100, "{path}");
    let stop = AtomicBool::new(false);
    let started = Instant::now();
    let mut times: Vec<Duration> = std::thread::scope(|scope| {
        let asking: Vec<_> = (0..CLIENTS)
            .map(|_| {
                scope.spawn(|| {
                    let mut times = Vec::new();
                    while !stop.load(Ordering::Relaxed) {
                        let asked = Instant::now();
                        assert_eq!(demo.get(path).status, 200);
                        times.push(asked.elapsed());
                    }
                    times
                })
            })
            .collect();
        std::thread::sleep(DURATION);
        stop.store(true, Ordering::Relaxed);
        let times = asking.into_iter().flat_map(|thread| thread.join().unwrap());
        times.collect()
    });
    let rate = times.len() as f64 / started.elapsed().as_secs_f64();
    times.sort_unstable();
    let at = |share: f64| times[(times.len() as f64 * share) as usize].as_secs_f64() * 1000.0;
    (rate, at(0.5), at(0.99))
}
