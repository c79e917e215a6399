//! Rows of `services`: those an administrator has disabled or frozen.

use crate::db::{DbConnection, DbResult};
use crate::model::schema::services;
use crate::model::time::Timestamp;
use diesel::prelude::*;

/// The settings of an administrator for a service.
#[derive(Debug, Clone, PartialEq, Eq, Queryable, Selectable, Insertable, AsChangeset)]
#[diesel(table_name = services, treat_none_as_null = true)]
pub struct ServiceRow {
    /// Name of the program, such as `cinder-backup`.
    pub name: String,
    pub disabled: bool,
    pub disabled_reason: Option<String>,
    pub frozen: bool,
    pub updated_at: Timestamp,
}

/// The settings of a service, if an administrator has ever made any.
pub fn find(connection: &mut DbConnection, name: &str) -> DbResult<Option<ServiceRow>> {
    Ok(services::table
        .find(name)
        .select(ServiceRow::as_select())
        .first(connection)
        .optional()?)
}

/// Stores the settings of a service.
pub fn put(connection: &mut DbConnection, row: &ServiceRow) -> DbResult<()> {
    let updated = diesel::update(services::table.find(&row.name))
        .set(row)
        .execute(connection)?;
    if updated == 0 {
        diesel::insert_into(services::table)
            .values(row)
            .execute(connection)?;
    }
    Ok(())
}

/// Whether an administrator has disabled a service.
pub fn is_disabled(connection: &mut DbConnection, name: &str) -> DbResult<bool> {
    Ok(find(connection, name)?.is_some_and(|row| row.disabled))
}
