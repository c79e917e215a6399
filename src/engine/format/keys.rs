//! Keys: the master key wraps one random key for each vault; everything else is derived from it.

use crate::engine::{Error, Result};
use crate::model::id::{StorageId, VaultId};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Bytes of every key.
pub const KEY_BYTES: usize = 32;
/// Bytes of an AES-GCM nonce.
pub const NONCE_BYTES: usize = 12;

/// A key. Its bytes are never printed.
#[derive(Clone)]
pub struct Key([u8; KEY_BYTES]);

impl Key {
    /// A new random key.
    pub fn random() -> Self {
        Self(random_bytes())
    }

    /// A key for another use. Contexts are fixed texts, as BLAKE3's `derive_key` wants them.
    fn derive(&self, context: &str) -> Key {
        Key(blake3::derive_key(context, &self.0))
    }

    /// A key for one object, told apart by its random salt.
    pub fn salted(&self, context: &str, salt: &[u8]) -> Key {
        let mut hasher = blake3::Hasher::new_derive_key(context);
        hasher.update(&self.0);
        hasher.update(salt);
        Key(*hasher.finalize().as_bytes())
    }

    /// A code of bytes that only holders of the key can make, as 64 hexadecimal digits. It shows whether the bytes were
    /// changed.
    pub fn authenticate(&self, context: &str, bytes: &[u8]) -> String {
        blake3::keyed_hash(&self.derive(context).0, bytes)
            .to_hex()
            .to_string()
    }

    /// The key as AES-256-GCM takes it.
    pub fn sealing(&self) -> LessSafeKey {
        let key = UnboundKey::new(&AES_256_GCM, &self.0).expect("the key has the cipher's length");
        LessSafeKey::new(key)
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(<hidden>)")
    }
}

/// Bytes from the system's generator.
pub fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the system gives random bytes");
    bytes
}

/// Why there is no usable master key.
#[derive(Debug, thiserror::Error)]
pub enum MasterKeyError {
    #[error("master key {}", path.display())]
    Io {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("master key {}: must be 64 hexadecimal digits", .0.display())]
    Form(PathBuf),
    #[error("master key {}: others can read it; run chmod 600 on it", .0.display())]
    Mode(PathBuf),
}

/// The key that wraps the keys of vaults.
#[derive(Debug, Clone)]
pub struct MasterKey(Key);

impl MasterKey {
    /// Reads the key file; `None` if there is none.
    pub fn load(path: &Path) -> std::result::Result<Option<Self>, MasterKeyError> {
        let io = |source| MasterKeyError::Io {
            path: path.to_owned(),
            source,
        };
        let text = match std::fs::read_to_string(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            text => text.map_err(io)?,
        };
        let mode = std::fs::metadata(path).map_err(io)?.permissions().mode();
        if mode & 0o077 != 0 {
            return Err(MasterKeyError::Mode(path.to_owned()));
        }
        let bytes = parse_hex(text.trim()).ok_or(MasterKeyError::Form(path.to_owned()))?;
        Ok(Some(Self(Key(bytes))))
    }

    /// Makes a key and its file, which must not exist, with mode 0600.
    pub fn create(path: &Path) -> std::result::Result<Self, MasterKeyError> {
        let key = Key::random();
        let hex: String = key.0.iter().map(|byte| format!("{byte:02x}")).collect();
        let write = || {
            let folder = path
                .parent()
                .filter(|folder| !folder.as_os_str().is_empty());
            if let Some(folder) = folder.filter(|folder| !folder.exists()) {
                std::fs::create_dir_all(folder)?;
                std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700))?;
            }
            // The file is written under another name and then linked, so a key file is never incomplete.
            let partial = path.with_extension(PARTIAL);
            std::fs::remove_file(&partial).ok();
            let mut file = OpenOptions::new()
                .create_new(true)
                .write(true)
                .mode(0o600)
                .open(&partial)?;
            writeln!(file, "{hex}")?;
            file.sync_all()?;
            std::fs::hard_link(&partial, path)?;
            std::fs::remove_file(&partial)?;
            std::fs::File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
        };
        write().map_err(|source| MasterKeyError::Io {
            path: path.to_owned(),
            source,
        })?;
        Ok(Self(key))
    }

    /// A fixed key, for tests.
    pub fn for_tests(byte: u8) -> Self {
        Self(Key([byte; KEY_BYTES]))
    }

    /// Tells master keys apart without revealing them.
    pub fn check(&self) -> String {
        let check = self.0.derive("embervault 2026-11 master key check");
        check.0[..8]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }

    /// Seals a vault's key: `nonce (12) · ciphertext (32) · tag (16)`.
    pub fn wrap(&self, key: &Key, storage: &StorageId, vault: &VaultId) -> Vec<u8> {
        let nonce = random_bytes::<NONCE_BYTES>();
        let mut bytes = key.0.to_vec();
        self.wrapping()
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(wrap_context(storage, vault)),
                &mut bytes,
            )
            .expect("32 bytes can be sealed");
        [nonce.as_slice(), &bytes].concat()
    }

    /// Opens a wrapped key.
    pub fn unwrap(&self, wrapped: &[u8], storage: &StorageId, vault: &VaultId) -> Result<Key> {
        let refused = || Error::Key {
            object: format!("v/{vault}/vault.json"),
        };
        let (nonce, sealed) = wrapped.split_first_chunk().ok_or_else(refused)?;
        let mut sealed = sealed.to_vec();
        let plain = self
            .wrapping()
            .open_in_place(
                Nonce::assume_unique_for_key(*nonce),
                Aad::from(wrap_context(storage, vault)),
                &mut sealed,
            )
            .map_err(|_| refused())?;
        let bytes = <[u8; KEY_BYTES]>::try_from(&*plain).map_err(|_| refused())?;
        Ok(Key(bytes))
    }

    fn wrapping(&self) -> LessSafeKey {
        self.0
            .derive("embervault 2026-11 vault key wrapping")
            .sealing()
    }
}

