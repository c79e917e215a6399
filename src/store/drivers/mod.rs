//! The kinds of storages: one file for each says how its options become a service of OpenDAL. The options
//! themselves are a section of [`crate::config::Storage`] under the same name: the configuration is a floor below, and
//! knows nothing of OpenDAL.
//!
//! A new kind needs
//!
//! * in `config/storage.rs`: a [`Scheme`](crate::config::Scheme) with the scheme of its URL and the name of its section;
//!   the options, their field in [`Storage`](crate::config::Storage), and that field in `at`, in the list of `check` and,
//!   if it has a URL, in `urls`, so that no password in it is shown;
//! * a file here, the text of [`OpenError::Url`], and the feature of OpenDAL in `Cargo.toml`;
//! * in `store/open.rs` its arm, which also says how an object comes to be there whole or not at all: by itself, or stored
//!   under a temporary name and renamed;
//! * the table of storages and the comment at `url` in the README;
//! * a redirect policy in `client` of `store/open.rs`;
//! * a server to test it against (`tests/servers`, with its packages in `__main__.py` there or in `tests/tools`), and its
//!   name in `tests/stores/conftest.py` and `test_drivers.py`.

pub(super) mod azblob;
pub(super) mod fs;
pub(super) mod gcs;
pub(super) mod s3;
pub(super) mod sftp;
pub(super) mod swift;
pub(super) mod webdav;

use crate::config::Secret;
use crate::store::swift::LogInError;
use std::path::PathBuf;

/// Why a storage could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(
        "its URL must be fs:DIRECTORY, s3://BUCKET, swift://CONTAINER, sftp://HOST/DIRECTORY, \
         webdav+https://HOST/FOLDER, gcs://BUCKET or azblob://CONTAINER"
    )]
    Url,
    #[error("storage {url}: {option} is missing from its options")]
    Option { url: String, option: &'static str },
    #[error("storage directory {}", path.display())]
    Directory {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("certificates {}: {message}", path.display())]
    Certificates { path: PathBuf, message: String },
    #[error("storage {url}")]
    Backend { url: String, source: opendal::Error },
    #[error("storage {url}")]
    LogIn { url: String, source: LogInError },
}

/// Bucket, container or host, and the folder behind it, with its slash.
pub(super) fn split(place: &str) -> (&str, &str) {
    match place.find('/') {
        Some(slash) => place.split_at(slash),
        None => (place, "/"),
    }
}

fn exposed(secret: &Option<Secret>) -> &str {
    secret.as_ref().map_or("", Secret::expose)
}

fn text(option: &Option<String>) -> &str {
    option.as_deref().unwrap_or_default()
}
