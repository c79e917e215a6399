//! Storages and vaults as rows.

use crate::model::id::{ProjectId, StorageId, VaultId};
use crate::model::schema::{storages, vaults};
use crate::model::time::Timestamp;
use diesel::prelude::*;

/// One row of `storages`: a configured storage that was opened at least once.
#[derive(Debug, Clone, PartialEq, Eq, Queryable, Selectable, Insertable)]
#[diesel(table_name = storages)]
pub struct StorageRow {
    pub id: StorageId,
    /// The name of its section in the configuration.
    pub name: String,
    /// Tells, without revealing it, which master key wraps the keys of this storage's vaults.
    pub master_key_check: String,
    pub created_at: Timestamp,
}

/// One row of `vaults`: one project in one storage.
#[derive(Debug, Clone, PartialEq, Eq, Queryable, Selectable, Insertable)]
#[diesel(table_name = vaults)]
pub struct VaultRow {
    /// Short key for the rows of packs and chunks; means nothing outside this database.
    pub number: i64,
    pub id: VaultId,
    pub project_id: ProjectId,
    pub storage_id: StorageId,
    pub next_pack: i64,
    pub created_at: Timestamp,
}

impl VaultRow {
    /// Whose data the vault has. One that was taken over beside another vault of its project bears its own id
    /// behind the project's.
    pub fn owner(&self) -> ProjectId {
        let project = self.project_id.as_str();
        ProjectId::new(project.split_once(' ').map_or(project, |(owner, _)| owner))
    }
}
