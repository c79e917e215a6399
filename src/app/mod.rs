//! Wiring: builds the parts from the settings, starts the service from the parts, and stops it in order.

mod error;
mod files;
mod first_start;
pub mod keys;
mod locks;
pub mod logging;
pub mod memory;
mod presence;
mod role;
mod storages;

use crate::admission::Admission;
use crate::api::{Api, Gateway, listen, serve_metrics};
pub use crate::app::error::StartError;
use crate::app::presence::Presence;
pub use crate::app::role::Role;
use crate::clock::Clock;
use crate::config::{Config, ConfiguredUser, IdentityMode, Maintenance, VolumesMode};
use crate::db::Db;
use crate::engine::format::keys::Keyring;
use crate::engine::vault::options::{Options, Parameters};
use crate::identity::Identity;
use crate::identity::embedded::Embedded;
use crate::identity::keystone::Keystone;
use crate::identity::policy::Policy;
use crate::jobs::{Runner, Wake, Worker, send_heartbeats};
use crate::metrics::Metrics;
use crate::model::error::chain;
use crate::model::id::StorageId;
use crate::model::job::Queue;
use crate::model::metadata::MetadataLimits;
use crate::service::Services;
use crate::tasks::orphans::Orphan;
use crate::tasks::{OpenStorage, Tasks, maintenance};
use crate::volume::catalog::Catalog;
use crate::volume::cinder::Upstream;
use actix_web::dev::{Server, ServerHandle};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A running service.
pub struct Running {
    /// Where the API listens.
    pub address: Option<SocketAddr>,
    /// Where the metrics are, if they are served.
    pub metrics: Option<SocketAddr>,
    /// The file for clients, unless the users come from the configuration.
    pub clouds_yaml: Option<PathBuf>,
    pub users: Vec<ConfiguredUser>,
    /// The name under which this process works.
    pub worker: Option<String>,
    pub db: Db,
    drain: Duration,
    stop: Stop,
    tracker: TaskTracker,
    servers: Vec<ServerHandle>,
    /// Others see this process until its last job has ended.
    presence: (CancellationToken, TaskTracker),
    /// Held while the service runs.
    _locks: Vec<File>,
}

/// The two steps of an end.
#[derive(Debug, Clone, Default)]
struct Stop {
    /// No new requests and jobs.
    taking: CancellationToken,
    /// Running jobs are given back.
    working: CancellationToken,
    /// A task has ended that must not end before the service stops.
    broken: CancellationToken,
}

/// The parts that need no running loop.
struct Parts {
    db: Db,
    presence: Presence,
    api: Api,
    tasks: Tasks,
    wake: Arc<Wake>,
    users: Vec<ConfiguredUser>,
}

