//! Logs on standard error, plain or JSON.
//!
//! Whoever reads them may go away, stop reading, or have no room: then lines are lost, and nothing waits or
//! fails for it. So lines go through a queue of their own, which drops what does not fit.

use crate::config::{Log, LogFormat};
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
        LogFormat::Plain => logs.try_init(),
        LogFormat::Json => logs.json().flatten_event(true).try_init(),
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
