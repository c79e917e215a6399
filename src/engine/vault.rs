//! A vault: one project's keys, parameters and chunks in one storage.

use crate::config;
use crate::db::{self, Db};
use crate::engine::format::{
    BLOCK_BYTES, ROOT_HEADER_BYTES, ROOT_MAGIC, SALT_BYTES, TAG_BYTES, VERSION,
};
use crate::engine::keys::{self, MasterKey, NONCE_BYTES, VaultKeys, random_bytes};
use crate::engine::manifest::Root;
use crate::engine::{Error, Result, parallel};
use crate::model::id::{BackupId, StorageId, VaultId};
use crate::model::vault::VaultRow;
use crate::store::key::Key;
use crate::store::{Store, StoreErrorKind};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use ring::aead::{Aad, Nonce};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

const ROOT_KEY_CONTEXT: &str = "embervault 2026-11 one root";
/// Bytes of a span in new vaults.
const SPAN_BYTES: u64 = 32 << 20;
/// Longest plain root that is believed.
const ROOT_BYTES_MAX: usize = 64 << 20;

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
        master: &MasterKey,
        row: &VaultRow,
        parameters: &Parameters,
        options: Options,
    ) -> Result<Self> {
        let key = Key::Vault(row.id.clone());
        let record = match store.get(&key) {
            Ok(bytes) => parse_record(&bytes, &key)?,
            Err(error) if error.kind == StoreErrorKind::Missing => {
                let (known, is_used) = db.read(|c| -> std::result::Result<_, db::DbError> {
                    let known = db::vaults::record(c, row.number)?;
                    Ok((known, db::packs::any(c, row.number)?))
                })?;
                if is_used && known.is_none() {
                    return Err(Error::from(error));
                }
                create_record(&db, &store, master, row, parameters)?
            }
            Err(error) => return Err(error.into()),
        };
        if record.vault != row.id || record.storage != row.storage_id {
            return Err(Error::corrupt(&key, "it is the record of another vault"));
        }
        let wrapped = BASE64_STANDARD
            .decode(&record.wrapped_key)
            .map_err(|_| Error::corrupt(&key, "its key is not base64"))?;
        let vault_key = master.unwrap(&wrapped, &record.storage, &record.vault)?;
        if record.mac != record.authenticate(&vault_key) {
            return Err(Error::corrupt(&key, "somebody changed it"));
        }
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

    fn root_key(&self, backup: &BackupId) -> Key {
        Key::Root {
            vault: self.id.clone(),
            backup: backup.clone(),
        }
    }

    /// Stores a root: from here on the backup exists in the store. A root that is there already,
    /// by an earlier run or an upload nobody was told of, stays and is the result.
    pub fn put_root(&self, root: Root) -> Result<Root> {
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
        match self.store.put_new(&key, bytes) {
            Ok(()) if self.store.length(&key)? == Some(length) => Ok(root),
            Ok(()) => Err(Error::Lost {
                object: key.to_string(),
            }),
            Err(error) if error.kind == StoreErrorKind::Exists => self.root(&root.backup.id),
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

    /// The root of a backup, if there is one.
    pub fn find_root(&self, backup: &BackupId) -> Result<Option<Root>> {
        match self.root(backup) {
            Ok(root) => Ok(Some(root)),
            Err(Error::Missing { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether the root of a backup is in the store, unread.
    pub fn has_root(&self, backup: &BackupId) -> Result<bool> {
        match self.store.get(&self.root_key(backup)) {
            Ok(_) => Ok(true),
            Err(error) if error.kind == StoreErrorKind::Missing => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes the root of a backup; its packs follow at a later collection.
    pub fn remove_root(&self, backup: &BackupId) -> Result<()> {
        Ok(self.store.delete(&self.root_key(backup))?)
    }
}

impl Root {
    fn is_sound(&self) -> bool {
        (BLOCK_BYTES as u64..=1 << 30).contains(&self.span_bytes) && self.levels <= 8
    }
}

fn root_header(vault: Uuid, salt: &[u8; SALT_BYTES]) -> [u8; ROOT_HEADER_BYTES] {
    let mut header = [0; ROOT_HEADER_BYTES];
    header[..8].copy_from_slice(ROOT_MAGIC);
    header[8..10].copy_from_slice(&VERSION.to_le_bytes());
    header[16..32].copy_from_slice(vault.as_bytes());
    header[32..].copy_from_slice(salt);
    header
}

/// Wraps the key of a vault with another master key: first in the database, then in the store. May be
/// repeated after it was cut off; a vault that is wrapped with the new one already is left as it is.
pub fn rewrap(
    db: &Db,
    store: &Store,
    row: &VaultRow,
    old: &MasterKey,
    new: &MasterKey,
) -> Result<()> {
    let key = Key::Vault(row.id.clone());
    let known = db.read(|c| db::vaults::record(c, row.number).map_err(db::DbError::from))?;
    let text = match (known, store.get(&key)) {
        (Some(known), _) => known.into_bytes(),
        (None, Ok(bytes)) => bytes,
        (None, Err(error)) if error.kind == StoreErrorKind::Missing => return Ok(()),
        (None, Err(error)) => return Err(error.into()),
    };
    let mut record = parse_record(&text, &key)?;
    let wrapped = BASE64_STANDARD
        .decode(&record.wrapped_key)
        .map_err(|_| Error::corrupt(&key, "its key is not base64"))?;
    let vault_key = new
        .unwrap(&wrapped, &record.storage, &record.vault)
        .or_else(|_| old.unwrap(&wrapped, &record.storage, &record.vault))?;
    if record.mac != record.authenticate(&vault_key) {
        return Err(Error::corrupt(&key, "somebody changed it"));
    }
    record.wrapped_key =
        BASE64_STANDARD.encode(new.wrap(&vault_key, &record.storage, &record.vault));
    record.mac = record.authenticate(&vault_key);
    let json = serde_json::to_string_pretty(&record).expect("own types serialize to JSON");
    db.write(|c| db::vaults::set_record(c, row.number, Some(&json)).map_err(db::DbError::from))?;
    Ok(store.replace(&key, json.into_bytes())?)
}

/// Destroys the key of a vault, in the database and in the store: nothing of it can be read any more,
/// wherever copies of its packs may be. Then removes what is stored. Gives how many objects that were.
pub fn shred(db: &Db, store: &Store, row: &VaultRow) -> Result<usize> {
    db.write(|c| db::vaults::set_record(c, row.number, None).map_err(db::DbError::from))?;
    let key = Key::Vault(row.id.clone());
    store.delete(&key)?;
    if store.length(&key)?.is_some() {
        return Err(Error::corrupt(&key, "it was deleted and is still there"));
    }
    let listed = store.list(&format!("v/{}/", row.id))?;
    parallel::each(&listed, 8, |(object, _)| {
        Ok(store.delete(&Key::Stray(object.clone()))?)
    })?;
    db.write(|c| db::vaults::remove(c, row).map_err(db::DbError::from))?;
    Ok(listed.len())
}

fn parse_record(bytes: &[u8], key: &Key) -> Result<VaultRecord> {
    let record: VaultRecord = serde_json::from_slice(bytes)
        .map_err(|_| Error::corrupt(key, "it is not a vault's record"))?;
    match record.version == VERSION && record.parameters.is_sound() {
        true => Ok(record),
        false => Err(Error::corrupt(key, "its version or parameters are unknown")),
    }
}

/// Stores a vault's record: the one the database has, or a new one. The database decides, as not
/// every storage refuses to replace an object: all who make the vault store the same bytes.
fn create_record(
    db: &Db,
    store: &Store,
    master: &MasterKey,
    row: &VaultRow,
    parameters: &Parameters,
) -> Result<VaultRecord> {
    let proposed = new_record(master, row, parameters);
    let decided = db.write(|c| {
        db::vaults::decide_record(c, row.number, &proposed).map_err(db::DbError::from)
    })?;
    let key = Key::Vault(row.id.clone());
    match store.put_new(&key, decided.clone().into_bytes()) {
        Err(error) if error.kind != StoreErrorKind::Exists => Err(error.into()),
        _ => parse_record(&store.get(&key)?, &key),
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
