//! `/identity/v3`: users, projects and their roles, for administrators. Test suites make their own
//! (client notes, 3.5).

use crate::api::call::{Call, Reply};
use crate::api::identity::{not_found, project_view, role_view, user_view};
use crate::config::Secret;
use crate::identity::embedded::Embedded;
use crate::model::error::Error;
use crate::model::id::{ProjectId, UserId};
use crate::model::identity::Role;
use serde_json::{Value, json};

type Result = std::result::Result<Reply, Error>;

/// The embedded identity, for a caller who may change it.
fn managed<'a>(call: &'a Call<'_>, what: &'static str) -> std::result::Result<&'a Embedded, Error> {
    match call.session()?.row.roles.contains(&Role::Admin) {
        true => call.embedded(),
        false => Err(Error::Forbidden(what)),
    }
}

fn name(fields: &crate::api::body::Fields<'_>) -> std::result::Result<String, Error> {
    let name = fields.required_text("name")?;
    match name.trim().is_empty() {
        true => Err(Error::Invalid("The name must not be empty.".to_owned())),
        false => Ok(name),
    }
}

/// `POST /projects`
pub(super) fn create_project(call: &Call<'_>) -> Result {
    let identity = managed(call, "identity:create_project")?;
    let fields = call.body()?.object("project")?;
    let project = identity.create_project(&name(&fields)?)?;
    let view = project_view(call, &project);
    Ok(Reply::json(201, json!({ "project": view })))
}

/// `DELETE /projects/{id}`
pub(super) fn delete_project(call: &Call<'_>) -> Result {
    let identity = managed(call, "identity:delete_project")?;
    let id = call.parameter("id");
    match identity.delete_project(&ProjectId::new(id))? {
        true => Ok(Reply::empty(204)),
        false => Err(not_found("project", id)),
    }
}

/// `GET /users`
pub(super) fn list_users(call: &Call<'_>) -> Result {
    let identity = managed(call, "identity:list_users")?;
    let wanted = call.query("name");
    let users: Vec<Value> = identity
        .users()?
        .iter()
        .filter(|user| wanted.is_none_or(|name| user.name == name))
        .map(|user| user_view(call, user))
        .collect();
    Ok(Reply::json(200, json!({ "users": users, "links": {} })))
}

/// `POST /users`
pub(super) fn create_user(call: &Call<'_>) -> Result {
    let identity = managed(call, "identity:create_user")?;
    let fields = call.body()?.object("user")?;
    let password = Secret::from(fields.required_text("password")?.as_str());
    let user = identity.create_user(&name(&fields)?, &password)?;
    let view = user_view(call, &user);
    Ok(Reply::json(201, json!({ "user": view })))
}

/// `DELETE /users/{id}`
pub(super) fn delete_user(call: &Call<'_>) -> Result {
    let identity = managed(call, "identity:delete_user")?;
    let id = call.parameter("id");
    match identity.delete_user(&UserId::new(id))? {
        true => Ok(Reply::empty(204)),
        false => Err(not_found("user", id)),
    }
}

/// `GET /roles`
pub(super) fn list_roles(call: &Call<'_>) -> Result {
    managed(call, "identity:list_roles")?;
    let wanted = call.query("name");
    let roles: Vec<Value> = Role::ALL
        .iter()
        .filter(|role| wanted.is_none_or(|name| role.as_str() == name))
        .map(role_view)
        .collect();
    Ok(Reply::json(200, json!({ "roles": roles, "links": {} })))
}

/// `PUT /projects/{id}/users/{user}/roles/{role}`
pub(super) fn assign_role(call: &Call<'_>) -> Result {
    let identity = managed(call, "identity:create_grant")?;
    let wanted = call.parameter("role");
    let role = Role::ALL
        .iter()
        .find(|role| role_view(role)["id"] == wanted)
        .ok_or_else(|| not_found("role", wanted))?;
    let (project, user) = (call.parameter("id"), call.parameter("user"));
    match identity.assign(&UserId::new(user), &ProjectId::new(project), *role)? {
        true => Ok(Reply::empty(204)),
        false => Err(not_found("user or project", user)),
    }
}
