//! Requests and jobs of backups on a catalogue that is not the stand-in, and without any table of the stand-in.
//! What reaches round the port finds no table, or changes nothing that the catalogue knows of.

use super::*;
use crate::admission::create::CreateBackup;
use crate::config::DataDir;
use crate::db;
use crate::db::jobs::Claimer;
use crate::identity::RequestContext;
use crate::jobs::Claimed;
use crate::model::backup::{Backup, BackupStatus};
use crate::model::id::{BackupId, JobId, ProjectId, UserId, VolumeId};
use crate::model::job::{Lease, Outcome, RestoreTarget};
use crate::model::volume::{SavedVolume, SourceVolume, VolumeStatus};
use crate::service::backups::{RestoreBackup, Restoring};
use crate::volume::catalog::memory::{Kept, Memory};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// Tables that only the stand-in for Cinder and Keystone has, those that refer to others first.
const TABLES_OF_THE_STAND_IN: &[&str] = &[
    "volumes",
    "snapshots",
    "attachments",
    "volume_types",
    "records",
    "application_credentials",
    "tokens",
    "assignments",
    "users",
    "projects",
];

const VOLUME_BYTES: usize = 1 << 20;

struct Bed {
    _dir: TempDir,
    _runtime: Runtime,
    memory: Memory,
    services: Services,
    tasks: Tasks,
    ctx: RequestContext,
}

impl Bed {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let runtime = Runtime::new().unwrap();
        let config = Config {
            data_dir: DataDir(dir.path().to_owned()),
            ..Config::default()
        };
        let (clock, stop) = (Clock::System, CancellationToken::new());
        let db = Db::open(&config.database_url()).unwrap();
        for table in TABLES_OF_THE_STAND_IN {
            db.batch_execute(&format!("DROP TABLE {table}"));
        }
        let masters = storages::open_keys(&config, &db).unwrap();
        let (handle, metrics) = (runtime.handle(), Arc::default());
        let (storages, default_storage) =
            storages::open(&config, &db, &clock, &masters, handle, &stop, &metrics).unwrap();
        let memory = Memory::default();
        let catalog = Catalog::Memory(memory.clone());
        let parts = (db.clone(), clock.clone(), catalog.clone());
        let services = make_services(&config, parts, Arc::default(), default_storage);
        let roles = ["admin", "member", "reader"].map(str::to_owned);
        Self {
            memory,
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
            _dir: dir,
            _runtime: runtime,
        }
    }

    /// A volume of the other service.
    fn volume(&self, content: Vec<u8>) -> VolumeId {
        let volume = SourceVolume {
            id: VolumeId::random(),
            project_id: self.ctx.project_id.clone(),
            name: Some("data".to_owned()),
            size_gib: 1,
            status: VolumeStatus::Available,
            unsupported: None,
        };
        let saved = SavedVolume {
            name: volume.name.clone(),
            bootable: true,
            ..SavedVolume::default()
        };
        let id = volume.id.clone();
        self.memory.insert(Kept::new(volume, saved, content));
        id
    }

    fn kept(&self, id: &VolumeId) -> Kept {
        self.memory.find(id).unwrap()
    }

    fn status(&self, id: &VolumeId) -> VolumeStatus {
        self.kept(id).volume.status
    }

    fn backup(&self, id: &BackupId) -> Option<Backup> {
        let found = self.services.show_backup(&self.ctx, id);
        found.ok().map(|(backup, _)| backup)
    }

    fn accept_backup(&self, volume: &VolumeId, incremental: bool) -> BackupId {
        let wanted = CreateBackup {
            volume_id: volume.clone(),
            snapshot_id: None,
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
            name: None,
        };
        let accepted = self.services.restore_backup(&self.ctx, backup, wanted);
        accepted.unwrap()
    }

    /// Runs the job whose turn it is.
    fn run(&self, lane: Lane) -> Outcome {
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
            .write(|c| db::jobs::claim(c, lane, &us, now, until, &[]));
        let job = job.unwrap().expect("a job is due");
        self.tasks.run(Claimed {
            lease: Lease {
                job_id: job.id.clone(),
                attempt: job.attempt,
            },
            progress: Arc::default(),
            job,
        })
    }

    fn orphans(&self) -> Vec<Orphan> {
        self.tasks.orphans().unwrap()
    }
}

