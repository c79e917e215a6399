//! The version of this program.

/// As `--version` shows it, and as processes compare it.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
