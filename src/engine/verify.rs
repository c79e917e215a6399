//! Verification: whether what the database knows is in the storage, and is what was written.
//!
//! What is found wrong with a pack is noted in the database: new backups then neither find its chunks
//! nor inherit from it, so that they store again what the source still holds, and [`repair`] can put
//! the pack right.
//!
//! [`repair`]: crate::engine::repair

use crate::db::collection::{self, Needed};
use crate::db::{DbError, condition};
use crate::engine::backup::decode_pack_set;
use crate::engine::compact::Census;
use crate::engine::pack::PackReader;
use crate::engine::packer::pack_name;
use crate::engine::vault::Vault;
use crate::engine::{Error, Result, check, parallel};
use crate::model::backup::BackupStatus;
use crate::model::id::BackupId;
use crate::model::pack::Pack;
use crate::model::progress::Progress;
use crate::model::time::Timestamp;
use roaring::RoaringBitmap;
use std::collections::HashMap;
use std::sync::Mutex;

/// How closely to look. Roots, the existence and length of all packs, and their trailers are looked
/// at always.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    Quick,
    /// Reads so many bytes of packs, those first that were not read for the longest time.
    Sample {
        bytes: u64,
    },
    /// Reads every pack that was not read since.
    Full {
        since: Timestamp,
    },
}

/// What was found.
#[derive(Debug, Default)]
pub struct Report {
    pub packs: usize,
    pub read_packs: usize,
    pub read_bytes: u64,
    /// What is wrong with which object: of packs, roots and the vault.
    pub damaged: Vec<(String, String)>,
    /// Backups that cannot be restored as they are.
    pub backups: Vec<BackupId>,
}

/// Looks through a vault. May be stopped, and run again, at any time.
pub fn run(vault: &Vault, depth: Depth, now: Timestamp, progress: &Progress) -> Result<Report> {
    let packs = vault
        .db
        .read(|c| condition::packs(c, vault.number).map_err(DbError::from))?;
    Progress::add(&progress.total, packs.len() as u64);
    let listed = listed(vault)?;
    let budget = Mutex::new(match depth {
        Depth::Quick => 0,
        Depth::Sample { bytes } => bytes,
        Depth::Full { .. } => u64::MAX,
    });
    let report = Mutex::new(Report {
        packs: packs.len(),
        ..Report::default()
    });
    let threads = vault.options.threads.max(vault.options.downloads);
    parallel::each(&packs, threads, |(pack, verified_at)| {
        check(progress)?;
        let is_due = match depth {
            Depth::Full { since } => verified_at.is_none_or(|at| at < since),
            _ => true,
        };
        let bytes = u64::try_from(pack.stored_bytes).unwrap_or(0);
        let is_read = is_due && take(&budget, bytes);
        let found = inspect(
            vault,
            pack,
            listed.get(&pack_name(vault, pack)?.key().to_string()),
            is_read,
        )?;
        let damage = found.as_ref().map(Error::to_string);
        let read_at = is_read.then_some(now);
        let is_noted = vault.db.write(|c| {
            condition::set(c, pack, damage.as_deref(), read_at).map_err(DbError::from)
        })?;
        let mut report = report.lock().expect("nothing panics under it");
        if is_read {
            report.read_packs += 1;
            report.read_bytes += bytes;
        }
        if let (Some(error), true) = (found, is_noted) {
            report.damaged.push(told(error));
        }
        Progress::add(&progress.done, 1);
        Ok(())
    })?;
    let mut report = report.into_inner().expect("nothing panics under it");
    if matches!(depth, Depth::Full { .. }) {
        tell_left_out(vault, &mut report)?;
    }
    // What was noted just now, and what an earlier verification found that looked more closely.
    let bad: RoaringBitmap = vault
        .db
        .read(|c| condition::damaged(c, vault.number).map_err(DbError::from))?
        .iter()
        .filter_map(|pack| u32::try_from(pack.number).ok())
        .collect();
    verify_backups(vault, &bad, &mut report)?;
    report.damaged.sort();
    Ok(report)
}

