//! `embervault bench`: how fast the engine is on this machine, and what it stores. Each case runs
//! in a process of its own, so that its CPU seconds and its memory are its own.

mod measure;
mod service;
mod step;

use crate::cli::table;
use crate::volume::generated::Variant;
use anyhow::{Context, bail};
use bytesize::ByteSize;
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::process::Command;

pub(super) use measure::StepArguments;
pub(super) use step::run as step;

/// Arguments of the benchmark.
#[derive(Debug, Args)]
pub(super) struct BenchArguments {
    /// Size of the generated volume; two thirds of it hold data.
    #[arg(long, value_name = "SIZE", default_value = "4 GiB")]
    size: ByteSize,
    /// Data in the generated volume [default: two thirds of its size]
    #[arg(long, value_name = "SIZE")]
    data: Option<ByteSize>,
    /// Raw image or block device to use instead of generated data; it is only read.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["size", "data"])]
    input: Option<PathBuf>,
    /// Directory for the storage and the restored volume, which are removed afterwards [default: the
    /// directory for temporary files]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// How often to run everything; the table shows medians.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=99))]
    runs: u32,
    /// Run only these cases. All but `second` and `service` need `full`; `restore-compared` needs
    /// `scattered` and `restore`.
    #[arg(long, value_name = "CASE", value_delimiter = ',', value_enum)]
    only: Vec<Case>,
    /// Afterwards make this many incrementals, each against the one before, with 1 % of the blocks changed
    /// at random places, and restore the last one.
    #[arg(long, value_name = "N", default_value_t = 0)]
    generations: u64,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// One line of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Case {
    /// Everything is new.
    Full,
    /// Nothing changed, and the source does not report changes.
    Unchanged,
    /// Nothing changed, and the source reports that.
    UnchangedTracked,
    /// 1 % of the blocks changed at random places.
    Scattered,
    ScatteredTracked,
    /// 1 % of the blocks changed in 16 runs.
    Sequential,
    SequentialTracked,
    /// 4 % of the volume was moved, half of it by a number of bytes that is not a whole block.
    Shifted,
    /// Another volume with nine tenths of the same content in another order, as a full backup.
    Second,
    /// The full backup, to a new sparse file.
    Restore,
    /// The scattered incremental, over the volume just restored, writing only what differs.
    RestoreCompared,
    /// The whole service: of two volumes at once, each of half the size, a full backup, a scattered
    /// incremental and its restore to a new volume; and all of it again.
    Service,
}

impl Case {
    fn name(self) -> String {
        self.to_possible_value()
            .map(|value| value.get_name().to_owned())
            .unwrap_or_default()
    }

    fn variant(self) -> Variant {
        match self {
            Self::Scattered | Self::ScatteredTracked | Self::RestoreCompared => Variant::Scattered,
            Self::Sequential | Self::SequentialTracked => Variant::Sequential,
            Self::Shifted => Variant::Shifted,
            Self::Second => Variant::Reordered,
            _ => Variant::Base,
        }
    }

    fn is_tracked(self) -> bool {
        matches!(
            self,
            Self::UnchangedTracked | Self::ScatteredTracked | Self::SequentialTracked
        )
    }

    fn has_parent(self) -> bool {
        !matches!(self, Self::Full | Self::Second | Self::Service)
    }

    /// Arguments of the step.
    fn arguments(self) -> Vec<String> {
        let variant = format!("{:?}", self.variant());
        let name = self.name();
        let words: &[&str] = match self {
            Self::Service => &["--service"],
            Self::Restore => &["--restore", "full"],
            Self::RestoreCompared => &["--restore", "scattered", "--compare"],
            Self::Full | Self::Second => &["--backup", &name],
            _ if self.is_tracked() => &[
                "--backup",
                &name,
                "--parent",
                "full",
                "--tracked",
                "--turn",
                "1",
            ],
            _ => &["--backup", &name, "--parent", "full"],
        };
        let words = [words, &["--variant", &variant]].concat();
        words.into_iter().map(str::to_owned).collect()
    }
}

/// The cost of one step. Times in seconds; GB are 10^9 bytes.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Measured {
    case: String,
    wall_s: f64,
    cpu_s: f64,
    /// Of the volume's data, holes left out.
    data_bytes: u64,
    read_bytes: u64,
    stored_bytes: u64,
    objects: u64,
    peak_memory_bytes: u64,
    /// Resident memory in the end.
    left_memory_bytes: u64,
}

impl Measured {
    fn add(&mut self, other: &Self) {
        self.wall_s += other.wall_s;
        self.cpu_s += other.cpu_s;
        self.data_bytes += other.data_bytes;
        self.read_bytes += other.read_bytes;
        self.stored_bytes += other.stored_bytes;
        self.objects += other.objects;
        self.peak_memory_bytes = self.peak_memory_bytes.max(other.peak_memory_bytes);
        self.left_memory_bytes = self.left_memory_bytes.max(other.left_memory_bytes);
    }
}

