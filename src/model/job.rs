//! Durable work items.

use crate::model::column::{Json, text_enum};
use crate::model::id::{BackupId, JobId, ProjectId, SnapshotId, UserId, VaultId, VolumeId};
use crate::model::record::BackupRecord;
use crate::model::schema::jobs;
use crate::model::time::Timestamp;
use diesel::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

text_enum! {
    /// Where a job stands; the picture is in `jobs`.
    JobState {
        Available => "available",
        Running => "running",
        Completed => "completed",
        Cancelled => "cancelled",
        Discarded => "discarded",
    }
}

text_enum! {
    /// The queues. Jobs that move volumes' bytes through the engine, jobs that copy volumes, and jobs that are over in
    /// moments do not wait for one another.
    Queue {
        Backup => "backup",
        Copy => "copy",
        Quick => "quick",
    }
}

text_enum! {
    /// Steps that are noted as soon as they are done.
    Checkpoint {
        /// A restore has written its target. From now on the target may be in use, so it must not be written again.
        Written => "written",
    }
}

text_enum! {
    /// Work on a vault that is done every so often; the words are the kinds of its jobs.
    Upkeep {
        Collect => "collect_vault",
        Verify => "verify_vault",
    }
}

/// The work of a job, with all that is needed to do it again after a crash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum JobArgs {
    CreateBackup {
        backup_id: BackupId,
        source: BackupSource,
        force: bool,
    },
    RestoreBackup {
        backup_id: BackupId,
        target: RestoreTarget,
    },
    DeleteBackup {
        backup_id: BackupId,
    },
    /// Declares a backup sound, if its data is there.
    ResetBackup {
        backup_id: BackupId,
    },
    ImportBackup {
        backup_id: BackupId,
        record: Box<BackupRecord>,
        /// An administrator asked: the data may be another project's.
        #[serde(default)]
        of_any_project: bool,
    },
    CreateVolume {
        volume_id: VolumeId,
        /// It is filled from a snapshot or another volume.
        #[serde(default)]
        is_copy: bool,
    },
    DeleteVolume {
        volume_id: VolumeId,
    },
    ExtendVolume {
        volume_id: VolumeId,
        size_gib: i64,
    },
    CreateSnapshot {
        snapshot_id: SnapshotId,
    },
    DeleteSnapshot {
        snapshot_id: SnapshotId,
    },
    /// Collects garbage of a vault.
    CollectVault {
        vault_id: VaultId,
    },
    /// Verifies a vault.
    VerifyVault {
        vault_id: VaultId,
    },
}

/// The source of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupSource {
    pub volume_id: VolumeId,
    pub snapshot_id: Option<SnapshotId>,
}

/// The volume a restore writes to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreTarget {
    pub volume_id: VolumeId,
    /// Set when the restore makes the volume.
    pub create: Option<RestoreVolume>,
}

/// A volume that a restore makes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreVolume {
    pub project_id: ProjectId,
    pub user_id: UserId,
    pub name: String,
    pub size_gib: i64,
    /// What the volume that was backed up had; not where the cloud has it no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub availability_zone: Option<String>,
}

/// What a user says of a volume that a restore makes, beside its name. Where nothing is said, it is as the backup, or as
/// new volumes are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NewTarget {
    pub size_gib: Option<i64>,
    pub description: Option<String>,
    pub volume_type: Option<String>,
    pub availability_zone: Option<String>,
    pub metadata: BTreeMap<String, String>,
}

/// The resource a job works on, at most one live job each, and what it does there. A view of [`JobArgs`], whose
/// form is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject<'j> {
    Backup(&'j BackupId, BackupWork<'j>),
    Volume(&'j VolumeId, VolumeWork),
    Snapshot(&'j SnapshotId, SnapshotWork),
    Vault(&'j VaultId, Upkeep),
}

/// Work on a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackupWork<'j> {
    Create {
        source: &'j BackupSource,
        force: bool,
    },
    Restore(&'j RestoreTarget),
    Delete,
    Reset,
    Import {
        record: &'j BackupRecord,
        of_any_project: bool,
    },
}

/// Work on a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VolumeWork {
    Create,
    Delete,
    Extend { size_gib: i64 },
}

/// Work on a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SnapshotWork {
    Create,
    Delete,
}

