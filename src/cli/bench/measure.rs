//! Parts that the steps share: their arguments, the volume they start from, and the use of a process.

use crate::cli::bench::Measured;
use crate::volume::VolumeReader;
use crate::volume::generated::{Generated, Variant};
use anyhow::Context;
use clap::Args;
use std::path::{Path, PathBuf};

/// Clock ticks a second in `/proc`; fixed on Linux.
const TICKS: f64 = 100.0;

#[derive(Debug, Args)]
pub(in crate::cli) struct StepArguments {
    /// Where database, key and storage are.
    #[arg(long)]
    pub(super) dir: PathBuf,
    /// A raw image; generated data of --size without it.
    #[arg(long)]
    pub(super) input: Option<PathBuf>,
    #[arg(long, default_value_t = 0)]
    pub(super) size: u64,
    #[arg(long, default_value_t = 0)]
    pub(super) data: u64,
    #[arg(long, default_value = "Base", value_parser = parse_variant)]
    pub(super) variant: Variant,
    /// Tells variants of one kind apart; of an aged volume its generation.
    #[arg(long, default_value_t = 0)]
    pub(super) turn: u64,
    /// Make a backup of this name.
    #[arg(long)]
    pub(super) backup: Option<String>,
    /// Against the backup of this name.
    #[arg(long)]
    pub(super) parent: Option<String>,
    /// Tell the engine what changed.
    #[arg(long)]
    pub(super) tracked: bool,
    /// Restore the backup of this name to a file, and compare it with the source.
    #[arg(long)]
    pub(super) restore: Option<String>,
    /// The file to restore to; `restored` in the directory without it.
    #[arg(long)]
    pub(super) to: Option<PathBuf>,
    /// Restore over what is there and write only what differs.
    #[arg(long)]
    pub(super) compare: bool,
    /// Run the whole service.
    #[arg(long, conflicts_with_all = ["backup", "restore"])]
    pub(super) service: bool,
    /// Do not compare what was restored.
    #[arg(long)]
    pub(super) unverified: bool,
}

fn parse_variant(text: &str) -> Result<Variant, String> {
    Variant::ALL
        .into_iter()
        .find(|variant| format!("{variant:?}") == text)
        .ok_or_else(|| format!("{text:?} is no variant"))
}

/// A volume with the content of a file, or one of this length with so much data, or a variant of it.
pub(super) fn source(
    input: Option<&Path>,
    (size, data): (u64, u64),
    variant: Variant,
    turn: u64,
) -> anyhow::Result<(VolumeReader, Generated)> {
    let base = match input {
        None => Generated::new(size, data),
        Some(path) => Generated::over(path)?,
    };
    let generated = base.variant(variant, turn);
    let reader = match (input, variant) {
        (Some(path), Variant::Base) => VolumeReader::open(path)?,
        _ => VolumeReader::Generated(generated.clone()),
    };
    Ok((reader, generated))
}

/// Resources that a process has used.
pub(super) struct Usage {
    /// User and system seconds.
    cpu_s: f64,
    /// The most that was resident.
    peak_memory_bytes: u64,
    /// Resident memory now.
    memory_bytes: u64,
}

impl Usage {
    pub(super) fn of(process: u32) -> anyhow::Result<Self> {
        let read = |name: &str| {
            let path = format!("/proc/{process}/{name}");
            std::fs::read_to_string(&path).with_context(|| path.clone())
        };
        let (stat, status) = (read("stat")?, read("status")?);
        // The second field is the name in parentheses; user and system ticks are the 14th and 15th.
        let (_, after) = stat.rsplit_once(')').context("stat has no name")?;
        let mut fields = after.split_whitespace().skip(11);
        let mut ticks =
            || -> anyhow::Result<f64> { Ok(fields.next().context("stat is too short")?.parse()?) };
        let bytes = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key));
            let kibibytes =
                line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
            Ok::<_, anyhow::Error>(kibibytes.with_context(|| format!("no {key}"))? << 10)
        };
        Ok(Self {
            cpu_s: (ticks()? + ticks()?) / TICKS,
            peak_memory_bytes: bytes("VmHWM:")?,
            memory_bytes: bytes("VmRSS:")?,
        })
    }

    /// A result of which nothing else is known yet.
    pub(super) fn measured(&self) -> Measured {
        Measured {
            cpu_s: self.cpu_s,
            peak_memory_bytes: self.peak_memory_bytes,
            left_memory_bytes: self.memory_bytes,
            ..Measured::default()
        }
    }
}
