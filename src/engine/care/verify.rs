//! Verification: whether everything that the database knows is in the storage, and undamaged.
//!
//! Every run also reads the manifests and checks that the trailer of each pack names every frame that some backup
//! needs. A backup is called damaged only if a frame that it needs cannot be read; damage elsewhere in its packs does
//! not matter to it.
//!
//! Damage of a pack is noted in the database. New backups then do not find its chunks and do not inherit from it, so
//! they store that data again. If the pack is found sound later, the note goes and its chunks are found again; what
//! only reading has shown takes reading to go. [`repair`] can repair the pack.
//!
//! [`repair`]: crate::engine::care::repair

use crate::db::gc::{self, Needed};
use crate::db::health;
use crate::engine::budget::Budget;
use crate::engine::care::census::Census;
use crate::engine::care::frames::Damaged;
use crate::engine::format::manifest::decode_pack_set;
use crate::engine::format::pack::PackReader;
use crate::engine::vault::{Vault, pack_folders, pack_name};
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

/// How much to read. Roots, manifests, trailers, and the existence and length of all packs are always checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    Quick,
    /// Also reads this many bytes of packs, first the packs that were read the longest time ago.
    Sample {
        bytes: u64,
    },
    /// Also reads every pack that was not read since this time.
    Full {
        since: Timestamp,
    },
}

/// The result of a verification.
#[derive(Debug, Default)]
pub struct Report {
    pub packs: usize,
    pub read_packs: usize,
    pub read_bytes: u64,
    /// Damaged objects, each with what is wrong.
    pub damaged: Vec<(String, String)>,
    /// Backups that cannot be restored now.
    pub backups: Vec<BackupId>,
}

/// Verifies a vault. May be stopped, and run again, at any time.
pub fn run(vault: &Vault, depth: Depth, now: Timestamp, progress: &Progress) -> Result<Report> {
    let packs = vault.db.read(|c| health::packs(c, vault.number))?;
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
    let memory = Budget::new(vault.options.upkeep_bytes);
    // After the packs were listed: every backup that needs one of these packs is in the census then.
    let mut unread = HashSet::new();
    let census = census(vault, &mut unread)?;
    let suspects = Mutex::new(Vec::new());
    parallel::each(&packs, threads, |(pack, verified_at)| {
        check(progress)?;
        let is_due = match depth {
            Depth::Full { since } => verified_at.is_none_or(|at| at < since),
            _ => true,
        };
        let bytes = pack.stored_bytes.get();
        let is_read = is_due && take(&budget, bytes);
        let name = pack_name(vault, pack);
        let place = (name.number, name.rewrite);
        let (found, reader) = inspect(vault, pack, listed.get(&place), || {
            contents(vault, pack, is_read.then_some((&memory, progress)))
        })?;
        if reader.is_some_and(|reader| census.lacks(name.number, &reader)) {
            let mut suspects = suspects.lock().expect("nothing panics under it");
            suspects.push(pack.clone());
        }
        let damage = found.as_ref().map(Error::to_string);
        let read_at = is_read.then_some(now);
        let is_noted = vault.db.write(|c| match &damage {
            Some(damage) => health::mark_damaged(c, pack, damage),
            None => health::mark_sound(c, pack, read_at),
        })?;
        let mut report = report.lock().expect("nothing panics under it");
        if is_read {
            report.read_packs += 1;
            report.read_bytes += bytes;
        }
        if let (Some(error), true) = (found, is_noted) {
            report.damaged.push(reported(error));
        }
        Progress::add(&progress.done, 1);
        Ok(())
    })?;
    let mut report = report.into_inner().expect("nothing panics under it");
    let suspects = suspects.into_inner().expect("nothing panics under it");
    note_left_out(vault, suspects, &mut report)?;
    // All packs that are marked damaged: by this run, or by an earlier one that read more.
    let bad = Damaged::look(vault, progress)?;
    verify_backups(vault, &bad, &unread, &mut report)?;
    report.damaged.sort();
    Ok(report)
}

/// Reads every byte of a pack's object; gives the damage, if there is any.
pub(crate) fn read_whole(vault: &Vault, pack: &Pack) -> Result<Option<String>> {
    let (memory, progress) = (Budget::new(0), Progress::default());
    let (found, _) = inspect(vault, pack, None, || {
        contents(vault, pack, Some((&memory, &progress)))
    })?;
    Ok(found.as_ref().map(Error::to_string))
}