impl<'j> Subject<'j> {
    /// The id of the resource.
    pub fn id(&self) -> &'j str {
        match self {
            Subject::Backup(id, _) => id.as_str(),
            Subject::Volume(id, _) => id.as_str(),
            Subject::Snapshot(id, _) => id.as_str(),
            Subject::Vault(id, _) => id.as_str(),
        }
    }
}

impl JobArgs {
    /// The name of its kind, for logs and messages.
    pub fn kind(&self) -> &'static str {
        match self {
            JobArgs::CreateBackup { .. } => "create_backup",
            JobArgs::RestoreBackup { .. } => "restore_backup",
            JobArgs::DeleteBackup { .. } => "delete_backup",
            JobArgs::ResetBackup { .. } => "reset_backup",
            JobArgs::ImportBackup { .. } => "import_backup",
            JobArgs::CreateVolume { .. } => "create_volume",
            JobArgs::DeleteVolume { .. } => "delete_volume",
            JobArgs::ExtendVolume { .. } => "extend_volume",
            JobArgs::CreateSnapshot { .. } => "create_snapshot",
            JobArgs::DeleteSnapshot { .. } => "delete_snapshot",
            JobArgs::CollectVault { .. } => Upkeep::Collect.as_str(),
            JobArgs::VerifyVault { .. } => Upkeep::Verify.as_str(),
        }
    }

    /// The subject of the job, and the work on it.
    pub fn subject(&self) -> Subject<'_> {
        match self {
            JobArgs::CreateBackup {
                backup_id,
                source,
                force,
            } => {
                let force = *force;
                Subject::Backup(backup_id, BackupWork::Create { source, force })
            }
            JobArgs::RestoreBackup { backup_id, target } => {
                Subject::Backup(backup_id, BackupWork::Restore(target))
            }
            JobArgs::DeleteBackup { backup_id } => Subject::Backup(backup_id, BackupWork::Delete),
            JobArgs::ResetBackup { backup_id } => Subject::Backup(backup_id, BackupWork::Reset),
            JobArgs::ImportBackup {
                backup_id,
                record,
                of_any_project,
            } => {
                let of_any_project = *of_any_project;
                let work = BackupWork::Import {
                    record,
                    of_any_project,
                };
                Subject::Backup(backup_id, work)
            }
            JobArgs::CreateVolume { volume_id, .. } => {
                Subject::Volume(volume_id, VolumeWork::Create)
            }
            JobArgs::DeleteVolume { volume_id } => Subject::Volume(volume_id, VolumeWork::Delete),
            JobArgs::ExtendVolume {
                volume_id,
                size_gib,
            } => {
                let size_gib = *size_gib;
                Subject::Volume(volume_id, VolumeWork::Extend { size_gib })
            }
            JobArgs::CreateSnapshot { snapshot_id } => {
                Subject::Snapshot(snapshot_id, SnapshotWork::Create)
            }
            JobArgs::DeleteSnapshot { snapshot_id } => {
                Subject::Snapshot(snapshot_id, SnapshotWork::Delete)
            }
            JobArgs::CollectVault { vault_id } => Subject::Vault(vault_id, Upkeep::Collect),
            JobArgs::VerifyVault { vault_id } => Subject::Vault(vault_id, Upkeep::Verify),
        }
    }

    /// The queue the job runs in.
    pub fn queue(&self) -> Queue {
        match self {
            JobArgs::CreateBackup { .. } | JobArgs::RestoreBackup { .. } => Queue::Backup,
            JobArgs::CreateVolume { is_copy: true, .. } | JobArgs::CreateSnapshot { .. } => {
                Queue::Copy
            }
            JobArgs::DeleteBackup { .. }
            | JobArgs::ResetBackup { .. }
            | JobArgs::ImportBackup { .. }
            | JobArgs::CreateVolume { .. }
            | JobArgs::DeleteVolume { .. }
            | JobArgs::ExtendVolume { .. }
            | JobArgs::DeleteSnapshot { .. }
            | JobArgs::CollectVault { .. }
            | JobArgs::VerifyVault { .. } => Queue::Quick,
        }
    }
}

