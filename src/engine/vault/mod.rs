//! A vault: one project's keys, parameters and chunks in one storage.

pub mod options;
pub mod record;
pub mod shred;
pub mod storage;

use crate::db::vaults::SHREDDED;
use crate::db::{self, Db};
use crate::engine::format::keys::{Keyring, NONCE_BYTES, VaultKeys, random_bytes};
use crate::engine::format::manifest::Root;
use crate::engine::format::row::PackName;
use crate::engine::format::{
    BLOCK_BYTES, ROOT_HEADER_BYTES, ROOT_MAGIC, SALT_BYTES, TAG_BYTES, VERSION,
};
use crate::engine::vault::options::{Options, Parameters};
use crate::engine::vault::record::{
    create_record, keep_record, read_record, shredded, store_unless_shredded,
};
use crate::engine::{Error, Result};
use crate::model::error::chain;
use crate::model::id::{BackupId, VaultId};
use crate::model::pack::Pack;
use crate::model::progress::Progress;
use crate::model::vault::VaultRow;
use crate::store::key::{Key, parse_pack};
use crate::store::{Store, StoreErrorKind};
use ring::aead::{Aad, Nonce};
use std::time::Duration;
use uuid::Uuid;

const ROOT_KEY_CONTEXT: &str = "embervault 2026-11 one root";

/// Pause before an object is looked for again.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// Longest plain root that is accepted.
const ROOT_BYTES_MAX: usize = 64 << 20;

/// An open vault. Immutable; shared by threads.
pub struct Vault {
    /// Key of its rows.
    pub number: i64,
    pub id: VaultId,
    pub(crate) name: Uuid,
    pub(crate) store: Store,
    pub(crate) db: Db,
    pub(crate) keys: VaultKeys,
    pub(crate) parameters: Parameters,
    pub options: Options,
}

impl Vault {
    /// Opens the vault of a row; a vault that has nothing stored yet gets its key here.
    pub fn open(
        db: Db,
        store: Store,
        masters: &Keyring,
        row: &VaultRow,
        parameters: &Parameters,
        options: Options,
    ) -> Result<Self> {
        let key = Key::Vault(row.id.clone());
        let (known, is_used) = db.read(|c| -> std::result::Result<_, db::DbError> {
            let known = db::vaults::record(c, row.number)?;
            Ok((known, db::packs::any(c, row.number)?))
        })?;
        if known.as_deref() == Some(SHREDDED) {
            return Err(shredded(&key));
        }
        let bytes = match store.get(&key) {
            Ok(bytes) => bytes,
            Err(error) if error.kind != StoreErrorKind::Missing => return Err(error.into()),
            // In a storage that is not mounted everything seems missing. Do not store a new key there.
            Err(error) if storage::identify(&store)?.as_ref() != Some(&row.storage_id) => {
                return Err(Error::Away {
                    object: error.object,
                });
            }
            Err(error) if is_used && known.is_none() => return Err(error.into()),
            Err(_) => create_record(&db, &store, &masters.current, row, parameters)?,
        };
        let (record, vault_key) = match (read_record(&bytes, &key, row, masters), known) {
            (Err(error @ (Error::Corrupt { .. } | Error::Key { .. })), Some(known)) => {
                let sound = read_record(known.as_bytes(), &key, row, masters)?;
                tracing::error!(%error, "vault.json cannot be used; the database's copy is used and stored in its place");
                let stored = store_unless_shredded(&db, &store, row, &|until| {
                    store.replace_until(&key, known.clone().into_bytes(), until)
                });
                match stored {
                    Err(error @ Error::Missing { .. }) => return Err(error),
                    Err(error) => {
                        tracing::error!(error = %chain(&error), "the database's copy of vault.json could not be stored");
                    }
                    Ok(()) => {}
                }
                sound
            }
            (read, known) => {
                let read = read?;
                if known.is_none() {
                    keep_record(&db, row, bytes)?;
                }
                read
            }
        };
        let name = Uuid::parse_str(row.id.as_str())
            .map_err(|_| Error::corrupt(&key, "its name is not a UUID"))?;
        Ok(Self {
            number: row.number,
            id: row.id.clone(),
            name,
            store,
            db,
            keys: VaultKeys::derive(&vault_key),
            options: options.fitted_to(&record.parameters),
            parameters: record.parameters,
        })
    }

