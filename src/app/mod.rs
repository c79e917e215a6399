//! Wiring: settings become parts, parts become a running service; and it stops in order.

mod first_start;
pub mod logging;

use crate::api::{Api, listen};
use crate::clock::Clock;
use crate::config::{Config, ConfiguredUser, IdentityMode};
use crate::db::{self, Db, DbError};
use crate::engine;
use crate::engine::keys::{MasterKey, MasterKeyError};
use crate::engine::vault::{Options, Parameters, Vault};
use crate::identity::Identity;
use crate::identity::embedded::Embedded;
use crate::identity::keystone::{Keystone, KeystoneError};
use crate::identity::policy::{Policy, PolicyError};
use crate::jobs::{Runner, Wake};
use crate::model::id::StorageId;
use crate::model::job::Lane;
use crate::model::vault::StorageRow;
use crate::service::Services;
use crate::store::{OpenError, Store};
use crate::tasks::{OpenStorage, Tasks};
use crate::volume::catalog::{Catalog, CatalogError};
use std::collections::BTreeMap;
use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Why the service does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("data directory {}: another embervault is running on it", .0.display())]
    Running(PathBuf),
    #[error("{}", path.display())]
    File {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("cannot listen on {address}")]
    Listen {
        address: SocketAddr,
        source: std::io::Error,
    },
    #[error(transparent)]
    Db(#[from] DbError),
    #[error(transparent)]
    MasterKey(#[from] MasterKeyError),
    #[error(
        "master key {}: it is missing, but backups exist that need it; put it back from your copy",
        .0.display()
    )]
    NoMasterKey(PathBuf),
    #[error(
        "master key {}: it is not the one that storage {storage:?} was used with; put the right one back",
        path.display()
    )]
    WrongMasterKey { path: PathBuf, storage: String },
    #[error(
        "storage {name:?}: it is not the storage this database knows by that name ({known}, but found \
         {found}); check its URL, or give the new storage another name"
    )]
    ForeignStorage {
        name: String,
        known: StorageId,
        found: StorageId,
    },
    #[error("storage {name:?} cannot be opened")]
    Open { name: String, source: OpenError },
    #[error("storage {name:?} cannot be used")]
    Storage { name: String, source: engine::Error },
    #[error("the volume catalogue cannot be opened")]
    Catalog(#[from] CatalogError),
    #[error(transparent)]
    Keystone(#[from] KeystoneError),
    #[error("the policy cannot be used: {0}")]
    Policy(#[from] PolicyError),
    #[error("{}: {message}", path.display())]
    Users { path: PathBuf, message: String },
}

/// A running service: API and workers in this process.
pub struct Running {
    pub address: SocketAddr,
    /// The file for clients, unless the users come from the configuration.
    pub clouds_yaml: Option<PathBuf>,
    pub users: Vec<ConfiguredUser>,
    pub db: Db,
    stop: CancellationToken,
    tracker: TaskTracker,
    server: actix_web::dev::ServerHandle,
    /// Held while the service runs: one service for one data directory.
    _lock: File,
}

/// The parts that need no running loop.
struct Parts {
    db: Db,
    api: Api,
    tasks: Tasks,
    wake: Arc<Wake>,
    users: Vec<ConfiguredUser>,
    host: String,
}

/// Starts everything. Must be called inside a runtime.
pub async fn start(config: Config) -> Result<Running, StartError> {
    let address = config.api.listen;
    let (lock, data_dir) = lock_data_dir(config.data_dir())?;
    let listener =
        TcpListener::bind(address).map_err(|source| StartError::Listen { address, source })?;
    let address = listener
        .local_addr()
        .map_err(|source| StartError::Listen { address, source })?;
    let handle = Handle::current();
    let (settings, dir) = (config.clone(), data_dir.clone());
    let parts = tokio::task::spawn_blocking(move || assemble(&settings, &dir, handle))
        .await
        .expect("assembling does not panic")?;
    let is_ours = config.identity.mode == IdentityMode::Embedded;
    let clouds_yaml = match is_ours && config.identity.users.is_empty() {
        true => Some(first_start::write_clouds_yaml(
            &data_dir,
            &public_url(&config, address),
            &config.identity.region,
            &parts.users,
        )?),
        false => None,
    };
    let (stop, tracker) = (CancellationToken::new(), TaskTracker::new());
    run_lanes(
        &config,
        &parts.wake,
        parts.tasks,
        &parts.host,
        &stop,
        &tracker,
    );
    let server = listen(Arc::new(parts.api), listener)
        .map_err(|source| StartError::Listen { address, source })?;
    let handle = server.handle();
    tracker.spawn(async move {
        if let Err(error) = server.await {
            tracing::error!(%error, "the server failed");
        }
    });
    Ok(Running {
        address,
        clouds_yaml,
        users: parts.users,
        db: parts.db,
        stop,
        tracker,
        server: handle,
        _lock: lock,
    })
}

impl Running {
    /// Takes no more requests, gives running jobs back so that they are resumed, and waits for all.
    pub async fn stop(self) {
        self.stop.cancel();
        self.server.stop(true).await;
        self.tracker.close();
        self.tracker.wait().await;
    }
}

/// Where clients reach the service.
fn public_url(config: &Config, address: SocketAddr) -> String {
    match &config.api.public_endpoint {
        Some(endpoint) => endpoint.trim_end_matches('/').to_owned(),
        None if address.ip().is_unspecified() => format!("http://127.0.0.1:{}", address.port()),
        None => format!("http://{address}"),
    }
}

fn lock_data_dir(path: &Path) -> Result<(File, PathBuf), StartError> {
    let fail = |path: &Path| {
        let path = path.to_owned();
        move |source| StartError::File { path, source }
    };
    std::fs::create_dir_all(path).map_err(fail(path))?;
    let path = path.canonicalize().map_err(fail(path))?;
    let file_path = path.join("lock");
    let file = File::create(&file_path).map_err(fail(&file_path))?;
    match file.try_lock() {
        Ok(()) => Ok((file, path)),
        Err(std::fs::TryLockError::WouldBlock) => Err(StartError::Running(path)),
        Err(std::fs::TryLockError::Error(source)) => Err(fail(&file_path)(source)),
    }
}

fn assemble(config: &Config, data_dir: &Path, handle: Handle) -> Result<Parts, StartError> {
    let clock = Clock::System;
    let db = Db::open(&config.database_url())?;
    let master = open_master_key(config, &db)?;
    let (storages, default_storage) = open_storages(config, &db, &clock, &master, &handle)?;
    let catalog = Catalog::open(db.clone(), clock.clone(), config)?;
    let (identity, users) = open_identity(config, data_dir, &db, &clock)?;
    let policy = Arc::new(open_policy(config, data_dir)?);
    let wake = Arc::new(Wake::default());
    let host = host_name();
    let services = Services {
        db: db.clone(),
        clock: clock.clone(),
        catalog: catalog.clone(),
        quota: config.quota.clone(),
        wake: wake.clone(),
        default_storage,
        host: host.clone(),
    };
    let tasks = Tasks {
        db: db.clone(),
        clock,
        catalog,
        storages,
        master,
        parameters: Parameters::from_settings(&config.engine),
        options: Options::from_settings(&config.engine, &config.jobs),
        attempts_max: config.jobs.attempts_max,
    };
    let api = Api::new(
        services,
        identity,
        policy,
        config.api.clone(),
        config.identity.region.clone(),
    );
    Ok(Parts {
        db,
        api,
        tasks,
        wake,
        users,
        host,
    })
}

/// All vaults of the configured storages, for commands that work beside the service.
pub fn open_vaults(
    config: &Config,
    handle: &Handle,
) -> Result<Vec<engine::Result<Vault>>, StartError> {
    let clock = Clock::System;
    let db = Db::open(&config.database_url())?;
    let master = open_master_key(config, &db)?;
    let (storages, _) = open_storages(config, &db, &clock, &master, handle)?;
    let rows = db.read(|c| db::vaults::all(c).map_err(DbError::from))?;
    let mut vaults = Vec::new();
    for row in rows {
        let Some(storage) = storages.get(&row.storage_id) else {
            tracing::warn!(vault.id = %row.id, "its storage is not configured any more");
            continue;
        };
        vaults.push(Vault::open(
            db.clone(),
            storage.store.clone(),
            &master,
            &row,
            &Parameters::from_settings(&config.engine),
            Options::from_settings(&config.engine, &config.jobs),
        ));
    }
    Ok(vaults)
}

/// Who vouches for users, and the users of our own.
fn open_identity(
    config: &Config,
    data_dir: &Path,
    db: &Db,
    clock: &Clock,
) -> Result<(Identity, Vec<ConfiguredUser>), StartError> {
    if config.identity.mode == IdentityMode::Keystone {
        let keystone = Keystone::new(config.identity.keystone.clone(), clock.clone())?;
        return Ok((Identity::Keystone(keystone), Vec::new()));
    }
    let mut settings = config.identity.clone();
    if settings.users.is_empty() {
        settings.users = first_start::default_users(data_dir)?;
    }
    let users = settings.users.clone();
    let embedded = Embedded::open(db.clone(), clock.clone(), settings)?;
    Ok((Identity::Embedded(embedded), users))
}

/// The rules in force: a file that is named must be there, one in the data directory may be.
fn open_policy(config: &Config, data_dir: &Path) -> Result<Policy, StartError> {
    let default = data_dir.join("policy.yaml");
    match &config.policy.file {
        Some(path) => Ok(Policy::load(path)?),
        None if default.exists() => Ok(Policy::load(&default)?),
        None => Ok(Policy::default()),
    }
}

/// The master key; made only where no storage was ever used with another.
fn open_master_key(config: &Config, db: &Db) -> Result<MasterKey, StartError> {
    let path = config.master_key_file();
    if let Some(key) = MasterKey::load(&path)? {
        return Ok(key);
    }
    for name in config.storages().keys() {
        if find_storage(db, name)?.is_some() {
            return Err(StartError::NoMasterKey(path));
        }
    }
    Ok(MasterKey::create(&path)?)
}

fn find_storage(db: &Db, name: &str) -> Result<Option<StorageRow>, DbError> {
    db.read(|c| db::vaults::find_storage(c, name).map_err(DbError::from))
}

fn open_storages(
    config: &Config,
    db: &Db,
    clock: &Clock,
    master: &MasterKey,
    handle: &Handle,
) -> Result<(BTreeMap<StorageId, OpenStorage>, StorageId), StartError> {
    let mut open = BTreeMap::new();
    let mut default = None;
    let configured = config.storages();
    let is_only = configured.len() == 1;
    for (name, settings) in configured {
        let store = Store::open(&settings.url, handle.clone()).map_err(|source| {
            let name = name.clone();
            StartError::Open { name, source }
        })?;
        let found = engine::storage::identify(&store, clock.now()).map_err(|source| {
            let name = name.clone();
            StartError::Storage { name, source }
        })?;
        let row = StorageRow {
            id: found.clone(),
            name: name.clone(),
            master_key_check: master.check(),
            created_at: clock.now(),
        };
        match find_storage(db, &name)? {
            None => db.write(|c| db::vaults::insert_storage(c, &row).map_err(DbError::from))?,
            Some(known) if known.id != found => {
                return Err(StartError::ForeignStorage {
                    name,
                    known: known.id,
                    found,
                });
            }
            Some(known) if known.master_key_check != row.master_key_check => {
                return Err(StartError::WrongMasterKey {
                    path: config.master_key_file(),
                    storage: name,
                });
            }
            Some(_) => {}
        }
        if settings.default || is_only {
            default = Some(found.clone());
        }
        open.insert(found, OpenStorage { name, store });
    }
    let default = default.expect("the settings were checked: one storage is the default");
    Ok((open, default))
}

fn host_name() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

fn run_lanes(
    config: &Config,
    wake: &Arc<Wake>,
    tasks: Tasks,
    host: &str,
    stop: &CancellationToken,
    tracker: &TaskTracker,
) {
    let (db, clock) = (tasks.db.clone(), tasks.clock.clone());
    let run = Arc::new(move |claimed| tasks.run(claimed));
    for lane in [Lane::Backup, Lane::Quick] {
        let runner = Runner::new(
            db.clone(),
            clock.clone(),
            config.jobs.clone(),
            lane,
            format!("{host}:{}", std::process::id()),
            wake.clone(),
            run.clone(),
        );
        tracker.spawn(runner.work(stop.clone()));
    }
}
