//! A storage's own record, `format.json`: which storage it is, and that it is one of ours.

use crate::engine::format::VERSION;
use crate::engine::{Error, Result};
use crate::model::id::{StorageId, VaultId};
use crate::model::pack::{Pack, PackState};
use crate::model::time::Timestamp;
use crate::store::key::{Key, parse_pack};
use crate::store::{Store, StoreErrorKind};
use serde::{Deserialize, Serialize};

const MAGIC: &str = "embervault storage";

#[derive(Debug, Serialize, Deserialize)]
struct FormatRecord {
    magic: String,
    version: u16,
    storage: StorageId,
    created: String,
}

/// The id of a storage. An empty storage is made ours.
pub fn identify(store: &Store, now: Timestamp) -> Result<StorageId> {
    match read(store) {
        Err(Error::Missing { .. }) => {}
        other => return other,
    }
    let record = FormatRecord {
        magic: MAGIC.to_owned(),
        version: VERSION,
        storage: StorageId::random(),
        created: now.zulu(),
    };
    let bytes = serde_json::to_vec_pretty(&record).expect("own types serialize to JSON");
    match store.put_new(&Key::Format, bytes) {
        Err(error) if error.kind != StoreErrorKind::Exists => Err(error.into()),
        // Whoever was first decides.
        _ => read(store),
    }
}

/// Whether a vault has its record in the storage.
pub fn has_vault(store: &Store, vault: &VaultId) -> Result<bool> {
    match store.get(&Key::Vault(vault.clone())) {
        Ok(_) => Ok(true),
        Err(error) if error.kind == StoreErrorKind::Missing => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// The packs of a vault that are in the storage, as live rows of the vault with this number.
pub fn packs(store: &Store, vault: &VaultId, number: i64) -> Result<Vec<Pack>> {
    let listed = store.list(&format!("v/{vault}/"))?;
    Ok(listed
        .into_iter()
        .filter_map(|(name, bytes)| {
            let (kind, pack, rewrite) = parse_pack(vault, &name)?;
            Some(Pack {
                vault: number,
                number: pack.into(),
                rewrite: i32::try_from(rewrite).ok()?,
                kind,
                state: PackState::Live,
                session: None,
                stored_bytes: i64::try_from(bytes).ok()?,
                // Told by its trailer, which nobody has read yet.
                chunk_count: 0,
            })
        })
        .collect())
}

fn read(store: &Store) -> Result<StorageId> {
    let bytes = store.get(&Key::Format)?;
    let record: FormatRecord = serde_json::from_slice(&bytes)
        .map_err(|_| Error::corrupt(Key::Format, "it is not a storage record"))?;
    if record.magic != MAGIC || record.version != VERSION {
        let detail = format!("format version {} is not {VERSION}", record.version);
        return Err(Error::corrupt(Key::Format, detail));
    }
    Ok(record.storage)
}
