//! Logs on standard error, plain or JSON.
//!
//! The reader of standard error may go away, stop reading, or have no space. Then lines are lost, but nothing waits or
//! fails: lines go through a queue of their own, which drops what does not fit.

use crate::config::{Log, LogFormat, Variables, without_passwords};
use crate::logs;
use std::io::{self, IsTerminal, Write};
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

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
        .with_writer(Discreet(lines))
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
    // One that cannot be read was an error when the configuration was loaded.
    if let Some(warning) = Variables::of_process()
        .ok()
        .and_then(|found| found.warning())
    {
        tracing::warn!("{warning}");
    }
    Ok(guard)
}

/// The same for a command beside the service, which says only what its user must know.
pub fn start_for_command(settings: &Log) -> Result<WorkerGuard, String> {
    start(&Log {
        filter: "warn".to_owned(),
        ..settings.clone()
    })
}

/// Writes lines without the passwords of URLs in them.
struct Discreet<W>(W);

impl<'a, W: MakeWriter<'a>> MakeWriter<'a> for Discreet<W> {
    type Writer = Discreet<W::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        Discreet(self.0.make_writer())
    }
}

impl<W: Write> Write for Discreet<W> {
    /// A line comes in one piece.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match std::str::from_utf8(line) {
            Ok(text) => self.0.write_all(without_passwords(text).as_bytes())?,
            Err(_) => self.0.write_all(line)?,
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn no_line_shows_the_password_of_a_url() {
        for json in [false, true] {
            let kept = Kept::default();
            let (lines, end) = (kept.clone(), kept.clone());
            let logs = tracing_subscriber::fmt().with_writer(Discreet(Mutex::new(lines)));
            let log = || {
                tracing::error!(
                    url = "https://u:hunter2@h/x",
                    "no postgresql://u:hunter2@h/n?password=hunter2"
                )
            };
            if json {
                tracing::subscriber::with_default(logs.json().finish(), log);
            } else {
                tracing::subscriber::with_default(logs.finish(), log);
            }
            let text = String::from_utf8(end.0.lock().unwrap().clone()).unwrap();
            assert!(text.contains("u:<hidden>@h"), "{text}");
            assert!(!text.contains("hunter2"), "{text}");
        }
    }
}
