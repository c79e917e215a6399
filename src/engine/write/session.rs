//! The session of a writer: what its packers and its uploading threads share.

use crate::db;
use crate::db::health::IS_MISSING;
use crate::engine::format::codec::{CompressionPace, Encoder};
use crate::engine::format::pack::{PackReader, SealedPack, indexed};
use crate::engine::format::row::{FrameRow, PackName};
use crate::engine::parallel::{self, Failure};
use crate::engine::vault::{Vault, pack_name};
use crate::engine::write::index::Index;
use crate::engine::{Error, Result};
use crate::model::id::JobId;
use crate::model::job::Lease;
use crate::model::number::{ImpossibleNumber, Rewrite};
use crate::model::pack::{Pack, PackKind, PackState};
use crate::model::progress::Progress;
use crate::store::{Store, StoreErrorKind};
use bytes::Bytes;
use roaring::RoaringBitmap;
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, MutexGuard};

/// State that the packers and the uploading threads of one session share.
pub(crate) struct WriteSession<'a> {
    pub(crate) vault: &'a Vault,
    pub(crate) lease: &'a Lease,
    pub(crate) index: Index<'a>,
    pub(crate) progress: &'a Progress,
    /// Set when a manifest of the parent could not be read: leaves, nodes and sums are then always stored again, as the
    /// index may lead to damaged ones.
    pub(crate) meta_damaged: AtomicBool,
    /// The level of compression, if it is chosen automatically.
    pub(crate) pace: CompressionPace,
    spare: Mutex<Vec<Vec<u8>>>,
    /// The first failure of a thread; the others stop at it.
    failure: Failure,
}

impl<'a> WriteSession<'a> {
    /// Begins the session of a job, or takes it over from an earlier run of the job.
    pub(crate) fn begin(
        vault: &'a Vault,
        lease: &'a Lease,
        progress: &'a Progress,
    ) -> Result<Self> {
        let begun = vault.db.write(|c| db::sessions::begin(c, lease))?;
        if !begun {
            return Err(Error::Fenced);
        }
        let session = Self::new(vault, lease, progress);
        session.adopt()?;
        Ok(session)
    }

    fn new(vault: &'a Vault, lease: &'a Lease, progress: &'a Progress) -> Self {
        Self {
            vault,
            lease,
            index: Index::new(&vault.db, vault.number, lease),
            progress,
            meta_damaged: AtomicBool::new(false),
            pace: CompressionPace::new(vault.options.threads),
            spare: Mutex::default(),
            failure: Failure::default(),
        }
    }

    /// An error once the job was asked to stop, or another thread of it has failed.
    pub(crate) fn check(&self) -> Result<()> {
        self.failure.check(self.progress)
    }