/// Starts everything. Must be called inside a runtime.
pub async fn start(config: Config, role: Role) -> Result<Running, StartError> {
    files::raise_limit();
    let (lock, data_dir) = locks::data_dir(config.data_dir(), role)?;
    let mut locks = vec![lock];
    let listener = match role {
        Role::Worker => None,
        Role::Serve | Role::Api => Some(bind(config.api.listen)?),
    };
    if listener.is_some() {
        files::check(&config)?;
    }
    let metrics_listener = config.metrics.listen.map(bind).transpose()?;
    let place = |listener: &TcpListener| listener.local_addr().ok();
    let address = listener.as_ref().and_then(place);
    let metrics_address = metrics_listener.as_ref().and_then(place);
    let metrics = Arc::new(Metrics::default());
    let counters = metrics.clone();
    let (handle, stop) = (Handle::current(), Stop::default());
    let (settings, dir, working) = (config.clone(), data_dir.clone(), stop.working.clone());
    let parts = tokio::task::spawn_blocking(move || {
        // Processes that start at the same time do this one after another, so each finds what the one before created.
        let _starting = locks::starting(&dir)?;
        assemble(&settings, role, &dir, handle, working, &counters)
    })
    .await
    .expect("assembling does not panic")?;
    let tracker = TaskTracker::new();
    let presence = (CancellationToken::new(), TaskTracker::new());
    let keep = parts.presence.keep(presence.0.clone());
    spawn_vital("presence", keep, &stop, &presence.1);
    let worker = match role {
        Role::Api => None,
        Role::Serve | Role::Worker => {
            let (lock, name, place) = locks::worker_name(&data_dir, &config.jobs)?;
            locks.push(lock);
            let worker = Worker {
                db: parts.db.clone(),
                clock: Clock::System,
                settings: config.jobs.clone(),
                name: name.clone(),
                place,
                wake: parts.wake,
                metrics: metrics.clone(),
                peers: Arc::default(),
            };
            let maintenance = config.maintenance.clone();
            run_queues(worker, parts.tasks, maintenance, &stop, &tracker);
            Some(name)
        }
    };
    let is_ours = config.identity.mode == IdentityMode::Embedded;
    let give_back = memory::give_back_now_and_then(stop.taking.clone());
    spawn_vital("memory", give_back, &stop, &tracker);
    let clouds_yaml = match address {
        Some(address) if is_ours && config.identity.users.is_empty() => {
            Some(first_start::write_clouds_yaml(
                &data_dir,
                &public_url(&config, address),
                &config.identity.region,
                &parts.users,
            )?)
        }
        _ => None,
    };
    let mut servers = Vec::new();
    if let Some(listener) = listener {
        let mut api = parts.api;
        api.services.worker.clone_from(&worker);
        let server = listen(Arc::new(api), listener);
        servers.push(run_server(server, config.api.listen, &stop, &tracker)?);
    }
    if let (Some(listener), Some(address)) = (metrics_listener, config.metrics.listen) {
        let server = serve_metrics(metrics, parts.db.clone(), Clock::System, listener);
        servers.push(run_server(server, address, &stop, &tracker)?);
    }
    Ok(Running {
        address,
        metrics: metrics_address,
        clouds_yaml,
        users: parts.users,
        worker,
        db: parts.db,
        drain: config.jobs.drain,
        stop,
        tracker,
        servers,
        presence,
        _locks: locks,
    })
}

impl Running {
    /// Waits until a part without which the service does not work has ended by itself. Then stop the service.
    pub async fn broken(&self) {
        self.stop.broken.cancelled().await;
    }

    /// Takes no more requests and jobs, and gives running jobs some time to end. Then gives the others back, so that they
    /// are resumed, and waits for all of them.
    pub async fn stop(self) {
        self.stop.taking.cancel();
        for server in &self.servers {
            server.stop(true).await;
        }
        self.tracker.close();
        if tokio::time::timeout(self.drain, self.tracker.wait())
            .await
            .is_err()
        {
            self.stop.working.cancel();
            self.tracker.wait().await;
        }
        let (end, presence) = self.presence;
        end.cancel();
        presence.close();
        presence.wait().await;
    }
}

fn run_server(
    server: std::io::Result<Server>,
    address: SocketAddr,
    stop: &Stop,
    tracker: &TaskTracker,
) -> Result<ServerHandle, StartError> {
    let server = server.map_err(|source| StartError::Listen { address, source })?;
    let handle = server.handle();
    let serve = async move {
        if let Err(error) = server.await {
            tracing::error!(%error, "the server failed");
        }
    };
    spawn_vital("server", serve, stop, tracker);
    Ok(handle)
}

/// Runs a task that must not end before the service is stopped. If it does, by a panic or otherwise, the whole service
/// stops, so that it is started again. A service that only looks alive would help less.
fn spawn_vital(
    name: &'static str,
    task: impl Future<Output = ()> + Send + 'static,
    stop: &Stop,
    tracker: &TaskTracker,
) {
    let stop = stop.clone();
    tracker.spawn(async move {
        let ended = AssertUnwindSafe(task).catch_unwind().await;
        if !stop.taking.is_cancelled() {
            let panicked = ended.is_err();
            tracing::error!(task = name, panicked, "a vital task has ended; stopping");
            stop.broken.cancel();
        }
    });
}

fn bind(address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).map_err(|source| StartError::Listen { address, source })
}

/// Where clients reach the service.
fn public_url(config: &Config, address: SocketAddr) -> String {
    match &config.api.public_endpoint {
        Some(endpoint) => endpoint.trim_end_matches('/').to_owned(),
        None if address.ip().is_unspecified() => format!("http://127.0.0.1:{}", address.port()),
        None => format!("http://{address}"),
    }
}

