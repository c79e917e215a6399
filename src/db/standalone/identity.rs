//! Rows of the embedded identity: users, projects, assignments, tokens.

use crate::db::standalone::credentials;
use crate::db::{self, DbConnection, DbResult};
use crate::model::column::Json;
use crate::model::id::{ProjectId, UserId};
use crate::model::role::Role;
use crate::model::schema::{application_credentials, assignments, projects, tokens, users};
use crate::model::standalone::identity::{
    ApplicationCredential, Assignment, FoundToken, NamedAssignment, Origin, Project, TokenRow, User,
};
use crate::model::time::Timestamp;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Nullable, Text};

/// Rows in one page. Each may have a description of a hundred KiB.
const PAGE: i64 = 50;
/// A lock: transactions that add a token share it, transactions that end tokens hold it exclusively.
const TOKENS: &str = "tokens";
/// Tokens and all that were got with them, and with those.
const REVOKE: &str = "WITH RECURSIVE gone (id) AS ( \
     SELECT audit_id FROM tokens \
     WHERE audit_id = $1 OR (project_id = $2 AND ($3 IS NULL OR user_id = $3) AND project_generation < $4) \
     UNION SELECT tokens.audit_id FROM tokens JOIN gone ON tokens.parent_audit_id = gone.id \
     ) DELETE FROM tokens WHERE audit_id IN (SELECT id FROM gone)";

/// The user of this name.
pub fn user_by_name(connection: &mut DbConnection, name: &str) -> DbResult<Option<User>> {
    Ok(users::table
        .filter(users::name.eq(name))
        .select(User::as_select())
        .first(connection)
        .optional()?)
}

/// The user.
pub fn user(connection: &mut DbConnection, id: &UserId) -> DbResult<Option<User>> {
    Ok(users::table
        .find(id)
        .select(User::as_select())
        .first(connection)
        .optional()?)
}

/// Adds a user.
pub fn insert_user(connection: &mut DbConnection, row: &User) -> DbResult<()> {
    diesel::insert_into(users::table)
        .values(row)
        .execute(connection)?;
    Ok(())
}

/// Makes the user of that name what the configuration says: there, and with this password. Another password
/// than before ends the user's tokens. A user that it had dropped begins without roles and credentials: the name may
/// be another person's now.
pub fn put_configured_user(connection: &mut DbConnection, row: &User) -> DbResult<UserId> {
    let Some(known) = user_by_name(connection, &row.name)? else {
        insert_user(connection, row)?;
        return Ok(row.id.clone());
    };
    // An administrator who changes the password now is done before or finds a configured user.
    db::lock(connection, known.id.as_str())?;
    let known = user(connection, &known.id)?.unwrap_or(known);
    if known.password_hash != row.password_hash {
        end_tokens(connection, &known.id)?;
    }
    if known.origin == Origin::Dropped {
        remove_rights(connection, &known.id)?;
    }
    diesel::update(users::table.find(&known.id))
        .set((
            users::password_hash.eq(&row.password_hash),
            users::origin.eq(Origin::Configured),
        ))
        .execute(connection)?;
    Ok(known.id)
}

/// Ends all tokens of a user.
pub fn end_tokens(connection: &mut DbConnection, id: &UserId) -> DbResult<()> {
    diesel::update(users::table.find(id))
        .set(users::generation.eq(users::generation + 1))
        .execute(connection)?;
    Ok(())
}

/// Changes of a user; `None` leaves a field as it is. The generation is changed by itself.
#[derive(Default, AsChangeset)]
#[diesel(table_name = users)]
pub struct UserChanges {
    pub name: Option<String>,
    pub password_hash: Option<String>,
    pub is_enabled: Option<bool>,
    pub description: Option<Option<String>>,
    pub email: Option<Option<String>>,
    pub default_project_id: Option<Option<ProjectId>>,
}