    /// Whether the vault is being shredded, or was.
    pub(crate) fn is_shredded(&self) -> Result<bool> {
        let known = self.db.read(|c| db::vaults::record(c, self.number))?;
        Ok(known.is_none_or(|record| record == SHREDDED))
    }

    /// Makes sure that an object is there and has this length. Looks three times, as some storages show a new object
    /// late.
    pub(crate) fn expect(&self, key: &Key, length: u64) -> Result<()> {
        for pause in [Duration::ZERO, LOOK_AGAIN, LOOK_AGAIN * 5] {
            std::thread::sleep(pause);
            if self.store.length(key)? == Some(length) {
                return Ok(());
            }
        }
        Err(Error::Lost {
            object: key.to_string(),
        })
    }

    /// Makes sure that no new pack gets a number that an object in the storage has.
    pub(crate) fn skip_taken_numbers(&self) -> Result<()> {
        let mut next = 0;
        for folder in pack_folders(&self.store, &self.id)? {
            let listed = self.store.list(&folder)?;
            let numbers = listed
                .iter()
                .filter_map(|(object, _)| parse_pack(&self.id, object))
                .map(|(_, number, _)| i64::from(number) + 1);
            next = numbers.fold(next, i64::max);
        }
        Ok(self
            .db
            .write(|c| db::vaults::raise_next_pack(c, self.number, next))?)
    }

    /// The storage it lies in.
    pub fn store(&self) -> &Store {
        &self.store
    }

    pub(crate) fn root_key(&self, backup: &BackupId) -> Key {
        Key::Root {
            vault: self.id.clone(),
            backup: backup.clone(),
        }
    }

