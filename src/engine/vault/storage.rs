//! A storage's own record, `format.json`: which storage it is, and that it is one of ours.

use crate::engine::format::VERSION;
use crate::engine::{Error, Result};
use crate::model::id::StorageId;
use crate::model::time::Timestamp;
use crate::store::key::Key;
use crate::store::{Store, StoreErrorKind};
use serde::{Deserialize, Serialize};

const MAGIC: &str = "embervault storage";

#[derive(Debug, Serialize, Deserialize)]
struct StorageFile {
    magic: String,
    version: u16,
    storage: StorageId,
    created: String,
}

/// The id of a storage; `None` if it has none yet.
pub fn identify(store: &Store) -> Result<Option<StorageId>> {
    match read(store) {
        Ok(id) => Ok(Some(id)),
        Err(Error::Missing { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Makes an empty storage ours with this id, unless it has one by now; gives the id that it has. All processes of one
/// database use the same id and time, so they store the same bytes.
pub fn create(store: &Store, id: &StorageId, created: Timestamp) -> Result<StorageId> {
    let record = StorageFile {
        magic: MAGIC.to_owned(),
        version: VERSION,
        storage: id.clone(),
        created: created.zulu(),
    };
    let bytes = serde_json::to_vec_pretty(&record).expect("own types serialize to JSON");
    match store.put_new(&Key::Format, bytes) {
        Err(error) if error.kind != StoreErrorKind::Exists => Err(error.into()),
        // The process that was first decides.
        _ => read(store),
    }
}

fn read(store: &Store) -> Result<StorageId> {
    let bytes = store.get(&Key::Format)?;
    let record: StorageFile = serde_json::from_slice(&bytes)
        .map_err(|_| Error::corrupt(Key::Format, "it is not the format of a storage"))?;
    if record.magic != MAGIC || record.version != VERSION {
        let detail = format!("format version {} is not {VERSION}", record.version);
        return Err(Error::corrupt(Key::Format, detail));
    }
    Ok(record.storage)
}
