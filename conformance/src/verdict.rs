//! The verdict: the one line on standard output, printed once whatever happens.

use std::fmt;
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Error;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Pass,
    Fail,
    /// Nothing was proven, neither for nor against the cloud.
    Abort,
}

/// Marks an error that says nothing about the cloud's backup service, so that the verdict is
/// ABORT and not FAIL. Used as the error itself or as context around one.
#[derive(Debug)]
pub(crate) struct Abort(pub(crate) String);

impl fmt::Display for Abort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Abort {}

/// Wraps the error so that it aborts the run, with `reason` in front.
pub(crate) fn abort(reason: &str) -> impl FnOnce(Error) -> Error + use<> {
    let reason = reason.to_owned();
    move |error| error.context(Abort(reason))
}

/// Which verdict line is wanted: the present one, or the one before September 2025.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Report {
    Current,
    Legacy,
    /// Of a cleanup, which is no test.
    None,
}

static ANNOUNCED: AtomicBool = AtomicBool::new(false);

impl Verdict {
    pub(crate) fn of(error: &Error) -> Verdict {
        if error.downcast_ref::<Abort>().is_some() {
            Verdict::Abort
        } else {
            Verdict::Fail
        }
    }

    /// Prints the line, unless one was printed already. May be called from any thread.
    pub(crate) fn announce(self, report: Report) {
        if let Some(line) = self.line(report)
            && !ANNOUNCED.swap(true, Ordering::SeqCst)
        {
            let mut stdout = std::io::stdout().lock();
            // Nobody listens when this fails; the exit status still tells.
            let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
        }
    }

    pub(crate) fn exit_status(self) -> u8 {
        match self {
            Verdict::Pass => 0,
            Verdict::Fail | Verdict::Abort => 1,
        }
    }

    fn line(self, report: Report) -> Option<&'static str> {
        match (report, self) {
            (Report::Current, Verdict::Pass) => Some("scs-0117-test-backup: PASS"),
            (Report::Current, Verdict::Fail) => Some("scs-0117-test-backup: FAIL"),
            (Report::Current, Verdict::Abort) => Some("scs-0117-test-backup: ABORT"),
            (Report::Legacy, Verdict::Pass) => Some("volume-backup-check: PASS"),
            (Report::Legacy, Verdict::Fail | Verdict::Abort) => Some("volume-backup-check: FAIL"),
            (Report::None, _) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn an_abort_is_recognised_through_later_context() {
        let error = abort("cannot log in")(anyhow!("refused")).context("cloud demo");
        assert_eq!(Verdict::of(&error), Verdict::Abort);
        assert_eq!(Verdict::of(&anyhow!("status is error")), Verdict::Fail);
    }

    #[test]
    fn the_old_report_knows_no_abort() {
        assert_eq!(
            Verdict::Abort.line(Report::Legacy),
            Some("volume-backup-check: FAIL")
        );
        assert_eq!(
            Verdict::Abort.line(Report::Current),
            Some("scs-0117-test-backup: ABORT")
        );
        assert_eq!(Verdict::Pass.line(Report::None), None);
    }
}
