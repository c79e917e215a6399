//! Which frames of a stored pack can be read, and which backups need frames that cannot.

use crate::db::{self, gc, health};
use crate::engine::care::census::Census;
use crate::engine::care::live::Live;
use crate::engine::format::manifest::Root;
use crate::engine::format::pack::PackReader;
use crate::engine::format::row::FrameRow;
use crate::engine::read::reader::FrameReader;
use crate::engine::vault::{Vault, pack_name};
use crate::engine::{Error, Result, check, parallel};
use crate::model::backup::BackupStatus;
use crate::model::id::BackupId;
use crate::model::pack::{Pack, PackState};
use crate::model::progress::Progress;
use roaring::RoaringBitmap;
use std::collections::BTreeMap;
use std::sync::Mutex;

/// The frames of one object, by ordinal. Frames that the object was written without are in neither set.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    pub(crate) readable: RoaringBitmap,
    pub(crate) damaged: RoaringBitmap,
}

/// Reads all frames of a pack's object. An error if its trailer cannot be read.
pub(crate) fn look(vault: &Vault, pack: &Pack) -> Result<Frames> {
    let name = pack_name(vault, pack);
    let object = name.key();
    let length = vault.store.length(&object)?.ok_or_else(|| Error::Missing {
        object: object.to_string(),
    })?;
    let reader = PackReader::open(&vault.store, name, length, &vault.keys)?;
    let mut frames = Frames::default();
    for (ordinal, row) in (0_u32..).zip(&reader.rows) {
        if row.is_left_out() {
            continue;
        }
        let set = match read(vault, &reader, ordinal, row)? {
            Some(_) => &mut frames.readable,
            None => &mut frames.damaged,
        };
        set.insert(ordinal);
    }
    Ok(frames)
}

/// The plain bytes of a frame; `None` if it is damaged. Tries twice.
pub(crate) fn read(
    vault: &Vault,
    reader: &PackReader,
    ordinal: u32,
    row: &FrameRow,
) -> Result<Option<Vec<u8>>> {
    let range = u64::from(row.offset)..u64::from(row.offset) + u64::from(row.stored_length);
    let frame = row.place(reader.number(), ordinal);
    read_twice(|| {
        let mut sealed = vault.store.get_range(&reader.object(), range.clone())?;
        let mut plain = Vec::new();
        reader.open_frame(&vault.keys, &frame, &mut sealed, &mut plain)?;
        Ok(plain)
    })
}

/// Reads, and a second time if the first one finds damage; `None` if both do.
pub(crate) fn read_twice<T>(mut read: impl FnMut() -> Result<T>) -> Result<Option<T>> {
    for _ in 0..2 {
        match read() {
            Ok(value) => return Ok(Some(value)),
            Err(Error::Corrupt { .. } | Error::Missing { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// The damaged packs of a vault, each with the frames that can still be read.
pub(crate) struct Damaged {
    readable: BTreeMap<u32, RoaringBitmap>,
    packs: RoaringBitmap,
}

impl Damaged {
    /// Reads all packs that are marked damaged, which may be all of the vault. Can be stopped.
    pub(crate) fn look(vault: &Vault, progress: &Progress) -> Result<Self> {
        let noted = vault.db.read(|c| health::damaged(c, vault.number))?;
        let readable = Mutex::new(BTreeMap::new());
        let threads = vault.options.threads.max(vault.options.downloads);
        parallel::each(&noted, threads, |pack| {
            check(progress)?;
            // The row of now: a repair may have written another object meanwhile.
            let frames = read_twice(|| {
                let row = vault
                    .db
                    .read(|c| db::packs::find(c, pack.vault, pack.number))?;
                look(vault, row.as_ref().unwrap_or(pack))
            })?;
            let frames = frames.unwrap_or_default().readable;
            let mut readable = readable.lock().expect("nothing panics under it");
            readable.insert(pack_name(vault, pack).number, frames);
            Ok(())
        })?;
        let readable = readable.into_inner().expect("nothing panics under it");
        let packs = readable.keys().copied().collect();
        Ok(Self { readable, packs })
    }

    /// How many damaged packs lack a frame that the backup needs. `None`: its manifest cannot be read. With
    /// `is_doubtful` the manifest is read even if the backup needs no damaged pack.
    pub(crate) fn hit(
        &self,
        vault: &Vault,
        root: &Root,
        needed: &RoaringBitmap,
        is_doubtful: bool,
    ) -> Result<Option<u64>> {
        if needed.is_disjoint(&self.packs) && !is_doubtful {
            return Ok(Some(0));
        }
        let mut live = Live::default();
        match live.add(&FrameReader::new(vault), root) {
            Ok(()) => {}
            Err(Error::Corrupt { .. } | Error::Missing { .. }) => return Ok(None),
            Err(error) => return Err(error),
        }
        let lacks = |pack: &u32| {
            let used = live.of(*pack).cloned().unwrap_or_default();
            !used.is_subset(&self.readable[pack])
        };
        Ok(Some(
            (needed & &self.packs).iter().filter(lacks).count() as u64
        ))
    }
}

/// Whether the trailers name every frame that a backup needs. Then it can be restored, unless frames are damaged,
/// which only reading them would show.
pub fn is_complete(vault: &Vault, root: &Root) -> Result<bool> {
    let complete = || -> Result<bool> {
        let mut live = Live::default();
        live.add(&FrameReader::new(vault), root)?;
        for (number, used) in live.packs() {
            let row = vault
                .db
                .read(|c| db::packs::find(c, vault.number, number.into()))?;
            let is_there = |row: &Pack| matches!(row.state, PackState::Live | PackState::Condemned);
            let Some(row) = row.filter(is_there) else {
                return Ok(false);
            };
            let length = row.stored_bytes.get();
            let name = pack_name(vault, &row);
            let reader = PackReader::open(&vault.store, name, length, &vault.keys)?;
            if !used.iter().all(|ordinal| reader.holds(ordinal)) {
                return Ok(false);
            }
        }
        Ok(true)
    };
    match complete() {
        Err(Error::Corrupt { .. } | Error::Missing { .. }) => Ok(false),
        complete => complete,
    }
}

/// The available backups of a vault that are not complete.
pub fn incomplete(vault: &Vault) -> Result<Vec<BackupId>> {
    let mut is_sound = true;
    let census = Census::take_unless(vault, |_, error| match error {
        Error::Corrupt { .. } | Error::Missing { .. } => {
            is_sound = false;
            Ok(())
        }
        error => Err(error),
    })?;
    if is_sound && census.is_complete(vault)? {
        return Ok(Vec::new());
    }
    let backups = vault.db.read(|c| gc::needed(c, &vault.id))?;
    let mut found = Vec::new();
    for backup in backups {
        if backup.status != BackupStatus::Available {
            continue;
        }
        match vault.root_at_last(&backup.root) {
            Ok(root) if is_complete(vault, &root)? => {}
            Ok(_) | Err(Error::Corrupt { .. } | Error::Missing { .. }) => found.push(backup.id),
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}
