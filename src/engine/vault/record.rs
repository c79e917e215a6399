//! `vault.json`: the wrapped key of a vault, and its parameters. The storage has it, and the database a copy (`record`).

use crate::db::vaults::SHREDDED;
use crate::db::{self, Db};
use crate::engine::format::VERSION;
use crate::engine::format::keys::{self, Keyring, MasterKey};
use crate::engine::vault::options::Parameters;
use crate::engine::{Error, Result};
use crate::model::id::{StorageId, VaultId};
use crate::model::vault::VaultRow;
use crate::store::key::Key;
use crate::store::{Store, StoreError, StoreErrorKind};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::time::{Duration, Instant};

/// The fields of `vault.json`. Its MAC covers all of them, so a vault that was stored without a new field would count as
/// changed: a new field also needs a new version.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct VaultFile {
    pub(super) version: u16,
    pub(super) storage: StorageId,
    pub(super) vault: VaultId,
    pub(super) parameters: Parameters,
    pub(super) cipher: String,
    /// Base64 of the vault's key under the master key.
    pub(super) wrapped_key: String,
    /// BLAKE3 of the record's JSON without this field, keyed with a key derived from the vault's.
    pub(super) mac: String,
}

impl VaultFile {
    fn authenticate(&self, key: &keys::Key) -> String {
        let unsigned = (
            self.version,
            &self.storage,
            &self.vault,
            &self.parameters,
            &self.cipher,
            &self.wrapped_key,
        );
        let json = serde_json::to_vec(&unsigned).expect("own types serialize to JSON");
        key.authenticate("embervault 2026-11 vault record", &json)
    }
}

/// How long storing a record may take: other writers of the database may wait for it.
const STORING_MAX: Duration = Duration::from_secs(5);

/// Longest object that may be the record of a vault.
const RECORD_BYTES_MAX: u64 = 64 << 10;

/// Removes copies of records that killed processes left under temporary names: of one vault, or of all. Where a
/// process is just storing such a record, it fails and tries again. So this may run beside others for a vault that is
/// being shredded, which no process may store any more; for all vaults only while no other process runs. A copy that is
/// cut off counts too: the vault's name stands before its key.
pub fn remove_temporaries(store: &Store, vault: Option<&VaultId>) -> Result<usize> {
    let sign = vault.map_or("\"wrapped_key\"", VaultId::as_str);
    let is_record = |bytes: &[u8]| {
        bytes
            .windows(sign.len())
            .any(|part| part == sign.as_bytes())
    };
    Ok(store.remove_temporaries(RECORD_BYTES_MAX, &is_record)?)
}

/// Whether a vault is being shredded.
pub fn is_shredded(db: &Db, row: &VaultRow) -> Result<bool> {
    let known = db.read(|c| db::vaults::record(c, row.number))?;
    Ok(known.as_deref() == Some(SHREDDED))
}

/// Makes sure that a master key opens a vault, before any vault is wrapped anew. `false`: it has no key.
pub fn check_opens(
    db: &Db,
    store: &Store,
    vault: &VaultId,
    row: Option<&VaultRow>,
    old: &Keyring,
    new: &MasterKey,
) -> Result<bool> {
    let opened = opened_record(db, store, &Key::Vault(vault.clone()), row, (old, new))?;
    Ok(opened.is_some())
}

