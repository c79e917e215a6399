//! Names of the programs a Cinder consists of; one process here plays all of them.

/// The program that makes and restores backups.
pub const BACKUP_SERVICE: &str = "cinder-backup";

/// All that administrators see.
pub const SERVICES: [&str; 3] = ["cinder-scheduler", "cinder-volume", BACKUP_SERVICE];
