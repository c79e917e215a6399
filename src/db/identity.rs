//! Rows of the embedded identity: users, projects, assignments, tokens, application credentials.

use crate::db::DbConnection;
use crate::model::id::{ProjectId, UserId};
use crate::model::identity::{ApplicationCredential, Assignment, Project, Role, TokenRow, User};
use crate::model::schema::{application_credentials, assignments, projects, tokens, users};
use crate::model::time::Timestamp;
use diesel::prelude::*;

/// The user of this name.
pub fn user_by_name(connection: &mut DbConnection, name: &str) -> QueryResult<Option<User>> {
    users::table
        .filter(users::name.eq(name))
        .select(User::as_select())
        .first(connection)
        .optional()
}

/// The user.
pub fn user(connection: &mut DbConnection, id: &UserId) -> QueryResult<Option<User>> {
    users::table
        .find(id)
        .select(User::as_select())
        .first(connection)
        .optional()
}

/// Adds a user, or gives the user of that name another password.
pub fn put_user(connection: &mut DbConnection, row: &User) -> QueryResult<UserId> {
    if let Some(known) = user_by_name(connection, &row.name)? {
        diesel::update(users::table.find(&known.id))
            .set(users::password_hash.eq(&row.password_hash))
            .execute(connection)?;
        return Ok(known.id);
    }
    diesel::insert_into(users::table)
        .values(row)
        .execute(connection)?;
    Ok(row.id.clone())
}

/// The project of this name.
pub fn project_by_name(connection: &mut DbConnection, name: &str) -> QueryResult<Option<Project>> {
    projects::table
        .filter(projects::name.eq(name))
        .select(Project::as_select())
        .first(connection)
        .optional()
}

/// The project.
pub fn project(connection: &mut DbConnection, id: &ProjectId) -> QueryResult<Option<Project>> {
    projects::table
        .find(id)
        .select(Project::as_select())
        .first(connection)
        .optional()
}

/// All projects, by name.
pub fn list_projects(connection: &mut DbConnection) -> QueryResult<Vec<Project>> {
    projects::table
        .order(projects::name)
        .select(Project::as_select())
        .load(connection)
}

/// The project of this name; added if there is none.
pub fn put_project(connection: &mut DbConnection, row: &Project) -> QueryResult<ProjectId> {
    if let Some(known) = project_by_name(connection, &row.name)? {
        return Ok(known.id);
    }
    diesel::insert_into(projects::table)
        .values(row)
        .execute(connection)?;
    Ok(row.id.clone())
}

/// The role of a user in a project.
pub fn role_of(
    connection: &mut DbConnection,
    user: &UserId,
    project: &ProjectId,
) -> QueryResult<Option<Role>> {
    assignments::table
        .find((user, project))
        .select(assignments::role)
        .first(connection)
        .optional()
}

/// Projects in which a user has a role, by name.
pub fn projects_of(connection: &mut DbConnection, user: &UserId) -> QueryResult<Vec<Project>> {
    let ids = assignments::table
        .filter(assignments::user_id.eq(user))
        .select(assignments::project_id)
        .load::<ProjectId>(connection)?;
    projects::table
        .filter(projects::id.eq_any(ids))
        .order(projects::name)
        .select(Project::as_select())
        .load(connection)
}

/// Gives a user a role in a project, in place of any other.
pub fn put_assignment(connection: &mut DbConnection, row: &Assignment) -> QueryResult<()> {
    diesel::delete(assignments::table.find((&row.user_id, &row.project_id))).execute(connection)?;
    diesel::insert_into(assignments::table)
        .values(row)
        .execute(connection)
        .map(|_| ())
}

/// All users, by name.
pub fn list_users(connection: &mut DbConnection) -> QueryResult<Vec<User>> {
    users::table
        .order(users::name)
        .select(User::as_select())
        .load(connection)
}

/// Removes a user with all that is theirs here. `false`: there is none.
pub fn remove_user(connection: &mut DbConnection, id: &UserId) -> QueryResult<bool> {
    diesel::delete(tokens::table.filter(tokens::user_id.eq(id))).execute(connection)?;
    let credentials = application_credentials::table;
    diesel::delete(credentials.filter(application_credentials::user_id.eq(id)))
        .execute(connection)?;
    diesel::delete(assignments::table.filter(assignments::user_id.eq(id))).execute(connection)?;
    diesel::delete(users::table.find(id))
        .execute(connection)
        .map(|count| count == 1)
}

/// Removes a project with the roles and tokens in it. `false`: there is none.
pub fn remove_project(connection: &mut DbConnection, id: &ProjectId) -> QueryResult<bool> {
    diesel::delete(tokens::table.filter(tokens::project_id.eq(id))).execute(connection)?;
    let credentials = application_credentials::table;
    diesel::delete(credentials.filter(application_credentials::project_id.eq(id)))
        .execute(connection)?;
    diesel::delete(assignments::table.filter(assignments::project_id.eq(id)))
        .execute(connection)?;
    diesel::delete(projects::table.find(id))
        .execute(connection)
        .map(|count| count == 1)
}

/// Adds a token, and drops those that have expired.
pub fn insert_token(
    connection: &mut DbConnection,
    row: &TokenRow,
    now: Timestamp,
) -> QueryResult<()> {
    diesel::delete(tokens::table.filter(tokens::expires_at.lt(now))).execute(connection)?;
    diesel::insert_into(tokens::table)
        .values(row)
        .execute(connection)
        .map(|_| ())
}

/// The token with this hash, unless it has expired.
pub fn find_token(
    connection: &mut DbConnection,
    hash: &[u8],
    now: Timestamp,
) -> QueryResult<Option<TokenRow>> {
    tokens::table
        .filter(tokens::hash.eq(hash).and(tokens::expires_at.ge(now)))
        .select(TokenRow::as_select())
        .first(connection)
        .optional()
}

/// Revokes a token.
pub fn remove_token(connection: &mut DbConnection, hash: &[u8]) -> QueryResult<()> {
    diesel::delete(tokens::table.filter(tokens::hash.eq(hash)))
        .execute(connection)
        .map(|_| ())
}

/// Adds an application credential. Fails on the unique index if the user has one of that name.
pub fn insert_credential(
    connection: &mut DbConnection,
    row: &ApplicationCredential,
) -> QueryResult<()> {
    diesel::insert_into(application_credentials::table)
        .values(row)
        .execute(connection)
        .map(|_| ())
}

/// The application credential with this id.
pub fn credential(
    connection: &mut DbConnection,
    id: &str,
) -> QueryResult<Option<ApplicationCredential>> {
    application_credentials::table
        .find(id)
        .select(ApplicationCredential::as_select())
        .first(connection)
        .optional()
}

/// Application credentials of a user, by name.
pub fn credentials_of(
    connection: &mut DbConnection,
    user: &UserId,
) -> QueryResult<Vec<ApplicationCredential>> {
    application_credentials::table
        .filter(application_credentials::user_id.eq(user))
        .order(application_credentials::name)
        .select(ApplicationCredential::as_select())
        .load(connection)
}

/// Removes an application credential and revokes its tokens.
pub fn remove_credential(connection: &mut DbConnection, id: &str) -> QueryResult<()> {
    diesel::delete(tokens::table.filter(tokens::application_credential_id.eq(id)))
        .execute(connection)?;
    diesel::delete(application_credentials::table.find(id))
        .execute(connection)
        .map(|_| ())
}
