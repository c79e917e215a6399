//! Which frames of a vault are in use, as the manifests of its backups say.

use crate::db;
use crate::db::gc::{self, Needed};
use crate::engine::care::live::Live;
use crate::engine::format::manifest::decode_pack_set;
use crate::engine::format::pack::PackReader;
use crate::engine::format::row::PackName;
use crate::engine::read::reader::FrameReader;
use crate::engine::vault::{Vault, pack_name};
use crate::engine::{Error, Result, parallel};
use crate::model::backup::BackupStatus;
use crate::model::error::chain;
use crate::model::id::BackupId;
use crate::model::pack::{Pack, PackKind};
use roaring::RoaringBitmap;
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};

/// A pack that is only partly used.
#[derive(Debug, Clone)]
pub struct Sparse {
    pub pack: Pack,
    /// Sealed bytes of its unused frames.
    pub dead_bytes: u64,
}

/// Which frames of a vault are in use, and which backups that was read from.
pub(crate) struct Census {
    pub(super) live: Live,
    /// The backups that were looked at, each with the name of its root.
    pub(super) known: HashSet<(BackupId, BackupId)>,
    /// Packs of failed or deleted backups whose manifests cannot be read: which of their frames are used is unknown.
    pub(super) opaque: RoaringBitmap,
}

impl Census {
    /// Reads the manifests of all backups of the vault.
    pub(crate) fn take(vault: &Vault) -> Result<Self> {
        Self::take_unless(vault, |_, error| Err(error))
    }

    /// The same; a manifest that cannot be read is reported, and ignored if `report` allows it.
    pub(crate) fn take_unless(
        vault: &Vault,
        mut report: impl FnMut(&Needed, Error) -> Result<()>,
    ) -> Result<Self> {
        let needed = vault.db.read(|c| gc::needed(c, &vault.id))?;
        let reader = FrameReader::new(vault);
        let (mut live, mut opaque) = (Live::default(), RoaringBitmap::new());
        for backup in &needed {
            let root = vault.root(&backup.root);
            let is_root_missing = matches!(root, Err(Error::Missing { .. }));
            let Err(error) = root.and_then(|root| live.add(&reader, &root)) else {
                continue;
            };
            let is_unreadable = matches!(error, Error::Missing { .. } | Error::Corrupt { .. });
            let is_going = is_unreadable && is_going(vault, backup)?;
            // A deletion removes the root first.
            if is_root_missing && is_going {
                continue;
            }
            if is_unreadable && (is_going || backup.status == BackupStatus::Error) {
                opaque |= decode_pack_set(&backup.pack_set)?;
            } else {
                report(backup, error)?;
            }
        }
        Ok(Self {
            live,
            known: needed.into_iter().map(|row| (row.id, row.root)).collect(),
            opaque,
        })
    }

    /// The frames of a pack that some backup needs.
    pub(crate) fn used(&self, pack: u32) -> RoaringBitmap {
        self.live.of(pack).cloned().unwrap_or_default()
    }

    /// As packs of which kind the backups need a pack. `None`: they do not need it.
    pub(crate) fn kind(&self, pack: u32) -> Option<PackKind> {
        self.live.of(pack)?;
        if self.live.is_data(pack) {
            Some(PackKind::Data)
        } else {
            Some(PackKind::Meta)
        }
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
            let row = vault
                .db
                .read(|c| db::packs::find(c, vault.number, (*number).into()))?;
            let opened = match row {
                Some(row) => open(vault, pack_name(vault, &row), &row),
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

    /// Those of these packs of which at least this share is unused. A pack that cannot be read is ignored; a
    /// verification reports it.
    pub(crate) fn sparse(
        &self,
        vault: &Vault,
        packs: &[Pack],
        dead_share: f64,
    ) -> Result<Vec<Sparse>> {
        let mut found = Vec::new();
        for pack in packs {
            let name = pack_name(vault, pack);
            if self.opaque.contains(name.number) {
                continue;
            }
            let used = self.live.of(name.number);
            // If all frames are in use, there is no need to read the trailer.
            let frame_count = u64::from(pack.frame_count.get());
            if used.is_some_and(|used| used.len() >= frame_count) && frame_count > 0 {
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
            let total = pack.stored_bytes.get();
            if dead_bytes > 0 && dead_bytes as f64 >= dead_share * total as f64 {
                let pack = pack.clone();
                found.push(Sparse { pack, dead_bytes });
            }
        }
        Ok(found)
    }

    /// Whether a backup that the census did not see needs a pack.
    pub(crate) fn is_needed_meanwhile(
        &self,
        connection: &mut db::DbConnection,
        vault: &Vault,
        pack: &Pack,
    ) -> Result<bool> {
        // Called for each pack, so names are read first, and pack sets only of backups that the census did not see.
        for named in gc::names_of_needed(connection, &vault.id)? {
            if self.known.contains(&named) {
                continue;
            }
            if let Some(set) = gc::pack_set(connection, &named.0)?
                && decode_pack_set(&set)?.contains(pack.number.get())
            {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Whether a backup is being deleted, or was since its row was read.
fn is_going(vault: &Vault, backup: &Needed) -> Result<bool> {
    let status = backup.status;
    if matches!(status, BackupStatus::Deleting | BackupStatus::ErrorDeleting) {
        return Ok(true);
    }
    let is_needed = vault
        .db
        .read(|c| gc::is_needed(c, &vault.id, &backup.root))?;
    Ok(!is_needed)
}

pub(super) fn unless_unreadable<T>(read: Result<T>) -> Result<Option<T>> {
    match read {
        Ok(value) => Ok(Some(value)),
        Err(error @ (Error::Corrupt { .. } | Error::Missing { .. })) => {
            tracing::warn!(error = %chain(&error), "a pack cannot be read, so it is not compacted; run `embervault vault verify`");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

pub(super) fn open(vault: &Vault, name: PackName, pack: &Pack) -> Result<PackReader> {
    PackReader::open(&vault.store, name, pack.stored_bytes.get(), &vault.keys)
}
