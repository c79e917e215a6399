//! Which processes may run on a data directory, and under which names.

use crate::app::{Role, StartError};
use crate::config;
use std::fs::{File, TryLockError};
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// A number that is different after each start of the machine.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Locks the data directory, and creates it if necessary: exclusively for `serve`, shared for API and worker processes.
pub(super) fn data_dir(path: &Path, role: Role) -> Result<(File, PathBuf), StartError> {
    std::fs::create_dir_all(path).map_err(fail(path))?;
    let path = path.canonicalize().map_err(fail(path))?;
    let file_path = path.join("lock");
    let file = File::create(&file_path).map_err(fail(&file_path))?;
    let locked = match role {
        Role::Serve => file.try_lock(),
        Role::Api | Role::Worker => file.try_lock_shared(),
    };
    match locked {
        Ok(()) => Ok((file, path)),
        Err(TryLockError::WouldBlock) => Err(StartError::Running(path)),
        Err(TryLockError::Error(source)) => Err(fail(&file_path)(source)),
    }
}

/// Waits until no other process of the data directory is starting.
pub(super) fn starting(data_dir: &Path) -> Result<File, StartError> {
    let path = data_dir.join("starting.lock");
    let file = File::create(&path).map_err(fail(&path))?;
    file.lock().map_err(fail(&path))?;
    Ok(file)
}

/// The name of this worker, from the configuration or the machine. The second worker in a data directory is `NAME-2`. A
/// name is free again when its process ends, in whatever way. With the name comes a place, a UUID that the next process
/// with the lock finds again, so that it recognises the jobs that its predecessor left.
pub(super) fn worker_name(
    data_dir: &Path,
    settings: &config::Jobs,
) -> Result<(File, String, String), StartError> {
    let base = settings.worker.clone().unwrap_or_else(host_name);
    let folder = data_dir.join("workers");
    std::fs::create_dir_all(&folder).map_err(fail(&folder))?;
    for number in 1.. {
        let name = match number {
            1 => base.clone(),
            number => format!("{base}-{number}"),
        };
        let path = folder.join(format!("{number}.lock"));
        let mut options = File::options();
        let options = options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(&path).map_err(fail(&path))?;
        match file.try_lock() {
            Ok(()) => {
                let place = place(&mut file).map_err(fail(&path))?;
                return Ok((file, name, place));
            }
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(source)) => return Err(fail(&path)(source)),
        }
    }
    unreachable!("the numbers do not end")
}

/// The place in a lock file; a new one if there is none. A copy of the file, or of the machine, is another place: the lock
/// proves that the predecessor is gone only for this file on this running system. On a full disk the place cannot be
/// stored; then the jobs that this process leaves are taken over a lease later.
fn place(file: &mut File) -> std::io::Result<String> {
    let (metadata, boot) = (file.metadata()?, std::fs::read_to_string(BOOT_ID));
    let (device, inode) = (metadata.dev(), metadata.ino());
    let boot = boot.unwrap_or_else(|_| Uuid::new_v4().to_string());
    let file = kept_id(file)?;
    Ok(format!("{file} {device}:{inode} {}", boot.trim()))
}

fn kept_id(file: &mut File) -> std::io::Result<String> {
    let mut known = String::new();
    file.read_to_string(&mut known)?;
    if Uuid::parse_str(&known).is_ok() {
        return Ok(known);
    }
    let place = Uuid::new_v4().to_string();
    file.set_len(0)?;
    if file.write_all_at(place.as_bytes(), 0).is_err() {
        file.set_len(0)?;
    }
    Ok(place)
}

/// Name of this machine.
pub(super) fn host_name() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

fn fail(path: &Path) -> impl FnOnce(std::io::Error) -> StartError + use<> {
    let path = path.to_owned();
    move |source| StartError::File { path, source }
}
