//! `/identity/v3`: roles and who has them where, for administrators.

use crate::api::http::call::Call;
use crate::api::http::reply::Reply;
use crate::api::standalone::identity_views::{domain, list_all, list_view, managed, not_found};
use crate::identity::embedded::{Embedded, Named};
use crate::model::error::Error;
use crate::model::id::{ProjectId, UserId};
use crate::model::role::Role;
use crate::model::standalone::identity::NamedAssignment;
use serde_json::{Value, json};

type Result = std::result::Result<Reply, Error>;

/// Only users have roles, and only in projects: a filter for others finds none.
const FILTERS_OF_OTHERS: [&str; 4] = [
    "group.id",
    "scope.domain.id",
    "scope.system",
    "scope.OS-INHERIT:inherited_to",
];

/// Role ids are made of the names, so that they are the same everywhere.
pub(crate) fn role_view(role: &Role) -> Value {
    json!({ "id": role_id(*role), "name": role.as_str() })
}

fn role_id(role: Role) -> String {
    blake3::hash(role.as_str().as_bytes()).to_hex()[..32].to_owned()
}

/// A role as it stands in an application credential.
pub(crate) fn full_view(role: Role) -> Value {
    let mut view = role_view(&role);
    view["domain_id"] = Value::Null;
    view["description"] = Value::Null;
    view["options"] = json!({ "immutable": true });
    view
}

fn whole_view(call: &Call<'_>, role: Role) -> Value {
    let mut view = full_view(role);
    let link = format!("{}/identity/v3/roles/{}", call.base, role_id(role));
    view["links"] = json!({ "self": link });
    view
}

pub(crate) fn named_role(id: &str) -> std::result::Result<Role, Error> {
    let found = Role::ALL.iter().find(|role| role_id(**role) == id);
    found.copied().ok_or_else(|| not_found("role", id))
}

/// `GET /roles`
pub(crate) fn list_roles(call: &Call<'_>) -> Result {
    managed(call, "identity:list_roles")?;
    let wanted = call.query("name");
    let roles = Role::ALL
        .iter()
        .filter(|role| wanted.is_none_or(|name| role.as_str() == name))
        .map(|role| whole_view(call, *role))
        .collect();
    Ok(list_view(call, "roles", roles))
}

/// `GET /roles/{id}`
pub(crate) fn show_role(call: &Call<'_>) -> Result {
    managed(call, "identity:get_role")?;
    let role = named_role(call.parameter("id"))?;
    Ok(Reply::json(200, json!({ "role": whole_view(call, role) })))
}

/// `PUT /projects/{id}/users/{user}/roles/{role}`
pub(crate) fn assign_role(call: &Call<'_>) -> Result {
    let identity = managed(call, "identity:create_grant")?;
    let role = named_role(call.parameter("role"))?;
    let (user, project) = place(call, identity)?;
    if identity.assign(&user, &project, role)? {
        Ok(Reply::empty(204))
    } else {
        Err(not_found("user", user.as_str()))
    }
}

/// `GET` and `HEAD /projects/{id}/users/{user}/roles/{role}`
pub(crate) fn check_role(call: &Call<'_>) -> Result {
    let identity = managed(call, "identity:check_grant")?;
    let role = named_role(call.parameter("role"))?;
    let (user, project) = place(call, identity)?;
    let rows = identity.assignments(Some(&user), Some(&project), ("", ""))?;
    if rows.iter().any(|row| row.role == role) {
        Ok(Reply::empty(204))
    } else {
        Err(no_grant(call))
    }
}

/// `DELETE /projects/{id}/users/{user}/roles/{role}`
pub(crate) fn take_role(call: &Call<'_>) -> Result {
    let identity = managed(call, "identity:revoke_grant")?;
    let role = named_role(call.parameter("role"))?;
    let (user, project) = (call.parameter("user"), call.parameter("id"));
    let known = identity.project_named(&Named::Id(project.to_owned()))?;
    known.ok_or_else(|| not_found("project", project))?;
    if identity.unassign(&UserId::new(user), &ProjectId::new(project), role)? {
        Ok(Reply::empty(204))
    } else {
        Err(no_grant(call))
    }
}

