//! Why the service does not start.

use crate::db::DbError;
use crate::engine;
use crate::engine::format::keys::MasterKeyError;
use crate::identity::keystone::KeystoneError;
use crate::identity::policy::PolicyError;
use crate::keystone::TrustError;
use crate::model::id::{BackupId, ProjectId, StorageId, VaultId};
use crate::store::OpenError;
use crate::volume::catalog::CatalogError;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Why the service does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("data directory {}: another embervault is running on it", .0.display())]
    Running(PathBuf),
    #[error("{}", path.display())]
    File {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("cannot listen on {address}")]
    Listen {
        address: SocketAddr,
        source: std::io::Error,
    },
    #[error(
        "this process may open {allowed} files, but {connections} connections (api.connections_max) and its own \
         work need {needed}: raise the limit (LimitNOFILE, ulimit -n), or allow fewer connections"
    )]
    Files {
        allowed: u64,
        connections: usize,
        needed: u64,
    },
    #[error(transparent)]
    Db(#[from] DbError),
    #[error(transparent)]
    MasterKey(#[from] MasterKeyError),
    #[error(
        "master key {}: it is missing, but backups exist that need it; put it back from your copy",
        .0.display()
    )]
    NoMasterKey(PathBuf),
    #[error(
        "master key {}: it is not the one that storage {storage:?} was used with; put the right one back",
        path.display()
    )]
    WrongMasterKey { path: PathBuf, storage: String },
    #[error(
        "storage {name:?}: it is not the storage this database knows by that name ({known}, but found \
         {found}); check its URL, or give the new storage another name"
    )]
    ForeignStorage {
        name: String,
        known: StorageId,
        found: StorageId,
    },
    #[error(
        "storage {name:?}: it is empty, but this database knows vaults in it; check its URL, or put its \
         content back"
    )]
    EmptyStorage { name: String },
    #[error(
        "backups of other projects lie in the vaults of this one, as an administrator has imported them, and would be \
         destroyed too: {}. Delete them first", named(.0)
    )]
    Guests(Vec<(BackupId, ProjectId)>),
    #[error("storage {name:?} cannot be opened")]
    Open { name: String, source: OpenError },
    #[error("storage {name:?} cannot be used")]
    Storage { name: String, source: engine::Error },
    #[error(
        "storage {storage:?}: no master key here opens {object}, so nothing was changed; put the key that it was wrapped with beside the others, as {}",
        path.display()
    )]
    NoKeyOpens {
        storage: String,
        object: String,
        path: PathBuf,
    },
    #[error(
        "the change of the master key is not finished: some vaults are wrapped with {}, others with the present key. \
         Keep both and run `embervault key rotate` again",
        next.display()
    )]
    Unfinished {
        next: PathBuf,
        source: Box<StartError>,
    },
    #[error(
        "another `embervault key rotate` is at work on this database, here or on another host. Wait until it has ended; \
         then copy its master keys to this host instead of changing them again"
    )]
    Rotating,
    #[error("these workers are running: {}; stop all processes first", .0.join(", "))]
    Workers(Vec<String>),
    #[error("the rows of vaults cannot be changed")]
    Vaults(#[source] engine::Error),
    #[error("storage {name:?} is not configured")]
    NotConfigured { name: String },
    #[error("vault {vault}: its storage is not configured")]
    NoStorage { vault: VaultId },
    #[error("the volume catalogue cannot be opened")]
    Catalog(#[from] CatalogError),
    #[error(transparent)]
    Keystone(#[from] KeystoneError),
    #[error("cinder.cacert")]
    Trust(#[from] TrustError),
    #[error("the policy cannot be used: {0}")]
    Policy(#[from] PolicyError),
    #[error("{}: {message}", path.display())]
    Users { path: PathBuf, message: String },
    #[error(
        "{}: it is missing, but the database has users of another host or of an earlier configuration, and new passwords \
         would lock them out. Copy the file from the other host, or name the users in identity.users, the same on all hosts",
        .0.display()
    )]
    OtherUsers(PathBuf),
}

/// Backups with their projects.
fn named(backups: &[(BackupId, ProjectId)]) -> String {
    let each = backups
        .iter()
        .map(|(backup, project)| format!("{backup} of project {project}"));
    each.collect::<Vec<_>>().join(", ")
}
