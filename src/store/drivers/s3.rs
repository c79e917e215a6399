//! S3 and what speaks it.

use crate::config;
use crate::store::drivers::{exposed, split, text};
use opendal::services;

pub(in crate::store) fn builder(settings: &config::Storage, place: &str) -> services::S3 {
    let options = settings.s3.clone().unwrap_or_default();
    let (bucket, folder) = split(place);
    let mut builder = services::S3::default()
        .bucket(bucket)
        .root(folder)
        .region(options.region.as_deref().unwrap_or("us-east-1"))
        .endpoint(text(&options.endpoint));
    if options.access_key_id.is_some() {
        builder = builder
            .access_key_id(text(&options.access_key_id))
            .secret_access_key(exposed(&options.secret_access_key))
            .disable_config_load()
            .disable_ec2_metadata();
    }
    if options.virtual_host_style {
        builder = builder.enable_virtual_host_style();
    }
    if options.checksums {
        builder.checksum_algorithm("crc32c")
    } else {
        builder
    }
}