fn wrap_context(storage: &StorageId, vault: &VaultId) -> Vec<u8> {
    format!("{storage} {vault}").into_bytes()
}

fn parse_hex(text: &str) -> Option<[u8; KEY_BYTES]> {
    let mut bytes = [0; KEY_BYTES];
    if text.len() != 2 * KEY_BYTES || !text.is_ascii() {
        return None;
    }
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * index..2 * index + 2], 16).ok()?;
    }
    Some(bytes)
}

/// Extension of the new key's file while the master key is being changed.
pub const NEXT: &str = "next";

/// Extension of a key's file while it is being created. A process that is killed then leaves the file, perhaps as a
/// second name of a key in use.
const PARTIAL: &str = "partial";

/// The master key, and those that it has replaced. A replaced key is kept beside the key file as
/// `NAME.previous-1`, `NAME.previous-2` and so on, the oldest first. The program never removes or replaces
/// one: a vault that only such a key opens may appear at any time, for example with an old storage.
#[derive(Debug, Clone)]
pub struct Keyring {
    pub current: MasterKey,
    /// The youngest first.
    kept: Vec<(PathBuf, MasterKey)>,
    /// A `partial` file, if there is one.
    pub leftover: Option<PathBuf>,
}

impl Keyring {
    /// One key alone.
    pub fn of(current: MasterKey) -> Self {
        Self {
            current,
            kept: Vec::new(),
            leftover: None,
        }
    }

    /// Reads the key file and the kept ones beside it; `None` if there is no key file.
    pub fn load(path: &Path) -> std::result::Result<Option<Self>, MasterKeyError> {
        let Some(current) = MasterKey::load(path)? else {
            return Ok(None);
        };
        let mut kept = Vec::new();
        for (_, path) in kept_files(path)?.into_iter().rev() {
            if let Some(key) = MasterKey::load(&path)? {
                kept.push((path, key));
            }
        }
        // The new key of an interrupted rotation: some vaults may be wrapped with it already.
        let next = path.with_extension(NEXT);
        if let Some(key) = MasterKey::load(&next)? {
            kept.push((next, key));
        }
        let leftover = Some(path.with_extension(PARTIAL)).filter(|path| path.exists());
        Ok(Some(Self {
            current,
            kept,
            leftover,
        }))
    }

    /// All keys, each with its file where it is a kept one, in the order in which they are tried.
    pub fn keys(&self) -> impl Iterator<Item = (Option<&Path>, &MasterKey)> {
        let kept = self
            .kept
            .iter()
            .map(|(path, key)| (Some(path.as_path()), key));
        std::iter::once((None, &self.current)).chain(kept)
    }

    /// The new key of an interrupted rotation, and its file.
    pub fn unfinished(&self) -> Option<(&Path, &MasterKey)> {
        let is_next = |path: &Path| path.extension().is_some_and(|end| end == NEXT);
        self.kept
            .iter()
            .find(|(path, _)| is_next(path))
            .map(|(path, key)| (path.as_path(), key))
    }

    /// Makes a key the current one: its file is renamed, and the file of the current key is kept under the next number.
    /// Gives the name of the kept file. Can be repeated after an interruption.
    pub fn promote(
        &self,
        next: &Path,
        path: &Path,
    ) -> std::result::Result<PathBuf, MasterKeyError> {
        let folder = path.parent().unwrap_or(Path::new("."));
        let is_kept = |(_, key): &&(PathBuf, MasterKey)| key.check() == self.current.check();
        let kept = match self.kept.iter().find(is_kept) {
            Some((kept, _)) => kept.clone(),
            None => {
                let files = kept_files(path)?;
                let last = files.last().map_or(0, |(number, _)| *number);
                // Under a name that is taken, the key would be lost.
                let number = last.checked_add(1).ok_or_else(|| MasterKeyError::Io {
                    path: path.with_extension(format!("previous-{last}")),
                    source: std::io::Error::other("there is no next number"),
                })?;
                path.with_extension(format!("previous-{number}"))
            }
        };
        let promote = || {
            if !kept.exists() {
                std::fs::hard_link(path, &kept)?;
            }
            std::fs::rename(next, path)?;
            // It is not used as a key, but may be a copy of one.
            if let Some(leftover) = self.leftover.as_ref().filter(|file| file.exists()) {
                std::fs::remove_file(leftover)?;
            }
            std::fs::File::open(folder)?.sync_all()
        };
        promote().map_err(|source| MasterKeyError::Io {
            path: path.to_owned(),
            source,
        })?;
        Ok(kept)
    }
}

