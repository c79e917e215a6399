//! The wiring: what ends the service; the core on a catalogue that is not the stand-in; jobs that are lost, cannot be
//! settled, have let go, fail after their root, or are stopped while they copy.

mod catalog;
mod copies;
mod gateway;
mod let_go;
mod lost;
mod roots;
mod unsettled;

use super::*;
use crate::admission::create::CreateBackup;
use crate::config::DataDir;
use crate::db::jobs::Claimer;
use crate::db::{self, DbConnection, DbError};
use crate::identity::RequestContext;
use crate::jobs::Claimed;
use crate::model::backup::Backup;
use crate::model::id::{BackupId, ProjectId, SnapshotId, UserId, VolumeId};
use crate::model::job::{Lease, Outcome};
use crate::model::snapshot::SnapshotStatus;
use crate::model::time::Timestamp;
use crate::service::backups::{RestoreBackup, Restoring};
use crate::service::standalone::snapshots::CreateSnapshot;
use crate::service::standalone::volumes::CreateVolume;
use crate::volume::catalog::CatalogError;
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// Requests and jobs on some catalogue, each done when a test says so.
struct Bed {
    dir: TempDir,
    _runtime: Runtime,
    services: Services,
    tasks: Tasks,
    ctx: RequestContext,
}

impl Bed {
    fn on(make_catalog: impl FnOnce(&Db, &Config) -> Catalog) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let runtime = Runtime::new().unwrap();
        let config = Config {
            data_dir: DataDir(dir.path().to_owned()),
            ..Config::default()
        };
        let (clock, stop) = (Clock::System, CancellationToken::new());
        let db = Db::open(&config.database_url()).unwrap();
        let catalog = make_catalog(&db, &config);
        let masters = storages::open_keys(&config, &db).unwrap();
        let (handle, metrics) = (runtime.handle(), Arc::default());
        let (storages, default_storage) =
            storages::open(&config, &db, &clock, &masters, handle, &stop, &metrics).unwrap();
        let parts = (db.clone(), clock.clone(), catalog.clone());
        let services = make_services(&config, parts, Arc::default(), default_storage);
        let roles = ["admin", "member", "reader"].map(str::to_owned);
        Self {
            services,
            tasks: make_tasks(&config, db, clock, catalog, storages, masters),
            ctx: RequestContext {
                user_id: UserId::new("u"),
                project_id: ProjectId::new("p"),
                roles: roles.into(),
                request_id: "req-1".to_owned(),
                token: None,
                policy: Arc::new(Policy::default()),
            },
            dir,
            _runtime: runtime,
        }
    }

    /// On volumes that are files.
    fn standalone() -> Self {
        Self::on(|db, config| {
            Catalog::open_standalone(db.clone(), Clock::System, config)
                .map(Catalog::Standalone)
                .unwrap()
        })
    }

    /// An empty volume.
    fn make_volume(&self) -> VolumeId {
        let wanted = CreateVolume {
            size_gib: Some(1),
            ..CreateVolume::default()
        };
        let made = self.services.create_volume(&self.ctx, wanted).unwrap();
        assert_eq!(self.run(Queue::Quick), Outcome::Settled);
        made.volume.id
    }

    fn accept_snapshot(&self, volume: &VolumeId) -> SnapshotId {
        let wanted = CreateSnapshot {
            volume_id: volume.clone(),
            name: None,
            description: None,
            metadata: BTreeMap::new(),
            force: false,
        };
        self.services.create_snapshot(&self.ctx, wanted).unwrap().id
    }

    fn snapshot_status(&self, id: &SnapshotId) -> SnapshotStatus {
        let found = self.tasks.catalog.snapshot(id).unwrap();
        found.unwrap().status
    }

    /// Names in the directory of the volumes that begin so.
    fn files(&self, start: &str) -> Vec<String> {
        let listed = std::fs::read_dir(self.dir.path().join("volumes")).unwrap();
        let names = listed.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with(start)).collect()
    }

    fn lose_jobs(&self) {
        self.tasks.db.batch_execute("DELETE FROM jobs");
    }

    fn backup(&self, id: &BackupId) -> Option<Backup> {
        let found = self.services.show_backup(&self.ctx, id);
        found.ok().map(|(backup, _)| backup)
    }

    fn accept_backup(&self, volume: &VolumeId, incremental: bool) -> BackupId {
        self.accept_backup_of(volume, None, incremental)
    }

    fn accept_backup_of(
        &self,
        volume: &VolumeId,
        snapshot: Option<&SnapshotId>,
        incremental: bool,
    ) -> BackupId {
        let wanted = CreateBackup {
            volume_id: volume.clone(),
            snapshot_id: snapshot.cloned(),
            name: None,
            description: None,
            container: None,
            availability_zone: None,
            metadata: BTreeMap::new(),
            incremental,
            force: false,
        };
        self.services.create_backup(&self.ctx, wanted).unwrap().id
    }

    fn accept_restore(&self, backup: &BackupId, volume: Option<&VolumeId>) -> Restoring {
        let wanted = RestoreBackup {
            volume_id: volume.cloned(),
            ..RestoreBackup::default()
        };
        let accepted = self.services.restore_backup(&self.ctx, backup, wanted);
        accepted.unwrap()
    }

    /// Claims the job whose turn it is.
    fn claim(&self, queue: Queue) -> Claimed {
        let us = Claimer {
            worker: "w".to_owned(),
            place: "w".to_owned(),
            places: 1,
            reserves: false,
            others: Vec::new(),
        };
        let now = Clock::System.now();
        let until = now.after(Duration::from_secs(15));
        let job = self
            .tasks
            .db
            .write(|c| db::jobs::claim(c, queue, &us, now, until, &[]));
        let job = job.unwrap().expect("a job is due");
        Claimed {
            lease: Lease {
                job_id: job.id.clone(),
                attempt: job.attempt,
            },
            progress: Arc::default(),
            job,
        }
    }

    /// Runs the job whose turn it is.
    fn run(&self, queue: Queue) -> Outcome {
        self.tasks.run(self.claim(queue))
    }

    /// Claims the job whose turn it is, and runs it after something else has happened.
    fn run_after(
        &self,
        before: impl FnOnce(&Catalog, &Lease) -> Result<(), CatalogError>,
    ) -> Outcome {
        let claimed = self.claim(Queue::Backup);
        before(&self.tasks.catalog, &claimed.lease).unwrap();
        self.tasks.run(claimed)
    }

    fn orphans(&self) -> Vec<Orphan> {
        self.tasks.orphans().unwrap()
    }

    /// Settles what waits for jobs that are not there, as is done of what waits for the length of a lease.
    fn settle_orphans(&self) -> Vec<Orphan> {
        let found = self.orphans();
        for orphan in &found {
            self.tasks.settle_orphan(orphan).unwrap();
        }
        found
    }
}