/// Frames that backups need, and that their packs have no more. Where manifests cannot be read, that is
/// told of otherwise.
fn tell_left_out(vault: &Vault, report: &mut Report) -> Result<()> {
    let mut suspects: Vec<Pack> = vault
        .db
        .read(|c| condition::packs(c, vault.number).map_err(DbError::from))?
        .into_iter()
        .map(|(pack, _)| pack)
        .collect();
    // Once more, as a backup may have been deleted and its frames left out meanwhile.
    for _ in 0..2 {
        if suspects.is_empty() {
            return Ok(());
        }
        let census = match Census::take(vault) {
            Ok(census) => census,
            Err(Error::Corrupt { .. } | Error::Missing { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        let mut found = Vec::new();
        for pack in suspects {
            if census.lacks(vault, &pack)? {
                found.push(pack);
            }
        }
        suspects = found;
    }
    for pack in suspects {
        let is_noted = vault.db.write(|c| {
            condition::set(c, &pack, Some(condition::FRAMES_LOST), None).map_err(DbError::from)
        })?;
        if is_noted {
            let object = pack_name(vault, &pack)?.key();
            report
                .damaged
                .push(told(Error::corrupt(object, condition::FRAMES_LOST)));
        }
    }
    Ok(())
}

/// Takes bytes from what may still be read; a first pack is always read.
fn take(budget: &Mutex<u64>, bytes: u64) -> bool {
    let mut left = budget.lock().expect("nothing panics under it");
    let is_left = *left > 0;
    *left = left.saturating_sub(bytes);
    is_left
}

fn listed(vault: &Vault) -> Result<HashMap<String, u64>> {
    let mut listed = vault.store.list(&format!("v/{}/p/", vault.id))?;
    listed.extend(vault.store.list(&format!("v/{}/m/", vault.id))?);
    Ok(listed.into_iter().collect())
}

/// What is wrong with a pack, if anything. A second look decides: a list may be stale, bytes may
/// change on their way, and a pack may be compacted meanwhile.
fn inspect(
    vault: &Vault,
    pack: &Pack,
    listed: Option<&u64>,
    is_read: bool,
) -> Result<Option<Error>> {
    let expected = u64::try_from(pack.stored_bytes).unwrap_or(0);
    for look in 0..2 {
        let result = match listed {
            Some(length) if *length == expected => contents(vault, pack, is_read),
            _ => existence(vault, pack).and_then(|()| contents(vault, pack, is_read)),
        };
        match result {
            Ok(()) => return Ok(None),
            Err(error @ (Error::Corrupt { .. } | Error::Missing { .. })) if look == 1 => {
                return Ok(Some(error));
            }
            Err(Error::Corrupt { .. } | Error::Missing { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

fn existence(vault: &Vault, pack: &Pack) -> Result<()> {
    let key = pack_name(vault, pack)?.key();
    let expected = u64::try_from(pack.stored_bytes).unwrap_or(0);
    match vault.store.length(&key)? {
        None => Err(Error::Missing {
            object: key.to_string(),
        }),
        Some(length) if length == expected => Ok(()),
        Some(length) => {
            let detail = format!("it has {length} bytes, but must have {expected}");
            Err(Error::corrupt(key, detail))
        }
    }
}

fn contents(vault: &Vault, pack: &Pack, is_read: bool) -> Result<()> {
    let name = pack_name(vault, pack)?;
    let length = u64::try_from(pack.stored_bytes).unwrap_or(0);
    let reader = PackReader::open(&vault.store, name, length, &vault.keys)?;
    match is_read {
        true => reader.verify(&vault.keys, vault.store.get(&name.key())?),
        false => Ok(()),
    }
}

/// Roots, and the backups that damaged packs touch; each is told of in its `fail_reason`.
fn verify_backups(vault: &Vault, bad: &RoaringBitmap, report: &mut Report) -> Result<()> {
    let backups = vault
        .db
        .read(|c| collection::needed(c, &vault.id).map_err(DbError::from))?;
    // After the backups: whose packs are all there by then were all there when it was made.
    let there: RoaringBitmap = vault
        .db
        .read(|c| condition::packs(c, vault.number).map_err(DbError::from))?
        .iter()
        .filter_map(|(pack, _)| u32::try_from(pack.number).ok())
        .collect();
    for backup in backups {
        if !matches!(
            backup.status,
            BackupStatus::Available | BackupStatus::Restoring
        ) {
            continue;
        }
        let needed = decode_pack_set(&backup.pack_set)?;
        let root = match vault.root_at_last(&backup.root) {
            Ok(root) if root.pack_set == backup.pack_set => None,
            // Where a storage replaces objects, a run that had been overtaken may have done so.
            Ok(_) => Some(told(Error::corrupt(
                vault.root_key(&backup.root),
                "it is not the one that the database knows",
            ))),
            Err(error @ (Error::Corrupt { .. } | Error::Missing { .. })) => Some(told(error)),
            Err(error) => return Err(error),
        };
        let lost = &needed - &there;
        // The backup may have been deleted since it was looked up, and its packs with it.
        if (root.is_some() || !lost.is_empty()) && !is_needed(vault, &backup)? {
            continue;
        }
        let touched = (needed & bad) | lost;
        let reason = match (&root, touched.len()) {
            (None, 0) => None,
            (Some((_, detail)), _) => Some(format!("{DAMAGED} {detail}")),
            (None, count) => Some(format!("{DAMAGED} {count} of its packs cannot be read")),
        };
        vault.db.write(|c| {
            condition::tell(c, &backup.id, DAMAGED, reason.as_deref()).map_err(DbError::from)
        })?;
        if reason.is_some() {
            report.backups.push(backup.id);
        }
        report.damaged.extend(root);
    }
    Ok(())
}

fn is_needed(vault: &Vault, backup: &Needed) -> Result<bool> {
    let is_needed = vault
        .db
        .read(|c| collection::is_needed(c, &backup.root).map_err(DbError::from));
    Ok(is_needed?)
}

/// How the reason of a backup that was found damaged begins.
const DAMAGED: &str = "The backup is damaged:";

fn told(error: Error) -> (String, String) {
    match error {
        Error::Corrupt { object, detail } => {
            let text = format!("{object} is corrupt: {detail}");
            (object, text)
        }
        Error::Missing { object } => {
            let text = format!("{object} is missing");
            (object, text)
        }
        error => (String::new(), error.to_string()),
    }
}
