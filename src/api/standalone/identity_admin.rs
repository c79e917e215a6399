//! `/identity/v3`: users and projects, for administrators. Test suites make their own
//! (client notes, 3.5).

use crate::api::http::body::Fields;
use crate::api::http::call::Call;
use crate::api::http::kinds::{self, Check};
use crate::api::http::reply::Reply;
use crate::api::standalone::identity_views::{
    DOMAIN, filtered, list_all, managed, not_found, project_view, user_view,
};
use crate::config::Secret;
use crate::identity::embedded::{Embedded, Named, ProjectFields, UserFields};
use crate::model::error::Error;
use crate::model::id::{ProjectId, UserId};
use crate::model::standalone::identity::User;
use serde_json::{Value, json};

const USER_FILTERS: [&str; 3] = ["name", "enabled", "domain_id"];

type Result = std::result::Result<Reply, Error>;
type Read<T> = std::result::Result<T, Error>;

fn invalid<T>(message: impl Into<String>) -> Read<T> {
    Err(Error::Invalid(message.into()))
}

fn name(fields: Fields<'_>, check: Check) -> Read<String> {
    fields.require("name")?;
    Ok(other_name(fields, check)?.unwrap_or_default())
}

/// The name, where it need not be given.
fn other_name(fields: Fields<'_>, check: Check) -> Read<Option<String>> {
    let name = fields.checked("name", check)?;
    Ok(name.and_then(Value::as_str).map(str::to_owned))
}

/// A field that says where something belongs, if it is not where all of its kind do.
fn elsewhere(fields: Fields<'_>, key: &str) -> Read<Option<String>> {
    let place = fields.text(key)?.flatten();
    Ok(place.filter(|place| place != DOMAIN))
}

/// Refuses options: a client that sets one relies on it.
fn check_options(fields: Fields<'_>) -> Read<()> {
    let options = fields.checked("options", |key, value| kinds::map(key, value).map(drop))?;
    match options.and_then(Value::as_object) {
        Some(options) if !options.is_empty() => {
            invalid("options are not supported by the embedded identity.")
        }
        _ => Ok(()),
    }
}

fn project_fields(fields: Fields<'_>) -> Read<ProjectFields> {
    check_options(fields)?;
    let tags = fields.checked("tags", kinds::tags)?;
    let tags = tags.and_then(Value::as_array).map(|tags| {
        let texts = tags.iter().filter_map(Value::as_str);
        texts.map(str::to_owned).collect()
    });
    if fields.boolean("is_domain")? == Some(true) {
        return invalid("The embedded identity has one domain: is_domain must be false.");
    }
    Ok(ProjectFields {
        name: other_name(fields, kinds::project_name)?,
        is_enabled: fields.boolean("enabled")?,
        description: fields.text("description")?.map(Option::unwrap_or_default),
        tags,
    })
}

/// Refuses a place for a new project that is not the domain. Keystone's words, where it refuses it too.
fn check_place(identity: &Embedded, fields: Fields<'_>) -> Read<()> {
    if let Some(domain) = elsewhere(fields, "domain_id")? {
        return invalid(format!("Could not find domain: {domain}."));
    }
    let Some(parent) = elsewhere(fields, "parent_id")? else {
        return Ok(());
    };
    match identity.project_named(&Named::Id(parent.clone()))? {
        Some(_) => invalid("The embedded identity has no projects in projects."),
        None => invalid(format!("Could not find project: {parent}.")),
    }
}

fn user_fields(fields: Fields<'_>) -> Read<UserFields> {
    check_options(fields)?;
    // With an empty one any client could log in.
    let password = fields.checked("password", kinds::filled_or_null)?;
    let project = fields.text("default_project_id")?;
    Ok(UserFields {
        name: other_name(fields, kinds::user_name)?,
        password: password.map(|text| text.as_str().map(Secret::from)),
        is_enabled: fields.boolean("enabled")?,
        description: fields.text("description")?,
        email: fields.text("email")?,
        default_project: project.map(|id| id.map(ProjectId::new)),
    })
}

/// `POST /projects`
pub(crate) fn create_project(call: &Call<'_>) -> Result {
    let identity = managed(call, "identity:create_project")?;
    let fields = call.body()?.object("project")?;
    let name = name(fields, kinds::project_name)?;
    let wanted = project_fields(fields)?;
    check_place(identity, fields)?;
    let project = identity.create_project(&name, wanted)?;
    let view = project_view(call, &project);
    Ok(Reply::json(201, json!({ "project": view })))
}

/// `PATCH /projects/{id}`
pub(crate) fn update_project(call: &Call<'_>) -> Result {
    let identity = managed(call, "identity:update_project")?;
    let fields = call.body()?.object("project")?;
    let wanted = project_fields(fields)?;
    if elsewhere(fields, "domain_id")?.is_some() {
        return invalid("Cannot change Domain ID");
    }
    if elsewhere(fields, "parent_id")?.is_some() {
        return invalid("Update of `parent_id` is not allowed.");
    }
    let id = call.parameter("id");
    let project = identity.update_project(&ProjectId::new(id), wanted)?;
    let project = project.ok_or_else(|| not_found("project", id))?;
    let view = project_view(call, &project);
    Ok(Reply::json(200, json!({ "project": view })))
}

/// `DELETE /projects/{id}`
pub(crate) fn delete_project(call: &Call<'_>) -> Result {
    let identity = managed(call, "identity:delete_project")?;
    let id = call.parameter("id");
    if identity.delete_project(&ProjectId::new(id))? {
        Ok(Reply::empty(204))
    } else {
        Err(not_found("project", id))
    }
}

/// `GET /users`
pub(crate) fn list_users(call: &Call<'_>) -> Result {
    let identity = managed(call, "identity:list_users")?;
    list_all(
        call,
        "users",
        |last: Option<&User>| identity.users(last.map_or("", |user| &user.name)),
        |user| filtered(call, vec![user_view(call, user)], &USER_FILTERS),
    )
}

/// `POST /users`
pub(crate) fn create_user(call: &Call<'_>) -> Result {
    let identity = managed(call, "identity:create_user")?;
    let fields = call.body()?.object("user")?;
    let name = name(fields, kinds::user_name)?;
    let wanted = user_fields(fields)?;
    if let Some(domain) = elsewhere(fields, "domain_id")? {
        return Err(not_found("domain", &domain));
    }
    let user = identity.create_user(&name, wanted)?;
    let view = user_view(call, &user);
    Ok(Reply::json(201, json!({ "user": view })))
}

/// `PATCH /users/{id}`
pub(crate) fn update_user(call: &Call<'_>) -> Result {
    let identity = managed(call, "identity:update_user")?;
    let fields = call.body()?.object("user")?;
    fields.require_some()?;
    let wanted = user_fields(fields)?;
    if elsewhere(fields, "domain_id")?.is_some() {
        return invalid("Cannot change Domain ID");
    }
    let id = call.parameter("id");
    let user = identity.update_user(&UserId::new(id), wanted)?;
    let user = user.ok_or_else(|| not_found("user", id))?;
    Ok(Reply::json(200, json!({ "user": user_view(call, &user) })))
}

/// `DELETE /users/{id}`
pub(crate) fn delete_user(call: &Call<'_>) -> Result {
    let identity = managed(call, "identity:delete_user")?;
    let id = call.parameter("id");
    if identity.delete_user(&UserId::new(id))? {
        Ok(Reply::empty(204))
    } else {
        Err(not_found("user", id))
    }
}
