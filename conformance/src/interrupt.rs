//! Interrupts (Ctrl-C, SIGTERM, SIGHUP): the first ends the test and still cleans up, the second
//! ends the cleanup, the third ends the program at once. The verdict is ABORT in every case.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::{Context as _, Result};

use crate::log;
use crate::verdict::{Abort, Report, Verdict};

static PENDING: AtomicBool = AtomicBool::new(false);
static SEEN: AtomicUsize = AtomicUsize::new(0);

pub(crate) fn listen(report: Report) -> Result<()> {
    ctrlc::set_handler(move || match SEEN.fetch_add(1, Ordering::SeqCst) {
        0 => interrupt("stopping, then cleaning up; interrupt again to skip the cleanup"),
        1 => interrupt("leaving the cleanup; interrupt again to end at once"),
        _ => {
            Verdict::Abort.announce(report);
            std::process::exit(Verdict::Abort.exit_status().into());
        }
    })
    .context("interrupts cannot be caught")
}

fn interrupt(text: &str) {
    log::warning(format_args!("interrupted: {text}"));
    PENDING.store(true, Ordering::SeqCst);
}

/// An error if an interrupt came in since the start or since the last [`forgive`]. Everything
/// that may take long asks this between its steps.
pub(crate) fn check() -> Result<()> {
    if PENDING.load(Ordering::SeqCst) {
        return Err(Abort("interrupted".into()).into());
    }
    Ok(())
}

/// Lets the cleanup go on after the interrupt that ended the test.
pub(crate) fn forgive() {
    PENDING.store(false, Ordering::SeqCst);
}

/// Whether any interrupt came in, forgiven or not.
pub(crate) fn happened() -> bool {
    SEEN.load(Ordering::SeqCst) > 0
}
