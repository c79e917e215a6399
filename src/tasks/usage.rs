//! The size of backups: data of the volume, bytes added to the storage, and bytes that their deletion would free.

use crate::db::{self, backups::Stored};
use crate::engine::format::manifest::decode_pack_set;
use crate::model::id::{BackupId, ProjectId, VaultId};
use crate::model::number::{ByteCount, PackNumber};
use crate::tasks::{TaskError, Tasks};
use roaring::RoaringBitmap;
use std::collections::HashMap;

/// Backups that are read at once. The set of packs of each may be large.
const PAGE: i64 = 100;

/// One backup's share, bytes.
#[derive(Debug, Clone)]
pub struct Usage {
    pub id: BackupId,
    pub project_id: ProjectId,
    pub name: Option<String>,
    pub logical_bytes: i64,
    pub stored_bytes: i64,
    /// Stored in packs that no other backup needs: freed if this one is deleted. What it shares a pack
    /// with is not counted, though compaction may free some of it too.
    pub unique_bytes: u64,
}

impl Tasks {
    /// The backups of a vault, by time. Two readings, so that no more than a page of them is held with its packs.
    pub fn usage(&self, vault: &VaultId) -> Result<Vec<Usage>, TaskError> {
        let Some(row) = self.db.read(|c| db::vaults::find_by_id(c, vault))? else {
            return Ok(Vec::new());
        };
        let sizes = self.db.read(|c| db::gc::sizes(c, row.number))?;
        let sizes: HashMap<PackNumber, ByteCount> = sizes.into_iter().collect();
        let (mut once, mut twice) = (RoaringBitmap::new(), RoaringBitmap::new());
        self.each_stored(vault, |_, set| {
            twice |= &once & &set;
            once |= &set;
        })?;
        // A pack that is gone gives nothing back.
        let bytes = |pack: u32| sizes.get(&pack.into()).map_or(0, |size| size.get());
        let mut usage = Vec::new();
        self.each_stored(vault, |backup, set| {
            usage.push(Usage {
                id: backup.id,
                project_id: backup.project_id,
                name: backup.name,
                logical_bytes: backup.logical_bytes,
                stored_bytes: backup.stored_bytes,
                unique_bytes: (set - &twice).iter().map(bytes).sum(),
            });
        })?;
        Ok(usage)
    }

    /// Each backup of a vault by time, with the packs that it needs.
    fn each_stored(
        &self,
        vault: &VaultId,
        mut take: impl FnMut(Stored, RoaringBitmap),
    ) -> Result<(), TaskError> {
        let mut last = None;
        loop {
            let page = self.db.read(|c| {
                let after = last.as_ref().map(|(time, id)| (*time, id));
                db::backups::stored_in_vault(c, vault, after, PAGE)
            })?;
            let Some(end) = page.last() else {
                return Ok(());
            };
            last = Some((end.created_at, end.id.clone()));
            for mut backup in page {
                let set = match backup.pack_set.take() {
                    Some(set) => decode_pack_set(&set)?,
                    None => RoaringBitmap::new(),
                };
                take(backup, set);
            }
        }
    }
}
