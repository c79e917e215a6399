//! `/identity/v3`: the part of Keystone's API that clients of block storage use (client notes, 3).

use crate::api::body::Fields;
use crate::api::call::{Call, Reply};
use crate::config::Secret;
use crate::identity::embedded::{CredentialName, Credentials, Named, NewCredential, Session};
use crate::model::error::Error;
use crate::model::identity::{ApplicationCredential, Project, Role, User};
use crate::model::time::Timestamp;
use serde_json::{Value, json};

type Result = std::result::Result<Reply, Error>;

const DOMAIN: &str = "default";

fn domain() -> Value {
    json!({ "id": DOMAIN, "name": "Default" })
}

/// `POST /auth/tokens`
pub(super) fn log_in(call: &Call<'_>) -> Result {
    let auth = call.body()?.object_among("auth")?;
    let identity = auth.require("identity")?;
    let methods = methods(identity)?;
    let credentials = credentials(identity, &methods)?;
    let scope = scope(auth)?;
    let (token, session) = call
        .embedded()?
        .authenticate(methods, &credentials, scope.as_ref())?;
    let body = token_view(call, &session, call.query("nocatalog").is_none());
    Ok(Reply::json(201, body)
        .with_header("X-Subject-Token", token.expose())
        .with_header("Vary", "X-Auth-Token"))
}

fn invalid(message: &str) -> Error {
    Error::Invalid(message.to_owned())
}

fn methods(identity: &Value) -> std::result::Result<Vec<String>, Error> {
    let listed = identity.get("methods").and_then(Value::as_array);
    let names = listed.and_then(|names| {
        names
            .iter()
            .map(|name| name.as_str().map(str::to_owned))
            .collect::<Option<Vec<_>>>()
    });
    match names {
        Some(names) if names.len() == 1 => Ok(names),
        _ => Err(invalid(
            "auth.identity.methods must name one method: password, token or application_credential.",
        )),
    }
}

fn credentials(identity: &Value, methods: &[String]) -> std::result::Result<Credentials, Error> {
    let method = methods.first().map_or("", String::as_str);
    let given = identity
        .get(method)
        .ok_or_else(|| invalid("The method's own object is missing."))?;
    let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).map(Secret::from);
    match method {
        "password" => {
            let user = given
                .get("user")
                .ok_or_else(|| invalid("password.user is missing."))?;
            Ok(Credentials::Password {
                user: named(user).ok_or(Error::Unauthenticated)?,
                password: text(user, "password")
                    .ok_or_else(|| invalid("The password is missing."))?,
            })
        }
        "token" => {
            let id = text(given, "id").ok_or_else(|| invalid("token.id is missing."))?;
            Ok(Credentials::Token(id))
        }
        "application_credential" => {
            let id = match (
                given.get("id").and_then(Value::as_str),
                given.get("name").and_then(Value::as_str),
            ) {
                (Some(id), _) => CredentialName::Id(id.to_owned()),
                (None, Some(name)) => CredentialName::Name {
                    name: name.to_owned(),
                    user: given
                        .get("user")
                        .and_then(named)
                        .ok_or(Error::Unauthenticated)?,
                },
                (None, None) => {
                    return Err(invalid(
                        "The application credential has neither id nor name.",
                    ));
                }
            };
            let secret = text(given, "secret").ok_or_else(|| invalid("The secret is missing."))?;
            Ok(Credentials::ApplicationCredential { id, secret })
        }
        _ => Err(Error::Unauthenticated),
    }
}

/// A user or project by id, or by name in the only domain.
fn named(value: &Value) -> Option<Named> {
    if let Some(id) = value.get("id").and_then(Value::as_str) {
        return Some(Named::Id(id.to_owned()));
    }
    let domain = value.get("domain")?;
    let is_ours = domain.get("id").and_then(Value::as_str) == Some(DOMAIN)
        || domain.get("name").and_then(Value::as_str) == Some("Default");
    let name = value.get("name").and_then(Value::as_str)?;
    is_ours.then(|| Named::Name(name.to_owned()))
}