/// The record of a vault, and its key: from the database's copy, or, if there is none or it cannot be opened, from the
/// storage. `None`: neither exists, or the vault is being shredded.
fn opened_record(
    db: &Db,
    store: &Store,
    key: &Key,
    row: Option<&VaultRow>,
    (old, new): (&Keyring, &MasterKey),
) -> Result<Option<(VaultFile, keys::Key)>> {
    let known = match row {
        Some(row) => db.read(|c| db::vaults::record(c, row.number))?,
        None => None,
    };
    if known.as_deref() == Some(SHREDDED) {
        return Ok(None);
    }
    let open = |text: &[u8]| {
        let record = parse_record(text, key)?;
        let vault_key = unwrapped(&record, key, either(old, new))?;
        Ok(Some((record, vault_key)))
    };
    let of_known = known.map(|text| open(text.as_bytes()));
    if let Some(Ok(opened)) = of_known {
        return Ok(opened);
    }
    let of_stored = match store.get(key) {
        Ok(bytes) => open(&bytes),
        Err(error) if error.kind == StoreErrorKind::Missing => Ok(None),
        Err(error) => Err(error.into()),
    };
    match (of_known, of_stored) {
        (Some(Err(error)), Ok(None)) => Err(error),
        (_, of_stored) => of_stored,
    }
}

fn either<'k>(
    old: &'k Keyring,
    new: &'k MasterKey,
) -> impl Iterator<Item = (Option<&'k Path>, &'k MasterKey)> {
    std::iter::once((None, new)).chain(old.keys())
}

/// Wraps the key of a vault with another master key: first in the database, if it knows the vault, then in the store.
/// Can be repeated after an interruption. `false`: it has no key.
pub fn rewrap(
    db: &Db,
    store: &Store,
    vault: &VaultId,
    row: Option<&VaultRow>,
    old: &Keyring,
    new: &MasterKey,
) -> Result<bool> {
    let key = Key::Vault(vault.clone());
    let Some((mut record, vault_key)) = opened_record(db, store, &key, row, (old, new))? else {
        return Ok(false);
    };
    record.wrapped_key =
        BASE64_STANDARD.encode(new.wrap(&vault_key, &record.storage, &record.vault));
    record.mac = record.authenticate(&vault_key);
    let json = serde_json::to_string_pretty(&record).expect("own types serialize to JSON");
    let Some(row) = row else {
        store.replace(&key, json.into_bytes())?;
        return Ok(true);
    };
    db.write(|c| db::vaults::set_record(c, row.number, &json))?;
    store_unless_shredded(db, store, row, &|until| {
        store.replace_until(&key, json.clone().into_bytes(), until)
    })?;
    Ok(true)
}

/// Stores a record in the transaction that looks whether the vault is being shredded. The shredding waits for this
/// transaction before it sets its mark, and deletes `vault.json` afterwards. So even a process that is killed right
/// after it has stored the record leaves none behind. `put` gets the moment until which it may try.
pub(super) fn store_unless_shredded(
    db: &Db,
    store: &Store,
    row: &VaultRow,
    put: Put<'_>,
) -> Result<()> {
    let mut is_sent = false;
    let stored = db.write(|c| {
        match db::vaults::share_record(c, row.number)? {
            Some(record) if record != SHREDDED => {}
            _ => return Err(shredded(&Key::Vault(row.id.clone()))),
        }
        is_sent = true;
        let end = Instant::now() + STORING_MAX;
        Ok(put(&|| Some(end))?)
    });
    // A call that failed may have stored the record all the same, and a lost connection ends the lock.
    if is_sent && stored.is_err() {
        take_back_if_shredded(db, store, row)?;
    }
    stored
}

/// Stores a record until a moment.
type Put<'p> = &'p dyn Fn(&dyn Fn() -> Option<Instant>) -> std::result::Result<(), StoreError>;

/// Deletes a record that may just have been stored if the vault was shredded meanwhile.
fn take_back_if_shredded(db: &Db, store: &Store, row: &VaultRow) -> Result<()> {
    let known = db.read(|c| db::vaults::record(c, row.number))?;
    match known {
        Some(record) if record != SHREDDED => Ok(()),
        _ => {
            let key = Key::Vault(row.id.clone());
            store.delete_durably(&key)?;
            Err(shredded(&key))
        }
    }
}

pub(super) fn shredded(key: &Key) -> Error {
    Error::Missing {
        object: key.to_string(),
    }
}

