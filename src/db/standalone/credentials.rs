//! Rows of `application_credentials`. They end with what they were given with: the user, the project, the role.

use crate::db::{DbConnection, DbResult};
use crate::model::id::{ProjectId, UserId};
use crate::model::schema::{application_credentials, tokens};
use crate::model::standalone::identity::ApplicationCredential;
use diesel::prelude::*;

/// Adds an application credential. Fails on the unique index if the user has one of that name.
pub fn insert(connection: &mut DbConnection, row: &ApplicationCredential) -> DbResult<()> {
    diesel::insert_into(application_credentials::table)
        .values(row)
        .execute(connection)?;
    Ok(())
}

/// The application credential with this id.
pub fn find(connection: &mut DbConnection, id: &str) -> DbResult<Option<ApplicationCredential>> {
    Ok(application_credentials::table
        .find(id)
        .select(ApplicationCredential::as_select())
        .first(connection)
        .optional()?)
}

/// The application credential of a user that bears this name.
pub fn find_by_name(
    connection: &mut DbConnection,
    user: &UserId,
    name: &str,
) -> DbResult<Option<ApplicationCredential>> {
    Ok(application_credentials::table
        .filter(application_credentials::user_id.eq(user))
        .filter(application_credentials::name.eq(name))
        .select(ApplicationCredential::as_select())
        .first(connection)
        .optional()?)
}

/// Application credentials of a user, by name.
pub fn of_user(
    connection: &mut DbConnection,
    user: &UserId,
) -> DbResult<Vec<ApplicationCredential>> {
    Ok(application_credentials::table
        .filter(application_credentials::user_id.eq(user))
        .order(application_credentials::name)
        .select(ApplicationCredential::as_select())
        .load(connection)?)
}

/// How many application credentials a user has.
pub fn count(connection: &mut DbConnection, user: &UserId) -> DbResult<i64> {
    Ok(application_credentials::table
        .filter(application_credentials::user_id.eq(user))
        .count()
        .get_result(connection)?)
}

/// Removes an application credential and revokes its tokens.
pub fn remove(connection: &mut DbConnection, id: &str) -> DbResult<()> {
    diesel::delete(tokens::table.filter(tokens::application_credential_id.eq(id)))
        .execute(connection)?;
    diesel::delete(application_credentials::table.find(id)).execute(connection)?;
    Ok(())
}

/// Removes a user's application credentials: those in one project, or all. Their tokens end with them.
pub fn remove_of_user(
    connection: &mut DbConnection,
    user: &UserId,
    project: Option<&ProjectId>,
) -> DbResult<()> {
    let of_user = application_credentials::table.filter(application_credentials::user_id.eq(user));
    match project {
        Some(project) => {
            let there = of_user.filter(application_credentials::project_id.eq(project));
            diesel::delete(there).execute(connection)?;
        }
        None => {
            diesel::delete(of_user).execute(connection)?;
        }
    }
    Ok(())
}
