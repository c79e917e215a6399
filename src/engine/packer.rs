//! From encoded chunks to live packs: appended in order, uploaded beside the work, bounded.

use crate::db::{self, DbError};
use crate::engine::codec::Encoded;
use crate::engine::format::ChunkKind;
use crate::engine::index::Index;
use crate::engine::manifest::{ChunkId, ChunkRef};
use crate::engine::pack::{PackBuilder, PackName, PackReader, SealedPack, TrailerRow};
use crate::engine::vault::Vault;
use crate::engine::{Error, Result, check};
use crate::model::id::JobId;
use crate::model::pack::{IndexedChunk, Pack, PackKind, PackState};
use crate::model::progress::Progress;
use crate::store::{Store, StoreErrorKind};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Chunks of one pack, far below what a reader believes.
const PACK_CHUNKS_MAX: usize = 1 << 17;

/// A chunk that is not known yet.
pub(crate) struct NewChunk {
    pub(crate) id: ChunkId,
    pub(crate) kind: ChunkKind,
    pub(crate) plain_length: u32,
    pub(crate) encoded: Encoded,
}

/// What the packers and the uploading threads of one session share.
pub(crate) struct Session<'a> {
    pub(crate) vault: &'a Vault,
    pub(crate) id: &'a JobId,
    pub(crate) index: Index<'a>,
    pub(crate) progress: &'a Progress,
    /// Set when a meta pack turned out damaged: leaves, nodes and sums are then stored anew, as the
    /// index may lead to the damaged ones.
    pub(crate) distrusts_meta: AtomicBool,
    /// The first failure of an upload; everybody stops at it.
    failure: Mutex<Option<Error>>,
}

impl<'a> Session<'a> {
    pub(crate) fn new(vault: &'a Vault, id: &'a JobId, progress: &'a Progress) -> Self {
        Self {
            vault,
            id,
            index: Index::new(&vault.db, vault.number, id),
            progress,
            distrusts_meta: AtomicBool::new(false),
            failure: Mutex::new(None),
        }
    }

    /// Packs an earlier run of this session left unfinished: whole ones become live, so that
    /// nothing is uploaded twice; the rows of missing or broken ones are forgotten. Packs it
    /// finished are held.
    pub(crate) fn adopt(&self) -> Result<()> {
        let packs = self
            .vault
            .db
            .read(|c| db::packs::of_session(c, self.id).map_err(DbError::from))?;
        for pack in packs {
            if pack.state == PackState::Writing {
                self.adopt_one(&pack)?;
            } else {
                self.count(u64::try_from(pack.stored_bytes).unwrap_or(0));
            }
        }
        Ok(())
    }

    fn adopt_one(&self, pack: &Pack) -> Result<()> {
        let name = pack_name(self.vault, pack)?;
        match stored_pack(&self.vault.store, name, self.vault) {
            Ok(Some((length, reader))) => self.go_live(&name, length, &reader.rows),
            Ok(None) | Err(Error::Corrupt { .. } | Error::Missing { .. }) => {
                // The row first: a stale run of this session may be storing the pack just now.
                let forget = |c: &mut db::DbConnection| {
                    db::packs::forget(c, pack, self.id).map_err(DbError::from)
                };
                match self.vault.db.write(forget)? {
                    true => Ok(self.vault.store.delete(&name.key())?),
                    false => Ok(()),
                }
            }
            Err(error) => Err(error),
        }
    }

    fn upload(&self, pack: SealedPack) -> Result<()> {
        let SealedPack { name, bytes, rows } = pack;
        let length = bytes.len() as u64;
        let digest = blake3::hash(&bytes);
        match self.vault.store.put_new(&name.key(), bytes) {
            Ok(()) => {}
            // An upload that was acknowledged to nobody, or a foreign object: never the latter.
            Err(error) if error.kind == StoreErrorKind::Exists => {
                let stored = self.vault.store.get(&name.key())?;
                if blake3::hash(&stored) != digest {
                    return Err(error.into());
                }
            }
            Err(error) => return Err(error.into()),
        }
        self.go_live(&name, length, &rows)
    }

    fn go_live(&self, name: &PackName, length: u64, rows: &[TrailerRow]) -> Result<()> {
        let chunks: Vec<IndexedChunk> = rows
            .iter()
            .enumerate()
            .map(|(ordinal, row)| IndexedChunk {
                vault: self.vault.number,
                id: row.id.0.to_vec(),
                pack: name.number.into(),
                ordinal: i32::try_from(ordinal).unwrap_or(i32::MAX),
                length: i32::try_from(row.plain_length).unwrap_or(i32::MAX),
            })
            .collect();
        let row = Pack {
            vault: self.vault.number,
            number: name.number.into(),
            rewrite: 0,
            kind: name.kind,
            state: PackState::Writing,
            session: None,
            stored_bytes: 0,
            chunk_count: 0,
        };
        self.vault.db.write(|c| -> Result<()> {
            let stored = i64::try_from(length).unwrap_or(i64::MAX);
            let count = i64::try_from(chunks.len()).unwrap_or(i64::MAX);
            if !db::packs::go_live(c, &row, self.id, stored, count).map_err(DbError::from)? {
                return Err(Error::Fenced);
            }
            db::chunks::insert(c, &chunks).map_err(DbError::from)?;
            Ok(())
        })?;
        self.index
            .settle(name.number, rows.iter().map(|row| row.id));
        self.count(length);
        Ok(())
    }

    fn count(&self, stored_bytes: u64) {
        Progress::add(&self.progress.stored, stored_bytes);
        Progress::add(&self.progress.objects, 1);
    }

