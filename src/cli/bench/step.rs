//! One step of a benchmark, alone in its process: a backup into, or a restore out of, a storage
//! that earlier steps made in the same directory.

use super::{Measured, service};
use crate::cli::bench::measure::{StepArguments, Usage, source};
use crate::clock::Clock;
use crate::config::{Config, Variables};
use crate::db::{self, Db, DbError};
use crate::engine::format::keys::{Keyring, MasterKey};
use crate::engine::format::manifest::Root;
use crate::engine::read::restore;
use crate::engine::vault::options::{Options, Parameters};
use crate::engine::vault::{Vault, storage};
use crate::engine::write::backup;
use crate::model::backup::{Backup, BackupStatus};
use crate::model::description::Description;
use crate::model::id::{BackupId, JobId, ProjectId, StorageId, UserId, VolumeId};
use crate::model::job::Lease;
use crate::model::progress::Progress;
use crate::model::vault::StorageRow;
use crate::store::Store;
use crate::volume::file;
use crate::volume::generated::Generated;
use crate::volume::{Changes, Source, Target, VolumeReader, VolumeWriter};
use anyhow::{Context, bail};
use std::path::Path;
use std::time::Instant;

const STORAGE: &str = "bench";
/// Bytes compared at once after a restore.
const COMPARED_BYTES: usize = 4 << 20;

/// Does the step and prints what it took.
pub(in crate::cli) fn run(arguments: &StepArguments) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let mut config = Config::load(None, Variables::of_process()?.settings.into_iter())?;
    config.jobs.backups = 1;
    config.engine.restore_compares |= arguments.compare;
    let measured = match (&arguments.backup, &arguments.restore) {
        _ if arguments.service => service::run(arguments)?,
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
        if db::vaults::find_storage(c, STORAGE)?.is_none() {
            let row = StorageRow {
                id: StorageId::random(),
                name: STORAGE.to_owned(),
                master_key_check: master.check(),
                created_at: now,
            };
            db::vaults::insert_storage(c, &row)?;
        }
        let storage = db::vaults::find_storage(c, STORAGE)?.expect("it was just inserted");
        let project = ProjectId::new("bench");
        db::vaults::find_or_insert(c, &project, &storage.id, now)
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

fn source_of(arguments: &StepArguments) -> anyhow::Result<(VolumeReader, Generated)> {
    let (input, size) = (arguments.input.as_deref(), (arguments.size, arguments.data));
    source(input, size, arguments.variant, arguments.turn)
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
    let (reader, generated) = source_of(arguments)?;
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
    db.write(|c| {
        // Without a row it would be no parent of the next.
        let storage = db::vaults::find_storage(c, STORAGE)?.expect("it was inserted");
        db::backups::insert(c, &row(vault, storage.id, &root))?;
        db::packs::end_session(c, &session)
    })?;
    let wall_s = started.elapsed().as_secs_f64();
    std::fs::write(arguments.dir.join(format!("{name}.id")), id.as_str())?;
    Ok(Measured {
        case: name.to_owned(),
        wall_s,
        data_bytes: root.logical_bytes,
        read_bytes: root.read_bytes,
        // The root is an object like the others.
        stored_bytes: root.stored_bytes,
        objects: root.object_count + 1,
        ..Usage::of(std::process::id())?.measured()
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
    let volume = Target::untracked(VolumeWriter::open(&target)?);
    restore::run(vault, &root, &volume, &progress)?;
    let wall_s = started.elapsed().as_secs_f64();
    let measured = Measured {
        case: name.to_owned(),
        wall_s,
        data_bytes: root.logical_bytes,
        read_bytes: Progress::value(&progress.read),
        ..Usage::of(std::process::id())?.measured()
    };
    if !arguments.unverified {
        verify(&source_of(arguments)?.0, &VolumeReader::open(&target)?)?;
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

/// The row of a backup that is finished.
fn row(vault: &Vault, storage: StorageId, root: &Root) -> Backup {
    let mut backup = Backup::new(root.backup.clone(), storage);
    backup.vault_id = Some(vault.id.clone());
    backup.status = BackupStatus::Available;
    backup.pack_set = Some(root.pack_set.clone());
    backup
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