fn assemble(
    config: &Config,
    role: Role,
    data_dir: &Path,
    handle: Handle,
    stop: CancellationToken,
    metrics: &Arc<Metrics>,
) -> Result<Parts, StartError> {
    let clock = Clock::System;
    let db = Db::open(&config.database_url())?;
    let presence = Presence::begin(&db, role)?;
    let masters = storages::open_keys(config, &db)?;
    let (storages, default_storage) =
        storages::open(config, &db, &clock, &masters, &handle, &stop, metrics)?;
    let catalog = Catalog::open(db.clone(), clock.clone(), config, handle.clone())?;
    if role != Role::Api {
        catalog.check_connectors()?;
    }
    let (identity, users) = open_identity(config, role, data_dir, &db, &clock, &handle)?;
    if role != Role::Worker
        && identity.embedded().is_some()
        && config.api.mistakes_proxy_for_client()
    {
        tracing::warn!(
            "api.public_endpoint is set and api.proxy_headers is not: behind a proxy all clients are one address, and \
             wrong passwords of one of them keep the others from logging in. Set api.proxy_headers if a proxy stands \
             in front"
        );
    }
    let policy = Arc::new(open_policy(config, data_dir)?);
    let wake = Arc::new(Wake::default());
    let parts = (db.clone(), clock.clone(), catalog.clone());
    let services = make_services(config, parts, wake.clone(), default_storage);
    let tasks = make_tasks(config, db.clone(), clock, catalog, storages, masters);
    let mut api = Api::new(
        services,
        identity,
        policy,
        config.api.clone(),
        config.identity.region.clone(),
    );
    if config.volumes.mode == VolumesMode::Cinder && config.cinder.gateway {
        let keystone = &config.identity.keystone;
        let upstream = Upstream::new(&config.cinder, keystone, handle)?;
        api.gateway = Some(Gateway::new(upstream, &config.cinder));
    }
    Ok(Parts {
        db,
        presence,
        api,
        tasks,
        wake,
        users,
    })
}

/// The parts that jobs work with, for commands beside the service.
pub fn tasks(config: &Config, handle: &Handle) -> Result<Tasks, StartError> {
    let (clock, stop) = (Clock::System, CancellationToken::new());
    let db = Db::open(&config.database_url())?;
    let masters = storages::open_keys(config, &db)?;
    let (storages, _) = storages::open(
        config,
        &db,
        &clock,
        &masters,
        handle,
        &stop,
        &Arc::default(),
    )?;
    let catalog = Catalog::open(db.clone(), clock.clone(), config, handle.clone())?;
    Ok(make_tasks(config, db, clock, catalog, storages, masters))
}

fn make_services(
    config: &Config,
    (db, clock, catalog): (Db, Clock, Catalog),
    wake: Arc<Wake>,
    default_storage: StorageId,
) -> Services {
    let admission = Admission {
        db: db.clone(),
        clock: clock.clone(),
        catalog: catalog.clone(),
        quota: config.quota.clone(),
        wake: wake.clone(),
        default_storage,
    };
    Services {
        db,
        clock,
        catalog,
        quota: config.quota.clone(),
        metadata_limits: MetadataLimits {
            items_max: config.api.metadata_items_max,
            bytes_max: config.api.metadata_bytes_max.as_u64(),
        },
        wake,
        admission,
        host: locks::host_name(),
        worker: None,
    }
}

fn make_tasks(
    config: &Config,
    db: Db,
    clock: Clock,
    catalog: Catalog,
    storages: BTreeMap<StorageId, OpenStorage>,
    masters: Keyring,
) -> Tasks {
    Tasks {
        db,
        clock,
        catalog,
        storages,
        masters,
        parameters: Parameters::from_settings(&config.engine),
        options: Options::from_settings(config),
        quota: config.quota.clone(),
        attempts_max: config.jobs.attempts_max,
        verify_bytes: config.maintenance.verify_bytes.as_u64(),
    }
}

/// The identity, and our own users. A worker gets no requests, and its configuration may list no users: it leaves the
/// users as they are.
fn open_identity(
    config: &Config,
    role: Role,
    data_dir: &Path,
    db: &Db,
    clock: &Clock,
    handle: &Handle,
) -> Result<(Identity, Vec<ConfiguredUser>), StartError> {
    if config.identity.mode == IdentityMode::Keystone {
        let settings = config.identity.keystone.clone();
        let keystone = Keystone::new(settings, clock.clone(), handle.clone())?;
        return Ok((Identity::Keystone(keystone), Vec::new()));
    }
    let embedded = Embedded::new(db.clone(), clock.clone(), config.identity.clone());
    let users = match role {
        Role::Worker => return Ok((Identity::Embedded(embedded), Vec::new())),
        Role::Serve | Role::Api if config.identity.users.is_empty() => {
            let found = first_start::default_users(data_dir, || embedded.has_configured())?;
            if found.are_new {
                if !embedded.bring_in_first(&found.users)? {
                    return Err(first_start::take_back(data_dir));
                }
                return Ok((Identity::Embedded(embedded), found.users));
            }
            found.users
        }
        Role::Serve | Role::Api => config.identity.users.clone(),
    };
    embedded.bring_in(&users)?;
    Ok((Identity::Embedded(embedded), users))
}

