//! Work on vaults without a request: collection and verification. Each worker does one vault at a time.

use crate::config::Maintenance;
use crate::db::vaults::Turn;
use crate::db::{self, DbError};
use crate::engine::care::verify::Depth;
use crate::engine::care::{collect, verify};
use crate::engine::vault::Vault;
use crate::jobs::Claimed;
use crate::model::id::VaultId;
use crate::model::job::{Job, JobArgs, Upkeep};
use crate::model::time::Timestamp;
use crate::tasks::{TaskError, Tasks};
use std::collections::HashSet;
use std::time::Duration;

/// Pause before work on a vault that failed is tried again, and the longest one.
const RETRY_MIN: Duration = Duration::from_secs(60);
const RETRY_MAX: Duration = Duration::from_secs(3600);
/// Most jobs of upkeep that wait or run at once.
const QUEUE_MAX: usize = 100;

/// When a vault was tried last, and what is to be done.
type Due = (Option<Timestamp>, JobArgs);

impl Tasks {
    /// Adds the jobs that have been due for the longest time. They wait in a queue, so that the next vault's turn comes as
    /// soon as a worker is done with one.
    pub fn schedule(&self, settings: &Maintenance) -> Result<(), DbError> {
        let now = self.clock.now();
        // Fills the reserve again that was released on a full disk.
        self.db.has_room();
        let mut due = self.due(settings, now)?;
        if due.is_empty() {
            return Ok(());
        }
        // Vaults that were never collected or verified come first.
        due.sort_by_key(|(last, _)| *last);
        self.db.write(|c| -> Result<(), DbError> {
            // Workers that do this at once add each job once.
            db::lock(c, "upkeep")?;
            let mut queued: HashSet<String> = db::jobs::maintained(c)?.into_iter().collect();
            for (_, args) in &due {
                if queued.len() >= QUEUE_MAX {
                    break;
                }
                if queued.insert(args.subject().id().to_owned()) {
                    db::jobs::insert(c, &Job::new(args.clone(), now))?;
                }
            }
            Ok(())
        })
    }

    /// The work that is due, of vaults without a job, each with the time of its last try.
    fn due(&self, settings: &Maintenance, now: Timestamp) -> Result<Vec<Due>, DbError> {
        self.db.read(|c| {
            let queued: HashSet<String> = db::jobs::maintained(c)?.into_iter().collect();
            let mut due = Vec::new();
            for (vault_id, collected, verified) in db::vaults::maintained(c)? {
                if queued.contains(vault_id.as_str()) {
                    continue;
                }
                if is_due(settings.verify_every, &verified, now) {
                    let vault_id = vault_id.clone();
                    due.push((last_try(&verified), JobArgs::VerifyVault { vault_id }));
                }
                if is_due(settings.collect_every, &collected, now) {
                    due.push((last_try(&collected), JobArgs::CollectVault { vault_id }));
                }
            }
            Ok(due)
        })
    }

    pub(super) fn attempt_upkeep(
        &self,
        claimed: &Claimed,
        id: &VaultId,
        upkeep: Upkeep,
    ) -> Result<(), TaskError> {
        match upkeep {
            Upkeep::Collect => self.collect_vault(claimed, id),
            Upkeep::Verify => self.verify_vault(claimed, id),
        }
    }

    fn collect_vault(&self, claimed: &Claimed, id: &VaultId) -> Result<(), TaskError> {
        let vault = self.vault(id)?;
        let plan = collect::run(&vault)?;
        tracing::info!(
            vault.id = %id,
            generation = plan.generation,
            condemned = plan.condemned.len(),
            deleted = plan.deleted.len(),
            deleted_bytes = collect::bytes(&plan.deleted),
            compacted = plan.compacted.len(),
            leftovers = plan.leftovers.len(),
            unknown = plan.unknown.len(),
            "vault collected"
        );
        if let Some(blocked_by) = &plan.blocked_by {
            tracing::error!(vault.id = %id, blocked_by, "nothing was compacted");
        }
        self.settle(&claimed.lease, |_| Ok(()))
    }

    fn verify_vault(&self, claimed: &Claimed, id: &VaultId) -> Result<(), TaskError> {
        let vault = self.vault(id)?;
        let depth = match self.verify_bytes {
            0 => Depth::Quick,
            bytes => Depth::Sample { bytes },
        };
        self.find_lost(&vault)?;
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
        let now = self.clock.now();
        self.settle(&claimed.lease, |c| {
            if let Some(row) = db::vaults::find_by_id(c, id)? {
                db::vaults::note_done(c, row.number, Upkeep::Verify, now)?;
            }
            Ok(())
        })
    }

    /// When the full verification of a vault began. An interrupted one is resumed, so that packs it has read are not read
    /// again.
    pub fn full_verification_began(&self, vault: &Vault) -> Result<Timestamp, DbError> {
        let now = self.clock.now();
        self.db
            .write(|c| db::health::begin_full(c, vault.number, now))
    }

    /// Notes that a full verification is complete.
    pub fn full_verification_ended(&self, vault: &Vault) -> Result<(), DbError> {
        self.db.write(|c| db::health::end_full(c, vault.number))
    }

    /// Notes a failure, so that the vault is tried again soon, and then after longer and longer waits.
    pub(super) fn upkeep_failed(
        &self,
        claimed: &Claimed,
        id: &VaultId,
        upkeep: Upkeep,
        reason: &str,
    ) -> Result<(), TaskError> {
        let now = self.clock.now();
        self.discard(claimed, reason, |c| {
            let Some(row) = db::vaults::find_by_id(c, id)? else {
                return Ok(());
            };
            db::vaults::note_failed(c, row.number, upkeep, now)
        })
    }

    fn vault(&self, id: &VaultId) -> Result<Vault, TaskError> {
        let row = self
            .db
            .read(|c| db::vaults::find_by_id(c, id))?
            .ok_or(TaskError::Subject("the vault was removed"))?;
        self.open_vault(&row)
    }
}

/// Whether work is due: after `every`, or, if it failed, after a minute, then after twice as long each time, up to an
/// hour. A noted time in the future means that the clock was set back; then it is due.
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