/// Changes a user. Fields that are not named are not written: a start may be writing them.
pub fn update_user(
    connection: &mut DbConnection,
    id: &UserId,
    changes: &UserChanges,
) -> DbResult<()> {
    diesel::update(users::table.find(id))
        .set(changes)
        .execute(connection)
        .optional_empty_changeset()?;
    Ok(())
}

/// Users that the configuration names, or did at the last start.
pub fn configured_users(connection: &mut DbConnection) -> DbResult<Vec<User>> {
    Ok(users::table
        .filter(users::origin.eq(Origin::Configured))
        .order(users::name)
        .select(User::as_select())
        .load(connection)?)
}

/// Notes that the configuration no longer names a user, ends its tokens, and removes its roles and credentials.
pub fn drop_user(connection: &mut DbConnection, id: &UserId) -> DbResult<()> {
    db::lock(connection, TOKENS)?;
    end_tokens(connection, id)?;
    remove_rights(connection, id)?;
    diesel::update(users::table.find(id))
        .set(users::origin.eq(Origin::Dropped))
        .execute(connection)?;
    Ok(())
}

/// Removes a user's roles and application credentials, whoever gave them.
fn remove_rights(connection: &mut DbConnection, id: &UserId) -> DbResult<()> {
    credentials::remove_of_user(connection, id, None)?;
    diesel::delete(assignments::table.filter(assignments::user_id.eq(id))).execute(connection)?;
    Ok(())
}

/// The project of this name.
pub fn project_by_name(connection: &mut DbConnection, name: &str) -> DbResult<Option<Project>> {
    Ok(projects::table
        .filter(projects::name.eq(name))
        .select(Project::as_select())
        .first(connection)
        .optional()?)
}

/// The project.
pub fn project(connection: &mut DbConnection, id: &ProjectId) -> DbResult<Option<Project>> {
    Ok(projects::table
        .find(id)
        .select(Project::as_select())
        .first(connection)
        .optional()?)
}

/// The next projects behind a name.
pub fn list_projects(connection: &mut DbConnection, behind: &str) -> DbResult<Vec<Project>> {
    Ok(projects::table
        .filter(projects::name.gt(behind))
        .order(projects::name)
        .select(Project::as_select())
        .limit(PAGE)
        .load(connection)?)
}

/// The project of this name; added if there is none.
pub fn put_project(connection: &mut DbConnection, row: &Project) -> DbResult<ProjectId> {
    if let Some(known) = project_by_name(connection, &row.name)? {
        return Ok(known.id);
    }
    insert_project(connection, row)?;
    Ok(row.id.clone())
}

/// Adds a project.
pub fn insert_project(connection: &mut DbConnection, row: &Project) -> DbResult<()> {
    diesel::insert_into(projects::table)
        .values(row)
        .execute(connection)?;
    Ok(())
}

/// Changes of a project, likewise.
#[derive(Default, AsChangeset)]
#[diesel(table_name = projects)]
pub struct ProjectChanges {
    pub name: Option<String>,
    pub is_enabled: Option<bool>,
    pub description: Option<String>,
    pub tags: Option<Json<Vec<String>>>,
}

/// Changes a project.
pub fn update_project(
    connection: &mut DbConnection,
    id: &ProjectId,
    changes: &ProjectChanges,
) -> DbResult<()> {
    diesel::update(projects::table.find(id))
        .set(changes)
        .execute(connection)
        .optional_empty_changeset()?;
    Ok(())
}

/// Ends all tokens in a project. No other token can be got with one of them from now on. Those that were are still
/// good, wherever they are: [`remove_ended_tokens`] is to follow.
pub fn end_project_tokens(connection: &mut DbConnection, id: &ProjectId) -> DbResult<()> {
    db::lock(connection, TOKENS)?;
    diesel::update(projects::table.find(id))
        .set(projects::generation.eq(projects::generation + 1))
        .execute(connection)?;
    Ok(())
}

