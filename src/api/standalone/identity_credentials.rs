//! `/identity/v3`: application credentials of users.

use crate::api::http::body::{CLIENT_ERROR, Fields};
use crate::api::http::call::Call;
use crate::api::http::kinds;
use crate::api::http::reply::Reply;
use crate::api::standalone::identity::{invalid, shown_user};
use crate::api::standalone::identity_roles::{full_view, named_role};
use crate::api::standalone::identity_views::list_view;
use crate::config::Secret;
use crate::identity::embedded::NewCredential;
use crate::model::error::{Error, MALFORMED};
use crate::model::role::Role;
use crate::model::standalone::identity::ApplicationCredential;
use crate::model::time::Timestamp;
use serde_json::{Value, json};

/// Keystone's words.
const RESTRICTED: &str = "Using method 'application_credential' is not allowed for managing additional application credentials.";

type Result = std::result::Result<Reply, Error>;
type Read<T> = std::result::Result<T, Error>;

fn view(call: &Call<'_>, row: &ApplicationCredential) -> Value {
    let place = format!("{}/identity/v3/users/{}", call.base, row.user_id);
    json!({
        "id": row.id,
        "name": row.name,
        "description": row.description,
        "user_id": row.user_id,
        "project_id": row.project_id,
        "roles": row.roles.iter().map(|role| full_view(*role)).collect::<Vec<_>>(),
        "expires_at": row.expires_at.map(Timestamp::zulu),
        "unrestricted": false,
        "system": null,
        "links": { "self": format!("{place}/application_credentials/{}", row.id) },
    })
}

/// Refuses callers that have logged in with an application credential. None of ours is unrestricted.
fn check_manages_credentials(call: &Call<'_>) -> Read<()> {
    match &call.session()?.application_credential {
        None => Ok(()),
        Some(_) => Err(Error::Forbidden(RESTRICTED)),
    }
}

/// `POST /users/{id}/application_credentials`
pub(crate) fn create(call: &Call<'_>) -> Result {
    check_manages_credentials(call)?;
    // Administrators cannot make them for others either.
    if call.session()?.user.id.as_str() != call.parameter("id") {
        return Err(Error::Forbidden("identity:create_application_credential"));
    }
    let fields = call.body()?.object("application_credential")?;
    // Clients send an empty list when they want none.
    let rules = fields.checked("access_rules", kinds::objects_or_null)?;
    let rules = rules.and_then(Value::as_array);
    if rules.is_some_and(|rules| !rules.is_empty()) {
        return Err(invalid(
            "access_rules are not supported by the embedded identity.",
        ));
    }
    let unrestricted = fields.checked("unrestricted", kinds::boolean_or_null)?;
    if unrestricted == Some(&Value::Bool(true)) {
        return Err(invalid(
            "Unrestricted application credentials are not supported.",
        ));
    }
    fields.require("name")?;
    let name = fields.checked("name", kinds::filled)?;
    let name = name.and_then(Value::as_str).unwrap_or_default().to_owned();
    let wanted = NewCredential {
        name,
        description: fields.text("description")?.flatten(),
        secret: match fields.value("secret") {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) if !text.is_empty() => Some(Secret::from(text.as_str())),
            Some(_) => return Err(invalid("The secret must be a text that is not empty.")),
        },
        roles: wanted_roles(fields)?,
        expires_at: wanted_expiry(fields)?,
    };
    let (row, secret) = call
        .embedded()?
        .create_credential(call.session()?, wanted)?;
    let mut view = view(call, &row);
    view["secret"] = json!(secret.expose());
    Ok(Reply::json(201, json!({ "application_credential": view })))
}

fn wanted_roles(fields: Fields<'_>) -> Read<Option<Vec<Role>>> {
    let listed = fields.checked("roles", kinds::objects_or_null)?;
    // Clients send an empty list when they want all.
    let listed = listed.and_then(Value::as_array);
    let Some(listed) = listed.filter(|listed| !listed.is_empty()) else {
        return Ok(None);
    };
    listed
        .iter()
        .map(wanted_role)
        .collect::<Read<_>>()
        .map(Some)
}

fn wanted_role(value: &Value) -> Read<Role> {
    let text = |key: &str| value.get(key).and_then(Value::as_str);
    if let Some(id) = text("id") {
        return named_role(id);
    }
    let name = text("name").unwrap_or_default();
    // Keystone's words.
    let missing = || Error::NotFound(format!("Role {name} is not defined"));
    Role::parse(name).ok_or_else(missing)
}

fn wanted_expiry(fields: Fields<'_>) -> Read<Option<Timestamp>> {
    let Some(text) = fields.text("expires_at")?.flatten() else {
        return Ok(None);
    };
    Timestamp::parse(&text).map(Some).ok_or_else(|| {
        Error::Invalid(format!(
            "Timestamp not in expected format. {MALFORMED} {CLIENT_ERROR}"
        ))
    })
}

/// `GET /users/{id}/application_credentials`
pub(crate) fn list(call: &Call<'_>) -> Result {
    let user = shown_user(call, "identity:list_application_credentials")?;
    let name = call.query("name");
    let rows = call.embedded()?.credentials_of(&user.id)?;
    let items = rows
        .iter()
        .filter(|row| name.is_none_or(|name| row.name == name))
        .map(|row| view(call, row))
        .collect();
    Ok(list_view(call, "application_credentials", items))
}

fn no_credential(id: &str) -> Error {
    Error::NotFound(format!("Could not find Application Credential: {id}."))
}

/// `GET /users/{id}/application_credentials/{credential}`
pub(crate) fn show(call: &Call<'_>) -> Result {
    let user = shown_user(call, "identity:get_application_credential")?;
    let id = call.parameter("credential");
    let row = call.embedded()?.credential_of(&user.id, id)?;
    let row = row.ok_or_else(|| no_credential(id))?;
    Ok(Reply::json(
        200,
        json!({ "application_credential": view(call, &row) }),
    ))
}

/// `DELETE /users/{id}/application_credentials/{credential}`
pub(crate) fn delete(call: &Call<'_>) -> Result {
    check_manages_credentials(call)?;
    let user = shown_user(call, "identity:delete_application_credential")?;
    let id = call.parameter("credential");
    if call.embedded()?.remove_credential(&user.id, id)? {
        Ok(Reply::empty(204))
    } else {
        Err(no_credential(id))
    }
}
