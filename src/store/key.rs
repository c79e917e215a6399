//! Names of objects. The only place with path strings.

use crate::model::id::{BackupId, VaultId};
use crate::model::pack::PackKind;
use std::fmt;

/// The name of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key {
    /// `format.json`: what the storage is.
    Format,
    /// `v/<vault>/vault.json`: parameters and the wrapped key.
    Vault(VaultId),
    /// `v/<vault>/p/<2 hex>/<pack>.<rewrite>`, or `m` for a meta pack. The two digits are the last of
    /// the pack's number.
    Pack {
        vault: VaultId,
        kind: PackKind,
        number: u32,
        rewrite: u32,
    },
    /// `v/<vault>/b/<backup>`: the root, the commit point of a backup.
    Root { vault: VaultId, backup: BackupId },
    /// `check/<name>`: an object that proves that the storage works, and goes again.
    Check(String),
    /// An object found in a list.
    Leftover(String),
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Key::Format => f.write_str("format.json"),
            Key::Vault(vault) => write!(f, "v/{vault}/vault.json"),
            Key::Pack {
                vault,
                kind,
                number,
                rewrite,
            } => {
                let folder = match kind {
                    PackKind::Data => 'p',
                    PackKind::Meta => 'm',
                };
                let shard = number & 0xff;
                write!(f, "v/{vault}/{folder}/{shard:02x}/{number:08x}.{rewrite}")
            }
            Key::Root { vault, backup } => write!(f, "v/{vault}/b/{backup}"),
            Key::Leftover(name) => f.write_str(name),
            Key::Check(name) => write!(f, "check/{name}"),
        }
    }
}

/// The pack of a vault whose object has this name, if it is one: kind, number, rewrite.
pub fn parse_pack(vault: &VaultId, name: &str) -> Option<(PackKind, u32, u32)> {
    let rest = name.strip_prefix(&format!("v/{vault}/"))?;
    let (kind, rest) = match rest.split_once('/')? {
        ("p", rest) => (PackKind::Data, rest),
        ("m", rest) => (PackKind::Meta, rest),
        _ => return None,
    };
    let (number, rewrite) = rest.split_once('/')?.1.split_once('.')?;
    Some((
        kind,
        u32::from_str_radix(number, 16).ok()?,
        rewrite.parse().ok()?,
    ))
}

/// The vault that an object belongs to, if it is one's.
pub fn vault_name(name: &str) -> Option<VaultId> {
    let (vault, _) = name.strip_prefix("v/")?.split_once('/')?;
    let is_id = uuid::Uuid::parse_str(vault).is_ok_and(|id| id.to_string() == vault);
    is_id.then(|| VaultId::new(vault))
}

/// The backup of a vault whose root has this name, if it is one.
pub fn root_name<'n>(vault: &VaultId, name: &'n str) -> Option<&'n str> {
    name.strip_prefix(&format!("v/{vault}/b/"))
        .filter(|backup| uuid::Uuid::parse_str(backup).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_format() {
        let vault = VaultId::new("11111111-2222-4333-8444-555555555555");
        let pack = Key::Pack {
            vault: vault.clone(),
            kind: PackKind::Meta,
            number: 0x1234,
            rewrite: 2,
        };
        assert_eq!(
            pack.to_string(),
            "v/11111111-2222-4333-8444-555555555555/m/34/00001234.2"
        );
        let read = parse_pack(&vault, &pack.to_string());
        assert_eq!(read, Some((PackKind::Meta, 0x1234, 2)));
        let root = Key::Root {
            vault,
            backup: BackupId::new("b"),
        };
        assert_eq!(
            root.to_string(),
            "v/11111111-2222-4333-8444-555555555555/b/b"
        );
    }
}