/// Bytes that differ from place to place.
fn content() -> Vec<u8> {
    let numbers = (0..VOLUME_BYTES as u32 / 4).map(|number| number.wrapping_mul(0x9e37_79b1));
    numbers.flat_map(u32::to_le_bytes).collect()
}

#[test]
fn backups_and_restores_reach_volumes_by_the_port_alone() {
    let bed = Bed::new();
    let (old, volume) = (content(), bed.volume(content()));

    let full = bed.accept_backup(&volume, false);
    assert_eq!(bed.status(&volume), VolumeStatus::BackingUp);
    assert!(bed.orphans().is_empty(), "its job is there");
    assert_eq!(bed.run(Lane::Backup), Outcome::Settled);
    assert_eq!(bed.status(&volume), VolumeStatus::Available);

    let change = [7; 5000];
    bed.kept(&volume)
        .content
        .write_at(&change, 300_000)
        .unwrap();
    let new = bed.kept(&volume).content.bytes();
    let next = bed.accept_backup(&volume, true);
    assert_eq!(bed.run(Lane::Backup), Outcome::Settled);
    let made = bed.backup(&next).unwrap();
    assert_eq!(made.status, BackupStatus::Available);
    assert_eq!(made.parent_id, Some(full.clone()));
    assert!(made.stored_bytes < VOLUME_BYTES as i64 / 2);

    let restoring = bed.accept_restore(&next, None);
    assert_eq!(
        bed.status(&restoring.volume_id),
        VolumeStatus::RestoringBackup
    );
    assert_eq!(bed.run(Lane::Backup), Outcome::Settled);
    let restored = bed.kept(&restoring.volume_id);
    assert_eq!(restored.volume.status, VolumeStatus::Available);
    assert_eq!(restored.saved, bed.kept(&volume).saved);
    assert!(restored.content.bytes() == new);

    bed.accept_restore(&full, Some(&volume));
    assert_eq!(bed.run(Lane::Backup), Outcome::Settled);
    assert_eq!(bed.status(&volume), VolumeStatus::Available);
    assert!(bed.kept(&volume).content.bytes() == old);
}

#[test]
fn a_cancelled_job_lets_go_by_the_port() {
    let bed = Bed::new();
    let volume = bed.volume(content());
    let full = bed.accept_backup(&volume, false);
    assert_eq!(bed.run(Lane::Backup), Outcome::Settled);

    let second = bed.accept_backup(&volume, false);
    bed.services.force_delete_backup(&bed.ctx, &second).unwrap();
    assert_eq!(bed.status(&volume), VolumeStatus::BackingUp);
    assert_eq!(bed.run(Lane::Quick), Outcome::Cancelled);
    assert_eq!(bed.status(&volume), VolumeStatus::Available);
    assert!(bed.backup(&second).is_none());

    let restoring = bed.accept_restore(&full, None);
    let (ctx, to) = (&bed.ctx, BackupStatus::Available);
    bed.services.reset_backup(ctx, &full, to).unwrap();
    assert_eq!(bed.run(Lane::Quick), Outcome::Cancelled);
    let target = bed.status(&restoring.volume_id);
    assert_eq!(target, VolumeStatus::ErrorRestoring);
    assert_eq!(bed.backup(&full).unwrap().status, BackupStatus::Available);
}

#[test]
fn what_a_lost_job_holds_is_given_back_by_the_port() {
    let bed = Bed::new();
    let [source, target] = [content(), content()].map(|content| bed.volume(content));
    let backup = bed.accept_backup(&source, false);
    bed.tasks.db.batch_execute("DELETE FROM jobs");
    // And one whose request was refused after the hold.
    let lease = Lease::unclaimed(&JobId::random());
    let into = RestoreTarget {
        volume_id: target.clone(),
        create: None,
    };
    let catalog = &bed.tasks.catalog;
    catalog.begin_restore(&lease, &into).unwrap();
    let found = bed.orphans();
    assert_eq!(found.len(), 3, "{found:?}");
    for orphan in &found {
        bed.tasks.settle_orphan(orphan).unwrap();
    }
    assert_eq!(bed.status(&source), VolumeStatus::Available);
    assert_eq!(bed.status(&target), VolumeStatus::ErrorRestoring);
    assert_eq!(bed.backup(&backup).unwrap().status, BackupStatus::Error);
    assert!(bed.orphans().is_empty());
    bed.accept_backup(&source, false);
    assert_eq!(bed.run(Lane::Backup), Outcome::Settled);
}
