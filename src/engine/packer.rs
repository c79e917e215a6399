//! From encoded frames to live packs: appended in order, uploaded beside the work, bounded.

use bytes::Bytes;

use crate::db::{self, DbError};
use crate::engine::codec::{Encoder, Pace};
use crate::engine::index::{Index, Place};
use crate::engine::pack::{FrameRow, NewFrame, PackBuilder, PackName, PackReader, SealedPack};
use crate::engine::parallel::{self, Failure};
use crate::engine::vault::Vault;
use crate::engine::{Error, Result};
use crate::model::id::JobId;
use crate::model::job::Lease;
use crate::model::pack::{IndexedChunk, Pack, PackKind, PackState};
use crate::model::progress::Progress;
use crate::store::{Store, StoreErrorKind};
use roaring::RoaringBitmap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

/// Chunks of one pack, far below what a reader believes.
const PACK_CHUNKS_MAX: usize = 1 << 17;
/// Meta packs are this part of a data pack's size: there is little of them, and it lies in memory
/// until the end of the backup.
const META_SHARE: usize = 4;

/// What the packers and the uploading threads of one session share.
pub(crate) struct Session<'a> {
    pub(crate) vault: &'a Vault,
    pub(crate) lease: &'a Lease,
    pub(crate) index: Index<'a>,
    pub(crate) progress: &'a Progress,
    /// Set when a meta pack turned out damaged: leaves, nodes and sums are then stored anew, as the
    /// index may lead to the damaged ones.
    pub(crate) distrusts_meta: AtomicBool,
    /// How hard to compress, where that is left to us.
    pub(crate) pace: Pace,
    spare: Mutex<Vec<Vec<u8>>>,
    /// The first failure of a thread; the others stop at it.
    failure: Failure,
}

