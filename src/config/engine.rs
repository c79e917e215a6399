//! Settings of the engine, and how they share out memory.

use super::Jobs;
use bytesize::ByteSize;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What a thread of a backup holds: staged data, a batch of compressed frames, zstd's tables.
const THREAD_BYTES: u64 = 6 << 20;
/// What a range being fetched holds, with the frame that is opened.
const DOWNLOAD_BYTES: u64 = 5 << 20;
/// What a job holds besides packs and threads: trailers, nodes, the open meta pack.
const JOB_BYTES: u64 = 16 << 20;
/// Uploads at once beyond which nothing is gained, unless they are asked for.
const UPLOADS_MAX: u64 = 8;

/// The engine.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Engine {
    /// `zstd:1` to `zstd:19`, `none`, or `auto`: as hard as the storage leaves the cores time for,
    /// and not at all where data does not compress.
    pub compression: Compression,
    /// Average plain size of a chunk: a power of two from 16 KiB to 1 MiB. Takes effect in new vaults.
    pub chunk_bytes_average: ByteSize,
    /// Size at which a pack is closed: 1 MiB to 256 MiB.
    pub pack_bytes: ByteSize,
    /// What all running backups and restores together may hold in memory. More of it means more
    /// uploads at once, and threads on machines with many cores.
    pub memory: ByteSize,
    /// Packs on their way to the store at once, for each running backup. 0: as the memory allows.
    pub uploads: usize,
    /// Ranges fetched from the store at once, for each running restore, as the memory allows.
    pub downloads: usize,
    /// Threads of each running backup or restore. 0: one for each core, as the memory allows.
    pub threads: usize,
    /// Open and hash again everything that was sealed, before it is trusted, and compare everything
    /// that a volume's change tracking calls unchanged. Otherwise samples are.
    pub paranoid: bool,
    /// Restore into a volume by reading its blocks first and writing only what differs: for thin
    /// volumes and flash, where reading is cheaper than writing.
    pub restore_compares: bool,
    /// The master key. Default `keys/master.key` in the data directory, made on the first start.
    pub master_key_file: Option<PathBuf>,
}

impl Default for Engine {
    fn default() -> Self {
        Self {
            compression: Compression::Zstd(3),
            chunk_bytes_average: ByteSize::kib(64),
            pack_bytes: ByteSize::mib(32),
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
    /// All of it.
    pub bytes: u64,
    /// Packs on their way at once.
    pub uploads: usize,
    /// Most threads.
    pub threads_max: usize,
    /// Most ranges fetched at once.
    pub downloads_max: usize,
}

impl Engine {
    /// Shares the memory out: a quarter of a job's part for threads, the rest for packs.
    pub fn share(&self, jobs: &Jobs) -> Share {
        let job_bytes = self.memory.as_u64() / jobs.backups.max(1) as u64;
        let pack_bytes = self.pack_bytes.as_u64() + (1 << 20);
        let packs = (job_bytes - job_bytes / 4).saturating_sub(JOB_BYTES) / pack_bytes;
        // One pack is being filled.
        let uploads = match self.uploads {
            0 => packs.saturating_sub(1).min(UPLOADS_MAX) as usize,
            uploads => uploads,
        };
        Share {
            bytes: job_bytes,
            uploads,
            threads_max: (job_bytes / 4 / THREAD_BYTES).max(1) as usize,
            downloads_max: (job_bytes / 4 / DOWNLOAD_BYTES).max(1) as usize,
        }
    }

    /// The setting that is wrong, and why.
    pub(super) fn check(&self, jobs: &Jobs) -> Result<(), (&'static str, String)> {
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
        if self.share(jobs).uploads == 0 {
            let packs = 2 * (self.pack_bytes.as_u64() + (1 << 20));
            let job_bytes = (packs + JOB_BYTES).div_ceil(3) * 4 + (1 << 20);
            let least = ByteSize::mib((job_bytes * jobs.backups as u64).div_ceil(1 << 20));
            let why = format!(
                "must be at least {least} for {} backups at once and packs of {}",
                jobs.backups, self.pack_bytes
            );
            return Err(("engine.memory", why));
        }
        Ok(())
    }
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
            _ => Err(format!(
                "{text:?} is no compression: use \"zstd:1\" to \"zstd:19\", \"auto\" or \"none\""
            )),
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

    #[test]
    fn memory_buys_uploads_and_the_least_that_is_named_is_enough() {
        let jobs = Jobs::default();
        let mut engine = Engine::default();
        let small = engine.share(&jobs);
        assert_eq!((small.uploads, small.threads_max), (1, 5));
        engine.memory = ByteSize::gib(1);
        let large = engine.share(&jobs);
        assert!(large.uploads > 4 && large.threads_max > 16);
        engine.memory = ByteSize::mib(100);
        let (_, why) = engine.check(&jobs).unwrap_err();
        let least = why
            .split(" for ")
            .next()
            .unwrap()
            .trim_start_matches("must be at least ");
        engine.memory = least.parse().unwrap();
        engine.check(&jobs).unwrap();
    }
}
