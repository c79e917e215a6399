//! Work on vaults that nobody asks for: collection and verification, one vault at a time.

use crate::config::Maintenance;
use crate::db::vaults::{Turn, Upkeep};
use crate::db::{self, DbConnection, DbError};
use crate::engine::vault::Vault;
use crate::engine::verify::Depth;
use crate::engine::{collect, verify};
use crate::jobs::Claimed;
use crate::model::id::VaultId;
use crate::model::job::{Job, JobArgs};
use crate::model::time::Timestamp;
use crate::tasks::{TaskError, Tasks};
use std::time::Duration;

/// Pause before work on a vault that failed is tried again, and the longest one.
const RETRY_MIN: Duration = Duration::from_secs(60);
const RETRY_MAX: Duration = Duration::from_secs(3600);

impl Tasks {
    /// Adds the job that is due the longest, unless one is under way.
    pub fn schedule(&self, settings: &Maintenance) -> Result<(), DbError> {
        let now = self.clock.now();
        // Room that was given up on a full disk is taken again.
        self.db.has_room();
        let job = self.db.read(|c| -> Result<_, DbError> {
            if db::jobs::is_maintained(c)? {
                return Ok(None);
            }
            let mut due = Vec::new();
            for (vault_id, collected, verified) in db::vaults::maintained(c)? {
                if is_due(settings.verify_every, &verified, now) {
                    let vault_id = vault_id.clone();
                    due.push((last_try(&verified), JobArgs::VerifyVault { vault_id }));
                }
                if is_due(settings.collect_every, &collected, now) {
                    due.push((last_try(&collected), JobArgs::CollectVault { vault_id }));
                }
            }
            // What was never done comes first.
            let longest = due.into_iter().min_by_key(|(last, _)| *last);
            Ok(longest.map(|(_, args)| args))
        })?;
        let Some(args) = job else { return Ok(()) };
        let job = Job::new(args, now);
        let added = self
            .db
            .write(|c| db::jobs::insert(c, &job).map_err(DbError::from));
        match added {
            // Another worker has just done the same.
            Err(DbError::Query(error)) if db::is_duplicate(&error) => Ok(()),
            added => added,
        }
    }

    pub(super) fn collect_vault(&self, claimed: &Claimed, id: &VaultId) -> Result<(), TaskError> {
        let vault = self.vault(id)?;
        let plan = collect::run(&vault)?;
        tracing::info!(
            vault.id = %id,
            generation = plan.generation,
            condemned = plan.condemned.len(),
            deleted = plan.deleted.len(),
            deleted_bytes = collect::bytes(&plan.deleted),
            compacted = plan.compacted.len(),
            strays = plan.strays.len(),
            unknown = plan.unknown.len(),
            "vault collected"
        );
        if let Some(hindrance) = &plan.hindrance {
            tracing::error!(vault.id = %id, hindrance, "nothing was compacted");
        }
        self.settle(&claimed.lease, |_| Ok(()))
    }

    pub(super) fn verify_vault(&self, claimed: &Claimed, id: &VaultId) -> Result<(), TaskError> {
        let vault = self.vault(id)?;
        let depth = match self.verify_bytes {
            0 => Depth::Quick,
            bytes => Depth::Sample { bytes },
        };
        let report = verify::run(&vault, depth, self.clock.now(), &claimed.progress)?;
        for (object, detail) in &report.damaged {
            tracing::error!(vault.id = %id, object, detail, "damage found; run `embervault vault repair`");
        }
        tracing::info!(
            vault.id = %id,
            packs = report.packs,
            read_bytes = report.read_bytes,
            damaged = report.damaged.len(),
            backups_damaged = report.backups.len(),
            "vault verified"
        );
        self.settle_maintenance(claimed, |c, number, now| {
            db::vaults::note_done(c, number, Upkeep::Verify, now)
        })
    }

    /// When the full verification of a vault began that is to be gone through now: one that was cut off
    /// goes on, so that what it has read is not read again.
    pub fn full_verification_began(&self, vault: &Vault) -> Result<Timestamp, DbError> {
        let now = self.clock.now();
        self.db
            .write(|c| db::condition::begin_full(c, vault.number, now).map_err(DbError::from))
    }

    /// Notes that a full verification has gone through all.
    pub fn full_verification_ended(&self, vault: &Vault) -> Result<(), DbError> {
        self.db
            .write(|c| db::condition::end_full(c, vault.number).map_err(DbError::from))
    }

    /// A vault that could not be worked on is tried again soon, and ever more seldom.
    pub(super) fn maintenance_failed(
        &self,
        claimed: &Claimed,
        reason: &str,
    ) -> Result<(), TaskError> {
        let (vault, now) = (claimed.job.subject.as_str(), self.clock.now());
        let upkeep = match &*claimed.job.args {
            JobArgs::CollectVault { .. } => Upkeep::Collect,
            _ => Upkeep::Verify,
        };
        self.discard(claimed, reason, |c| {
            let Some(row) = db::vaults::find_by_id(c, &VaultId::new(vault))? else {
                return Ok(());
            };
            db::vaults::note_failed(c, row.number, upkeep, now)
        })
    }

    fn settle_maintenance(
        &self,
        claimed: &Claimed,
        mut note: impl FnMut(&mut DbConnection, i64, Timestamp) -> db::QueryResult<()>,
    ) -> Result<(), TaskError> {
        let (id, now) = (VaultId::new(&*claimed.job.subject), self.clock.now());
        self.settle(&claimed.lease, |c| {
            if let Some(row) = db::vaults::find_by_id(c, &id).map_err(DbError::from)? {
                note(c, row.number, now).map_err(DbError::from)?;
            }
            Ok(())
        })
    }

    fn vault(&self, id: &VaultId) -> Result<Vault, TaskError> {
        let row = self
            .db
            .read(|c| db::vaults::find_by_id(c, id).map_err(DbError::from))?
            .ok_or(TaskError::Subject("the vault is gone"))?;
        self.open_vault(&row)
    }
}

/// Whether work is to be done again: after its time, or, if it failed, after a minute, and twice as long after
/// each further failure, up to an hour. A time to come was noted before the clock was set back.
fn is_due(every: Duration, turn: &Turn, now: Timestamp) -> bool {
    let doublings = u32::try_from(turn.failures.saturating_sub(1)).unwrap_or(0);
    let (last, pause) = match turn.failed_at {
        Some(failed_at) => {
            let pause = RETRY_MIN.saturating_mul(2_u32.saturating_pow(doublings));
            (Some(failed_at), pause.min(RETRY_MAX).min(every))
        }
        None => (turn.done_at, every),
    };
    !every.is_zero() && last.is_none_or(|last| last.after(pause) <= now || last > now)
}

fn last_try(turn: &Turn) -> Option<Timestamp> {
    turn.failed_at.max(turn.done_at)
}

/// Time between two looks whether something is due.
pub fn pause(settings: &Maintenance) -> Duration {
    let (shortest, longest) = (Duration::from_millis(250), Duration::from_secs(60));
    [settings.collect_every, settings.verify_every]
        .into_iter()
        .filter(|every| !every.is_zero())
        .map(|every| (every / 4).clamp(shortest, longest))
        .min()
        .unwrap_or(longest)
}