impl<'a> Session<'a> {
    /// Begins the session of a job, or takes it over from an earlier run of it.
    pub(crate) fn begin(
        vault: &'a Vault,
        lease: &'a Lease,
        progress: &'a Progress,
    ) -> Result<Self> {
        let begun = vault
            .db
            .write(|c| db::sessions::begin(c, lease).map_err(DbError::from))?;
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
            distrusts_meta: AtomicBool::new(false),
            pace: Pace::new(vault.options.threads),
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

    /// Packs an earlier run of this session left unfinished: whole ones become live, so that
    /// nothing is uploaded twice; missing and broken ones are left to the collector, which removes
    /// what a run that was overtaken may still be storing.
    fn adopt(&self) -> Result<()> {
        for pack in self.packs()? {
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

    fn id(&self) -> &'a JobId {
        &self.lease.job_id
    }

    /// Packs of all runs of this session.
    fn packs(&self) -> Result<Vec<Pack>> {
        let read = |c: &mut db::DbConnection| db::packs::of_session(c, self.id());
        Ok(self.vault.db.read(|c| read(c).map_err(DbError::from))?)
    }

    fn find(&self, number: u32) -> Result<Option<Pack>> {
        let find = |c: &mut db::DbConnection| {
            db::packs::find(c, self.vault.number, i64::from(number)).map_err(DbError::from)
        };
        Ok(self.vault.db.read(find)?)
    }

    /// Changes rows if the session is still this run's.
    fn write<T>(
        &self,
        mut change: impl FnMut(&mut db::DbConnection) -> db::QueryResult<T>,
    ) -> Result<T> {
        self.vault.db.write(
            |c| match db::sessions::hold(c, self.lease).map_err(DbError::from)? {
                true => Ok(change(c).map_err(DbError::from)?),
                false => Err(Error::Fenced),
            },
        )
    }

    /// Makes sure that these packs are there, before a root relies upon them. Those that this run has
    /// stored it has seen, and what the parent needs its root keeps; but an old database may lead to
    /// others that are gone. Of one that is not there the chunks are forgotten, so that the next run
    /// stores them again.
    pub(crate) fn confirm(&self, needed: &RoaringBitmap, inherited: &RoaringBitmap) -> Result<()> {
        let numbers: Vec<u32> = self.index.unseen(needed, inherited).iter().collect();
        parallel::each(&numbers, self.vault.options.uploads, |number| {
            self.check()?;
            // Its row is gone only if somebody has removed it; the commit will not find it either.
            let Some(pack) = self.find(*number)? else {
                return Ok(());
            };
            let key = pack_name(self.vault, &pack)?.key();
            let length = u64::try_from(pack.stored_bytes).unwrap_or(0);
            let seen = self.vault.expect(&key, length);
            if let Err(error @ Error::Lost { .. }) = &seen {
                let damage = error.to_string();
                self.write(|c| db::condition::set(c, &pack, Some(&damage), None))?;
            }
            seen
        })
    }

    fn upload(&self, pack: SealedPack) -> Result<()> {
        let SealedPack { name, bytes, rows } = pack;
        let length = bytes.len() as u64;
        let bytes = Bytes::from(bytes);
        match self.vault.store.put_new(&name.key(), bytes.clone()) {
            Ok(()) => {}
            // An upload that was acknowledged to nobody, or a foreign object: never the latter.
            Err(error) if error.kind == StoreErrorKind::Exists => {
                if self.vault.store.get(&name.key())? != bytes {
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
        if bytes.is_unique() {
            self.spare().push(bytes.into());
        }
        // From here on other backups may rely on it. One that is not there is given up, or found
        // after all, by the next run.
        self.vault.expect(&name.key(), length)?;
        self.index.note_stored(name.number);
        let live = self.go_live(&name, length, &rows);
        if matches!(live, Err(Error::Fenced)) && self.find(name.number)?.is_none() {
            // The vault was shredded meanwhile: nobody would ever look for it.
            self.vault.store.delete(&name.key())?;
        }
        live
    }

    /// Memory of packs that are stored, for the next ones.
    fn spare(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.spare
            .lock()
            .expect("no panic while the memory is locked")
    }

    fn go_live(&self, name: &PackName, length: u64, rows: &[FrameRow]) -> Result<()> {
        let chunks = indexed(self.vault.number, name.number, rows);
        let signed = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        let row = Pack {
            vault: self.vault.number,
            number: name.number.into(),
            rewrite: 0,
            kind: name.kind,
            state: PackState::Writing,
            session: None,
            stored_bytes: i64::try_from(length).unwrap_or(i64::MAX),
            chunk_count: signed(chunks.len()),
            frame_count: signed(rows.len()),
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
        self.failure.set(error);
    }

    /// The first failure, if there was one.
    pub(crate) fn failure(&self) -> Option<Error> {
        self.failure.take()
    }
}

/// The rows of the index for the chunks of a pack.
pub(crate) fn indexed(vault: i64, pack: u32, frames: &[FrameRow]) -> Vec<IndexedChunk> {
    let signed = |value: u32| i32::try_from(value).unwrap_or(i32::MAX);
    let mut rows = Vec::new();
    for (ordinal, frame) in frames.iter().enumerate() {
        let mut offset = 0;
        for chunk in &frame.chunks {
            rows.push(IndexedChunk {
                vault,
                id: chunk.id.0.to_vec(),
                pack: pack.into(),
                ordinal: i32::try_from(ordinal).unwrap_or(i32::MAX),
                length: signed(chunk.length),
                frame_offset: signed(offset),
                frame_length: signed(frame.plain_length),
                frame_check: i64::from_le_bytes(frame.check),
            });
            offset += chunk.length;
        }
    }
    rows
}

/// Names the object of a pack.
pub(crate) fn pack_name(vault: &Vault, pack: &Pack) -> Result<PackName> {
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
    store
        .length(&name.key())?
        .map(|length| Ok((length, PackReader::open(store, name, length, &vault.keys)?)))
        .transpose()
}

/// The packs on their way to the store: a few threads behind a queue that holds nothing.
pub(crate) struct Uploads {
    receiver: Mutex<Receiver<PackBuilder>>,
}

impl Uploads {
    /// The queue's two ends.
    pub(crate) fn new() -> (SyncSender<PackBuilder>, Self) {
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
            if let Err(stopped) = session.check() {
                // A pack that is not stored must fail the backup, or its root would be written.
                session.fail(stopped);
                continue;
            }
            // A panic must not leave the others waiting at the queue for ever.
            match catch_unwind(AssertUnwindSafe(|| session.upload(pack.finish()))) {
                Ok(Ok(())) => {}
                Ok(Err(error)) => session.fail(error),
                Err(_) => session.fail(Error::Panicked("an upload")),
            }
        }
    }
}

/// Fills packs of one kind.
pub(crate) struct Packer<'a, 's> {
    session: &'s Session<'a>,
    kind: PackKind,
    pack_bytes: usize,
    open: Mutex<Option<PackBuilder>>,
    uploads: SyncSender<PackBuilder>,
}

impl<'a, 's> Packer<'a, 's> {
    pub(crate) fn new(
        session: &'s Session<'a>,
        kind: PackKind,
        uploads: SyncSender<PackBuilder>,
    ) -> Self {
        let pack_bytes = match kind {
            PackKind::Data => session.vault.options.pack_bytes,
            PackKind::Meta => session.vault.options.pack_bytes / META_SHARE,
        };
        Self {
            session,
            kind,
            pack_bytes,
            open: Mutex::new(None),
            uploads,
        }
    }

    /// Appends frames one after the other, so that what was read together lies together; a frame
    /// whose chunks other threads appended meanwhile is not stored again. Gives the places of all
    /// chunks in order.
    pub(crate) fn append(&self, frames: Vec<NewFrame>) -> Result<Vec<Place>> {
        let mut places = Vec::new();
        let waiting = Instant::now();
        let mut open = self.open.lock().expect("no panic while the pack is locked");
        self.session.pace.waited(waiting.elapsed());
        for frame in frames {
            if let Some(known) = self.known(&frame) {
                places.extend(known);
                continue;
            }
            let builder = match open.as_mut() {
                Some(builder) => builder,
                None => open.insert(self.begin()?),
            };
            let ids: Vec<_> = frame.chunks.iter().map(|c| (c.id, c.length)).collect();
            let at = builder.push(frame)?;
            let mut offset = 0;
            let mut pending = self.session.index.pending();
            for (id, length) in ids {
                let place = Place { frame: at, offset };
                pending.entry(id).or_insert(place);
                places.push(place);
                offset += length;
            }
            drop(pending);
            let is_full = builder.length() >= self.pack_bytes || builder.count() >= PACK_CHUNKS_MAX;
            if is_full && let Some(builder) = open.take() {
                // Under the lock, so that at most one full pack waits, however many threads there
                // are; uploading threads never take it.
                let waiting = Instant::now();
                self.send(builder)?;
                self.session.pace.waited(waiting.elapsed());
                self.session.pace.judge();
            }
        }
        Ok(places)
    }

    /// The places of a frame's chunks, if another thread has just appended all of them.
    fn known(&self, frame: &NewFrame) -> Option<Vec<Place>> {
        let pending = self.session.index.pending();
        let places = frame
            .chunks
            .iter()
            .map(|chunk| pending.get(&chunk.id).copied())
            .collect::<Option<Vec<_>>>()?;
        let bytes: u64 = frame.chunks.iter().map(|c| u64::from(c.length)).sum();
        Progress::add(&self.session.progress.deduplicated, bytes);
        Some(places)
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
        let session = self.session;
        let row = session.write(|c| db::packs::open(c, vault.number, self.kind, session.id()))?;
        let name = pack_name(vault, &row)?;
        let paranoid = vault.options.paranoid;
        Ok(PackBuilder::new(
            name,
            &vault.keys,
            paranoid,
            self.pack_bytes,
            self.session.spare().pop().unwrap_or_default(),
        ))
    }

    fn send(&self, builder: PackBuilder) -> Result<()> {
        self.session.check()?;
        self.uploads.send(builder).map_err(|_| Error::Cancelled)
    }
}
