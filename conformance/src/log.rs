//! The log: lines `LEVEL: text` on standard error, as the Sovereign Cloud Stack's runner counts
//! them. One message is one line; line breaks inside it are shown as `\n`.

use std::fmt::{self, Display};
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::exchange::Unexpected;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    Debug,
    Info,
    Warning,
    Critical,
}

impl Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Level::Debug => "DEBUG",
            Level::Info => "INFO",
            Level::Warning => "WARNING",
            Level::Critical => "CRITICAL",
        })
    }
}

static DEBUG: AtomicBool = AtomicBool::new(false);

pub(crate) fn show_debug(show: bool) {
    DEBUG.store(show, Ordering::Relaxed);
}

pub(crate) fn debug(text: impl Display) {
    if DEBUG.load(Ordering::Relaxed) {
        line(Level::Debug, text);
    }
}

pub(crate) fn info(text: impl Display) {
    line(Level::Info, text);
}

pub(crate) fn warning(text: impl Display) {
    line(Level::Warning, text);
}

/// Logs an error with its causes and, where it came out of an HTTP exchange, that exchange: the
/// request as a curl line and the answer, both without secrets.
pub(crate) fn failure(level: Level, error: &anyhow::Error) {
    line(level, format_args!("{error:#}"));
    if let Some(unexpected) = error.downcast_ref::<Unexpected>() {
        line(
            level,
            format_args!("request: {}", unexpected.exchange.curl()),
        );
        line(
            level,
            format_args!("answer: {}", unexpected.exchange.outcome()),
        );
    }
}

/// Standard error may be closed; a lost log line must not end the run.
fn line(level: Level, text: impl Display) {
    let _ = writeln!(std::io::stderr().lock(), "{}", format_line(level, text));
}

fn format_line(level: Level, text: impl Display) -> String {
    let text = text.to_string();
    format!(
        "{level}: {}",
        text.trim_end().replace('\r', "").replace('\n', "\\n")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_line_whatever_it_holds() {
        assert_eq!(
            format_line(Level::Warning, "a\r\nERROR: b\n"),
            "WARNING: a\\nERROR: b"
        );
    }
}
