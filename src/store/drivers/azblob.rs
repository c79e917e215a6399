//! Azure Blob Storage.

use crate::config;
use crate::store::drivers::{OpenError, exposed, split, text};
use opendal::services;

pub(in crate::store) fn builder(
    settings: &config::Storage,
    place: &str,
) -> Result<services::Azblob, OpenError> {
    let options = settings.azblob.clone().unwrap_or_default();
    let endpoint = options.endpoint.ok_or_else(|| OpenError::Option {
        url: settings.url.clone(),
        option: "azblob.endpoint",
    })?;
    let (container, folder) = split(place);
    Ok(services::Azblob::default()
        .container(container)
        .root(folder)
        .endpoint(&endpoint)
        .account_name(text(&options.account_name))
        .account_key(exposed(&options.account_key)))
}
