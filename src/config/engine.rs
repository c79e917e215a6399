//! Settings of the engine, and how they share out memory.

use super::Jobs;
use bytesize::ByteSize;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What a job holds besides packs, threads and what it has fetched: trailers, nodes, the index of
/// packs on their way.
const JOB_BYTES: u64 = 4 << 20;
/// What a thread of a backup holds besides frames and zstd's tables: what it has read and staged, and a
/// batch of compressed frames.
const STAGE_BYTES: u64 = 5 << 20;
/// What a thread of a restore holds at most, where frames are as long as usual: a range, a frame, and
/// what it knows of a span.
const DOWNLOAD_BYTES: u64 = 6 << 20;
/// What a thread of a restore knows of a span: where each piece of it lies.
const SPAN_KNOWN_BYTES: u64 = 1 << 20;
/// A span, which a restore may have to put together in memory.
const SPAN_BYTES: u64 = 32 << 20;
/// Packs of manifests are this part of a data pack's size.
pub const META_SHARE: u64 = 4;
/// Threads of a backup that are of more use than a further upload.
const THREADS_FIRST: u64 = 4;
/// Uploads at once beyond which nothing is gained, unless they are asked for.
const UPLOADS_MAX: u64 = 8;

/// The engine.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Engine {
    /// `zstd:1` to `zstd:19`, `none`, or `auto`. `auto` chooses a level for which the cores have time while they
    /// wait for the storage, and stores data that does not compress as it is.
    pub compression: Compression,
    /// Average plain size of a chunk: a power of two from 16 KiB to 1 MiB. Takes effect in new vaults.
    pub chunk_bytes_average: ByteSize,
    /// Size at which a pack is closed: 1 MiB to 256 MiB.
    pub pack_bytes: ByteSize,
    /// Memory that the process may use in all. More memory allows more uploads at once, and more threads on
    /// machines with many cores.
    pub memory: ByteSize,
    /// Packs that one backup uploads at once. 0: as many as `memory` allows. A number that needs more memory is
    /// refused.
    pub uploads: usize,
    /// Ranges that one restore downloads at once; fewer if `memory` does not allow as many.
    pub downloads: usize,
    /// Threads of one backup or restore. 0: one for each core, or as many as `memory` allows. A number that needs
    /// more memory is refused.
    pub threads: usize,
    /// Open and hash everything again after it was sealed, and compare all blocks that change tracking reports as
    /// unchanged. Without it, only samples of both are checked.
    pub paranoid: bool,
    /// A restore reads the blocks of the target first and writes only those that differ. Useful for thin volumes
    /// and flash, where reading is cheaper than writing.
    pub restore_compares: bool,
    /// File of the master key. Default: `keys/master.key` in the data directory, created at the first start.
    pub master_key_file: Option<PathBuf>,
}

impl Default for Engine {
    fn default() -> Self {
        Self {
            compression: Compression::Zstd(3),
            chunk_bytes_average: ByteSize::kib(64),
            pack_bytes: ByteSize::mib(16),
            memory: ByteSize::mib(256),
            uploads: 0,
            downloads: 4,
            threads: 0,
            paranoid: false,
            restore_compares: false,
            master_key_file: None,
        }
    }
}

/// What one job may use of the memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// Packs on their way at once.
    pub uploads: usize,
    /// Most threads of a backup.
    pub threads_max: usize,
    /// Most ranges fetched at once.
    pub downloads_max: usize,
    /// What a restore may have fetched and not written yet.
    pub restore_bytes: u64,
}

impl Engine {
    /// Plain bytes of a frame of a vault made now.
    pub fn frame_bytes(&self) -> u64 {
        self.chunk_bytes_average.as_u64() * 8
    }