/// Removes one user's tokens that have ended in a project, and all that were got with them: for one transaction. A project
/// may have any number of users. `false`: there is none left.
pub fn remove_ended_tokens(connection: &mut DbConnection, id: &ProjectId) -> DbResult<bool> {
    db::lock(connection, TOKENS)?;
    let Some(project) = project(connection, id)? else {
        return Ok(false);
    };
    let ended = tokens::table
        .filter(tokens::project_id.eq(id))
        .filter(tokens::project_generation.lt(project.generation))
        .select(tokens::user_id);
    let user: Option<UserId> = ended.first(connection).optional()?;
    if let Some(user) = &user {
        let generation = project.generation;
        revoke(connection, None, Some((id, generation)), Some(user))?;
    }
    Ok(user.is_some())
}

/// The role that a user has in a project, and who gave it.
pub fn assignment(
    connection: &mut DbConnection,
    user: &UserId,
    project: &ProjectId,
) -> DbResult<Option<Assignment>> {
    Ok(assignments::table
        .find((user, project))
        .select(Assignment::as_select())
        .first(connection)
        .optional()?)
}

/// Roles that the configuration gives, or gave at the last start.
pub fn configured_assignments(connection: &mut DbConnection) -> DbResult<Vec<Assignment>> {
    Ok(assignments::table
        .filter(assignments::is_configured.eq(true))
        .select(Assignment::as_select())
        .load(connection)?)
}

/// The next roles that users have in projects, behind the names of a user and a project; those of one user or in one
/// project alone, if one is given.
pub fn named_assignments(
    connection: &mut DbConnection,
    user: Option<&UserId>,
    project: Option<&ProjectId>,
    (user_name, project_name): (&str, &str),
) -> DbResult<Vec<NamedAssignment>> {
    let mut query = assignments::table
        .inner_join(users::table.on(users::id.eq(assignments::user_id)))
        .inner_join(projects::table.on(projects::id.eq(assignments::project_id)))
        .select((
            assignments::user_id,
            users::name,
            assignments::project_id,
            projects::name,
            assignments::role,
        ))
        .into_boxed();
    if let Some(user) = user {
        query = query.filter(assignments::user_id.eq(user));
    }
    if let Some(project) = project {
        query = query.filter(assignments::project_id.eq(project));
    }
    let is_behind = users::name
        .gt(user_name)
        .or(projects::name.gt(project_name));
    Ok(query
        .filter(users::name.ge(user_name).and(is_behind))
        .order((users::name, projects::name))
        .limit(PAGE)
        .load(connection)?)
}

/// Takes a user's role in a project away. The user's application credentials there go, and its tokens there end, with all
/// that were got with them: they do not come back with the role.
pub fn remove_assignment(
    connection: &mut DbConnection,
    user: &UserId,
    project: &ProjectId,
) -> DbResult<()> {
    db::lock(connection, TOKENS)?;
    credentials::remove_of_user(connection, user, Some(project))?;
    diesel::delete(assignments::table.find((user, project))).execute(connection)?;
    revoke(connection, None, Some((project, i64::MAX)), Some(user))
}

/// The role of a user in a project.
pub fn role_of(
    connection: &mut DbConnection,
    user: &UserId,
    project: &ProjectId,
) -> DbResult<Option<Role>> {
    Ok(assignments::table
        .find((user, project))
        .select(assignments::role)
        .first(connection)
        .optional()?)
}

/// The next projects behind a name in which a user has a role.
pub fn projects_of(
    connection: &mut DbConnection,
    user: &UserId,
    behind: &str,
) -> DbResult<Vec<Project>> {
    Ok(assignments::table
        .inner_join(projects::table.on(projects::id.eq(assignments::project_id)))
        .filter(assignments::user_id.eq(user))
        .filter(projects::name.gt(behind))
        .order(projects::name)
        .select(Project::as_select())
        .limit(PAGE)
        .load(connection)?)
}

