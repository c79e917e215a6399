//! Change tracking of standalone volumes. A clone of each volume as it was at its last backup is kept beside it; comparing
//! the extent maps of the two shows what changed.
//!
//! A change id is the id of the backup's job and eight random digits. So a job that runs again finds its own clone, and a
//! new clone is never mistaken for the one before it.

use crate::model::id::{JobId, VolumeId};
use crate::volume::VolumeError;
use crate::volume::extent_map::FilePair;
use crate::volume::file;
use crate::volume::reader::Changes;
use std::path::{Path, PathBuf};

/// A clone of a volume, named by its change id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Clone {
    pub(super) path: PathBuf,
    pub(super) change_id: String,
}

impl Clone {
    /// The job it was made for.
    pub(super) fn job(&self) -> JobId {
        let (job, _) = self.change_id.rsplit_once('.').unwrap_or_default();
        JobId::new(job)
    }
}

fn path(dir: &Path, volume: &VolumeId, change_id: &str) -> PathBuf {
    dir.join(format!("tracked-{volume}-{change_id}.raw"))
}

/// All clones of a volume, the newest last.
pub(super) fn clones(dir: &Path, volume: &VolumeId) -> Result<Vec<Clone>, VolumeError> {
    let entries =
        std::fs::read_dir(dir).map_err(|source| VolumeError::of_file(dir, "list", source))?;
    let prefix = format!("tracked-{volume}-");
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        // The name of a clone that is being made ends otherwise.
        let change_id = name
            .strip_prefix(&prefix)
            .and_then(|rest| rest.strip_suffix(".raw"));
        if let (Some(change_id), Ok(made)) = (change_id, entry.metadata().and_then(|m| m.created()))
        {
            let clone = Clone {
                path: entry.path(),
                change_id: change_id.to_owned(),
            };
            found.push((made, clone));
        }
    }
    found.sort_by_key(|(made, _)| *made);
    Ok(found.into_iter().map(|(_, clone)| clone).collect())
}

/// Clones what is to be backed up. `None`: the file system has no reflinks.
pub(super) fn keep(
    dir: &Path,
    volume: &VolumeId,
    job: &JobId,
    content: &Path,
) -> Result<Option<Clone>, VolumeError> {
    if !file::never_overwrites_shared(dir) {
        return Ok(None);
    }
    let existing = clones(dir, volume)?.into_iter();
    if let Some(clone) = existing.rev().find(|clone| clone.job() == *job) {
        return Ok(Some(clone));
    }
    let random = uuid::Uuid::new_v4().simple().to_string();
    let change_id = format!("{job}.{}", &random[..8]);
    let clone = Clone {
        path: path(dir, volume, &change_id),
        change_id,
    };
    Ok(file::reflink(content, &clone.path)?.then_some(clone))
}

/// The changes from an earlier clone to a new one; `None` if the earlier one is gone.
pub(super) fn changes_since(
    dir: &Path,
    volume: &VolumeId,
    since: &str,
    now: &Clone,
) -> Result<Option<Changes>, VolumeError> {
    let Some(before) = clones(dir, volume)?
        .into_iter()
        .find(|clone| clone.change_id == since)
    else {
        return Ok(None);
    };
    let pair = match FilePair::open(&before.path, &now.path) {
        Err(error) if error.source.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        pair => pair?,
    };
    Ok(Some(Changes::new(since.to_owned(), move |range| {
        pair.changed(range)
    })))
}
