//! A vault: one project's keys, parameters and chunks in one storage.

use crate::config;
use crate::db::vaults::SHREDDED;
use crate::db::{self, Db};
use crate::engine::format::{
    BLOCK_BYTES, ROOT_HEADER_BYTES, ROOT_MAGIC, SALT_BYTES, TAG_BYTES, VERSION,
};
use crate::engine::keys::{self, Keyring, MasterKey, NONCE_BYTES, VaultKeys, random_bytes};
use crate::engine::manifest::Root;
use crate::engine::{Error, Result, parallel, storage};
use crate::model::error::chain;
use crate::model::id::{BackupId, StorageId, VaultId};
use crate::model::progress::Progress;
use crate::model::vault::VaultRow;
use crate::store::key::{Key, parse_pack};
use crate::store::{Store, StoreErrorKind};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use ring::aead::{Aad, Nonce};
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::time::Duration;
use uuid::Uuid;

const ROOT_KEY_CONTEXT: &str = "embervault 2026-11 one root";
/// Bytes of a span in new vaults.
const SPAN_BYTES: u64 = 32 << 20;
/// Pause before an object is looked for again.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// Longest plain root that is believed.
const ROOT_BYTES_MAX: usize = 64 << 20;

/// Looks for what is left of a vault that is shredded; the last finds nothing, but for a storage whose
/// lists are stale.
const SHRED_LOOKS_MAX: usize = 5;

/// How a vault cuts; fixed when the vault is made, so that equal data gives equal chunks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parameters {
    /// `fastcdc-2020`, normalization 1.
    pub chunker: String,
    /// Bytes; minimum and maximum are half and four times of it.
    pub chunk_average: u32,
    pub span_bytes: u64,
    /// Runs of zeros at least this long are holes.
    pub hole_bytes: u64,
}

impl Parameters {
    /// The parameters of new vaults.
    pub fn from_settings(engine: &config::Engine) -> Self {
        Self {
            chunker: "fastcdc-2020".to_owned(),
            chunk_average: u32::try_from(engine.chunk_bytes_average.as_u64())
                .expect("the settings were checked"),
            span_bytes: SPAN_BYTES,
            hole_bytes: 64 << 10,
        }
    }

    /// Small ones, so that small volumes have many spans and chunks.
    pub fn for_tests() -> Self {
        Self {
            chunker: "fastcdc-2020".to_owned(),
            chunk_average: 1024,
            span_bytes: 64 << 10,
            hole_bytes: 8 << 10,
        }
    }

    /// Smallest chunk but for the last of a run, bytes.
    pub fn chunk_min(&self) -> u32 {
        self.chunk_average / 2
    }

    /// Largest chunk, bytes.
    pub fn chunk_max(&self) -> u32 {
        self.chunk_average * 4
    }

    /// Most plain bytes of new chunks that are compressed and sealed together.
    pub fn frame_bytes(&self) -> u32 {
        self.chunk_average * 8
    }

    fn is_sound(&self) -> bool {
        let block = BLOCK_BYTES as u64;
        self.chunker == "fastcdc-2020"
            && self.chunk_average.is_power_of_two()
            && (256..=1 << 20).contains(&self.chunk_average)
            && (block..=1 << 30).contains(&self.span_bytes)
            && self.span_bytes.is_multiple_of(block)
            && (block..=16 << 20).contains(&self.hole_bytes)
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct VaultRecord {
    version: u16,
    storage: StorageId,
    vault: VaultId,
    parameters: Parameters,
    cipher: String,
    /// Base64 of the vault's key under the master key.
    wrapped_key: String,
    /// BLAKE3 of the record's JSON without this field, keyed with a key derived from the vault's.
    mac: String,
}

impl VaultRecord {
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

/// What of the settings concerns running jobs.
#[derive(Debug, Clone)]
pub struct Options {
    pub compression: config::Compression,
    pub pack_bytes: usize,
    pub uploads: usize,
    pub downloads: usize,
    pub threads: usize,
    pub paranoid: bool,
    pub restore_compares: bool,
    /// Spans that one restore puts together in memory at once.
    pub assemblies: usize,
    /// Packs of which at least this share is dead are compacted; 1 is never.
    pub dead_share: f64,
}

impl Options {
    /// Resolves the settings on this machine, for so many backups at once.
    pub fn from_settings(config: &config::Config) -> Self {
        let (engine, jobs) = (&config.engine, &config.jobs);
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
        let share = engine.share(jobs);
        Self {
            compression: engine.compression,
            pack_bytes: usize::try_from(engine.pack_bytes.as_u64()).unwrap_or(usize::MAX),
            uploads: share.uploads,
            downloads: engine.downloads.min(share.downloads_max),
            threads: match engine.threads {
                0 => cores.min(share.threads_max),
                threads => threads,
            },
            paranoid: engine.paranoid,
            restore_compares: engine.restore_compares,
            dead_share: f64::from(config.maintenance.compact_percent) / 100.0,
            assemblies: (share.bytes / 2 / SPAN_BYTES).clamp(1, 64) as usize,
        }
    }
}

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
            Err(error) if is_used && known.is_none() => return Err(error.into()),
            // Of a storage that is not mounted nothing is there; nothing is to be stored there either.
            Err(error) if storage::identify(&store)?.as_ref() != Some(&row.storage_id) => {
                return Err(error.into());
            }
            Err(_) => create_record(&db, &store, &masters.current, row, parameters)?,
        };
        let (record, vault_key) = match (read_record(&bytes, &key, row, masters), known) {
            (Err(error @ (Error::Corrupt { .. } | Error::Key { .. })), Some(known)) => {
                let sound = read_record(known.as_bytes(), &key, row, masters)?;
                tracing::error!(%error, "using the database's copy, and putting it back");
                if let Err(error) = store.replace(&key, known.into_bytes()) {
                    tracing::error!(error = %chain(&error), "it could not be put back");
                }
                take_back_if_shredded(&db, &store, row)?;
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
            parameters: record.parameters,
            options,
        })
    }