/// Gives a user a role in a project, in place of any other.
pub fn put_assignment(connection: &mut DbConnection, row: &Assignment) -> DbResult<()> {
    diesel::delete(assignments::table.find((&row.user_id, &row.project_id))).execute(connection)?;
    diesel::insert_into(assignments::table)
        .values(row)
        .execute(connection)?;
    Ok(())
}

/// The next users behind a name.
pub fn list_users(connection: &mut DbConnection, behind: &str) -> DbResult<Vec<User>> {
    Ok(users::table
        .filter(users::name.gt(behind))
        .order(users::name)
        .select(User::as_select())
        .limit(PAGE)
        .load(connection)?)
}

/// Removes some tokens of a user, for one transaction: a user may have tens of thousands. `false`: there is none left.
pub fn remove_some_tokens(connection: &mut DbConnection, id: &UserId) -> DbResult<bool> {
    let some: Vec<Vec<u8>> = tokens::table
        .filter(tokens::user_id.eq(id))
        .order(tokens::expires_at)
        .limit(db::BATCH)
        .select(tokens::hash)
        .load(connection)?;
    let are_left = some.len() as i64 == db::BATCH;
    diesel::delete(tokens::table.filter(tokens::hash.eq_any(some))).execute(connection)?;
    Ok(are_left)
}

/// Removes a user with all that is theirs here. `false`: there is none.
pub fn remove_user(connection: &mut DbConnection, id: &UserId) -> DbResult<bool> {
    db::lock(connection, id.as_str())?;
    diesel::delete(tokens::table.filter(tokens::user_id.eq(id))).execute(connection)?;
    remove_rights(connection, id)?;
    let count = diesel::delete(users::table.find(id)).execute(connection)?;
    Ok(count == 1)
}

/// Removes a project with the roles and tokens in it, and what was got with those tokens. `false`: there is none.
pub fn remove_project(connection: &mut DbConnection, id: &ProjectId) -> DbResult<bool> {
    db::lock(connection, id.as_str())?;
    db::lock(connection, TOKENS)?;
    revoke(connection, None, Some((id, i64::MAX)), None)?;
    let theirs = application_credentials::table;
    diesel::delete(theirs.filter(application_credentials::project_id.eq(id)))
        .execute(connection)?;
    diesel::delete(assignments::table.filter(assignments::project_id.eq(id)))
        .execute(connection)?;
    let count = diesel::delete(projects::table.find(id)).execute(connection)?;
    Ok(count == 1)
}

/// How many tokens may be alive: what ends them all at once is one transaction, during which no user can log in.
#[derive(Debug, Clone, Copy)]
pub struct TokensMax {
    /// That go back to one log-in.
    pub chain: i64,
    pub user: i64,
}

/// The result of adding a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Issued {
    Added,
    /// The token that it was got with, all tokens in the project, or the user's role there have ended meanwhile.
    Ended,
    TooMany,
}

/// Adds a token, and drops up to [`db::BATCH`] that have expired.
pub fn insert_token(
    connection: &mut DbConnection,
    row: &TokenRow,
    now: Timestamp,
    most: TokensMax,
) -> DbResult<Issued> {
    // A transaction that ends tokens waits from now on, and then finds this one too.
    db::lock_shared(connection, TOKENS)?;
    if let Some(parent) = &row.parent_audit_id {
        // One that has ended with all in its project may still be there.
        let same = projects::generation
            .nullable()
            .eq(tokens::project_generation.nullable());
        let parents = tokens::table
            .left_join(projects::table.on(projects::id.nullable().eq(tokens::project_id)))
            .filter(tokens::audit_id.eq(parent))
            .filter(tokens::project_id.is_null().or(same));
        if parents.count().get_result::<i64>(connection)? == 0 {
            return Ok(Issued::Ended);
        }
    }
    if let Some(project) = &row.project_id {
        let same = projects::generation.eq(row.project_generation);
        let places = projects::table.find(project).filter(same);
        let is_there = places.count().get_result::<i64>(connection)? > 0;
        if !is_there || role_of(connection, &row.user_id, project)?.is_none() {
            return Ok(Issued::Ended);
        }
    }
    let alive = || tokens::table.filter(tokens::expires_at.gt(now)).count();
    let of_chain = alive().filter(tokens::chain_id.eq(&row.chain_id));
    let of_user = alive().filter(tokens::user_id.eq(&row.user_id));
    if of_chain.get_result::<i64>(connection)? >= most.chain
        || of_user.get_result::<i64>(connection)? >= most.user
    {
        return Ok(Issued::TooMany);
    }
    // More go than come, so all go in time, and no log-in waits for many.
    let expired: Vec<Vec<u8>> = tokens::table
        .filter(tokens::expires_at.le(now))
        .order(tokens::expires_at)
        .limit(db::BATCH)
        .select(tokens::hash)
        .load(connection)?;
    diesel::delete(tokens::table.filter(tokens::hash.eq_any(expired))).execute(connection)?;
    let _ = diesel::insert_into(tokens::table)
        .values(row)
        .execute(connection)?;
    Ok(Issued::Added)
}