    /// Records a failure, and makes everybody stop.
    pub(crate) fn fail(&self, error: Error) {
        let mut failure = self
            .failure
            .lock()
            .expect("no panic while the failure is locked");
        failure.get_or_insert(error);
        self.progress.stop();
    }

    /// The first failure, if there was one.
    pub(crate) fn failure(&self) -> Option<Error> {
        self.failure
            .lock()
            .expect("no panic while the failure is locked")
            .take()
    }
}

fn pack_name(vault: &Vault, pack: &Pack) -> Result<PackName> {
    let number = u32::try_from(pack.number)
        .map_err(|_| Error::corrupt(format!("pack {}", pack.number), "its number is too large"))?;
    Ok(PackName {
        vault: vault.name,
        kind: pack.kind,
        number,
        rewrite: u32::try_from(pack.rewrite).unwrap_or(0),
    })
}

fn stored_pack(store: &Store, name: PackName, vault: &Vault) -> Result<Option<(u64, PackReader)>> {
    let object = name.key().to_string();
    let folder = &object[..=object.rfind('/').unwrap_or(0)];
    let length = match store.list(folder) {
        Ok(listed) => listed
            .into_iter()
            .find(|(found, _)| *found == object)
            .map(|(_, length)| length),
        Err(error) if error.kind == StoreErrorKind::Missing => None,
        Err(error) => return Err(error.into()),
    };
    length
        .map(|length| Ok((length, PackReader::open(store, name, length, &vault.keys)?)))
        .transpose()
}

/// The packs on their way to the store: a few threads behind a queue that holds nothing.
pub(crate) struct Uploads {
    receiver: Mutex<Receiver<SealedPack>>,
}

impl Uploads {
    /// The queue's two ends.
    pub(crate) fn new() -> (SyncSender<SealedPack>, Self) {
        let (sender, receiver) = sync_channel(0);
        let receiver = Mutex::new(receiver);
        (sender, Self { receiver })
    }

    /// One uploading thread: until all senders are gone. After a failure it only drains.
    pub(crate) fn run(&self, session: &Session<'_>) {
        loop {
            let received = self
                .receiver
                .lock()
                .expect("no panic while receiving")
                .recv();
            let Ok(pack) = received else { return };
            if session.progress.is_stopped() {
                // A pack that is not stored must fail the backup, or its root would be written.
                session.fail(Error::Cancelled);
                continue;
            }
            // A panic must not leave the others waiting at the queue for ever.
            match catch_unwind(AssertUnwindSafe(|| session.upload(pack))) {
                Ok(Ok(())) => {}
                Ok(Err(error)) => session.fail(error),
                Err(_) => session.fail(Error::corrupt("an upload", "its thread panicked")),
            }
        }
    }
}

/// Fills packs of one kind.
pub(crate) struct Packer<'a, 's> {
    session: &'s Session<'a>,
    kind: PackKind,
    open: Mutex<Option<PackBuilder>>,
    uploads: SyncSender<SealedPack>,
}

impl<'a, 's> Packer<'a, 's> {
    pub(crate) fn new(
        session: &'s Session<'a>,
        kind: PackKind,
        uploads: SyncSender<SealedPack>,
    ) -> Self {
        Self {
            session,
            kind,
            open: Mutex::new(None),
            uploads,
        }
    }

    /// Appends chunks one after the other, so that what was read together lies together; a chunk
    /// that another thread appended meanwhile is not stored again. Gives the places in order.
    pub(crate) fn append(&self, chunks: Vec<NewChunk>) -> Result<Vec<ChunkRef>> {
        let mut places = Vec::with_capacity(chunks.len());
        let mut open = self.open.lock().expect("no panic while the pack is locked");
        for chunk in chunks {
            if let Some(place) = self.session.index.pending().get(&chunk.id).copied() {
                Progress::add(
                    &self.session.progress.deduplicated,
                    chunk.plain_length.into(),
                );
                places.push(place);
                continue;
            }
            let builder = match open.as_mut() {
                Some(builder) => builder,
                None => open.insert(self.begin()?),
            };
            let id = chunk.id;
            let place = ChunkRef {
                pack: builder.name.number,
                ordinal: builder.push(id, chunk.kind, chunk.plain_length, chunk.encoded)?,
                id: id.short(),
            };
            self.session.index.pending().insert(id, place);
            places.push(place);
            let is_full = builder.length() >= self.session.vault.options.pack_bytes
                || builder.count() >= PACK_CHUNKS_MAX;
            if is_full && let Some(builder) = open.take() {
                // Under the lock, so that at most one full pack waits, however many threads there
                // are; uploading threads never take it.
                self.send(builder)?;
            }
        }
        Ok(places)
    }

    /// Sends off what is left.
    pub(crate) fn finish(&self) -> Result<()> {
        let last = self
            .open
            .lock()
            .expect("no panic while the pack is locked")
            .take();
        last.map_or(Ok(()), |builder| self.send(builder))
    }

    fn begin(&self) -> Result<PackBuilder> {
        let vault = self.session.vault;
        let row = vault.db.write(|c| {
            db::packs::open(c, vault.number, self.kind, self.session.id).map_err(DbError::from)
        })?;
        let name = pack_name(vault, &row)?;
        Ok(PackBuilder::new(name, &vault.keys, vault.options.paranoid))
    }

    fn send(&self, builder: PackBuilder) -> Result<()> {
        check(self.session.progress)?;
        self.uploads
            .send(builder.finish())
            .map_err(|_| Error::Cancelled)
    }
}