/// The rules in force. A configured file must exist; a file in the data directory is optional.
fn open_policy(config: &Config, data_dir: &Path) -> Result<Policy, StartError> {
    let default = data_dir.join("policy.yaml");
    match &config.policy.file {
        Some(path) => Ok(Policy::load(path)?),
        None if default.exists() => Ok(Policy::load(&default)?),
        None => Ok(Policy::default()),
    }
}

fn run_queues(
    worker: Worker,
    tasks: Tasks,
    maintenance: Maintenance,
    stop: &Stop,
    tracker: &TaskTracker,
) {
    let (tasks, taking) = (Arc::new(tasks), || stop.taking.clone());
    let vital = |name, task: BoxFuture<'static, ()>| spawn_vital(name, task, stop, tracker);
    vital(
        "maintenance",
        schedule(tasks.clone(), maintenance, taking()).boxed(),
    );
    let lease = worker.settings.lease;
    vital(
        "orphans",
        look_after_orphans(tasks.clone(), lease, taking()).boxed(),
    );
    let run = Arc::new(move |claimed| tasks.run(claimed));
    let jobs = TaskTracker::new();
    for queue in [Queue::Backup, Queue::Copy, Queue::Quick] {
        let runner = Runner::new(worker.clone(), queue, run.clone());
        let work = runner.work(taking(), stop.working.clone());
        vital(queue.as_str(), jobs.track_future(work).boxed());
    }
    jobs.close();
    vital("heartbeat", send_heartbeats(worker, taking(), jobs).boxed());
}

/// Adds maintenance jobs when they are due.
async fn schedule(tasks: Arc<Tasks>, settings: Maintenance, stop: CancellationToken) {
    let pause = maintenance::pause(&settings);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        let (tasks, settings) = (tasks.clone(), settings.clone());
        let scheduled = tokio::task::spawn_blocking(move || tasks.schedule(&settings)).await;
        if let Ok(Err(error)) = scheduled {
            tracing::warn!(error = %chain(&error), "no maintenance could be scheduled");
        }
    }
}

/// Longest pause between two tries to settle an orphan.
const ORPHAN_PAUSE_MAX: Duration = Duration::from_secs(30 * 60);

/// Since when an orphan is to be settled, and how long it waits for the next try after one that failed.
#[derive(Clone, Copy)]
struct Due {
    at: Instant,
    pause: Duration,
}

/// Settles orphans that have had no job for the length of a lease. One that cannot be settled waits longer and longer,
/// so that it does not hold up the others.
async fn look_after_orphans(tasks: Arc<Tasks>, lease: Duration, stop: CancellationToken) {
    let mut seen: HashMap<Orphan, Due> = HashMap::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(lease / 2) => {}
        }
        let looker = tasks.clone();
        let Ok(Ok(found)) = tokio::task::spawn_blocking(move || looker.orphans()).await else {
            // The database does not answer; other parts log that.
            continue;
        };
        let first = Due {
            at: Instant::now() + lease,
            pause: lease,
        };
        seen = found
            .into_iter()
            .map(|orphan| {
                let due = seen.get(&orphan).copied().unwrap_or(first);
                (orphan, due)
            })
            .collect();
        for (orphan, due) in &mut seen {
            if stop.is_cancelled() {
                return;
            }
            if Instant::now() < due.at {
                continue;
            }
            let (settler, orphan) = (tasks.clone(), orphan.clone());
            let settle = move || settler.settle_orphan(&orphan);
            if let Ok(Err(error)) = tokio::task::spawn_blocking(settle).await {
                tracing::warn!(error = %chain(&error), pause = ?due.pause, "an orphan could not be settled");
            }
            due.at = Instant::now() + due.pause;
            due.pause = (due.pause * 2).min(ORPHAN_PAUSE_MAX);
        }
    }
}

#[cfg(test)]
mod tests;