/// The token with this hash, unless it has expired, and what it names, all as it is now: one query on keys, as
/// every request asks it.
pub fn find_token(
    connection: &mut DbConnection,
    hash: &[u8],
    now: Timestamp,
) -> DbResult<Option<FoundToken>> {
    Ok(tokens::table
        .inner_join(users::table.on(users::id.eq(tokens::user_id)))
        .left_join(projects::table.on(projects::id.nullable().eq(tokens::project_id)))
        .left_join(
            assignments::table.on(assignments::user_id
                .eq(tokens::user_id)
                .and(assignments::project_id.nullable().eq(tokens::project_id))),
        )
        .left_join(
            application_credentials::table.on(application_credentials::id
                .nullable()
                .eq(tokens::application_credential_id)),
        )
        .filter(tokens::hash.eq(hash).and(tokens::expires_at.gt(now)))
        .select((
            TokenRow::as_select(),
            User::as_select(),
            Option::<Project>::as_select(),
            assignments::role.nullable(),
            Option::<ApplicationCredential>::as_select(),
        ))
        .first::<FoundToken>(connection)
        .optional()?)
}

/// Revokes a token, and all that were got with it.
pub fn revoke_token(connection: &mut DbConnection, row: &TokenRow) -> DbResult<()> {
    db::lock(connection, TOKENS)?;
    revoke(connection, Some(&row.audit_id), None, None)
}

/// Revokes a token, or all in a project that are of a generation before this one, or those of a user there; and all that
/// were got with them.
fn revoke(
    connection: &mut DbConnection,
    audit_id: Option<&str>,
    project: Option<(&ProjectId, i64)>,
    user: Option<&UserId>,
) -> DbResult<()> {
    let query = diesel::sql_query(REVOKE)
        .bind::<Nullable<Text>, _>(audit_id)
        .bind::<Nullable<Text>, _>(project.map(|(id, _)| id.as_str()))
        .bind::<Nullable<Text>, _>(user.map(UserId::as_str))
        .bind::<Nullable<BigInt>, _>(project.map(|(_, generation)| generation));
    let removed = match connection {
        DbConnection::Postgres(connection) => query.execute(connection),
        DbConnection::Sqlite(connection) => query.execute(connection),
    };
    removed?;
    Ok(())
}

/// A lock for a transaction that adds an application credential: until it ends, no role is taken away.
pub fn lock_roles(connection: &mut DbConnection) -> DbResult<()> {
    db::lock_shared(connection, TOKENS)
}

/// Removes the application credentials of a user whose role in a project was lowered: what they were given with is gone.
pub fn end_credentials(
    connection: &mut DbConnection,
    user: &UserId,
    project: &ProjectId,
) -> DbResult<()> {
    db::lock(connection, TOKENS)?;
    credentials::remove_of_user(connection, user, Some(project))
}