fn scope(auth: Fields<'_>) -> std::result::Result<Option<Named>, Error> {
    match auth.value("scope") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(word)) if word == "unscoped" => Ok(None),
        Some(scope) => match scope.get("project") {
            Some(project) => named(project).map(Some).ok_or(Error::Unauthenticated),
            None => Err(Error::Unauthenticated),
        },
    }
}

fn token_view(call: &Call<'_>, session: &Session, with_catalog: bool) -> Value {
    let row = &session.row;
    let mut token = json!({
        "methods": *row.methods,
        "user": {
            "id": session.user.id,
            "name": session.user.name,
            "domain": domain(),
            "password_expires_at": null,
        },
        "audit_ids": [row.audit_id],
        "issued_at": row.issued_at.zulu(),
        "expires_at": row.expires_at.zulu(),
    });
    if let Some(project) = &session.project {
        token["project"] = json!({ "id": project.id, "name": project.name, "domain": domain() });
        token["is_domain"] = json!(false);
        token["roles"] = row.roles.iter().map(role_view).collect();
        if with_catalog {
            token["catalog"] = catalog(call, project);
        }
    }
    if let Some(credential) = &session.application_credential {
        token["application_credential"] =
            json!({ "id": credential.id, "name": credential.name, "restricted": true });
    }
    json!({ "token": token })
}

/// Role ids are made of the names, so that they are the same everywhere.
pub(super) fn role_view(role: &Role) -> Value {
    let id = blake3::hash(role.as_str().as_bytes()).to_hex();
    json!({ "id": id[..32], "name": role.as_str() })
}

fn catalog(call: &Call<'_>, project: &Project) -> Value {
    let volumes = format!("{}/v3/{}", call.base, project.id);
    let services = [
        ("block-storage", "embervault", volumes.clone()),
        ("volumev3", "embervault", volumes),
        ("identity", "keystone", format!("{}/identity", call.base)),
    ];
    services
        .into_iter()
        .map(|(kind, name, url)| {
            let endpoints: Vec<Value> = ["public", "internal", "admin"]
                .into_iter()
                .map(|interface| {
                    json!({
                        "id": stable_id(&[kind, interface]),
                        "interface": interface,
                        "region": call.api.region,
                        "region_id": call.api.region,
                        "url": url,
                    })
                })
                .collect();
            json!({ "id": stable_id(&[kind]), "type": kind, "name": name, "endpoints": endpoints })
        })
        .collect()
}

fn stable_id(parts: &[&str]) -> String {
    blake3::hash(parts.join(" ").as_bytes()).to_hex()[..32].to_owned()
}

/// The session a caller asks about: its own, or for administrators anybody's.
fn subject(call: &Call<'_>) -> std::result::Result<(String, Session), Error> {
    let caller = call.session()?;
    let token = call
        .subject_token
        .clone()
        .ok_or_else(|| invalid("X-Subject-Token is missing."))?;
    let session = call.embedded()?.validate(&token)?;
    let session = session.ok_or_else(|| Error::NotFound("Could not find token.".to_owned()))?;
    let may_know = caller.row.roles.contains(&Role::Admin) || caller.user.id == session.user.id;
    match may_know {
        true => Ok((token, session)),
        false => Err(Error::Forbidden("identity:validate_token")),
    }
}

/// `GET /auth/tokens`
pub(super) fn show_token(call: &Call<'_>) -> Result {
    let (token, session) = subject(call)?;
    let body = token_view(call, &session, call.query("nocatalog").is_none());
    Ok(Reply::json(200, body)
        .with_header("X-Subject-Token", token)
        .with_header("Vary", "X-Auth-Token"))
}

/// `HEAD /auth/tokens`
pub(super) fn check_token(call: &Call<'_>) -> Result {
    let (token, _) = subject(call)?;
    Ok(Reply::empty(200).with_header("X-Subject-Token", token))
}

/// `DELETE /auth/tokens`
pub(super) fn revoke_token(call: &Call<'_>) -> Result {
    let (token, _) = subject(call)?;
    call.embedded()?.revoke(&token)?;
    Ok(Reply::empty(204))
}