/// One row of `jobs`.
#[derive(Debug, Clone, PartialEq, Eq, Queryable, Selectable, Insertable)]
#[diesel(table_name = jobs)]
pub struct Job {
    pub id: JobId,
    pub queue: Queue,
    pub kind: String,
    pub subject: String,
    pub args: Json<JobArgs>,
    pub state: JobState,
    /// How often the job was claimed; together with the id it is the proof of ownership.
    pub attempt: i32,
    pub run_at: Timestamp,
    pub leased_until: Option<Timestamp>,
    pub worker: Option<String>,
    /// Why the job ended, or will be tried again later; for the operator.
    pub reason: Option<String>,
    pub progress_done: i64,
    pub progress_total: i64,
    /// Runs that ended with a temporary fault.
    pub failures: i32,
    /// Runs whose worker died: the lease ran out.
    pub orphaned: i32,
    /// A step that must not be taken again.
    pub checkpoint: Option<Checkpoint>,
    /// The request that asked for it.
    pub request_id: Option<String>,
    /// It was asked to end without its result.
    pub cancel_requested: bool,
    /// The project that asked for it; projects take turns. `None`: no request asked for it.
    pub project_id: Option<ProjectId>,
    /// Renewals of its lease, over all runs. A lease is over when they have not changed for its length.
    pub heartbeats: i64,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

impl Job {
    /// The same job, on behalf of a request of a project.
    pub fn asked_by(mut self, request_id: &str, project: &ProjectId) -> Self {
        self.request_id = Some(request_id.to_owned());
        self.project_id = Some(project.clone());
        self
    }

    /// A job that may run at once.
    pub fn new(args: JobArgs, now: Timestamp) -> Self {
        Self {
            id: JobId::random(),
            queue: args.queue(),
            kind: args.kind().to_owned(),
            subject: args.subject().id().to_owned(),
            args: Json::new(args),
            state: JobState::Available,
            attempt: 0,
            run_at: now,
            leased_until: None,
            worker: None,
            reason: None,
            progress_done: 0,
            progress_total: 0,
            failures: 0,
            orphaned: 0,
            checkpoint: None,
            request_id: None,
            cancel_requested: false,
            project_id: None,
            heartbeats: 0,
            created_at: now,
            updated_at: now,
        }
    }
}

/// Proof that a worker owns a job: every write of the worker names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    pub job_id: JobId,
    pub attempt: i32,
}

impl Lease {
    /// The lease under which a request prepares a job, before any worker has claimed it.
    pub fn unclaimed(job_id: &JobId) -> Self {
        Self {
            job_id: job_id.clone(),
            attempt: 0,
        }
    }

    /// The text by which a volume or snapshot knows who holds it.
    pub fn holder(&self) -> String {
        format!("{}#{}", self.job_id, self.attempt)
    }

    /// A lease that follows every run of a job: it ends what a lost job holds.
    pub fn after_all(job_id: JobId) -> Self {
        Self {
            job_id,
            attempt: i32::MAX,
        }
    }

    /// The job in the text of a holder.
    pub fn job_of(holder: &str) -> Option<JobId> {
        Some(JobId::new(holder.split_once('#')?.0))
    }

    /// Whether a holder is this lease or an earlier one of the same job, which this one follows.
    pub fn follows(&self, holder: &str) -> bool {
        holder.split_once('#').is_some_and(|(job, attempt)| {
            job == self.job_id.as_str()
                && attempt
                    .parse()
                    .is_ok_and(|attempt: i32| attempt <= self.attempt)
        })
    }
}

/// The result of one run of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Done; the task settled job and subject in one transaction.
    Settled,
    /// A temporary fault: try again after a while.
    Retry { after: Duration, reason: String },
    /// The worker is stopping: another one may resume the job at once.
    Released,
    /// It was asked to end; the task settled job and subject.
    Cancelled,
    /// It failed for good, and the subject says so.
    Failed { reason: String },
}

impl Outcome {
    /// The outcome in one word.
    pub fn as_str(&self) -> &'static str {
        match self {
            Outcome::Settled => "done",
            Outcome::Retry { .. } => "retry",
            Outcome::Released => "released",
            Outcome::Cancelled => "cancelled",
            Outcome::Failed { .. } => "failed",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_follows_earlier_runs_of_its_own_job_only() {
        let job_id = JobId::random();
        let lease = |attempt| Lease {
            job_id: job_id.clone(),
            attempt,
        };
        assert!(lease(3).follows(&lease(2).holder()));
        assert!(lease(3).follows(&lease(3).holder()));
        assert!(!lease(3).follows(&lease(4).holder()));
        assert!(!lease(3).follows(&Lease::unclaimed(&JobId::random()).holder()));
        assert!(!lease(3).follows("rubbish"));
    }
}
