//! Checks that operators run before they use a storage or a cloud.

use serde::Serialize;

/// The result of one part of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Passed,
    /// It is not there, and not needed.
    Absent,
    Failed,
}

impl Verdict {
    /// The word in tables. A failure must not be overlooked.
    pub fn word(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Absent => "absent",
            Self::Failed => "FAILED",
        }
    }
}
