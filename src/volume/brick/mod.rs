//! Volumes that os-brick connects to this machine: a helper in Python, which stands in this program, runs under the
//! machine's own interpreter. A process of it does one thing and ends; while a volume is read or written none runs.

mod process;

pub use process::HelperError;

use crate::config;
use crate::volume::{VolumeError, VolumeReader, VolumeWriter};
use serde_json::{Value, json};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

const HELPER: &str = include_str!("helper.py");

/// Why a volume could not be connected or disconnected.
#[derive(Debug, thiserror::Error)]
pub enum BrickError {
    #[error(
        "{python} has no os-brick that works: install os-brick for it, or name another interpreter in cinder.brick.python"
    )]
    Unusable { python: String, source: HelperError },
    #[error(
        "os-brick has its mounts and locks in {dir}, which cannot be made: name another directory in cinder.brick.dir"
    )]
    Dir { dir: String, source: io::Error },
    #[error("{backend:?} in cinder.brick.backends is not one of Cinder's backends: {known}")]
    Unknown { backend: String, known: String },
    #[error("to {action} the volume failed")]
    Failed {
        action: &'static str,
        source: HelperError,
    },
    /// Its bytes are not those of the volume.
    #[error(
        "the volume is a file of the format {0:?}, and only raw ones can be read and written; a volume with snapshots may be one"
    )]
    Format(String),
}

impl BrickError {
    /// Whether the same may succeed later: storages come back.
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::Failed { .. })
    }
}

/// The connectors of this machine. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Brick(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    settings: config::Brick,
    dir: PathBuf,
}

impl Brick {
    /// The connectors as the settings name them, with a directory for mounts and locks.
    pub fn new(settings: config::Brick, dir: PathBuf) -> Self {
        Self(Arc::new(Inner { settings, dir }))
    }

    /// Whether it is for the volumes of a backend.
    pub fn serves(&self, backend: &str) -> bool {
        self.0.settings.backends.contains(backend)
    }

    /// The backends it is for.
    pub fn backends(&self) -> impl Iterator<Item = &String> {
        self.0.settings.backends.iter()
    }

    /// Longest time that the copy of a volume may take.
    pub fn copy_timeout(&self) -> Duration {
        self.0.settings.copy_timeout
    }

    /// An error if one of the backends is not among those that Cinder has.
    pub fn check_backends(&self, known: &[String]) -> Result<(), BrickError> {
        match self.backends().find(|name| !known.contains(name)) {
            None => Ok(()),
            Some(backend) => Err(BrickError::Unknown {
                backend: backend.clone(),
                known: known.join(", "),
            }),
        }
    }

    /// The version of os-brick; an error if it cannot be used.
    pub fn look(&self) -> Result<String, BrickError> {
        let dir = &self.0.dir;
        std::fs::create_dir_all(dir).map_err(|source| BrickError::Dir {
            dir: dir.display().to_string(),
            source,
        })?;
        let looked = self.ask("look", &Value::Null);
        let python = || self.0.settings.python.display().to_string();
        let answer = looked.map_err(|source| BrickError::Unusable {
            python: python(),
            source,
        })?;
        Ok(answer["version"].as_str().unwrap_or_default().to_owned())
    }

    /// What a backend must know of this machine.
    pub fn connector(&self) -> Result<Value, BrickError> {
        let action = "describe this machine for";
        let answer = self.ask("describe", &Value::Null);
        let mut answer = answer.map_err(|source| BrickError::Failed { action, source })?;
        Ok(answer["connector"].take())
    }

    /// Connects a volume. Where it lies on this machine.
    pub fn connect(&self, connection: &Value) -> Result<PathBuf, BrickError> {
        let action = "connect";
        let format = connection["data"]["format"].as_str().unwrap_or("raw");
        if format != "raw" {
            return Err(BrickError::Format(format.to_owned()));
        }
        let answer = self.ask("connect", connection);
        let answer = answer.map_err(|source| BrickError::Failed { action, source })?;
        Ok(PathBuf::from(answer["path"].as_str().unwrap_or_default()))
    }

    /// Disconnects a volume; one that is not connected is no error.
    pub fn disconnect(&self, connection: &Value) -> Result<(), BrickError> {
        let action = "disconnect";
        let answer = self.ask("disconnect", connection);
        answer
            .map(drop)
            .map_err(|source| BrickError::Failed { action, source })
    }

    fn ask(&self, what: &str, connection: &Value) -> Result<Value, HelperError> {
        let settings = &self.0.settings;
        let asked = json!({
            "do": what,
            "connection": connection,
            "root_helper": settings.root_helper,
            "multipath": settings.multipath,
            "address": settings.address,
            "dir": self.0.dir,
        });
        let mut command = Command::new(&settings.python);
        // Nothing of the user's own, or of the current directory, is imported.
        command.args(["-I", "-B", "-c", HELPER]);
        // There may be secrets in settings that came by the environment.
        for (name, _) in std::env::vars_os() {
            let name_text = name.to_string_lossy();
            if name_text.starts_with(config::ENVIRONMENT_PREFIX) || name_text.starts_with("OS_") {
                command.env_remove(&name);
            }
        }
        process::run(command, &asked, settings.timeout)
    }
}

/// Whether this is what this machine says of itself.
pub fn is_of_this_machine(connector: &Value) -> bool {
    let own = rustix::system::uname();
    connector["host"].as_str().map(str::as_bytes) == Some(own.nodename().to_bytes())
}

/// Opens a connected volume to be read.
pub(super) fn reader(path: &Path) -> Result<VolumeReader, VolumeError> {
    VolumeReader::open(path).map_err(|error| with_advice(error, path))
}

/// Opens a connected volume to be written.
pub(super) fn writer(path: &Path) -> Result<VolumeWriter, VolumeError> {
    VolumeWriter::open(path).map_err(|error| with_advice(error, path))
}

/// Where the file lies is for the log; the error goes to the volume's owner too.
fn with_advice(error: VolumeError, path: &Path) -> VolumeError {
    if error.source.kind() != io::ErrorKind::PermissionDenied {
        return error;
    }
    tracing::error!(path = %path.display(), "the user of this service may not open a connected volume: run it as a user that may, such as root, or a member of the group of Cinder's files");
    let why = "the backup service has no right to; its log has the remedy";
    VolumeError {
        source: io::Error::new(io::ErrorKind::PermissionDenied, why),
        ..error
    }
}