    /// Compresses for one thread of the session.
    pub(crate) fn encoder(&self) -> Encoder<'_> {
        Encoder::new(self.vault.options.compression, &self.pace)
    }

    /// Takes over the packs that an earlier run of this job left unfinished. Whole ones become live, so that their data
    /// is not uploaded again. Missing and incomplete ones are left to garbage collection, which also removes objects
    /// that the earlier run may still be storing.
    fn adopt(&self) -> Result<()> {
        for pack in self.packs()? {
            if pack.state == PackState::Writing {
                self.adopt_one(&pack)?;
            } else {
                self.count(pack.stored_bytes.get());
            }
        }
        Ok(())
    }

    fn adopt_one(&self, pack: &Pack) -> Result<()> {
        let name = pack_name(self.vault, pack);
        match stored_pack(&self.vault.store, name, self.vault) {
            Ok(Some((length, reader))) => {
                self.vault.store.make_durable(&name.key())?;
                self.go_live(&name, length, &reader.rows)
            }
            Ok(None) | Err(Error::Corrupt { .. } | Error::Missing { .. }) => {
                self.write(|c| db::packs::abandon(c, pack, self.id()))
            }
            Err(error) => Err(error),
        }
    }

    pub(super) fn id(&self) -> &'a JobId {
        &self.lease.job_id
    }

    /// Packs of all runs of this session.
    fn packs(&self) -> Result<Vec<Pack>> {
        let read = |c: &mut db::DbConnection| db::packs::of_session(c, self.id());
        Ok(self.vault.db.read(read)?)
    }

    fn find(&self, number: u32) -> Result<Option<Pack>> {
        let find = |c: &mut db::DbConnection| db::packs::find(c, self.vault.number, number.into());
        Ok(self.vault.db.read(find)?)
    }

    /// Changes rows if the session is still this run's.
    pub(super) fn write<T>(
        &self,
        mut change: impl FnMut(&mut db::DbConnection) -> db::DbResult<T>,
    ) -> Result<T> {
        self.vault.db.write(|c| {
            if db::sessions::hold(c, self.lease)? {
                Ok(change(c)?)
            } else {
                Err(Error::Fenced)
            }
        })
    }

    /// Makes sure that all needed packs are there before the root is stored. Packs that this run uploaded were seen
    /// already, and inherited packs are kept by the parent. But an old database may have led to packs that are gone. The
    /// chunks of a missing pack leave the index, so that the next run stores them again.
    pub(crate) fn confirm(&self, needed: &RoaringBitmap, inherited: &RoaringBitmap) -> Result<()> {
        let numbers: Vec<u32> = self.index.unseen(needed, inherited).iter().collect();
        parallel::each(&numbers, self.vault.options.uploads, |number| {
            self.check()?;
            // A row is missing only if the vault was shredded or the row was deleted by hand. The commit fails then.
            let Some(pack) = self.find(*number)? else {
                return Ok(());
            };
            let key = pack_name(self.vault, &pack).key();
            let seen = self.vault.expect(&key, pack.stored_bytes.get());
            if let Err(Error::Lost { object }) = &seen {
                let damage = format!("{object}{IS_MISSING}");
                self.write(|c| db::health::mark_damaged(c, &pack, &damage))?;
            }
            seen
        })
    }

    pub(super) fn upload(&self, pack: SealedPack) -> Result<()> {
        let SealedPack { name, bytes, rows } = pack;
        let length = bytes.len() as u64;
        let bytes = Bytes::from(bytes);
        match self.vault.store.put_new(&name.key(), bytes.clone()) {
            Ok(()) => {}
            // Either an earlier try stored it and its answer was lost, or it is another object. Never rely on the latter.
            Err(error) if error.kind == StoreErrorKind::Exists => {
                if !self.vault.store.holds(&name.key(), &bytes)? {
                    // The database is an old copy, and knows neither the pack nor its backup. The next run
                    // takes numbers that are free.
                    self.vault.skip_taken_numbers()?;
                    return Err(Error::Taken {
                        object: name.key().to_string(),
                    });
                }
            }
            Err(error) => return Err(error.into()),
        }
        // The memory of data packs is used again. That of the shorter meta packs is not: it would have to grow, and
        // then exceed its share.
        if name.kind == PackKind::Data && bytes.is_unique() {
            self.spare().push(bytes.into());
        }
        // Before it becomes live, as other backups may rely on it then. If it is not there, the next run looks again and
        // either finds it or abandons it.
        let live = self.vault.expect(&name.key(), length).and_then(|()| {
            self.index.note_stored(name.number);
            self.go_live(&name, length, &rows)
        });
        if live.is_err() && self.vault.is_shredded()? {
            // The shredding may have listed the objects before, so nothing else would remove this one.
            self.vault.store.delete(&name.key())?;
        }
        live
    }

    /// Memory of packs that are stored, for the next ones.
    pub(super) fn spare(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.spare
            .lock()
            .expect("no panic while the memory is locked")
    }

    fn go_live(&self, name: &PackName, length: u64, rows: &[FrameRow]) -> Result<()> {
        let chunks = indexed(self.vault.number, name, rows)?;
        let impossible = |error: ImpossibleNumber| Error::corrupt(name.key(), error);
        let row = Pack {
            vault: self.vault.number,
            number: name.number.into(),
            rewrite: Rewrite::default(),
            kind: name.kind,
            state: PackState::Writing,
            session: None,
            stored_bytes: length.try_into().map_err(impossible)?,
            chunk_count: chunks.len().try_into().map_err(impossible)?,
            frame_count: rows.len().try_into().map_err(impossible)?,
        };
        let is_live = self.write(|c| {
            let is_live = db::packs::go_live(c, &row, self.id())?;
            if is_live {
                db::chunks::insert(c, &chunks)?;
            }
            Ok(is_live)
        })?;
        if !is_live {
            return Err(Error::Fenced);
        }
        let ids = rows
            .iter()
            .flat_map(|row| row.chunks.iter().map(|chunk| chunk.id));
        self.index.settle(name.number, ids);
        self.count(length);
        Ok(())
    }

    fn count(&self, stored_bytes: u64) {
        Progress::add(&self.progress.stored, stored_bytes);
        Progress::add(&self.progress.objects, 1);
    }

    /// Records a failure; the other threads stop at their next check.
    pub(crate) fn fail(&self, error: Error) {
        self.failure.record(error);
    }

    /// The first failure, if there was one.
    pub(crate) fn failure(&self) -> Option<Error> {
        self.failure.take()
    }
}

fn stored_pack(store: &Store, name: PackName, vault: &Vault) -> Result<Option<(u64, PackReader)>> {
    store
        .length(&name.key())?
        .map(|length| Ok((length, PackReader::open(store, name, length, &vault.keys)?)))
        .transpose()
}