fn parse_record(bytes: &[u8], key: &Key) -> Result<VaultFile> {
    let record: VaultFile = serde_json::from_slice(bytes)
        .map_err(|_| Error::corrupt(key, "it does not describe a vault"))?;
    if record.version == VERSION && record.parameters.is_sound() {
        Ok(record)
    } else {
        Err(Error::corrupt(key, "its version or parameters are unknown"))
    }
}

/// The record and the key in it, if it is this vault's.
pub(super) fn read_record(
    bytes: &[u8],
    key: &Key,
    row: &VaultRow,
    masters: &Keyring,
) -> Result<(VaultFile, keys::Key)> {
    let record = parse_record(bytes, key)?;
    if record.vault != row.id || record.storage != row.storage_id {
        return Err(Error::corrupt(key, "it describes another vault"));
    }
    let vault_key = unwrapped(&record, key, masters.keys())?;
    Ok((record, vault_key))
}

/// The key in a record, opened with the first of these master keys that fits. Logs a warning if that was not the current
/// one.
fn unwrapped<'m>(
    record: &VaultFile,
    key: &Key,
    masters: impl Iterator<Item = (Option<&'m Path>, &'m MasterKey)>,
) -> Result<keys::Key> {
    let wrapped = BASE64_STANDARD
        .decode(&record.wrapped_key)
        .map_err(|_| Error::corrupt(key, "its key is not base64"))?;
    let mut opened = Err(Error::corrupt(key, "no master key was tried"));
    for (kept, master) in masters {
        opened = master.unwrap(&wrapped, &record.storage, &record.vault);
        if opened.is_ok() {
            if let Some(kept) = kept {
                tracing::warn!(object = %key, key = %kept.display(), "this vault is wrapped with a master key that is not the current one; run `embervault key rotate`");
            }
            break;
        }
    }
    let vault_key = opened?;
    if record.mac == record.authenticate(&vault_key) {
        Ok(vault_key)
    } else {
        Err(Error::corrupt(key, "it was changed"))
    }
}

/// Keeps a copy of a sound record in the database, in case the storage's is damaged one day.
pub(super) fn keep_record(db: &Db, row: &VaultRow, bytes: Vec<u8>) -> Result<()> {
    if let Ok(text) = String::from_utf8(bytes) {
        db.write(|c| db::vaults::decide_record(c, row.number, &text))?;
    }
    Ok(())
}

/// Stores a vault's record, the one that the database has or a new one, and gives the one that is stored. The database
/// decides, as not every storage refuses to replace an object: all processes that make the vault store the same bytes.
pub(super) fn create_record(
    db: &Db,
    store: &Store,
    master: &MasterKey,
    row: &VaultRow,
    parameters: &Parameters,
) -> Result<Vec<u8>> {
    let proposed = new_record(master, row, parameters);
    let decided = db.write(|c| db::vaults::decide_record(c, row.number, &proposed))?;
    let key = Key::Vault(row.id.clone());
    if decided == SHREDDED {
        return Err(shredded(&key));
    }
    store_unless_shredded(db, store, row, &|until| match store.put_new_until(
        &key,
        decided.clone().into_bytes(),
        until,
    ) {
        Err(error) if error.kind != StoreErrorKind::Exists => Err(error),
        _ => Ok(()),
    })?;
    Ok(store.get(&key)?)
}

fn new_record(master: &MasterKey, row: &VaultRow, parameters: &Parameters) -> String {
    let vault_key = keys::Key::random();
    let wrapped = master.wrap(&vault_key, &row.storage_id, &row.id);
    let mut record = VaultFile {
        version: VERSION,
        storage: row.storage_id.clone(),
        vault: row.id.clone(),
        parameters: parameters.clone(),
        cipher: "aes-256-gcm".to_owned(),
        wrapped_key: BASE64_STANDARD.encode(wrapped),
        mac: String::new(),
    };
    record.mac = record.authenticate(&vault_key);
    serde_json::to_string_pretty(&record).expect("own types serialize to JSON")
}