#[tokio::test]
async fn a_vital_task_that_ends_by_itself_ends_the_service() {
    for panics in [true, false] {
        let (stop, tracker) = (Stop::default(), TaskTracker::new());
        let task = async move { assert!(!panics, "a defect") };
        spawn_vital("task", task, &stop, &tracker);
        let broken = stop.broken.cancelled();
        assert!(
            tokio::time::timeout(Duration::from_secs(5), broken)
                .await
                .is_ok()
        );
    }
    let (stop, tracker) = (Stop::default(), TaskTracker::new());
    let taking = stop.taking.clone();
    spawn_vital("task", taking.cancelled_owned(), &stop, &tracker);
    stop.taking.cancel();
    tracker.close();
    tracker.wait().await;
    assert!(!stop.broken.is_cancelled());
}

#[test]
fn a_database_that_cannot_be_written_is_reported_until_it_can() {
    let bed = Bed::standalone();
    let db = &bed.tasks.db;
    bed.services.check_database().unwrap();
    db.batch_execute(
        "CREATE TRIGGER a BEFORE UPDATE ON storages BEGIN SELECT RAISE(ABORT, 'disk I/O error'); END;
         CREATE TRIGGER b BEFORE INSERT ON volumes_in_making BEGIN SELECT RAISE(ABORT, 'disk I/O error'); END;",
    );
    let write = |c: &mut DbConnection| db::volume_holds::begin_making(c, "m", Timestamp(0));
    assert!(db.write(write).is_err());
    // Many transactions find nothing to write.
    db.write(|_| Ok::<_, DbError>(())).unwrap();
    assert!(bed.services.check_database().is_err());
    db.batch_execute("DROP TRIGGER a; DROP TRIGGER b;");
    bed.services.check_database().unwrap();
}
