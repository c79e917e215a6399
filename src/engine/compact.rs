//! Compaction: a pack of which much is dead is written again without it, under the same number and
//! with the same ordinals, so that no manifest changes.
//!
//! Safe beside everything else, because the switch to the new object is one transaction that is
//! refused if anybody may have come to rely on more than what was found in use: a session that
//! references the pack, a backup that came meanwhile, or a later collection. Sessions look chunks up
//! under their reference, so none finds one that has just been dropped.

use crate::db::collection::{self, Needed};
use crate::db::{self, DbError};
use crate::engine::backup::decode_pack_set;
use crate::engine::live::Live;
use crate::engine::manifest::FrameRef;
use crate::engine::pack::{NewFrame, PackBuilder, PackName, PackReader, SealedPack};
use crate::engine::packer::pack_name;
use crate::engine::reader::FrameReader;
use crate::engine::vault::Vault;
use crate::engine::{Error, Result, parallel};
use crate::model::backup::BackupStatus;
use crate::model::error::chain;
use crate::model::pack::Pack;
use crate::store::StoreErrorKind;
use roaring::RoaringBitmap;
use std::sync::atomic::{AtomicBool, Ordering};

/// A pack and what of it nobody needs.
#[derive(Debug, Clone)]
pub struct Sparse {
    pub pack: Pack,
    /// Sealed bytes of its dead frames.
    pub dead_bytes: u64,
}

/// What of a vault is in use, and on whose word.
pub(crate) struct Census {
    live: Live,
    needed: Vec<Needed>,
    /// Packs of failed backups whose manifests cannot be read: what they need of them is not known.
    opaque: RoaringBitmap,
}

impl Census {
    /// Reads the manifests of all backups of the vault.
    pub(crate) fn take(vault: &Vault) -> Result<Self> {
        Self::take_unless(vault, |_, error| Err(error))
    }

    /// The same; what of a backup's manifest cannot be read is reported, and may be passed over.
    pub(crate) fn take_unless(
        vault: &Vault,
        mut report: impl FnMut(&Needed, Error) -> Result<()>,
    ) -> Result<Self> {
        let needed = vault
            .db
            .read(|c| collection::needed(c, &vault.id).map_err(DbError::from))?;
        let reader = FrameReader::new(vault);
        let (mut live, mut opaque) = (Live::default(), RoaringBitmap::new());
        for backup in &needed {
            let is_going = matches!(
                backup.status,
                BackupStatus::Deleting | BackupStatus::ErrorDeleting
            );
            let root = match vault.root(&backup.root) {
                // Its root is the first to go.
                Err(Error::Missing { .. }) if is_going => continue,
                root => root,
            };
            match root.and_then(|root| live.add(&reader, &root)) {
                Ok(()) => {}
                Err(Error::Missing { .. } | Error::Corrupt { .. })
                    if is_going || backup.status == BackupStatus::Error =>
                {
                    opaque |= decode_pack_set(&backup.pack_set)?;
                }
                Err(error) => report(backup, error)?,
            }
        }
        Ok(Self {
            live,
            needed,
            opaque,
        })
    }

    /// The frames of a pack that some backup needs.
    pub(crate) fn used(&self, pack: u32) -> RoaringBitmap {
        self.live.of(pack).cloned().unwrap_or_default()
    }

    /// Whether a pack's trailer does not name a frame that some backup needs.
    pub(crate) fn lacks(&self, pack: u32, reader: &PackReader) -> bool {
        !self
            .live
            .of(pack)
            .is_none_or(|used| used.iter().all(|ordinal| reader.holds(ordinal)))
    }

    /// Whether every frame that is in use is named by the trailer of its pack.
    pub(crate) fn is_complete(&self, vault: &Vault) -> Result<bool> {
        let numbers: Vec<u32> = self.live.packs().map(|(number, _)| number).collect();
        let is_complete = AtomicBool::new(true);
        let threads = vault.options.threads.max(vault.options.downloads);
        parallel::each(&numbers, threads, |number| {
            let row = vault.db.read(|c| {
                db::packs::find(c, vault.number, i64::from(*number)).map_err(DbError::from)
            })?;
            let opened = match row {
                Some(row) => open(vault, pack_name(vault, &row)?, &row),
                None => Err(Error::Missing {
                    object: format!("pack {number:08x}"),
                }),
            };
            match opened {
                Ok(reader) if !self.lacks(*number, &reader) => {}
                Ok(_) | Err(Error::Corrupt { .. } | Error::Missing { .. }) => {
                    is_complete.store(false, Ordering::Relaxed);
                }
                Err(error) => return Err(error),
            }
            Ok(())
        })?;
        Ok(is_complete.into_inner())
    }

    /// Those of these packs of which at least such a share is dead. One that cannot be read is left to
    /// the verification.
    pub(crate) fn sparse(
        &self,
        vault: &Vault,
        packs: &[Pack],
        dead_share: f64,
    ) -> Result<Vec<Sparse>> {
        let mut found = Vec::new();
        for pack in packs {
            let name = pack_name(vault, pack)?;
            if self.opaque.contains(name.number) {
                continue;
            }
            let used = self.live.of(name.number);
            // What all frames of a pack together hold is known without asking the storage.
            if used.is_some_and(|used| used.len() as i64 >= pack.frame_count)
                && pack.frame_count > 0
            {
                continue;
            }
            let Some(reader) = unless_unreadable(open(vault, name, pack))? else {
                continue;
            };
            let dead_bytes: u64 = (0..)
                .zip(&reader.rows)
                .filter(|(ordinal, _)| !used.is_some_and(|used| used.contains(*ordinal)))
                .map(|(_, row)| u64::from(row.stored_length))
                .sum();
            let total = u64::try_from(pack.stored_bytes).unwrap_or(0);
            if dead_bytes > 0 && dead_bytes as f64 >= dead_share * total as f64 {
                let pack = pack.clone();
                found.push(Sparse { pack, dead_bytes });
            }
        }
        Ok(found)
    }

