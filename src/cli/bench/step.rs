//! One step of a benchmark, alone in its process: a backup into, or a restore out of, a storage
//! that earlier steps made in the same directory.

use super::Measured;
use crate::clock::Clock;
use crate::config::Config;
use crate::db::{self, Db, DbError};
use crate::engine::keys::{Keyring, MasterKey};
use crate::engine::manifest::{Description, Root};
use crate::engine::vault::{Options, Parameters, Vault};
use crate::engine::{backup, restore, storage};
use crate::model::id::{BackupId, JobId, ProjectId, StorageId, UserId, VolumeId};
use crate::model::job::Lease;
use crate::model::progress::Progress;
use crate::model::vault::StorageRow;
use crate::store::Store;
use crate::volume::file::{self, VolumeWriter};
use crate::volume::generated::{Generated, Variant};
use crate::volume::{Changes, Source, VolumeReader};
use anyhow::{Context, bail};
use clap::Args;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Bytes compared at once after a restore.
const COMPARED_BYTES: usize = 4 << 20;
/// Clock ticks a second in `/proc`; fixed on Linux.
const TICKS: f64 = 100.0;

#[derive(Debug, Args)]
pub(in crate::cli) struct StepArguments {
    /// Where database, key and storage are.
    #[arg(long)]
    dir: PathBuf,
    /// A raw image; generated data of --size without it.
    #[arg(long)]
    input: Option<PathBuf>,
    #[arg(long, default_value_t = 0)]
    size: u64,
    #[arg(long, default_value_t = 0)]
    data: u64,
    #[arg(long, default_value = "Base", value_parser = parse_variant)]
    variant: Variant,
    /// Tells variants of one kind apart; of an aged volume its generation.
    #[arg(long, default_value_t = 0)]
    turn: u64,
    /// Make a backup of this name.
    #[arg(long)]
    backup: Option<String>,
    /// Against the backup of this name.
    #[arg(long)]
    parent: Option<String>,
    /// Tell the engine what changed.
    #[arg(long)]
    tracked: bool,
    /// Restore the backup of this name to a file, and compare it with the source.
    #[arg(long)]
    restore: Option<String>,
    /// The file to restore to; `restored` in the directory without it.
    #[arg(long)]
    to: Option<PathBuf>,
    /// Restore over what is there and write only what differs.
    #[arg(long)]
    compare: bool,
    /// Do not compare what was restored.
    #[arg(long)]
    unverified: bool,
}

fn parse_variant(text: &str) -> Result<Variant, String> {
    Variant::ALL
        .into_iter()
        .find(|variant| format!("{variant:?}") == text)
        .ok_or_else(|| format!("{text:?} is no variant"))
}

/// Does the step and prints what it took.
pub(in crate::cli) fn run(arguments: &StepArguments) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let mut config = Config::load(None, std::env::vars())?;
    config.jobs.backups = 1;
    config.engine.restore_compares |= arguments.compare;
    let measured = match (&arguments.backup, &arguments.restore) {
        (Some(name), _) => {
            let (db, vault) = open(&config, &arguments.dir, runtime.handle())?;
            back_up(arguments, &db, &vault, name)?
        }
        (None, Some(name)) => {
            let (_, vault) = open(&config, &arguments.dir, runtime.handle())?;
            bring_back(arguments, &vault, name)?
        }
        (None, None) => bail!("either --backup or --restore is needed"),
    };
    println!("{}", serde_json::to_string(&measured)?);
    Ok(())
}

/// A vault in a directory, made at the first step.
fn open(
    config: &Config,
    dir: &Path,
    handle: &tokio::runtime::Handle,
) -> anyhow::Result<(Db, Vault)> {
    let db = Db::open(&format!("sqlite:{}", dir.join("bench.db").display()))?;
    let key = dir.join("master.key");
    let master = match MasterKey::load(&key)? {
        Some(master) => master,
        None => MasterKey::create(&key)?,
    };
    let url = format!("fs:{}", dir.join("storage").display());
    let store = Store::open(&crate::config::Storage::at(url), handle.clone())?;
    let now = Clock::System.now();
    let row = db.write(|c| -> Result<_, DbError> {
        if db::vaults::find_storage(c, "bench")?.is_none() {
            let row = StorageRow {
                id: StorageId::random(),
                name: "bench".to_owned(),
                master_key_check: master.check(),
                created_at: now,
            };
            db::vaults::insert_storage(c, &row)?;
        }
        let storage = db::vaults::find_storage(c, "bench")?.expect("it was just inserted");
        let project = ProjectId::new("bench");
        Ok(db::vaults::find_or_insert(c, &project, &storage.id, now)?)
    })?;
    storage::create(&store, &row.storage_id, now)?;
    let parameters = Parameters::from_settings(&config.engine);
    let options = Options::from_settings(config);
    let vault = Vault::open(
        db.clone(),
        store,
        &Keyring::of(master),
        &row,
        &parameters,
        options,
    )?;
    Ok((db, vault))
}

