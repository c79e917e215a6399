//! From encoded frames to live packs: frames are appended in order, and full packs are uploaded by other threads.

use crate::config;
use crate::db;
use crate::engine::format::pack::{NewFrame, PackBuilder};
use crate::engine::vault::pack_name;
use crate::engine::write::index::ChunkLocation;
use crate::engine::write::session::WriteSession;
use crate::engine::{Error, Result};
use crate::model::pack::PackKind;
use crate::model::progress::Progress;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Instant;

/// Most chunks of one pack, far below what a reader accepts. Only data that compresses extremely well reaches it. A
/// reader of the pack holds a row for each chunk.
const PACK_CHUNKS_MAX: usize = 1 << 14;

/// The threads that upload packs, behind a queue without a buffer.
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
    pub(crate) fn run(&self, session: &WriteSession<'_>) {
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
    session: &'s WriteSession<'a>,
    kind: PackKind,
    pack_bytes: usize,
    open: Mutex<Option<PackBuilder>>,
    uploads: SyncSender<PackBuilder>,
}

impl<'a, 's> Packer<'a, 's> {
    pub(crate) fn new(
        session: &'s WriteSession<'a>,
        kind: PackKind,
        uploads: SyncSender<PackBuilder>,
    ) -> Self {
        let pack_bytes = match kind {
            PackKind::Data => session.vault.options.pack_bytes,
            // There is little of it, and it stays in memory until the end of the backup.
            PackKind::Meta => session.vault.options.pack_bytes / config::META_SHARE as usize,
        };
        Self {
            session,
            kind,
            pack_bytes,
            open: Mutex::new(None),
            uploads,
        }
    }

    /// Appends frames one after the other, so that data that was read together lies together. A frame is not stored if
    /// other threads have appended all of its chunks meanwhile. Gives the places of all chunks in order.
    pub(crate) fn append(&self, frames: Vec<NewFrame>) -> Result<Vec<ChunkLocation>> {
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
                let place = ChunkLocation { frame: at, offset };
                pending.entry(id).or_insert(place);
                places.push(place);
                offset += length;
            }
            drop(pending);
            let is_full = builder.length() >= self.pack_bytes || builder.count() >= PACK_CHUNKS_MAX;
            if is_full && let Some(builder) = open.take() {
                // Under the lock, so that at most one full pack waits, however many threads there are. Uploading
                // threads never take this lock.
                let waiting = Instant::now();
                self.send(builder)?;
                self.session.pace.waited(waiting.elapsed());
                self.session.pace.judge();
            }
        }
        Ok(places)
    }

    /// The places of a frame's chunks, if another thread has just appended all of them.
    fn known(&self, frame: &NewFrame) -> Option<Vec<ChunkLocation>> {
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
        let name = pack_name(vault, &row);
        let paranoid = vault.options.paranoid;
        let spare = match self.kind {
            PackKind::Data => session.spare().pop(),
            PackKind::Meta => None,
        };
        Ok(PackBuilder::new(
            name,
            &vault.keys,
            paranoid,
            self.pack_bytes,
            spare.unwrap_or_default(),
        ))
    }

    fn send(&self, builder: PackBuilder) -> Result<()> {
        self.session.check()?;
        self.uploads.send(builder).map_err(|_| Error::Cancelled)
    }
}