/// The files of kept keys beside a key file, by number. A file without a number is from an earlier version.
fn kept_files(path: &Path) -> std::result::Result<Vec<(u32, PathBuf)>, MasterKeyError> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let list = || {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(folder)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            let number = match name.strip_prefix(&format!("{stem}.previous")) {
                Some("") => Some(0),
                Some(rest) => rest
                    .strip_prefix('-')
                    .and_then(|number| number.parse().ok()),
                None => None,
            };
            found.extend(number.map(|number| (number, folder.join(&name))));
        }
        found.sort();
        Ok(found)
    };
    list().map_err(|source| MasterKeyError::Io {
        path: folder.to_owned(),
        source,
    })
}

/// The keys that are derived from a vault's key.
pub struct VaultKeys {
    /// Of chunk ids.
    pub id: [u8; KEY_BYTES],
    /// Seed of FastCDC's gear table, so that lengths do not fingerprint known content. Never 0.
    pub cut_seed: u64,
    /// Secret of XXH3 for sums.
    pub sums: Box<[u8; 192]>,
    /// Of sealed chunks.
    pub pack: Key,
    /// Of trailers.
    pub trailer: Key,
    /// Of roots.
    pub root: Key,
}

impl VaultKeys {
    /// Derives all of them.
    pub fn derive(key: &Key) -> Self {
        let seed = key.derive("embervault 2026-11 chunk boundaries").0;
        let mut sums = Box::new([0; 192]);
        blake3::Hasher::new_derive_key("embervault 2026-11 sums")
            .update(&key.0)
            .finalize_xof()
            .fill(sums.as_mut_slice());
        Self {
            id: key.derive("embervault 2026-11 chunk ids").0,
            cut_seed: u64::from_le_bytes(*seed.first_chunk().expect("32 bytes hold 8")) | 1,
            sums,
            pack: key.derive("embervault 2026-11 packs"),
            trailer: key.derive("embervault 2026-11 trailers"),
            root: key.derive("embervault 2026-11 roots"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrapped_key_opens_only_with_its_master_key_and_in_its_place() {
        let (storage, vault) = (StorageId::random(), VaultId::random());
        let key = Key::random();
        let wrapped = MasterKey::for_tests(1).wrap(&key, &storage, &vault);
        let opened = MasterKey::for_tests(1)
            .unwrap(&wrapped, &storage, &vault)
            .unwrap();
        assert_eq!(opened.0, key.0);
        assert!(
            MasterKey::for_tests(2)
                .unwrap(&wrapped, &storage, &vault)
                .is_err()
        );
        assert!(
            MasterKey::for_tests(1)
                .unwrap(&wrapped, &storage, &VaultId::random())
                .is_err()
        );
        assert!(
            MasterKey::for_tests(1)
                .unwrap(&wrapped[..20], &storage, &vault)
                .is_err()
        );
        assert!(
            MasterKey::for_tests(1)
                .unwrap(&[], &storage, &vault)
                .is_err()
        );
    }

    #[test]
    fn no_key_is_given_up_when_the_numbers_of_kept_keys_are_used_up() {
        let dir = tempfile::tempdir().unwrap();
        let [path, next, last] = ["key", "next", "previous-4294967295"]
            .map(|end| dir.path().join("master").with_extension(end));
        let [old, ..] = [&path, &next, &last].map(|file| MasterKey::create(file).unwrap());
        let keys = Keyring::load(&path).unwrap().unwrap();
        let error = keys.promote(&next, &path).unwrap_err();
        assert!(error.to_string().contains("previous-4294967295"), "{error}");
        let kept = MasterKey::load(&path).unwrap().unwrap();
        assert_eq!(kept.check(), old.check());
    }

    #[test]
    fn a_key_file_is_private_found_again_and_checked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys/master.key");
        assert!(MasterKey::load(&path).unwrap().is_none());
        let made = MasterKey::create(&path).unwrap();
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(
            MasterKey::load(&path).unwrap().unwrap().check(),
            made.check()
        );
        assert!(
            MasterKey::create(&path).is_err(),
            "a key must never be replaced"
        );
        std::fs::write(&path, "short").unwrap();
        assert!(matches!(
            MasterKey::load(&path),
            Err(MasterKeyError::Form(_))
        ));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(
            MasterKey::load(&path),
            Err(MasterKeyError::Mode(_))
        ));
    }
}