/// Runs the cases and prints what they took.
pub(super) fn run(arguments: &BenchArguments) -> anyhow::Result<()> {
    let cases: Vec<Case> = if arguments.only.is_empty() {
        Case::value_variants().to_vec()
    } else {
        arguments.only.clone()
    };
    let needs_full = arguments.generations > 0 || cases.iter().any(|case| case.has_parent());
    if needs_full && !cases.contains(&Case::Full) {
        bail!("the other cases, and generations, need the case full");
    }
    let needs = |wanted| cases.contains(&Case::RestoreCompared) && !cases.contains(&wanted);
    if needs(Case::Scattered) || needs(Case::Restore) {
        bail!("the case restore-compared needs the cases scattered and restore");
    }
    let mut runs = Vec::new();
    for _ in 0..arguments.runs {
        runs.push(run_once(arguments, &cases)?);
    }
    let rows: Vec<Measured> = (0..runs[0].len())
        .map(|case| median(runs.iter().map(|rows| &rows[case])))
        .collect();
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&rows)?)
    } else {
        print(&rows)
    }
    Ok(())
}

fn run_once(arguments: &BenchArguments, cases: &[Case]) -> anyhow::Result<Vec<Measured>> {
    let mut dir = tempfile::Builder::new();
    let dir = dir.prefix("embervault-bench-");
    let dir = match &arguments.dir {
        Some(parent) => dir.tempdir_in(parent),
        None => dir.tempdir(),
    }
    .context("no directory to work in")?;
    let mut rows = Vec::new();
    for case in cases {
        eprintln!("{} …", case.name());
        let measured = run_step(arguments, dir.path(), &case.arguments());
        rows.push(Measured {
            case: case.name(),
            ..measured.with_context(|| format!("case {}", case.name()))?
        });
    }
    if arguments.generations > 0 {
        rows.extend(run_generations(arguments, dir.path())?);
    }
    Ok(rows)
}

/// The first generation, all of them together, and the last one's restore.
fn run_generations(arguments: &BenchArguments, dir: &Path) -> anyhow::Result<Vec<Measured>> {
    let last = arguments.generations;
    let name = |generation| match generation {
        0 => "full".to_owned(),
        _ => format!("generation-{generation}"),
    };
    let age = |generation: u64| {
        let turn = generation.to_string();
        ["--variant", "Aged", "--turn", &turn].map(str::to_owned)
    };
    let mut first = Measured::default();
    let mut sum = Measured::default();
    for generation in 1..=last {
        eprintln!("{} …", name(generation));
        let names = [name(generation), name(generation - 1)];
        let step = ["--backup", &names[0], "--parent", &names[1], "--tracked"];
        let step = [step.map(str::to_owned).as_slice(), &age(generation)].concat();
        let measured = run_step(arguments, dir, &step)?;
        sum.add(&measured);
        if generation == 1 {
            first = measured;
        }
    }
    let step = ["--restore".to_owned(), name(last)];
    let restored = run_step(arguments, dir, &[step.as_slice(), &age(last)].concat())?;
    let named = |case: String, row| Measured { case, ..row };
    Ok(vec![
        named(name(1), first),
        named(format!("generations 1 to {last}"), sum),
        named(format!("restore of {}", name(last)), restored),
    ])
}

fn run_step(arguments: &BenchArguments, dir: &Path, step: &[String]) -> anyhow::Result<Measured> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["bench-step", "--dir"]).arg(dir).args(step);
    match &arguments.input {
        Some(path) => {
            command.arg("--input").arg(path);
        }
        None => {
            let size = arguments.size.as_u64();
            let data = arguments.data.map_or(size / 3 * 2, |data| data.as_u64());
            command.args(["--size", &size.to_string(), "--data", &data.to_string()]);
        }
    }
    let output = command
        .stderr(std::process::Stdio::inherit())
        .output()
        .context("the step could not be started")?;
    if !output.status.success() {
        bail!("it failed");
    }
    serde_json::from_slice(&output.stdout).context("the step's result")
}

/// The median of each figure.
fn median<'m>(runs: impl Iterator<Item = &'m Measured>) -> Measured {
    let runs: Vec<&Measured> = runs.collect();
    let middle = |figure: &dyn Fn(&Measured) -> f64| {
        let mut figures: Vec<f64> = runs.iter().map(|run| figure(run)).collect();
        figures.sort_by(f64::total_cmp);
        figures[figures.len() / 2]
    };
    Measured {
        case: runs[0].case.clone(),
        wall_s: middle(&|run| run.wall_s),
        cpu_s: middle(&|run| run.cpu_s),
        data_bytes: middle(&|run| run.data_bytes as f64) as u64,
        read_bytes: middle(&|run| run.read_bytes as f64) as u64,
        stored_bytes: middle(&|run| run.stored_bytes as f64) as u64,
        objects: middle(&|run| run.objects as f64) as u64,
        peak_memory_bytes: middle(&|run| run.peak_memory_bytes as f64) as u64,
        left_memory_bytes: middle(&|run| run.left_memory_bytes as f64) as u64,
    }
}

fn print(rows: &[Measured]) {
    let megabytes = |bytes: u64| format!("{:.1}", bytes as f64 / 1e6);
    let mebibytes = |bytes: u64| format!("{:.0}", bytes as f64 / f64::from(1 << 20));
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            vec![
                row.case.clone(),
                format!("{:.2}", row.wall_s),
                format!("{:.2}", row.cpu_s),
                format!("{:.2}", row.data_bytes as f64 / 1e9 / row.wall_s.max(1e-3)),
                megabytes(row.read_bytes),
                megabytes(row.stored_bytes),
                row.objects.to_string(),
                mebibytes(row.peak_memory_bytes),
                mebibytes(row.left_memory_bytes),
            ]
        })
        .collect();
    let header = [
        "case",
        "wall s",
        "CPU s",
        "GB/s",
        "MB read",
        "MB stored",
        "objects",
        "peak MiB",
        "left MiB",
    ];
    table::print(&header, &cells);
}
