//! How much of this machine running jobs may use ([`Options`]), and how a vault cuts volumes, fixed when the vault is
//! made ([`Parameters`]).

use crate::config;
use crate::engine::format::BLOCK_BYTES;
use serde::{Deserialize, Serialize};

/// The settings that concern running jobs.
#[derive(Debug, Clone)]
pub struct Options {
    pub compression: config::Compression,
    pub pack_bytes: usize,
    pub uploads: usize,
    pub downloads: usize,
    pub threads: usize,
    pub paranoid: bool,
    pub restore_compares: bool,
    /// Plain bytes of the frames for which the memory was shared out.
    pub frame_bytes: u32,
    /// Most bytes that one restore has fetched and not written yet.
    pub restore_bytes: u64,
    /// Most bytes that the upkeep of a vault reads at once.
    pub upkeep_bytes: u64,
    /// A pack is compacted once this share of it is unused; 1 is never.
    pub dead_share: f64,
}

impl Options {
    /// Resolves the settings on this machine, for so many backups at once.
    pub fn from_settings(config: &config::Config) -> Self {
        let engine = &config.engine;
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
        let share = config.share();
        Self {
            compression: engine.compression,
            // A limit, and refused in the settings long before that.
            pack_bytes: usize::try_from(engine.pack_bytes.as_u64()).unwrap_or(usize::MAX),
            uploads: share.uploads,
            downloads: engine.downloads.min(share.downloads_max),
            threads: match engine.threads {
                0 => cores.min(share.threads_max),
                threads => threads,
            },
            paranoid: engine.paranoid,
            restore_compares: engine.restore_compares,
            dead_share: f64::from(config.maintenance.compact_percent) / 100.0,
            frame_bytes: Parameters::from_settings(engine).frame_bytes(),
            restore_bytes: share.restore_bytes,
            upkeep_bytes: config::UPKEEP_BYTES,
        }
    }

    /// Fewer threads if the frames of the vault are longer than those for which the memory was shared out.
    pub(super) fn fitted_to(mut self, parameters: &Parameters) -> Self {
        let needs = |frame: u32| config::thread_bytes(self.compression, frame.into());
        let (planned, needed) = (needs(self.frame_bytes), needs(parameters.frame_bytes()));
        if needed > planned {
            let threads = self.threads as u64 * planned / needed;
            self.threads = usize::try_from(threads).unwrap_or(1).max(1);
        }
        self
    }
}

/// Bytes of a span in new vaults.
const SPAN_BYTES: u64 = 32 << 20;

/// How a vault cuts; fixed when the vault is made, so that equal data gives equal chunks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parameters {
    /// `fastcdc-2020`, normalization 1.
    pub chunker: String,
    /// Bytes; minimum and maximum are half and four times of it.
    pub chunk_average: u32,
    pub span_bytes: u64,
    /// Runs of zeros at least this long are holes.
    pub hole_bytes: u64,
}

impl Parameters {
    /// The parameters of new vaults.
    pub fn from_settings(engine: &config::Engine) -> Self {
        Self {
            chunker: "fastcdc-2020".to_owned(),
            chunk_average: u32::try_from(engine.chunk_bytes_average.as_u64())
                .expect("the settings were checked"),
            span_bytes: SPAN_BYTES,
            hole_bytes: 64 << 10,
        }
    }

    /// Small ones, so that small volumes have many spans and chunks.
    pub fn for_tests() -> Self {
        Self {
            chunker: "fastcdc-2020".to_owned(),
            chunk_average: 1024,
            span_bytes: 64 << 10,
            hole_bytes: 8 << 10,
        }
    }

    /// Smallest chunk but for the last of a run, bytes.
    pub fn chunk_min(&self) -> u32 {
        self.chunk_average / 2
    }

    /// Largest chunk, bytes.
    pub fn chunk_max(&self) -> u32 {
        self.chunk_average * 4
    }

    /// Most plain bytes of new chunks that are compressed and sealed together.
    pub fn frame_bytes(&self) -> u32 {
        self.chunk_average * 8
    }

    pub(super) fn is_sound(&self) -> bool {
        let block = BLOCK_BYTES as u64;
        self.chunker == "fastcdc-2020"
            && self.chunk_average.is_power_of_two()
            && (256..=1 << 20).contains(&self.chunk_average)
            && (block..=1 << 30).contains(&self.span_bytes)
            && self.span_bytes.is_multiple_of(block)
            && (block..=16 << 20).contains(&self.hole_bytes)
    }
}