/// `GET /auth/catalog`
pub(super) fn show_catalog(call: &Call<'_>) -> Result {
    let session = call.session()?;
    let project = session
        .project
        .as_ref()
        .ok_or(Error::Forbidden("identity:get_auth_catalog"))?;
    Ok(Reply::json(
        200,
        json!({ "catalog": catalog(call, project), "links": {} }),
    ))
}

pub(super) fn project_view(call: &Call<'_>, project: &Project) -> Value {
    json!({
        "id": project.id,
        "name": project.name,
        "domain_id": DOMAIN,
        "parent_id": DOMAIN,
        "description": "",
        "enabled": true,
        "is_domain": false,
        "tags": [],
        "options": {},
        "links": { "self": format!("{}/identity/v3/projects/{}", call.base, project.id) },
    })
}

fn list_view(key: &str, items: Vec<Value>) -> Reply {
    let links = json!({ "next": null, "previous": null, "self": null });
    Reply::json(200, json!({ key: items, "links": links }))
}

/// `GET /auth/projects`
pub(super) fn own_projects(call: &Call<'_>) -> Result {
    let projects = call.embedded()?.projects_of(&call.session()?.user.id)?;
    let items = projects
        .iter()
        .map(|project| project_view(call, project))
        .collect();
    Ok(list_view("projects", items))
}

/// `GET /users/{id}/projects`
pub(super) fn projects_of_user(call: &Call<'_>) -> Result {
    own_user(call)?;
    own_projects(call)
}

fn visible_projects(call: &Call<'_>) -> std::result::Result<Vec<Project>, Error> {
    let session = call.session()?;
    match session.row.roles.contains(&Role::Admin) {
        true => call.embedded()?.projects(),
        false => call.embedded()?.projects_of(&session.user.id),
    }
}

/// `GET /projects`
pub(super) fn list_projects(call: &Call<'_>) -> Result {
    let name = call.query("name");
    let items = visible_projects(call)?
        .iter()
        .filter(|project| name.is_none_or(|name| project.name == name))
        .map(|project| project_view(call, project))
        .collect();
    Ok(list_view("projects", items))
}

/// `GET /projects/{id}`
pub(super) fn show_project(call: &Call<'_>) -> Result {
    let id = call.parameter("id");
    let found = visible_projects(call)?;
    match found.iter().find(|project| project.id.as_str() == id) {
        Some(project) => Ok(Reply::json(
            200,
            json!({ "project": project_view(call, project) }),
        )),
        None => Err(not_found("project", id)),
    }
}

/// The caller, if that is whom the path names.
fn own_user<'a>(call: &'a Call<'_>) -> std::result::Result<&'a User, Error> {
    let user = &call.session()?.user;
    match user.id.as_str() == call.parameter("id") {
        true => Ok(user),
        false => Err(not_found("user", call.parameter("id"))),
    }
}

pub(super) fn not_found(kind: &str, id: &str) -> Error {
    Error::NotFound(format!("Could not find {kind}: {id}."))
}

pub(super) fn user_view(call: &Call<'_>, user: &User) -> Value {
    json!({
        "id": user.id,
        "name": user.name,
        "domain_id": DOMAIN,
        "enabled": true,
        "password_expires_at": null,
        "options": {},
        "links": { "self": format!("{}/identity/v3/users/{}", call.base, user.id) },
    })
}

/// `GET /users/{id}`
pub(super) fn show_user(call: &Call<'_>) -> Result {
    let view = user_view(call, own_user(call)?);
    Ok(Reply::json(200, json!({ "user": view })))
}

/// `GET /domains/{id}`
pub(super) fn show_domain(call: &Call<'_>) -> Result {
    match call.parameter("id") {
        DOMAIN => Ok(Reply::json(200, json!({ "domain": domain_view() }))),
        id => Err(not_found("domain", id)),
    }
}

/// `GET /domains`
pub(super) fn list_domains(call: &Call<'_>) -> Result {
    let name = call.query("name");
    let items = [domain_view()]
        .into_iter()
        .filter(|domain| name.is_none_or(|name| domain["name"] == name))
        .collect();
    Ok(list_view("domains", items))
}

