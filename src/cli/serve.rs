//! `embervault serve`, `api` and `worker`

use crate::app::{self, Role, Running, logging};
use crate::config::Config;
use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};

/// Threads for timers and the runner's loops; work is done on blocking threads.
const RUNTIME_THREADS: usize = 2;

/// A runtime for the service.
pub(super) fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(RUNTIME_THREADS)
        .enable_all()
        .build()
        .context("the runtime cannot be started")
}

/// Runs until SIGTERM or Ctrl-C.
pub(super) fn run(config: Config, role: Role) -> anyhow::Result<()> {
    logging::start(&config.log).map_err(anyhow::Error::msg)?;
    runtime()?.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let running = app::start(config, role).await?;
        greet(&running);
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping; jobs that do not end in time will be resumed");
        running.stop().await;
        Ok(())
    })
}

fn greet(running: &Running) {
    let version = env!("CARGO_PKG_VERSION");
    let Some(address) = running.address else {
        let name = running.worker.as_deref().unwrap_or_default();
        println!("Embervault {version} works as {name}");
        return;
    };
    println!("Embervault {version} listens on http://{address}");
    let Some(clouds) = &running.clouds_yaml else {
        println!("Users come from the configuration.");
        return;
    };
    let clouds = clouds.display();
    println!("Clouds `embervault` (member) and `embervault-admin` are in {clouds}");
    println!("Try:");
    println!("  export OS_CLIENT_CONFIG_FILE={clouds} OS_CLOUD=embervault");
    println!("  openstack volume create --size 1 first");
    println!("  openstack volume backup create --name first-backup first");
}
