//! Verification: whether what the database knows is in the storage, and is what was written.
//!
//! Every run also looks from the manifests to the packs: whether the trailer of each pack names every
//! frame that some backup needs. A backup is called damaged only if a frame that it needs cannot be read;
//! damage elsewhere in its packs does not touch it.
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
use crate::engine::frames::Damaged;
use crate::engine::pack::PackReader;
use crate::engine::packer::pack_name;
use crate::engine::vault::{Vault, pack_folders};
use crate::engine::{Error, Result, check, parallel};
use crate::model::backup::BackupStatus;
use crate::model::id::BackupId;
use crate::model::pack::Pack;
use crate::model::progress::Progress;
use crate::model::time::Timestamp;
use crate::store::key::parse_pack;
use roaring::RoaringBitmap;
use std::collections::{HashMap, HashSet};
use std::sync::Mutex;

/// How closely to look. Roots, manifests, the existence and length of all packs, and their trailers are
/// looked at always.
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
    // After the packs were listed: of those, every one that a backup needs is known by then.
    let mut unread = HashSet::new();
    let census = census(vault, &mut unread)?;
    let suspects = Mutex::new(Vec::new());
    parallel::each(&packs, threads, |(pack, verified_at)| {
        check(progress)?;
        let is_due = match depth {
            Depth::Full { since } => verified_at.is_none_or(|at| at < since),
            _ => true,
        };
        let bytes = u64::try_from(pack.stored_bytes).unwrap_or(0);
        let is_read = is_due && take(&budget, bytes);
        let name = pack_name(vault, pack)?;
        let place = (name.number, name.rewrite);
        let (found, reader) = inspect(vault, pack, listed.get(&place), is_read)?;
        if reader.is_some_and(|reader| census.lacks(name.number, &reader)) {
            let mut suspects = suspects.lock().expect("nothing panics under it");
            suspects.push(pack.clone());
        }
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
    let suspects = suspects.into_inner().expect("nothing panics under it");
    note_left_out(vault, suspects, &mut report)?;
    // What was noted just now, and what an earlier verification found that looked more closely.
    let bad = Damaged::look(vault)?;
    verify_backups(vault, &bad, &unread, &mut report)?;
    report.damaged.sort();
    Ok(report)
}

/// What is wrong with a pack's object, if anything, after every byte of it was read.
pub(crate) fn read_whole(vault: &Vault, pack: &Pack) -> Result<Option<String>> {
    let (found, _) = inspect(vault, pack, None, true)?;
    Ok(found.as_ref().map(Error::to_string))
}

/// What is in use, as far as manifests can be read; notes the backups whose manifest seems not to be readable.
fn census(vault: &Vault, unread: &mut HashSet<BackupId>) -> Result<Census> {
    Census::take_unless(vault, |backup, error| match error {
        Error::Corrupt { .. } | Error::Missing { .. } => {
            unread.insert(backup.id.clone());
            Ok(())
        }
        error => Err(error),
    })
}

/// Notes packs that lack frames which backups need, if they still do at a second look: a backup may have
/// been deleted, and its frames left out, since the first.
fn note_left_out(vault: &Vault, suspects: Vec<Pack>, report: &mut Report) -> Result<()> {
    if suspects.is_empty() {
        return Ok(());
    }
    let census = census(vault, &mut HashSet::new())?;
    for pack in suspects {
        let name = pack_name(vault, &pack)?;
        let length = u64::try_from(pack.stored_bytes).unwrap_or(0);
        let reader = match PackReader::open(&vault.store, name, length, &vault.keys) {
            Ok(reader) => reader,
            Err(Error::Corrupt { .. } | Error::Missing { .. }) => continue,
            Err(error) => return Err(error),
        };
        if !census.lacks(name.number, &reader) {
            continue;
        }
        let is_noted = vault.db.write(|c| {
            condition::set(c, &pack, Some(condition::FRAMES_LOST), None).map_err(DbError::from)
        })?;
        if is_noted {
            report
                .damaged
                .push(told(Error::corrupt(name.key(), condition::FRAMES_LOST)));
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

/// The length of each object, by pack and rewrite.
fn listed(vault: &Vault) -> Result<HashMap<(u32, u32), u64>> {
    let mut lengths = HashMap::new();
    for folder in pack_folders(&vault.store, &vault.id)? {
        for (object, length) in vault.store.list(&folder)? {
            if let Some((_, number, rewrite)) = parse_pack(&vault.id, &object) {
                lengths.insert((number, rewrite), length);
            }
        }
    }
    Ok(lengths)
}

/// What is wrong with a pack, if anything. A second look decides: a list may be stale, bytes may
/// change on their way, and a pack may be compacted meanwhile.
fn inspect(
    vault: &Vault,
    pack: &Pack,
    listed: Option<&u64>,
    is_read: bool,
) -> Result<(Option<Error>, Option<PackReader>)> {
    let expected = u64::try_from(pack.stored_bytes).unwrap_or(0);
    for look in 0..2 {
        let result = match listed {
            Some(length) if *length == expected => contents(vault, pack, is_read),
            _ => existence(vault, pack).and_then(|()| contents(vault, pack, is_read)),
        };
        match result {
            Ok(reader) => return Ok((None, Some(reader))),
            Err(error @ (Error::Corrupt { .. } | Error::Missing { .. })) if look == 1 => {
                return Ok((Some(error), None));
            }
            Err(Error::Corrupt { .. } | Error::Missing { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok((None, None))
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

fn contents(vault: &Vault, pack: &Pack, is_read: bool) -> Result<PackReader> {
    let name = pack_name(vault, pack)?;
    let length = u64::try_from(pack.stored_bytes).unwrap_or(0);
    let reader = PackReader::open(&vault.store, name, length, &vault.keys)?;
    if is_read {
        reader.verify(&vault.keys, vault.store.get(&name.key())?)?;
    }
    Ok(reader)
}

/// Roots, and the backups that need a frame which cannot be read; each says so in its `fail_reason`.
fn verify_backups(
    vault: &Vault,
    bad: &Damaged,
    unread: &HashSet<BackupId>,
    report: &mut Report,
) -> Result<()> {
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
        let read = vault.root_at_last(&backup.root);
        let (root, hit) = match &read {
            Ok(root) if root.pack_set == backup.pack_set => {
                let is_doubtful = unread.contains(&backup.id);
                (None, bad.hit(vault, root, &needed, is_doubtful)?)
            }
            // Where a storage replaces objects, a run that had been overtaken may have done so.
            Ok(_) => {
                let object = vault.root_key(&backup.root);
                let error = Error::corrupt(object, "it is not the one that the database knows");
                (Some(told(error)), Some(0))
            }
            Err(Error::Corrupt { .. } | Error::Missing { .. }) => {
                let error = read.err().unwrap_or(Error::Fenced);
                (Some(told(error)), Some(0))
            }
            Err(_) => return read.map(drop),
        };
        let lost = &needed - &there;
        // The backup may have been deleted since it was looked up, and its packs with it.
        let is_doubtful = root.is_some() || !lost.is_empty() || hit != Some(0);
        if is_doubtful && !is_needed(vault, &backup)? {
            continue;
        }
        let reason = match (&root, hit, lost.len()) {
            (None, Some(0), 0) => None,
            (Some((_, detail)), ..) => Some(format!("{DAMAGED} {detail}")),
            (None, None, _) => Some(format!("{DAMAGED} its manifest cannot be read")),
            (None, Some(hit), lost) => Some(format!(
                "{DAMAGED} data that it needs cannot be read from {} of its packs",
                hit + lost
            )),
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
        .read(|c| collection::is_needed(c, &vault.id, &backup.root).map_err(DbError::from));
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