fn domain_view() -> Value {
    let mut view = domain();
    view["enabled"] = json!(true);
    view["description"] = json!("The default domain");
    view
}

fn credential_view(row: &ApplicationCredential) -> Value {
    json!({
        "id": row.id,
        "name": row.name,
        "description": row.description,
        "user_id": row.user_id,
        "project_id": row.project_id,
        "roles": row.roles.iter().map(role_view).collect::<Vec<_>>(),
        "expires_at": row.expires_at.map(Timestamp::zulu),
        "unrestricted": false,
        "system": null,
    })
}

/// `POST /users/{id}/application_credentials`
pub(super) fn create_credential(call: &Call<'_>) -> Result {
    own_user(call)?;
    let fields = call.body()?.object("application_credential")?;
    // Clients send an empty list when they want none.
    let has_rules = |rules: &Value| rules.as_array().is_none_or(|rules| !rules.is_empty());
    if fields
        .value("access_rules")
        .is_some_and(|rules| !rules.is_null() && has_rules(rules))
    {
        return Err(invalid(
            "access_rules are not supported by the embedded identity.",
        ));
    }
    if fields.flag("unrestricted")? {
        return Err(invalid(
            "Unrestricted application credentials are not supported.",
        ));
    }
    let wanted = NewCredential {
        name: fields
            .text("name")?
            .flatten()
            .filter(|name| !name.is_empty())
            .ok_or_else(|| invalid("'name' is a required property"))?,
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
    let mut view = credential_view(&row);
    view["secret"] = json!(secret.expose());
    Ok(Reply::json(201, json!({ "application_credential": view })))
}

fn wanted_roles(fields: Fields<'_>) -> std::result::Result<Option<Vec<Role>>, Error> {
    // Clients send an empty list when they want all.
    let listed = match fields.value("roles") {
        Some(Value::Array(listed)) if !listed.is_empty() => listed,
        _ => return Ok(None),
    };
    let role = |value: &Value| {
        Role::ALL.iter().copied().find(|role| {
            value.get("name").and_then(Value::as_str) == Some(role.as_str())
                || value.get("id") == role_view(role).get("id")
        })
    };
    let roles = listed.iter().map(role).collect::<Option<Vec<_>>>();
    roles
        .map(Some)
        .ok_or_else(|| invalid("Could not find role."))
}

fn wanted_expiry(fields: Fields<'_>) -> std::result::Result<Option<Timestamp>, Error> {
    let Some(text) = fields.text("expires_at")?.flatten() else {
        return Ok(None);
    };
    Timestamp::parse(&text)
        .map(Some)
        .ok_or_else(|| invalid("expires_at must be a time such as 2030-01-01T00:00:00Z."))
}

/// `GET /users/{id}/application_credentials`
pub(super) fn list_credentials(call: &Call<'_>) -> Result {
    let user = own_user(call)?;
    let name = call.query("name");
    let rows = call.embedded()?.credentials_of(&user.id)?;
    let items = rows
        .iter()
        .filter(|row| name.is_none_or(|name| row.name == name))
        .map(credential_view)
        .collect();
    Ok(list_view("application_credentials", items))
}

fn no_credential(id: &str) -> Error {
    Error::NotFound(format!("Could not find Application Credential: {id}."))
}

/// `GET /users/{id}/application_credentials/{credential}`
pub(super) fn show_credential(call: &Call<'_>) -> Result {
    let user = own_user(call)?;
    let id = call.parameter("credential");
    let rows = call.embedded()?.credentials_of(&user.id)?;
    let row = rows
        .iter()
        .find(|row| row.id == id)
        .ok_or_else(|| no_credential(id))?;
    Ok(Reply::json(
        200,
        json!({ "application_credential": credential_view(row) }),
    ))
}

/// `DELETE /users/{id}/application_credentials/{credential}`
pub(super) fn delete_credential(call: &Call<'_>) -> Result {
    let user = own_user(call)?;
    let id = call.parameter("credential");
    match call.embedded()?.remove_credential(&user.id, id)? {
        true => Ok(Reply::empty(204)),
        false => Err(no_credential(id)),
    }
}
