//! `embervault serve`, `api` and `worker`

use crate::app::{self, Role, Running, logging};
use crate::config::Config;
use crate::model::version::VERSION;
use anyhow::Context;
use std::io::Write;
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
    let _logs = logging::start(&config.log).map_err(anyhow::Error::msg)?;
    // A panic is logged like everything else: a write to standard error could wait for a reader for ever.
    std::panic::set_hook(Box::new(
        |panic| tracing::error!(%panic, "a thread panicked"),
    ));
    let runtime = runtime()?;
    let end = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut signalled = pin!(async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        });
        let running = tokio::select! {
            running = app::start(config, role) => running?,
            () = &mut signalled => return Ok(()),
        };
        // In a thread of its own, as the write waits for ever if the reader of standard output has stopped.
        let lines = greeting(&running);
        std::thread::spawn(move || greet(&lines));
        let is_broken = tokio::select! {
            () = &mut signalled => false,
            () = running.broken() => true,
        };
        tracing::info!("stopping; jobs that do not end in time will be resumed");
        running.stop().await;
        if is_broken {
            anyhow::bail!("a part of the service ended by itself; the log says which");
        }
        Ok(())
    });
    // A start that was interrupted may still be waiting for a storage.
    runtime.shutdown_background();
    end
}

/// Says where everything is. That it cannot be written is no reason to end.
fn greet(lines: &[String]) {
    for line in lines {
        if writeln!(std::io::stdout(), "{line}").is_err() {
            return;
        }
    }
}

fn greeting(running: &Running) -> Vec<String> {
    let version = VERSION;
    let metrics = running
        .metrics
        .map(|address| format!("Metrics are at http://{address}/metrics"));
    let Some(address) = running.address else {
        let name = running.worker.as_deref().unwrap_or_default();
        let mut lines = vec![format!("Embervault {version} works as {name}")];
        lines.extend(metrics);
        return lines;
    };
    let mut lines = vec![format!("Embervault {version} listens on http://{address}")];
    match running.clouds_yaml.as_ref().map(|path| path.display()) {
        None => lines.push("Users come from the configuration.".to_owned()),
        Some(clouds) => lines.extend([
            format!("Clouds `embervault` (member) and `embervault-admin` are in {clouds}"),
            "Try:".to_owned(),
            format!("  export OS_CLIENT_CONFIG_FILE={clouds} OS_CLOUD=embervault"),
            "  openstack volume create --size 1 first".to_owned(),
            "  openstack volume backup create --name first-backup first".to_owned(),
        ]),
    }
    lines.extend(metrics);
    lines
}