    /// Shares out what is left of the memory beside this many bytes.
    pub(super) fn share(&self, jobs: &Jobs, besides: u64) -> Share {
        let bytes = self.job_bytes(jobs, besides);
        let thread = thread_bytes(self.compression, self.frame_bytes());
        let uploads = match self.uploads as u64 {
            0 => {
                let threads = match self.threads as u64 {
                    0 => THREADS_FIRST,
                    threads => threads,
                };
                let left = bytes.saturating_sub(self.backup_bytes(0, threads));
                (left / self.full_pack_bytes()).clamp(1, UPLOADS_MAX)
            }
            uploads => uploads,
        };
        let left = bytes.saturating_sub(self.backup_bytes(uploads, 0));
        let count = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX).max(1);
        let for_restore = bytes.saturating_sub(JOB_BYTES);
        let (threads_max, downloads_max) =
            (count(left / thread), count(for_restore / DOWNLOAD_BYTES));
        // What its threads know of their spans is not part of what was fetched.
        let threads = self.downloads.min(downloads_max).max(threads_max);
        let known = threads as u64 * SPAN_KNOWN_BYTES;
        Share {
            uploads: count(uploads),
            threads_max,
            downloads_max,
            restore_bytes: for_restore.saturating_sub(known),
        }
    }

    /// A job's part of the memory.
    fn job_bytes(&self, jobs: &Jobs, besides: u64) -> u64 {
        self.memory.as_u64().saturating_sub(besides) / jobs.backups.max(1) as u64
    }

    /// A pack with its last frame and its trailer.
    fn full_pack_bytes(&self) -> u64 {
        self.pack_bytes.as_u64() + self.frame_bytes() + (1 << 19)
    }

    /// What a backup holds with so many uploads and threads. Besides the packs that are on their way one is
    /// being filled, and one of manifests.
    fn backup_bytes(&self, uploads: u64, threads: u64) -> u64 {
        let meta = self.pack_bytes.as_u64() / META_SHARE + (1 << 20);
        let packs = (uploads + 1) * self.full_pack_bytes() + meta;
        packs + threads * thread_bytes(self.compression, self.frame_bytes()) + JOB_BYTES
    }

    /// The least memory with which backups and restores can work.
    fn memory_min(&self, jobs: &Jobs, besides: u64) -> u64 {
        let (uploads, threads) = (self.uploads.max(1) as u64, self.threads.max(1) as u64);
        let restore = SPAN_BYTES + DOWNLOAD_BYTES.max(self.frame_bytes() * 3) + JOB_BYTES;
        let job = self.backup_bytes(uploads, threads).max(restore);
        besides.saturating_add(job.saturating_mul(jobs.backups as u64))
    }

    /// The setting that is wrong, and why, where the process holds this many bytes besides its jobs.
    pub(super) fn check(&self, jobs: &Jobs, besides: u64) -> Result<(), (&'static str, String)> {
        let average = self.chunk_bytes_average.as_u64();
        if !average.is_power_of_two() || !(16 << 10..=1 << 20).contains(&average) {
            let why = "must be a power of two from 16 KiB to 1 MiB";
            return Err(("engine.chunk_bytes_average", why.to_owned()));
        }
        if !(1 << 20..=256 << 20).contains(&self.pack_bytes.as_u64()) {
            let why = "must be from 1 MiB to 256 MiB";
            return Err(("engine.pack_bytes", why.to_owned()));
        }
        if self.uploads > 64 {
            return Err(("engine.uploads", "must be at most 64".to_owned()));
        }
        if !(1..=256).contains(&self.downloads) {
            return Err(("engine.downloads", "must be from 1 to 256".to_owned()));
        }
        if self.threads > 256 {
            return Err(("engine.threads", "must be at most 256".to_owned()));
        }
        let least = self.memory_min(jobs, besides);
        if self.memory.as_u64() < least {
            let why = format!(
                "must be at least {} for {} backups at once, each with packs of {}, {} uploads and {} threads, and {} for \
                 requests and all else",
                ByteSize::mib(least.div_ceil(1 << 20)),
                jobs.backups,
                self.pack_bytes,
                self.uploads.max(1),
                self.threads.max(1),
                ByteSize::mib(besides.div_ceil(1 << 20)),
            );
            return Err(("engine.memory", why));
        }
        Ok(())
    }
}