    /// Makes sure that an object is there and has this length. Where one that was just stored may be
    /// seen late, it is looked for again.
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
        Ok(self.db.write(|c| {
            db::vaults::raise_next_pack(c, self.number, next).map_err(db::DbError::from)
        })?)
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

    /// Stores a root: from here on the backup exists in the store. A root that is there already,
    /// by an earlier run or an upload nobody was told of, stays and is the result. Not every storage
    /// refuses to replace an object, so nothing is sent once the work may not go on.
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
        match self.store.put_new_until(&key, bytes, &until) {
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
        match root.backup.id == *backup && root.is_sound() {
            true => Ok(root),
            false => Err(corrupt("it does not describe this backup")),
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

    /// Removes the root of a backup; its packs follow at a later collection. Nothing is asked for once
    /// the work may not go on: its owner may have decided otherwise since.
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

/// Makes sure that some master key opens a vault, before any is wrapped anew.
pub fn check_opens(
    db: &Db,
    store: &Store,
    vault: &VaultId,
    row: Option<&VaultRow>,
    old: &Keyring,
    new: &MasterKey,
) -> Result<()> {
    opened_record(db, store, &Key::Vault(vault.clone()), row, (old, new)).map(drop)
}

/// The record of a vault, and its key: the database's copy, or, if there is none or it cannot be opened, the
/// stored one. `None`: there is neither, or the vault is being shredded.
fn opened_record(
    db: &Db,
    store: &Store,
    key: &Key,
    row: Option<&VaultRow>,
    (old, new): (&Keyring, &MasterKey),
) -> Result<Option<(VaultRecord, keys::Key)>> {
    let known = match row {
        Some(row) => db.read(|c| db::vaults::record(c, row.number).map_err(db::DbError::from))?,
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

/// Wraps the key of a vault with another master key: first in the database, if it knows the vault, then in
/// the store. May be repeated after it was cut off.
pub fn rewrap(
    db: &Db,
    store: &Store,
    vault: &VaultId,
    row: Option<&VaultRow>,
    old: &Keyring,
    new: &MasterKey,
) -> Result<()> {
    let key = Key::Vault(vault.clone());
    let Some((mut record, vault_key)) = opened_record(db, store, &key, row, (old, new))? else {
        return Ok(());
    };
    record.wrapped_key =
        BASE64_STANDARD.encode(new.wrap(&vault_key, &record.storage, &record.vault));
    record.mac = record.authenticate(&vault_key);
    let json = serde_json::to_string_pretty(&record).expect("own types serialize to JSON");
    let Some(row) = row else {
        return Ok(store.replace(&key, json.into_bytes())?);
    };
    db.write(|c| db::vaults::set_record(c, row.number, &json).map_err(db::DbError::from))?;
    store.replace(&key, json.into_bytes())?;
    take_back_if_shredded(db, store, row)
}

/// Destroys the key of a vault, in the database and in the store: nothing of it can be read any more,
/// wherever copies of its packs may be. Then removes what is stored. Gives how many objects that were.
pub fn shred(db: &Db, store: &Store, row: &VaultRow) -> Result<usize> {
    db.write(|c| {
        db::sessions::end_all(c, &row.id)?;
        db::vaults::set_record(c, row.number, SHREDDED).map_err(db::DbError::from)
    })?;
    let key = Key::Vault(row.id.clone());
    store.delete(&key)?;
    if store.length(&key)?.is_some() {
        return Err(Error::corrupt(&key, "it was deleted and is still there"));
    }
    let mut count = 0;
    // Who was storing something when its session was ended may have stored it since.
    for _ in 0..SHRED_LOOKS_MAX {
        let mut removed = 0;
        let mut folders = pack_folders(store, &row.id)?;
        folders.push(format!("v/{}/", row.id));
        for folder in folders {
            let listed = store.list(&folder)?;
            parallel::each(&listed, 8, |(object, _)| {
                Ok(store.delete(&Key::Stray(object.clone()))?)
            })?;
            removed += listed.len();
        }
        count += removed;
        if removed == 0 {
            break;
        }
    }
    db.write(|c| db::vaults::remove(c, row).map_err(db::DbError::from))?;
    Ok(count)
}

/// Removes a record again that was just stored, if the vault was shredded meanwhile.
fn take_back_if_shredded(db: &Db, store: &Store, row: &VaultRow) -> Result<()> {
    let known = db.read(|c| db::vaults::record(c, row.number).map_err(db::DbError::from))?;
    match known {
        Some(record) if record != SHREDDED => Ok(()),
        _ => {
            let key = Key::Vault(row.id.clone());
            store.delete(&key)?;
            Err(shredded(&key))
        }
    }
}

fn shredded(key: &Key) -> Error {
    Error::Missing {
        object: key.to_string(),
    }
}

fn parse_record(bytes: &[u8], key: &Key) -> Result<VaultRecord> {
    let record: VaultRecord = serde_json::from_slice(bytes)
        .map_err(|_| Error::corrupt(key, "it is not a vault's record"))?;
    match record.version == VERSION && record.parameters.is_sound() {
        true => Ok(record),
        false => Err(Error::corrupt(key, "its version or parameters are unknown")),
    }
}

/// The record and the key in it, if it is this vault's.
fn read_record(
    bytes: &[u8],
    key: &Key,
    row: &VaultRow,
    masters: &Keyring,
) -> Result<(VaultRecord, keys::Key)> {
    let record = parse_record(bytes, key)?;
    if record.vault != row.id || record.storage != row.storage_id {
        return Err(Error::corrupt(key, "it is the record of another vault"));
    }
    let vault_key = unwrapped(&record, key, masters.keys())?;
    Ok((record, vault_key))
}

/// The key in a record, by the first of these master keys that opens it. That a kept one was needed is
/// reported.
fn unwrapped<'m>(
    record: &VaultRecord,
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
                tracing::warn!(object = %key, key = %kept.display(), "only a previous master key opens this vault; run `embervault key rotate` to wrap it with the present one");
            }
            break;
        }
    }
    let vault_key = opened?;
    match record.mac == record.authenticate(&vault_key) {
        true => Ok(vault_key),
        false => Err(Error::corrupt(key, "somebody changed it")),
    }
}

/// Keeps a copy of a sound record, for the day on which the storage's is damaged.
fn keep_record(db: &Db, row: &VaultRow, bytes: Vec<u8>) -> Result<()> {
    if let Ok(text) = String::from_utf8(bytes) {
        db.write(|c| db::vaults::decide_record(c, row.number, &text).map_err(db::DbError::from))?;
    }
    Ok(())
}

/// Stores a vault's record: the one the database has, or a new one; gives the one that is stored. The
/// database decides, as not every storage refuses to replace an object: all who make the vault store
/// the same bytes.
fn create_record(
    db: &Db,
    store: &Store,
    master: &MasterKey,
    row: &VaultRow,
    parameters: &Parameters,
) -> Result<Vec<u8>> {
    let proposed = new_record(master, row, parameters);
    let decided = db.write(|c| {
        db::vaults::decide_record(c, row.number, &proposed).map_err(db::DbError::from)
    })?;
    let key = Key::Vault(row.id.clone());
    if decided == SHREDDED {
        return Err(shredded(&key));
    }
    match store.put_new(&key, decided.into_bytes()) {
        Err(error) if error.kind != StoreErrorKind::Exists => Err(error.into()),
        _ => {
            take_back_if_shredded(db, store, row)?;
            Ok(store.get(&key)?)
        }
    }
}

fn new_record(master: &MasterKey, row: &VaultRow, parameters: &Parameters) -> String {
    let vault_key = keys::Key::random();
    let wrapped = master.wrap(&vault_key, &row.storage_id, &row.id);
    let mut record = VaultRecord {
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
