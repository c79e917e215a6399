//! A directory behind an SSH server.

use crate::config;
use crate::store::drivers::{OpenError, split, text};
use opendal::services;

pub(in crate::store) fn builder(
    settings: &config::Storage,
    place: &str,
) -> Result<services::Sftp, OpenError> {
    let options = settings.sftp.clone().unwrap_or_default();
    let (host, folder) = split(place);
    let key = match &options.key_file {
        None => "",
        Some(path) => path.to_str().ok_or(OpenError::Option {
            url: settings.url.clone(),
            option: "sftp.key_file in UTF-8",
        })?,
    };
    let known_hosts = if options.accept_new_host {
        "Add"
    } else {
        "Strict"
    };
    Ok(services::Sftp::default()
        .endpoint(&format!("ssh://{host}"))
        .root(folder)
        .user(text(&options.user))
        .key(key)
        .known_hosts_strategy(known_hosts))
}
