//! Identifiers. Each holds its canonical text; an id taken from a path may be any text, and then
//! simply names nothing.

use crate::model::column::text_column;
use diesel::deserialize::FromSqlRow;
use diesel::expression::AsExpression;
use diesel::sql_types::Text;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! id {
    ($($(#[$meta:meta])* $name:ident),+ $(,)?) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, FromSqlRow, AsExpression)]
        #[diesel(sql_type = Text)]
        #[serde(transparent)]
        pub struct $name(String);
        impl $name {
            /// A new id: a random (version 4) UUID, dashed and in lower case.
            pub fn random() -> Self {
                Self(Uuid::new_v4().to_string())
            }
            /// The id with this text.
            pub fn new(text: impl Into<String>) -> Self {
                Self(text.into())
            }
            /// The canonical text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
            fn parse(text: &str) -> Option<Self> {
                Some(Self(text.to_owned()))
            }
        }
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }
        text_column!($name);
    )+};
}

id!(
    /// A backup.
    BackupId,
    /// A volume of the catalogue.
    VolumeId,
    /// A volume snapshot of the catalogue.
    SnapshotId,
    /// An attachment of a volume to a host or server that reads or writes it.
    AttachmentId,
    /// A message to a user.
    MessageId,
    /// A record: QoS specs, a group, its type or snapshot, a transfer.
    RecordId,
    /// A volume type.
    VolumeTypeId,
    /// A Keystone project: 32 hexadecimal digits.
    ProjectId,
    /// A Keystone user: 32 hexadecimal digits.
    UserId,
    /// A configured storage, as its `format.json` names it.
    StorageId,
    /// A vault's random name in the store.
    VaultId,
    /// A job; also the id of the session that a backup job holds on packs.
    JobId,
);

impl VolumeId {
    /// Stands for an unknown volume.
    pub fn unknown() -> Self {
        Self(Uuid::nil().to_string())
    }
}

/// The id of a project that the configuration names: the same in every database, so that what is
/// rebuilt from a storage finds its owner.
pub fn configured_project(name: &str) -> ProjectId {
    let id = Uuid::new_v5(
        &Uuid::NAMESPACE_URL,
        format!("embervault:project:{name}").as_bytes(),
    );
    ProjectId::new(id.simple().to_string())
}

/// A new id in Keystone's form: 32 hexadecimal digits.
pub fn keystone_id() -> String {
    Uuid::new_v4().simple().to_string()
}
