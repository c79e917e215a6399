//! The size of backups: data of the volume, bytes added to the storage, and bytes that their deletion would free.

use crate::db::{self, DbError};
use crate::engine::format::manifest::decode_pack_set;
use crate::model::backup::Backup;
use crate::model::id::VaultId;
use crate::model::number::{ByteCount, PackNumber};
use crate::tasks::{TaskError, Tasks};
use roaring::RoaringBitmap;
use std::collections::HashMap;

/// One backup's share, bytes.
#[derive(Debug, Clone)]
pub struct Usage {
    pub backup: Backup,
    /// Stored in packs that no other backup needs: freed if this one is deleted. What it shares a pack
    /// with is not counted, though compaction may free some of it too.
    pub unique_bytes: u64,
}

impl Tasks {
    /// The backups of a vault, by time.
    pub fn usage(&self, vault: &VaultId) -> Result<Vec<Usage>, TaskError> {
        let (backups, sizes) = self.db.read(|c| -> Result<_, DbError> {
            let Some(row) = db::vaults::find_by_id(c, vault)? else {
                return Ok((Vec::new(), HashMap::new()));
            };
            let sizes = db::gc::sizes(c, row.number)?;
            let backups = db::backups::of_vault(c, vault)?;
            Ok((
                backups,
                sizes
                    .into_iter()
                    .collect::<HashMap<PackNumber, ByteCount>>(),
            ))
        })?;
        let mut sets = Vec::new();
        let (mut once, mut twice) = (RoaringBitmap::new(), RoaringBitmap::new());
        for backup in backups {
            let set = match &backup.pack_set {
                Some(set) => decode_pack_set(set)?,
                None => RoaringBitmap::new(),
            };
            twice |= &once & &set;
            once |= &set;
            sets.push((backup, set));
        }
        // A pack that is gone gives nothing back.
        let bytes = |pack: u32| sizes.get(&pack.into()).map_or(0, |size| size.get());
        Ok(sets
            .into_iter()
            .map(|(backup, set)| Usage {
                backup,
                unique_bytes: (set - &twice).iter().map(bytes).sum(),
            })
            .collect())
    }
}
