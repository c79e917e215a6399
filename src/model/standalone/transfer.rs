//! Transfers: a volume is offered, and any user who has the key can accept it.

use crate::model::error::Error;
use crate::model::id::{RecordId, VolumeId};
use crate::model::page::{Column, Kind};
use crate::model::standalone::stored::Resource;
use serde::{Deserialize, Serialize};

/// The body of a transfer. It is gone as soon as it is accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeTransfer {
    pub volume_id: VolumeId,
    /// Whether the volume's snapshots stay where they are.
    pub no_snapshots: bool,
    /// Random, in hexadecimal digits.
    pub salt: String,
    /// BLAKE3 of salt and key, 64 hexadecimal digits. The key is random, so a slow hash would
    /// protect nothing.
    pub key_hash: String,
}

impl Resource for VolumeTransfer {
    const KIND: &'static str = "volume_transfer";

    fn missing(id: &RecordId) -> Error {
        Error::not_found("Transfer", id)
    }
}

/// The columns by which lists of transfers are filtered and sorted.
pub static COLUMNS: &[Column] = &[
    Column::new("id", "id", Kind::Text),
    Column::new("created_at", "created_at", Kind::Time),
    Column::nullable("updated_at", "updated_at", Kind::Time),
    Column::nullable("name", "name", Kind::Text),
    Column::nullable("display_name", "name", Kind::Text),
    Column::new("volume_id", "body", Kind::Text),
];