/// The frames in use, as far as manifests can be read. Backups whose manifest could not be read are added to `unread`.
fn census(vault: &Vault, unread: &mut HashSet<BackupId>) -> Result<Census> {
    Census::take_unless(vault, |backup, error| match error {
        Error::Corrupt { .. } | Error::Missing { .. } => {
            unread.insert(backup.id.clone());
            Ok(())
        }
        error => Err(error),
    })
}

/// Marks packs that lack frames which backups need. Looks a second time first: the backup may have been deleted, and
/// its frames dropped by a compaction, since the census.
fn note_left_out(vault: &Vault, suspects: Vec<Pack>, report: &mut Report) -> Result<()> {
    if suspects.is_empty() {
        return Ok(());
    }
    let census = census(vault, &mut HashSet::new())?;
    for pack in suspects {
        let name = pack_name(vault, &pack);
        let length = pack.stored_bytes.get();
        let reader = match PackReader::open(&vault.store, name, length, &vault.keys) {
            Ok(reader) => reader,
            Err(Error::Corrupt { .. } | Error::Missing { .. }) => continue,
            Err(error) => return Err(error),
        };
        if !census.lacks(name.number, &reader) {
            continue;
        }
        let is_noted = vault
            .db
            .write(|c| health::mark_damaged(c, &pack, health::FRAMES_LOST))?;
        if is_noted {
            report
                .damaged
                .push(reported(Error::corrupt(name.key(), health::FRAMES_LOST)));
        }
    }
    Ok(())
}

/// Takes bytes from the budget. As long as some are left, the next pack is read, however long it is.
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

/// The damage of a pack, if there is any. It counts only if it is seen twice: a list may be stale, bytes may
/// change on their way, and the pack may have been compacted meanwhile.
fn inspect(
    vault: &Vault,
    pack: &Pack,
    listed: Option<&u64>,
    contents: impl Fn() -> Result<PackReader>,
) -> Result<(Option<Error>, Option<PackReader>)> {
    let expected = pack.stored_bytes.get();
    for look in 0..2 {
        let result = match listed {
            Some(length) if *length == expected => contents(),
            _ => existence(vault, pack).and_then(|()| contents()),
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
    let key = pack_name(vault, pack).key();
    let expected = pack.stored_bytes.get();
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

/// Reads the trailer of a pack, and with `reading` all of it, once there is memory for that.
fn contents(
    vault: &Vault,
    pack: &Pack,
    reading: Option<(&Budget, &Progress)>,
) -> Result<PackReader> {
    let name = pack_name(vault, pack);
    let length = pack.stored_bytes.get();
    let reader = PackReader::open(&vault.store, name, length, &vault.keys)?;
    if let Some((memory, progress)) = reading {
        let _held = memory.take(reader.verify_bytes(), || check(progress))?;
        reader.verify(&vault.store, &vault.keys, length)?;
    }
    Ok(reader)
}

/// Checks the roots, and finds the backups that need a frame which cannot be read. Their `fail_reason` says so.
fn verify_backups(
    vault: &Vault,
    bad: &Damaged,
    unread: &HashSet<BackupId>,
    report: &mut Report,
) -> Result<()> {
    let backups = vault.db.read(|c| gc::needed(c, &vault.id))?;
    // Read after the backups: a backup's packs have rows before the backup is available.
    let there: RoaringBitmap = vault
        .db
        .read(|c| health::packs(c, vault.number))?
        .iter()
        .map(|(pack, _)| pack.number.get())
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
            // In a storage that replaces objects, a run that had been overtaken may have replaced the root.
            Ok(_) => {
                let object = vault.root_key(&backup.root);
                let error = Error::corrupt(object, "it is not the one that the database knows");
                (Some(reported(error)), Some(0))
            }
            Err(Error::Corrupt { .. } | Error::Missing { .. }) => {
                let error = read.err().unwrap_or(Error::Fenced);
                (Some(reported(error)), Some(0))
            }
            Err(_) => return read.map(drop),
        };
        let lost = &needed - &there;
        // The backup may have been deleted since its row was read.
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
        vault
            .db
            .write(|c| health::set_damage_reason(c, &backup.id, DAMAGED, reason.as_deref()))?;
        if reason.is_some() {
            report.backups.push(backup.id);
        }
        report.damaged.extend(root);
    }
    Ok(())
}

fn is_needed(vault: &Vault, backup: &Needed) -> Result<bool> {
    let is_needed = vault.db.read(|c| gc::is_needed(c, &vault.id, &backup.root));
    Ok(is_needed?)
}

/// How the `fail_reason` of a damaged backup begins.
const DAMAGED: &str = "The backup is damaged:";

fn reported(error: Error) -> (String, String) {
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
