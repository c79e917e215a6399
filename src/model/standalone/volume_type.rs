//! Volume types, as the standalone catalogue keeps them.

use crate::model::column::Json;
use crate::model::id::VolumeTypeId;
use crate::model::schema::volume_types;
use crate::model::time::Timestamp;
use diesel::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// One row of `volume_types`.
#[derive(Debug, Clone, PartialEq, Eq, Queryable, Selectable, Insertable)]
#[diesel(table_name = volume_types)]
pub struct VolumeType {
    pub id: VolumeTypeId,
    pub name: String,
    pub description: Option<String>,
    pub is_public: bool,
    pub extra_specs: Json<BTreeMap<String, String>>,
    pub created_at: Timestamp,
    pub updated_at: Option<Timestamp>,
    pub qos_specs_id: Option<String>,
    pub encryption: Option<Json<TypeEncryption>>,
    /// Projects that may use the type although it is not public.
    pub projects: Json<BTreeSet<String>>,
}

/// How volumes of a type would be encrypted. Kept for clients; standalone volumes are not encrypted.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct TypeEncryption {
    pub encryption_id: String,
    pub provider: String,
    pub control_location: String,
    pub cipher: Option<String>,
    pub key_size: Option<i64>,
    pub created_at: Timestamp,
    pub updated_at: Option<Timestamp>,
}

/// Name of the type every installation has.
pub const DEFAULT_TYPE_NAME: &str = "__DEFAULT__";
