//! Small resources of standalone mode that nothing else is joined with: QoS specs, groups and their
//! types, transfers. They share one table; what makes a kind is the JSON in `body`.

use crate::model::column::Json;
use crate::model::error::Error;
use crate::model::id::{ProjectId, RecordId};
use crate::model::schema::records;
use crate::model::time::Timestamp;
use diesel::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// One row of `records`.
#[derive(Debug, Clone, PartialEq, Eq, Queryable, Selectable, Insertable)]
#[diesel(table_name = records)]
pub struct Document {
    pub id: RecordId,
    pub kind: String,
    pub project_id: ProjectId,
    pub name: Option<String>,
    pub status: String,
    pub body: Json<serde_json::Value>,
    pub created_at: Timestamp,
    pub updated_at: Option<Timestamp>,
}

/// The body of one kind of document.
pub trait Resource: Serialize + DeserializeOwned {
    /// The word in the column `kind`.
    const KIND: &'static str;

    /// The message to a client if no resource has this id.
    fn missing(id: &RecordId) -> Error;
}

/// A document whose body was understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored<T> {
    pub id: RecordId,
    /// The owner; for what all projects share, the project that created it.
    pub project_id: ProjectId,
    pub name: Option<String>,
    /// A word of the kind's own; empty where the kind has no states.
    pub status: String,
    pub body: T,
    pub created_at: Timestamp,
    pub updated_at: Option<Timestamp>,
}

impl<T> Stored<T> {
    /// A new record.
    pub fn new(
        project_id: ProjectId,
        name: Option<String>,
        status: &str,
        body: T,
        now: Timestamp,
    ) -> Self {
        Self {
            id: RecordId::random(),
            project_id,
            name,
            status: status.to_owned(),
            body,
            created_at: now,
            updated_at: None,
        }
    }
}
