//! Logs on standard error, plain or JSON.
//!
//! The reader of standard error may go away, stop reading, or have no space. Then lines are lost, but nothing waits or
//! fails: lines go through a queue of their own, which drops what does not fit.

use crate::config::{Log, LogFormat};
use crate::logs;
use std::io::IsTerminal;
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

/// Lines that wait to be written at most.
const LINES_MAX: usize = 8192;

/// Turns logs on, until the guard is dropped, which waits a moment for the last lines. A filter that cannot be
/// read is an error with its reason.
pub fn start(settings: &Log) -> Result<WorkerGuard, String> {
    let filter = EnvFilter::try_new(&settings.filter)
        .map_err(|error| format!("log.filter {:?}: {error}", settings.filter))?;
    let (lines, guard) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(LINES_MAX)
        .finish(std::io::stderr());
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(lines)
        .with_ansi(std::io::stderr().is_terminal())
        .log_internal_errors(false)
        .with_target(false);
    let started = match settings.format {
        LogFormat::Plain => {
            let logs = logs.with_filter_reloading();
            let handle = logs.reload_handle();
            logs::install(&settings.filter, move |filter| {
                handle.reload(filter).is_ok()
            });
            logs.try_init()
        }
        LogFormat::Json => {
            let logs = logs.json().flatten_event(true).with_filter_reloading();
            let handle = logs.reload_handle();
            logs::install(&settings.filter, move |filter| {
                handle.reload(filter).is_ok()
            });
            logs.try_init()
        }
    };
    started.map_err(|error| error.to_string())?;
    Ok(guard)
}

/// The same for a command beside the service, which says only what its user must know.
pub fn start_for_command(settings: &Log) -> Result<WorkerGuard, String> {
    start(&Log {
        filter: "warn".to_owned(),
        ..settings.clone()
    })
}
