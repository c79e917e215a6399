//! `embervault serve`, `api` and `worker`

use crate::app::{self, Role, Running, logging};
use crate::config::Config;
use anyhow::Context;
use std::pin::pin;
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
    let runtime = runtime()?;
    let end = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut told = pin!(async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        });
        let running = tokio::select! {
            running = app::start(config, role) => running?,
            () = &mut told => return Ok(()),
        };
        greet(&running);
        told.await;
        tracing::info!("stopping; jobs that do not end in time will be resumed");
        running.stop().await;
        Ok(())
    });
    // A start that was cut off may still be waiting for a storage.
    runtime.shutdown_background();
    end
}

fn greet(running: &Running) {
    introduce(running);
    if let Some(address) = running.metrics {
        println!("Metrics are at http://{address}/metrics");
    }
}

fn introduce(running: &Running) {
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
