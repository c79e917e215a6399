//! Rows of `volume_types`, as their administrators change them.

use crate::db::page::{Predicate, condition, load_page};
use crate::db::{DbConnection, DbResult};
use crate::model::id::{ProjectId, VolumeTypeId};
use crate::model::page::{Column, Condition, Kind, Listed, Page};
use crate::model::schema::{volume_types, volumes};
use crate::model::standalone::volume_type::VolumeType;
use diesel::prelude::*;

/// A lock: a transaction that changes volume types holds it.
pub const CHANGED: &str = "volume types";

/// The columns by which lists of volume types can be filtered and sorted. `is_public` is a text for requests,
/// where it may be `None`; it is not given to the database.
pub static COLUMNS: &[Column] = &[
    Column::new("id", "id", Kind::Text),
    Column::new("created_at", "created_at", Kind::Time),
    Column::nullable("updated_at", "updated_at", Kind::Time),
    Column::new("name", "name", Kind::Text),
    Column::nullable("description", "description", Kind::Text),
    Column::new("is_public", "CAST(is_public AS TEXT)", Kind::Text),
    Column::new("extra_specs", "extra_specs", Kind::Map),
    Column::nullable("qos_specs_id", "qos_specs_id", Kind::Text),
];

static IS_PUBLIC: Column = Column::new("is_public", "is_public", Kind::Flag);
static PROJECTS: Column = Column::new("projects", "projects", Kind::Text);

/// Which types a list shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown<'a> {
    All,
    Private,
    /// The public ones, and those that are open to the project.
    OpenTo(&'a ProjectId),
}

/// One page of the volume types that match.
pub fn list(
    connection: &mut DbConnection,
    shown: Shown<'_>,
    conditions: &[Condition],
    page: &Page,
) -> DbResult<Listed<VolumeType>> {
    let matching = || {
        let mut query = volume_types::table.into_boxed();
        if let Some(shown) = predicate(shown) {
            query = query.filter(shown);
        }
        for wanted in conditions {
            query = query.filter(condition::<volume_types::table>(wanted));
        }
        query
    };
    Ok(load_page!(
        volume_types,
        VolumeType,
        "OCTET_LENGTH(extra_specs) + OCTET_LENGTH(projects)",
        matching(),
        page,
        connection
    ))
}

fn predicate(shown: Shown<'_>) -> Option<Predicate<volume_types::table>> {
    let is_public = |flag| condition::<volume_types::table>(&Condition::Flag(&IS_PUBLIC, flag));
    match shown {
        Shown::All => None,
        Shown::Private => Some(is_public(false)),
        Shown::OpenTo(project) => {
            // The set is stored as a JSON list of texts.
            let theirs = Condition::Contains(&PROJECTS, format!("\"{project}\""));
            let theirs = condition::<volume_types::table>(&theirs);
            Some(Box::new(is_public(true).or(theirs)))
        }
    }
}

/// The volume type of this id.
pub fn find(connection: &mut DbConnection, id: &VolumeTypeId) -> DbResult<Option<VolumeType>> {
    Ok(volume_types::table
        .find(id)
        .select(VolumeType::as_select())
        .first(connection)
        .optional()?)
}

/// The volume types that have these QoS specs, by name.
pub fn of_qos(connection: &mut DbConnection, qos_specs_id: &str) -> DbResult<Vec<VolumeType>> {
    Ok(volume_types::table
        .filter(volume_types::qos_specs_id.eq(qos_specs_id))
        .order(volume_types::name)
        .select(VolumeType::as_select())
        .load(connection)?)
}

/// Writes all of a volume type that was read under its lock.
pub fn update(connection: &mut DbConnection, row: &VolumeType) -> DbResult<()> {
    let VolumeType {
        id,
        name,
        description,
        is_public,
        extra_specs,
        created_at: _,
        updated_at,
        qos_specs_id,
        encryption,
        projects,
    } = row;
    diesel::update(volume_types::table.find(id))
        .set((
            volume_types::name.eq(name),
            volume_types::description.eq(description),
            volume_types::is_public.eq(*is_public),
            volume_types::extra_specs.eq(extra_specs),
            volume_types::updated_at.eq(*updated_at),
            volume_types::qos_specs_id.eq(qos_specs_id),
            volume_types::encryption.eq(encryption),
            volume_types::projects.eq(projects),
        ))
        .execute(connection)?;
    Ok(())
}

/// Removes a volume type.
pub fn remove(connection: &mut DbConnection, id: &VolumeTypeId) -> DbResult<()> {
    diesel::delete(volume_types::table.find(id)).execute(connection)?;
    Ok(())
}

/// Whether there are volumes of the type.
pub fn is_used(connection: &mut DbConnection, id: &VolumeTypeId) -> DbResult<bool> {
    Ok(diesel::select(diesel::dsl::exists(
        volumes::table.filter(volumes::volume_type_id.eq(id)),
    ))
    .get_result(connection)?)
}