/// Keystone's words.
fn no_grant(call: &Call<'_>) -> Error {
    Error::NotFound(format!(
        "Could not find role assignment with role: {}, user or group: {}, project, domain, or system: {}.",
        call.parameter("role"),
        call.parameter("user"),
        call.parameter("id")
    ))
}

/// The user and the project that the path names, if they are there.
fn place(call: &Call<'_>, identity: &Embedded) -> std::result::Result<(UserId, ProjectId), Error> {
    let (user, project) = (call.parameter("user"), call.parameter("id"));
    let known = identity.user_named(&Named::Id(user.to_owned()))?;
    let known_user = known.ok_or_else(|| not_found("user", user))?;
    let known = identity.project_named(&Named::Id(project.to_owned()))?;
    let known_project = known.ok_or_else(|| not_found("project", project))?;
    Ok((known_user.id, known_project.id))
}

/// `GET /projects/{id}/users/{user}/roles`
pub(crate) fn list_grants(call: &Call<'_>) -> Result {
    let identity = managed(call, "identity:list_grants")?;
    let (user, project) = place(call, identity)?;
    let rows = identity.assignments(Some(&user), Some(&project), ("", ""))?;
    let roles = rows.iter().map(|row| whole_view(call, row.role)).collect();
    Ok(list_view(call, "roles", roles))
}

/// `GET /role_assignments`
pub(crate) fn list_assignments(call: &Call<'_>) -> Result {
    let identity = managed(call, "identity:list_role_assignments")?;
    if FILTERS_OF_OTHERS
        .iter()
        .any(|key| call.query(key).is_some())
    {
        return Ok(list_view(call, "role_assignments", Vec::new()));
    }
    let user = call.query("user.id").map(UserId::new);
    let project = call.query("scope.project.id").map(ProjectId::new);
    let wanted = call.query("role.id");
    let views = |row: &NamedAssignment| -> Vec<Value> {
        let roles = effective(call, row).iter();
        roles
            .filter(|role| wanted.is_none_or(|id| role_id(**role) == id))
            .map(|role| assignment_view(call, row, *role))
            .collect()
    };
    let names = |row: &NamedAssignment| (row.user_name.clone(), row.project_name.clone());
    list_all(
        call,
        "role_assignments",
        |last: Option<&NamedAssignment>| {
            let (user_name, project_name) = last.map(names).unwrap_or_default();
            let behind = (user_name.as_str(), project_name.as_str());
            identity.assignments(user.as_ref(), project.as_ref(), behind)
        },
        views,
    )
}

/// The role as it was given, or with those that it implies.
fn effective<'a>(call: &Call<'_>, row: &'a NamedAssignment) -> &'a [Role] {
    if is_asked(call, "effective") {
        return row.role.implied();
    }
    std::slice::from_ref(&row.role)
}

/// A flag of Keystone's queries: there, and not 0.
fn is_asked(call: &Call<'_>, key: &str) -> bool {
    call.query(key).is_some_and(|value| value != "0")
}

fn assignment_view(call: &Call<'_>, row: &NamedAssignment, role: Role) -> Value {
    let identity = format!("{}/identity/v3", call.base);
    let (user, project, given) = (&row.user_id, &row.project_id, role_id(row.role));
    let assignment = format!("{identity}/projects/{project}/users/{user}/roles/{given}");
    let mut view = json!({
        "role": { "id": role_id(role) },
        "user": { "id": user },
        "scope": { "project": { "id": project } },
        "links": { "assignment": assignment },
    });
    if role != row.role {
        // The implied role first, as Keystone has it.
        let implied = role_id(role);
        let prior = format!("{identity}/prior_role/{implied}/implies/{given}");
        view["links"]["prior_role"] = json!(prior);
    }
    if is_asked(call, "include_names") {
        view["role"]["name"] = json!(role.as_str());
        view["user"]["name"] = json!(row.user_name);
        view["user"]["domain"] = domain();
        view["scope"]["project"]["name"] = json!(row.project_name);
        view["scope"]["project"]["domain"] = domain();
    }
    view
}