    /// Stores a root: from here on the backup exists in the store. A root that is there already, from an earlier run
    /// or from an upload whose answer was lost, stays and is the result. Not every storage refuses to replace an
    /// object, so nothing is sent once the lease is over. A root that a shredding may not have seen is taken back.
    pub fn put_root(&self, root: Root, progress: &Progress) -> Result<Root> {
        let plain = serde_json::to_vec(&root).expect("own types serialize to JSON");
        let mut sealed = zstd::bulk::compress(&plain, 3)
            .map_err(|error| Error::corrupt(self.root_key(&root.backup.id), error))?;
        let header = root_header(self.name, &random_bytes());
        self.keys
            .root
            .salted(ROOT_KEY_CONTEXT, &header[32..])
            .sealing()
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key([0; NONCE_BYTES]),
                Aad::from([header.as_slice(), root.backup.id.as_str().as_bytes()].concat()),
                &mut sealed,
            )
            .expect("a root is far shorter than the cipher's limit");
        let bytes = [header.as_slice(), &sealed].concat();
        let (key, length) = (self.root_key(&root.backup.id), bytes.len() as u64);
        let until = || progress.allowed_until();
        let stored = self.store.put_new_until(&key, bytes, &until);
        if self.is_shredded()? {
            self.store.delete(&key)?;
            return Err(shredded(&Key::Vault(self.id.clone())));
        }
        match stored {
            Ok(()) => self.expect(&key, length).map(|()| root),
            Err(error) if error.kind == StoreErrorKind::Exists => {
                self.root_at_last(&root.backup.id)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Reads and verifies a root.
    pub fn root(&self, backup: &BackupId) -> Result<Root> {
        let key = self.root_key(backup);
        let corrupt = |detail: &str| Error::corrupt(&key, detail);
        let bytes = self.store.get(&key)?;
        let (header, sealed) = bytes
            .split_at_checked(ROOT_HEADER_BYTES)
            .ok_or_else(|| corrupt("it is truncated"))?;
        let salt = header[32..].try_into().expect("the header has 64 bytes");
        if header != root_header(self.name, &salt) || sealed.len() < TAG_BYTES {
            return Err(corrupt("its header is not a root's of this vault"));
        }
        let mut sealed = sealed.to_vec();
        let compressed = self
            .keys
            .root
            .salted(ROOT_KEY_CONTEXT, &salt)
            .sealing()
            .open_in_place(
                Nonce::assume_unique_for_key([0; NONCE_BYTES]),
                Aad::from([header, backup.as_str().as_bytes()].concat()),
                &mut sealed,
            )
            .map_err(|_| corrupt("it does not open"))?;
        let plain = zstd::bulk::Decompressor::upper_bound(compressed)
            .filter(|length| *length <= ROOT_BYTES_MAX)
            .and_then(|length| zstd::bulk::decompress(compressed, length).ok())
            .ok_or_else(|| corrupt("it does not expand"))?;
        let root: Root = serde_json::from_slice(&plain).map_err(|_| corrupt("it is not a root"))?;
        if root.backup.id == *backup && root.is_sound() {
            Ok(root)
        } else {
            Err(corrupt("it does not describe this backup"))
        }
    }

    /// Reads a root, and once more if it seems damaged: it may have been on its way.
    pub fn root_at_last(&self, backup: &BackupId) -> Result<Root> {
        match self.root(backup) {
            Err(Error::Corrupt { .. }) => self.root(backup),
            result => result,
        }
    }

    /// The root of a backup, if there is one.
    pub fn find_root(&self, backup: &BackupId) -> Result<Option<Root>> {
        match self.root_at_last(backup) {
            Ok(root) => Ok(Some(root)),
            Err(Error::Missing { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes sure that a root that was found, not stored by this run, survives a crash.
    pub fn make_root_durable(&self, backup: &BackupId) -> Result<()> {
        Ok(self.store.make_durable(&self.root_key(backup))?)
    }

    /// Whether the root of a backup is in the store, unread.
    pub fn has_root(&self, backup: &BackupId) -> Result<bool> {
        Ok(self.store.length(&self.root_key(backup))?.is_some())
    }

    /// Removes the root of a backup; its packs follow at a later collection. Nothing is sent once the lease is over:
    /// another worker may have stored the root again.
    pub fn remove_root(&self, backup: &BackupId, progress: &Progress) -> Result<()> {
        let until = || progress.allowed_until();
        Ok(self.store.delete_until(&self.root_key(backup), &until)?)
    }
}

impl Root {
    fn is_sound(&self) -> bool {
        (BLOCK_BYTES as u64..=1 << 30).contains(&self.span_bytes) && self.levels <= 8
    }
}

/// The folders in which a vault's packs lie: at most 256 for data and as many for manifests, so that each can
/// be listed by itself.
pub(crate) fn pack_folders(store: &Store, vault: &VaultId) -> Result<Vec<String>> {
    let mut folders = store.folders(&format!("v/{vault}/p/"))?;
    folders.extend(store.folders(&format!("v/{vault}/m/"))?);
    Ok(folders)
}

/// Whether a storage has the record of a vault.
pub fn is_there(store: &Store, vault: &VaultId) -> Result<bool> {
    Ok(store.length(&Key::Vault(vault.clone()))?.is_some())
}

fn root_header(vault: Uuid, salt: &[u8; SALT_BYTES]) -> [u8; ROOT_HEADER_BYTES] {
    let mut header = [0; ROOT_HEADER_BYTES];
    header[..8].copy_from_slice(ROOT_MAGIC);
    header[8..10].copy_from_slice(&VERSION.to_le_bytes());
    header[16..32].copy_from_slice(vault.as_bytes());
    header[32..].copy_from_slice(salt);
    header
}

/// Whether no master key here opens a vault, going by the database's copy of its record.
pub fn is_locked(record: &str, row: &VaultRow, masters: &Keyring) -> bool {
    let opened = read_record(record.as_bytes(), &Key::Vault(row.id.clone()), row, masters);
    matches!(opened, Err(Error::Key { .. }))
}

/// Names the object of a pack.
pub(crate) fn pack_name(vault: &Vault, pack: &Pack) -> PackName {
    PackName {
        vault: vault.name,
        kind: pack.kind,
        number: pack.number.get(),
        rewrite: pack.rewrite.get(),
    }
}