/// What a thread of a backup holds, in a vault with frames of this length.
pub fn thread_bytes(compression: Compression, frame_bytes: u64) -> u64 {
    // zstd's tables, as it sizes them itself for input of this length.
    let tables = match compression {
        Compression::None | Compression::Zstd(..=3) => 5 << 18,
        Compression::Zstd(4..=6) => (frame_bytes * 12 + (1 << 19)).min(4 << 20),
        Compression::Zstd(7..=12) | Compression::Auto => frame_bytes * 12 + (3 << 19),
        Compression::Zstd(_) => frame_bytes * 18 + (1 << 20),
    };
    STAGE_BYTES + frame_bytes * 4 + tables
}

/// How frames are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Compression {
    None,
    /// zstd with this level.
    Zstd(i32),
    /// zstd with the level that suits the storage.
    Auto,
}

impl TryFrom<String> for Compression {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let level = text
            .strip_prefix("zstd:")
            .and_then(|level| level.parse().ok());
        match (text.as_str(), level) {
            ("none", _) => Ok(Self::None),
            ("auto", _) => Ok(Self::Auto),
            (_, Some(level @ 1..=19)) => Ok(Self::Zstd(level)),
            _ => Err("use \"zstd:1\" to \"zstd:19\", \"auto\" or \"none\"".to_owned()),
        }
    }
}

impl From<Compression> for String {
    fn from(compression: Compression) -> String {
        match compression {
            Compression::None => "none".to_owned(),
            Compression::Auto => "auto".to_owned(),
            Compression::Zstd(level) => format!("zstd:{level}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the process holds besides its jobs, by default.
    fn besides() -> u64 {
        crate::config::Config::default().besides_jobs()
    }

    #[test]
    fn memory_buys_uploads_and_the_least_that_is_named_is_enough() {
        let jobs = Jobs::default();
        let mut engine = Engine::default();
        let small = engine.share(&jobs, besides());
        assert_eq!((small.uploads, small.threads_max), (1, 2));
        // A span is put together, while two threads fetch for others.
        assert!(small.restore_bytes >= SPAN_BYTES + (9 << 19) + (9 << 20));
        engine.memory = ByteSize::gib(1);
        let large = engine.share(&jobs, besides());
        assert!(large.uploads > 4 && large.threads_max > 16);
        for (uploads, threads, level) in [(0, 0, 3), (6, 0, 3), (0, 12, 3), (3, 5, 19)] {
            engine = Engine {
                uploads,
                threads,
                compression: Compression::Zstd(level),
                memory: ByteSize::mib(100),
                ..Engine::default()
            };
            let (_, why) = engine.check(&jobs, besides()).unwrap_err();
            let least = why
                .split(" for ")
                .next()
                .unwrap()
                .trim_start_matches("must be at least ");
            engine.memory = least.parse().unwrap();
            engine.check(&jobs, besides()).unwrap();
            let uploads = engine.share(&jobs, besides()).uploads as u64;
            let backup = engine.backup_bytes(uploads, threads.max(1) as u64);
            assert!(backup <= engine.job_bytes(&jobs, besides()), "{engine:?}");
        }
    }

    #[test]
    fn all_jobs_together_stay_within_the_memory() {
        for memory in [256, 300, 330, 512, 1024, 4096, 65536] {
            for (backups, pack, chunk) in [(2, 16, 64), (1, 32, 64), (2, 8, 16), (1, 64, 1024)] {
                let jobs = Jobs {
                    backups,
                    ..Jobs::default()
                };
                let engine = Engine {
                    memory: ByteSize::mib(memory),
                    pack_bytes: ByteSize::mib(pack),
                    chunk_bytes_average: ByteSize::kib(chunk),
                    ..Engine::default()
                };
                if engine.check(&jobs, besides()).is_err() {
                    assert!(memory < 512, "{engine:?}");
                    continue;
                }
                let share = engine.share(&jobs, besides());
                let backup = engine.backup_bytes(share.uploads as u64, share.threads_max as u64);
                let restore = share.restore_bytes + JOB_BYTES;
                let all = besides() + backup.max(restore) * backups as u64;
                assert!(all <= memory << 20, "{engine:?} {share:?}");
            }
        }
    }
}