fn source(arguments: &StepArguments) -> anyhow::Result<(VolumeReader, Generated)> {
    let base = match &arguments.input {
        None => Generated::new(arguments.size, arguments.data),
        Some(path) => Generated::over(path)?,
    };
    let generated = base.variant(arguments.variant, arguments.turn);
    let reader = match (&arguments.input, arguments.variant) {
        (Some(path), Variant::Base) => VolumeReader::open(path)?,
        _ => VolumeReader::Generated(generated.clone()),
    };
    Ok((reader, generated))
}

fn root_of(arguments: &StepArguments, vault: &Vault, name: &str) -> anyhow::Result<Root> {
    let id = std::fs::read_to_string(arguments.dir.join(format!("{name}.id")))
        .with_context(|| format!("there is no backup {name}"))?;
    Ok(vault.root(&BackupId::new(id))?)
}

fn back_up(
    arguments: &StepArguments,
    db: &Db,
    vault: &Vault,
    name: &str,
) -> anyhow::Result<Measured> {
    let (reader, generated) = source(arguments)?;
    let started = Instant::now();
    let parent = match &arguments.parent {
        Some(parent) => Some(root_of(arguments, vault, parent)?),
        None => None,
    };
    let since = parent
        .as_ref()
        .and_then(|root| root.source_change_id.clone());
    let source = Source {
        reader,
        change_id: Some(name.to_owned()),
        changes: since
            .filter(|_| arguments.tracked)
            .map(|since| Changes::new(since, move |range| Ok(generated.changed(range)))),
    };
    let (session, progress) = (JobId::random(), Progress::default());
    let id = BackupId::random();
    let description = describe(&id);
    let root = backup::run(
        vault,
        &Lease::unclaimed(&session),
        description,
        parent.as_ref(),
        &source,
        &progress,
    )?;
    db.write(|c| db::packs::end_session(c, &session).map_err(DbError::from))?;
    let wall_s = started.elapsed().as_secs_f64();
    std::fs::write(arguments.dir.join(format!("{name}.id")), id.as_str())?;
    Ok(Measured {
        case: name.to_owned(),
        wall_s,
        cpu_s: cpu_seconds()?,
        data_bytes: root.logical_bytes,
        read_bytes: root.read_bytes,
        // The root is an object like the others.
        stored_bytes: root.stored_bytes,
        objects: root.object_count + 1,
        peak_memory_bytes: peak_memory_bytes()?,
    })
}

fn bring_back(arguments: &StepArguments, vault: &Vault, name: &str) -> anyhow::Result<Measured> {
    let target = match &arguments.to {
        Some(path) => path.clone(),
        None => arguments.dir.join("restored"),
    };
    let root = root_of(arguments, vault, name)?;
    if !arguments.compare {
        file::remove(&target)?;
    }
    let started = Instant::now();
    file::create(&target, root.volume_bytes)?;
    let progress = Progress::default();
    restore::run(vault, &root, &VolumeWriter::open(&target)?, &progress)?;
    let wall_s = started.elapsed().as_secs_f64();
    let measured = Measured {
        case: name.to_owned(),
        wall_s,
        cpu_s: cpu_seconds()?,
        data_bytes: root.logical_bytes,
        read_bytes: Progress::value(&progress.read),
        stored_bytes: 0,
        objects: 0,
        peak_memory_bytes: peak_memory_bytes()?,
    };
    if !arguments.unverified {
        verify(&source(arguments)?.0, &VolumeReader::open(&target)?)?;
    }
    Ok(measured)
}

fn verify(wanted: &VolumeReader, found: &VolumeReader) -> anyhow::Result<()> {
    if wanted.length() != found.length() {
        bail!(
            "{} bytes were restored of {}",
            found.length(),
            wanted.length()
        );
    }
    let (mut left, mut right) = (vec![0; COMPARED_BYTES], vec![0; COMPARED_BYTES]);
    let mut at = 0;
    while at < wanted.length() {
        let length = (wanted.length() - at).min(COMPARED_BYTES as u64) as usize;
        wanted.read_at(&mut left[..length], at)?;
        found.read_at(&mut right[..length], at)?;
        if left[..length] != right[..length] {
            bail!("what was restored differs within {length} bytes from {at}");
        }
        at += length as u64;
    }
    Ok(())
}

fn describe(id: &BackupId) -> Description {
    Description {
        id: id.clone(),
        project_id: ProjectId::new("bench"),
        user_id: UserId::new("bench"),
        volume_id: VolumeId::new("bench"),
        snapshot_id: None,
        parent_id: None,
        name: None,
        description: None,
        metadata: Default::default(),
        size_gib: 0,
        availability_zone: None,
        container: None,
        created_at: Clock::System.now(),
        data_timestamp: None,
        volume: Default::default(),
    }
}

/// User and system seconds of this process.
fn cpu_seconds() -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // The second field is the name in parentheses; user and system ticks are the 14th and 15th.
    let (_, after) = stat.rsplit_once(')').context("/proc/self/stat")?;
    let mut fields = after.split_whitespace().skip(11);
    let mut ticks =
        || -> anyhow::Result<f64> { Ok(fields.next().context("/proc/self/stat")?.parse()?) };
    Ok((ticks()? + ticks()?) / TICKS)
}

/// The most that was resident of this process.
fn peak_memory_bytes() -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kibibytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    Ok(kibibytes.context("/proc/self/status")? << 10)
}