    /// Writes a pack again without what is dead. `None`: somebody may have come to need it, or it is
    /// damaged.
    pub(crate) fn compact(
        &self,
        vault: &Vault,
        pack: &Pack,
        generation: i64,
    ) -> Result<Option<u64>> {
        let rewrite = vault
            .db
            .write(|c| collection::next_rewrite(c, pack, generation).map_err(DbError::from))?;
        let Some(rewrite) = rewrite else {
            return Ok(None);
        };
        let Some((sealed, dropped)) = unless_unreadable(self.rewritten(vault, pack, rewrite))?
        else {
            return Ok(None);
        };
        let (key, length) = (sealed.name.key(), sealed.bytes.len() as u64);
        match vault.store.put_new(&key, sealed.bytes) {
            // The database is older than the object; the next number will be free.
            Err(error) if error.kind == StoreErrorKind::Exists => return Ok(None),
            stored => stored?,
        }
        vault.expect(&key, length)?;
        let chunk_count: usize = sealed.rows.iter().map(|row| row.chunks.len()).sum();
        let written = Pack {
            rewrite,
            stored_bytes: i64::try_from(length).unwrap_or(i64::MAX),
            chunk_count: i64::try_from(chunk_count).unwrap_or(i64::MAX),
            ..pack.clone()
        };
        if !self.switch(vault, pack, &written, &dropped, generation)? {
            vault.store.delete(&key)?;
            return Ok(None);
        }
        // A rebuild may have led the row back to the old object since.
        let row = vault
            .db
            .read(|c| db::packs::find(c, pack.vault, pack.number).map_err(DbError::from))?;
        if row.is_some_and(|row| row.rewrite == rewrite) {
            vault.store.delete(&pack_name(vault, pack)?.key())?;
        }
        Ok(Some(length))
    }

    /// The pack as it shall be, and the ordinals that are left out. All that stays is verified.
    fn rewritten(
        &self,
        vault: &Vault,
        pack: &Pack,
        rewrite: i32,
    ) -> Result<(SealedPack, Vec<i32>)> {
        let old = pack_name(vault, pack)?;
        let new = PackName {
            rewrite: u32::try_from(rewrite).unwrap_or(u32::MAX),
            ..old
        };
        let used = self.live.of(old.number);
        let reader = open(vault, old, pack)?;
        let mut builder =
            PackBuilder::new(new, &vault.keys, true, vault.options.pack_bytes, Vec::new());
        let mut dropped = Vec::new();
        for (ordinal, row) in (0_u32..).zip(&reader.rows) {
            if !used.is_some_and(|used| used.contains(ordinal)) {
                builder.skip();
                dropped.push(i32::try_from(ordinal).unwrap_or(i32::MAX));
                continue;
            }
            let frame: FrameRef = row.place(old.number, ordinal);
            let range = u64::from(row.offset)..u64::from(row.offset) + u64::from(row.stored_length);
            let mut sealed = vault.store.get_range(&old.key(), range)?;
            let encoded = reader.unseal(&vault.keys, &frame, &mut sealed)?;
            builder.push(NewFrame {
                chunks: row.chunks.clone(),
                encoded,
            })?;
        }
        Ok((builder.finish(), dropped))
    }

    fn switch(
        &self,
        vault: &Vault,
        pack: &Pack,
        written: &Pack,
        dropped: &[i32],
        generation: i64,
    ) -> Result<bool> {
        vault
            .db
            .write(|c| {
                // First the row's lock: who references the pack from here on waits for us.
                let is_switched = collection::switch(c, pack, written, generation)
                    .map_err(DbError::from)?
                    && !collection::is_referenced(c, pack).map_err(DbError::from)?
                    && !self.is_needed_meanwhile(c, vault, pack)?;
                if is_switched {
                    collection::forget_frames(c, pack, dropped).map_err(DbError::from)?;
                }
                match is_switched {
                    true => Ok(true),
                    false => Err(Error::Fenced),
                }
            })
            .or_else(|error| match error {
                Error::Fenced => Ok(false),
                error => Err(error),
            })
    }

    pub(crate) fn is_needed_meanwhile(
        &self,
        connection: &mut db::DbConnection,
        vault: &Vault,
        pack: &Pack,
    ) -> Result<bool> {
        let number = u32::try_from(pack.number).unwrap_or(u32::MAX);
        for backup in collection::needed(connection, &vault.id).map_err(DbError::from)? {
            let is_new = !self
                .needed
                .iter()
                .any(|known| known.id == backup.id && known.root == backup.root);
            if is_new && decode_pack_set(&backup.pack_set)?.contains(number) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn unless_unreadable<T>(read: Result<T>) -> Result<Option<T>> {
    match read {
        Ok(value) => Ok(Some(value)),
        Err(error @ (Error::Corrupt { .. } | Error::Missing { .. })) => {
            tracing::warn!(error = %chain(&error), "a pack is left alone, as it cannot be read; `embervault vault verify` tells more");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn open(vault: &Vault, name: PackName, pack: &Pack) -> Result<PackReader> {
    let length = u64::try_from(pack.stored_bytes).unwrap_or(0);
    PackReader::open(&vault.store, name, length, &vault.keys)
}
