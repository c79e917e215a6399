//! Names of the programs a Cinder consists of; one process here plays all of them.

/// The program that makes and restores backups.
pub const BACKUP_SERVICE: &str = "cinder-backup";

/// The program that answers requests. It is not among those that administrators see, but has logs like them.
pub const API_SERVICE: &str = "cinder-api";

/// All that administrators see.
pub const SERVICES: [&str; 3] = ["cinder-scheduler", "cinder-volume", BACKUP_SERVICE];
