//! Google Cloud Storage.

use crate::config;
use crate::store::drivers::{split, text};
use opendal::services;

pub(in crate::store) fn builder(settings: &config::Storage, place: &str) -> services::Gcs {
    let options = settings.gcs.clone().unwrap_or_default();
    let (bucket, folder) = split(place);
    let mut builder = services::Gcs::default()
        .bucket(bucket)
        .root(folder)
        .endpoint(text(&options.endpoint));
    if let Some(path) = &options.credential_file {
        builder = builder.credential_path(&path.to_string_lossy());
    }
    if options.anonymous {
        builder.skip_signature()
    } else {
        builder
    }
}
