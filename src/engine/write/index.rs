//! Which chunks are stored already. A miss only costs duplicate bytes.
//!
//! A hit counts only if the session's reference on its pack was committed before the look-up began, or if the same
//! transaction takes the reference and looks up. A reference that another thread of the session takes after the
//! look-up does not count: a compaction may have dropped the chunk between the two. Until a new pack is live, only
//! this session knows its chunks.

use crate::db::{self, Db};
use crate::engine::format::manifest::{ChunkId, FrameRef};
use crate::engine::{Error, Result};
use crate::model::job::Lease;
use crate::model::number::PackNumber;
use crate::model::pack::IndexedChunk;
use roaring::RoaringBitmap;
use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard};

/// Where a chunk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ChunkLocation {
    pub(crate) frame: FrameRef,
    /// Of the chunk in its frame, bytes.
    pub(crate) offset: u32,
}

impl ChunkLocation {
    fn of(row: &IndexedChunk) -> Self {
        Self {
            frame: FrameRef::of(row),
            offset: row.frame_offset.get(),
        }
    }
}

fn locations(rows: &[IndexedChunk]) -> Vec<(ChunkId, ChunkLocation)> {
    rows.iter()
        .filter_map(|row| {
            let id = ChunkId(row.id.as_slice().try_into().ok()?);
            Some((id, ChunkLocation::of(row)))
        })
        .collect()
}

/// The index of one vault, as one session sees it.
pub(crate) struct Index<'a> {
    db: &'a Db,
    vault: i64,
    lease: &'a Lease,
    /// Chunks of packs that are not live yet: bounded by the packs in memory.
    pending: Mutex<HashMap<ChunkId, ChunkLocation>>,
    /// Packs on which the session has a committed reference, or that it made live.
    held: Mutex<RoaringBitmap>,
    /// Those of them that this run has stored.
    stored: Mutex<RoaringBitmap>,
    /// Packs in which the database found chunks.
    found: Mutex<RoaringBitmap>,
    /// Called between a look-up and its evaluation, as if other threads ran then.
    #[cfg(test)]
    pub(crate) meanwhile: std::sync::OnceLock<Meanwhile<'a>>,
}

#[cfg(test)]
type Meanwhile<'a> = Box<dyn Fn(&Index<'_>) + Send + Sync + 'a>;

impl<'a> Index<'a> {
    pub(crate) fn new(db: &'a Db, vault: i64, lease: &'a Lease) -> Self {
        Self {
            db,
            vault,
            lease,
            pending: Mutex::default(),
            held: Mutex::default(),
            stored: Mutex::default(),
            found: Mutex::default(),
            #[cfg(test)]
            meanwhile: std::sync::OnceLock::new(),
        }
    }

    /// Takes references on packs. `false`: some of them are being deleted.
    pub(crate) fn hold(&self, packs: &RoaringBitmap) -> Result<bool> {
        let (alive, _) = self.hold_and_look(packs, Vec::new())?;
        Ok(alive.len() == packs.len())
    }

    /// Takes references on packs, and looks chunks up under them, in one transaction. Gives the packs
    /// that are alive, and the rows of the chunks.
    fn hold_and_look(
        &self,
        packs: &RoaringBitmap,
        ids: Vec<Vec<u8>>,
    ) -> Result<(RoaringBitmap, Vec<IndexedChunk>)> {
        let wanted: Vec<PackNumber> = packs.iter().map(PackNumber::from).collect();
        let (alive, rows) = self.db.write(|c| -> Result<_> {
            if !db::sessions::hold(c, self.lease)? {
                return Err(Error::Fenced);
            }
            let alive = db::packs::reference(c, self.vault, &self.lease.job_id, &wanted)?;
            let rows = if ids.is_empty() {
                Vec::new()
            } else {
                db::chunks::lookup(c, self.vault, &ids)?
            };
            Ok((alive, rows))
        })?;
        let alive: RoaringBitmap = alive.into_iter().map(PackNumber::get).collect();
        *self.held() |= &alive;
        Ok((alive, rows))
    }

    /// Looks up which of these chunks are stored already, or will be by this session.
    pub(crate) fn known(&self, ids: &[ChunkId]) -> Result<HashMap<ChunkId, ChunkLocation>> {
        let (mut known, missing) = self.known_pending(ids);
        if missing.is_empty() {
            return Ok(known);
        }
        // Copied before the look-up: a reference that another thread takes during it does not count.
        let mut held = self.held().clone();
        let rows = self
            .db
            .read(|c| db::chunks::lookup(c, self.vault, &missing))?;
        #[cfg(test)]
        if let Some(meanwhile) = self.meanwhile.get() {
            meanwhile(self);
        }
        let mut hits = locations(&rows);
        let unheld: RoaringBitmap = hits
            .iter()
            .map(|(_, place)| place.frame.pack)
            .filter(|pack| !held.contains(*pack))
            .collect();
        if !unheld.is_empty() {
            // As long as a pack is not held, a compaction may drop its unused chunks from index and pack. So take the
            // reference, look up again in the same transaction, and use only what that shows.
            let (alive, rows) = self.hold_and_look(&unheld, missing)?;
            held |= alive;
            hits = locations(&rows);
        }
        hits.retain(|(_, place)| held.contains(place.frame.pack));
        let mut found = self.found.lock().expect("nothing panics under it");
        found.extend(hits.iter().map(|(_, place)| place.frame.pack));
        known.extend(hits);
        Ok(known)
    }

    fn known_pending(&self, ids: &[ChunkId]) -> (HashMap<ChunkId, ChunkLocation>, Vec<Vec<u8>>) {
        let pending = self.pending();
        let mut known = HashMap::new();
        let mut missing = HashSet::new();
        for id in ids {
            match pending.get(id) {
                Some(place) => {
                    known.insert(*id, *place);
                }
                None => {
                    missing.insert(*id);
                }
            }
        }
        (known, missing.into_iter().map(|id| id.0.to_vec()).collect())
    }

    /// The chunks of packs that are not live yet. A thread that appends chunks holds this lock, so that each new chunk is
    /// appended by one thread only.
    pub(crate) fn pending(&self) -> MutexGuard<'_, HashMap<ChunkId, ChunkLocation>> {
        self.pending
            .lock()
            .expect("no panic while the map is locked")
    }

    fn held(&self) -> MutexGuard<'_, RoaringBitmap> {
        self.held.lock().expect("no panic while the set is locked")
    }

    /// Packs whose existence is unverified: not uploaded by this run, and not merely inherited from the parent.
    pub(crate) fn unseen(
        &self,
        needed: &RoaringBitmap,
        inherited: &RoaringBitmap,
    ) -> RoaringBitmap {
        let found = self.found.lock().expect("nothing panics under it");
        let stored = self.stored.lock().expect("nothing panics under it");
        ((needed - inherited) | (needed & &*found)) - &*stored
    }

    /// This run has stored the pack.
    pub(crate) fn note_stored(&self, pack: u32) {
        let mut stored = self.stored.lock().expect("nothing panics under it");
        stored.insert(pack);
    }

    /// A pack has become live: its chunks are in the database now.
    pub(crate) fn settle(&self, pack: u32, ids: impl Iterator<Item = ChunkId>) {
        self.held().insert(pack);
        let mut pending = self.pending();
        for id in ids {
            if pending
                .get(&id)
                .is_some_and(|place| place.frame.pack == pack)
            {
                pending.remove(&id);
            }
        }
    }
}
