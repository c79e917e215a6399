//! Names of Cinder's services. Each worker is a `cinder-backup`; the process that answers plays the others.

/// The service that makes and restores backups.
pub const BACKUP_SERVICE: &str = "cinder-backup";

/// The service that answers requests. It is not among those that administrators see, but has logs like them.
pub const API_SERVICE: &str = "cinder-api";

/// All that administrators see.
pub const SERVICES: [&str; 3] = ["cinder-scheduler", "cinder-volume", BACKUP_SERVICE];
