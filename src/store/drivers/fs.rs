//! A directory. Objects are stored in it by [`crate::store::directory`]; OpenDAL does the rest.

use crate::store::drivers::OpenError;
use crate::store::temporary;
use opendal::services;
use std::path::{Path, PathBuf};

pub(in crate::store) fn builder(directory: &Path) -> services::Fs {
    services::Fs::default().root(&directory.to_string_lossy())
}

/// Makes the directory if need be; gives its path without links.
pub(in crate::store) fn make_directory(path: &Path) -> Result<PathBuf, OpenError> {
    std::fs::create_dir_all(path.join(temporary::FOLDER))
        .and_then(|()| path.canonicalize())
        .map_err(|source| OpenError::Directory {
            path: path.to_owned(),
            source,
        })
}
