//! What must hold on either database, under threads.

mod claims;
mod connections;
mod jobs;
mod tokens;
mod vaults;

use crate::support::{BOTH, Database, Postgres};
use diesel::connection::SimpleConnection;
use embervault::db::jobs::Claimer;
use embervault::db::{self, Db, DbError};
use embervault::model::id::{JobId, ProjectId, StorageId, UserId, VaultId, VolumeId};
use embervault::model::job::{Job, JobArgs, JobState, Lease, Queue};
use embervault::model::time::Timestamp;
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
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
    let args = JobArgs::CreateVolume {
        volume_id,
        is_copy: false,
    };
    Job::new(args, Timestamp(100))
}

/// Whether `second` begins only after a transaction that has done `first`, and then lingers, has ended.
fn takes_turns(
    db: &Db,
    first: impl Fn(&mut db::DbConnection) -> Result<(), DbError> + Sync,
    second: impl Fn(&mut db::DbConnection) -> Result<(), DbError> + Sync,
) -> bool {
    let (barrier, is_over) = (Barrier::new(2), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            db.write(|c| {
                first(c)?;
                barrier.wait();
                std::thread::sleep(Duration::from_millis(500));
                is_over.store(1, Ordering::SeqCst);
                Ok::<_, DbError>(())
            })
            .unwrap();
        });
        barrier.wait();
        db.write(|c| {
            second(c)?;
            Ok::<_, DbError>(is_over.load(Ordering::SeqCst) == 1)
        })
        .unwrap()
    })
}
