//! Rows of `records`, read and written by the type of their bodies.

use crate::db::page::{load_page, matching};
use crate::db::{DbConnection, DbResult};
use crate::model::column::Json;
use crate::model::id::{ProjectId, RecordId};
use crate::model::page::{Condition, Filter, Listed, Page};
use crate::model::schema::records;
use crate::model::standalone::stored::{Document, Resource, Stored};
use crate::model::time::Timestamp;
use diesel::prelude::*;

/// The SQL of columns whose value stands in the body, as a text under the column's name.
pub const BODY: &str = "body";

fn typed<T: Resource>(row: Document) -> DbResult<Stored<T>> {
    let Document {
        id,
        kind: _,
        project_id,
        name,
        status,
        body,
        created_at,
        updated_at,
    } = row;
    let body = serde_json::from_value(body.into_inner())
        .map_err(|error| diesel::result::Error::DeserializationError(error.into()))?;
    Ok(Stored {
        id,
        project_id,
        name,
        status,
        body,
        created_at,
        updated_at,
    })
}

fn body_of<T: Resource>(row: &Stored<T>) -> Json<serde_json::Value> {
    Json::new(serde_json::to_value(&row.body).expect("own types have a JSON form"))
}

/// The same conditions; those on what stands in bodies look for it there.
fn looking_inside(filter: &Filter) -> Filter {
    let conditions = filter.conditions.iter().map(|condition| match condition {
        Condition::Text(column, value) if column.sql == BODY => {
            Condition::Entry(column, column.name.to_owned(), value.clone())
        }
        Condition::Contains(column, _) if column.sql == BODY => Condition::Never,
        other => other.clone(),
    });
    Filter {
        project: filter.project.clone(),
        conditions: conditions.collect(),
    }
}

/// One page of the records of a kind that match.
pub fn list<T: Resource>(
    connection: &mut DbConnection,
    filter: &Filter,
    page: &Page,
) -> DbResult<Listed<Stored<T>>> {
    let filter = looking_inside(filter);
    let Listed { rows, is_cut } = load_page!(
        records,
        Document,
        "OCTET_LENGTH(body)",
        matching!(records, filter).filter(records::kind.eq(T::KIND)),
        page,
        connection
    );
    let rows = rows.into_iter().map(typed).collect::<DbResult<_>>()?;
    Ok(Listed { rows, is_cut })
}

/// All records of a kind, oldest first.
pub fn all<T: Resource>(connection: &mut DbConnection) -> DbResult<Vec<Stored<T>>> {
    let rows: Vec<Document> = records::table
        .filter(records::kind.eq(T::KIND))
        .order((records::created_at, records::id))
        .select(Document::as_select())
        .load(connection)?;
    rows.into_iter().map(typed).collect()
}

/// The records of a kind that a project has, oldest first.
pub fn of_project<T: Resource>(
    connection: &mut DbConnection,
    project: &ProjectId,
) -> DbResult<Vec<Stored<T>>> {
    let rows: Vec<Document> = records::table
        .filter(records::kind.eq(T::KIND))
        .filter(records::project_id.eq(project))
        .order((records::created_at, records::id))
        .select(Document::as_select())
        .load(connection)?;
    rows.into_iter().map(typed).collect()
}

/// The records of a kind that are in a state, oldest first.
pub fn in_status<T: Resource>(
    connection: &mut DbConnection,
    status: &str,
) -> DbResult<Vec<Stored<T>>> {
    let rows: Vec<Document> = records::table
        .filter(records::kind.eq(T::KIND))
        .filter(records::status.eq(status))
        .order((records::created_at, records::id))
        .select(Document::as_select())
        .load(connection)?;
    rows.into_iter().map(typed).collect()
}

/// How many records of a kind a project has.
pub fn count<T: Resource>(connection: &mut DbConnection, project: &ProjectId) -> DbResult<i64> {
    Ok(records::table
        .filter(records::kind.eq(T::KIND))
        .filter(records::project_id.eq(project))
        .count()
        .get_result(connection)?)
}

/// The record, whosever it is; `None` also if it is of another kind.
pub fn find<T: Resource>(
    connection: &mut DbConnection,
    id: &RecordId,
) -> DbResult<Option<Stored<T>>> {
    let row: Option<Document> = records::table
        .find(id)
        .filter(records::kind.eq(T::KIND))
        .select(Document::as_select())
        .first(connection)
        .optional()?;
    row.map(typed).transpose()
}

/// The record of a kind that has this name, the oldest if there are several.
pub fn named<T: Resource>(
    connection: &mut DbConnection,
    name: &str,
) -> DbResult<Option<Stored<T>>> {
    let row: Option<Document> = records::table
        .filter(records::kind.eq(T::KIND))
        .filter(records::name.eq(name))
        .order((records::created_at, records::id))
        .select(Document::as_select())
        .first(connection)
        .optional()?;
    row.map(typed).transpose()
}

/// Adds a record.
pub fn insert<T: Resource>(connection: &mut DbConnection, row: &Stored<T>) -> DbResult<()> {
    let record = Document {
        id: row.id.clone(),
        kind: T::KIND.to_owned(),
        project_id: row.project_id.clone(),
        name: row.name.clone(),
        status: row.status.clone(),
        body: body_of(row),
        created_at: row.created_at,
        updated_at: row.updated_at,
    };
    diesel::insert_into(records::table)
        .values(&record)
        .execute(connection)?;
    Ok(())
}

/// Writes name, state and body of a record that was read under its lock.
pub fn update<T: Resource>(
    connection: &mut DbConnection,
    row: &Stored<T>,
    now: Timestamp,
) -> DbResult<()> {
    let body = body_of(row);
    diesel::update(records::table.find(&row.id))
        .set((
            records::name.eq(&row.name),
            records::status.eq(&row.status),
            records::body.eq(&body),
            records::updated_at.eq(now),
        ))
        .execute(connection)?;
    Ok(())
}

/// Removes a record.
pub fn remove(connection: &mut DbConnection, id: &RecordId) -> DbResult<()> {
    diesel::delete(records::table.find(id)).execute(connection)?;
    Ok(())
}
