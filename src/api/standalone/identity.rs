//! `/identity/v3`: the part of Keystone's API that clients of block storage use (client notes, 3).

use crate::api::http::body::{Fields, expecting};
use crate::api::http::call::Call;
use crate::api::http::python;
use crate::api::http::reply::Reply;
use crate::api::standalone::identity_catalog::catalog;
use crate::api::standalone::identity_roles::role_view;
use crate::api::standalone::identity_views::{
    DOMAIN, FILTERS, domain, filtered, list_all, list_view, managed, not_found, project_view,
    user_view,
};
use crate::config::Secret;
use crate::identity::embedded::{CredentialName, Credentials, IssuedToken, Named, Scope};
use crate::model::error::Error;
use crate::model::id::{ProjectId, UserId};
use crate::model::role::Role;
use crate::model::standalone::identity::{Project, TokenRow, User};
use serde_json::{Value, json};

type Result = std::result::Result<Reply, Error>;

/// `POST /auth/tokens`
pub(crate) fn log_in(call: &Call<'_>) -> Result {
    let auth = call.body()?.object_among("auth")?;
    let identity = auth.value("identity");
    let identity = identity.ok_or_else(|| invalid("'identity' is a required property"))?;
    let methods = methods(identity)?;
    let credentials = credentials(identity, &methods)?;
    let scope = scope(auth)?;
    let (token, session) =
        call.embedded()?
            .authenticate(methods, &credentials, &scope, call.client)?;
    let body = token_view(call, &session, call.query("nocatalog").is_none());
    Ok(Reply::json(201, body)
        .with_header("X-Subject-Token", token.expose())
        .with_header("Vary", "X-Auth-Token"))
}

pub(crate) fn invalid(message: &str) -> Error {
    Error::Invalid(message.to_owned())
}

fn methods(identity: &Value) -> std::result::Result<Vec<String>, Error> {
    let listed = identity.get("methods").ok_or_else(|| {
        invalid("Invalid input for field 'identity': 'methods' is a required property")
    })?;
    let listed = listed.as_array();
    let names = listed.and_then(|names| {
        names
            .iter()
            .map(|name| name.as_str().map(str::to_owned))
            .collect::<Option<Vec<_>>>()
    });
    match names {
        Some(names) if names.is_empty() => Err(Error::Unauthenticated),
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
        .ok_or_else(|| expecting(method, "identity"))?;
    let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).map(Secret::from);
    match method {
        "password" => {
            let user = given
                .get("user")
                .ok_or_else(|| invalid("password.user is missing."))?;
            Ok(Credentials::Password {
                user: named("user", user)?,
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
                    user: match given.get("user") {
                        Some(user) => named("user", user)?,
                        None => return Err(expecting("user", "application_credential")),
                    },
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
fn named(kind: &str, value: &Value) -> std::result::Result<Named, Error> {
    let text = |key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
    if let Some(id) = text("id") {
        return Ok(Named::Id(id));
    }
    let name = text("name").ok_or_else(|| expecting("id or name", kind))?;
    let domain = value.get("domain");
    let domain = domain.ok_or_else(|| expecting("domain", kind))?;
    let is_ours = domain.get("id").and_then(Value::as_str) == Some(DOMAIN)
        || domain.get("name").and_then(Value::as_str) == Some("Default");
    if is_ours {
        Ok(Named::Name(name))
    } else {
        Err(Error::Unauthenticated)
    }
}

fn scope(auth: Fields<'_>) -> std::result::Result<Scope, Error> {
    match auth.value("scope") {
        None | Some(Value::Null) => Ok(Scope::Default),
        Some(Value::String(word)) if word == "unscoped" => Ok(Scope::Unscoped),
        Some(scope) if scope.get("unscoped").is_some() => Ok(Scope::Unscoped),
        Some(scope) if scope.is_object() || scope.is_string() => match scope.get("project") {
            Some(project) => named("project", project).map(Scope::Project),
            None => Err(Error::Unauthenticated),
        },
        Some(other) => Err(Error::Invalid(format!(
            "Invalid input for field 'scope': {} is not of type 'object', 'string'",
            python::repr_under("scope", other)
        ))),
    }
}

fn token_view(call: &Call<'_>, session: &IssuedToken, with_catalog: bool) -> Value {
    let row = &session.row;
    let mut token = json!({
        "methods": *row.methods,
        "user": {
            "id": session.user.id,
            "name": session.user.name,
            "domain": domain(),
            "password_expires_at": null,
        },
        "audit_ids": audit_ids(row),
        "issued_at": row.issued_at.zulu(),
        "expires_at": row.expires_at.zulu(),
    });
    if let Some(project) = &session.project {
        token["project"] = json!({ "id": project.id, "name": project.name, "domain": domain() });
        token["is_domain"] = json!(false);
        token["roles"] = session.roles.iter().map(role_view).collect();
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

/// The token's own, and that of the log-in it goes back to.
fn audit_ids(row: &TokenRow) -> Vec<&str> {
    let first = row.parent_audit_id.is_some().then_some(&row.chain_id);
    let ids = [Some(&row.audit_id), first];
    ids.into_iter().flatten().map(String::as_str).collect()
}

/// The token that a caller asks about: its own one, or for administrators any.
fn subject(
    call: &Call<'_>,
    what: &'static str,
) -> std::result::Result<(String, IssuedToken), Error> {
    let caller = call.session()?;
    // As in Keystone, who names no token may not do it.
    let token = call.subject_token.clone().ok_or(Error::Forbidden(what))?;
    let session = call.embedded()?.validate(&token)?;
    let session = session.ok_or_else(|| Error::NotFound("Failed to validate token".to_owned()))?;
    let may_know = caller.roles.contains(&Role::Admin) || caller.user.id == session.user.id;
    if may_know {
        Ok((token, session))
    } else {
        Err(Error::Forbidden(what))
    }
}

/// `GET /auth/tokens`
pub(crate) fn show_token(call: &Call<'_>) -> Result {
    let (token, session) = subject(call, "identity:validate_token")?;
    let body = token_view(call, &session, call.query("nocatalog").is_none());
    Ok(Reply::json(200, body)
        .with_header("X-Subject-Token", token)
        .with_header("Vary", "X-Auth-Token"))
}

/// `HEAD /auth/tokens`
pub(crate) fn check_token(call: &Call<'_>) -> Result {
    let (token, _) = subject(call, "identity:check_token")?;
    Ok(Reply::empty(200).with_header("X-Subject-Token", token))
}

/// `DELETE /auth/tokens`
pub(crate) fn revoke_token(call: &Call<'_>) -> Result {
    let (_, session) = subject(call, "identity:revoke_token")?;
    let caller = call.session()?;
    // An application credential ends what was got with it, and not its user's own tokens.
    let own = &caller.row.application_credential_id;
    if own.is_some() && *own != session.row.application_credential_id {
        return Err(Error::Forbidden("identity:revoke_token"));
    }
    call.embedded()?.revoke(&session)?;
    Ok(Reply::empty(204))
}

/// `GET /auth/catalog`
pub(crate) fn show_catalog(call: &Call<'_>) -> Result {
    let session = call.session()?;
    let project = session
        .project
        .as_ref()
        .ok_or(Error::Forbidden("identity:get_auth_catalog"))?;
    let own = format!("{}{}", call.base, call.path);
    Ok(Reply::json(
        200,
        json!({ "catalog": catalog(call, project), "links": { "self": own } }),
    ))
}

/// `GET /auth/projects`
pub(crate) fn own_projects(call: &Call<'_>) -> Result {
    list_projects_of(call, &call.session()?.user.id)
}

/// `GET /users/{id}/projects`
pub(crate) fn projects_of_user(call: &Call<'_>) -> Result {
    let user = shown_user(call, "identity:list_user_projects")?;
    list_projects_of(call, &user.id)
}

fn list_projects_of(call: &Call<'_>, user: &UserId) -> Result {
    let identity = call.embedded()?;
    list_all(
        call,
        "projects",
        |last| identity.projects_of(user, name_of(last)),
        |project| filtered(call, vec![project_view(call, project)], &FILTERS),
    )
}

/// The name of the last project, behind which a list goes on.
fn name_of(last: Option<&Project>) -> &str {
    last.map_or("", |project| &project.name)
}

/// `GET /projects`
pub(crate) fn list_projects(call: &Call<'_>) -> Result {
    let session = call.session()?;
    if !session.roles.contains(&Role::Admin) {
        return list_projects_of(call, &session.user.id);
    }
    let identity = call.embedded()?;
    list_all(
        call,
        "projects",
        |last| identity.projects(name_of(last)),
        |project| filtered(call, vec![project_view(call, project)], &FILTERS),
    )
}

/// `GET /projects/{id}`
pub(crate) fn show_project(call: &Call<'_>) -> Result {
    let id = call.parameter("id");
    let session = call.session()?;
    let found = if session.roles.contains(&Role::Admin) {
        call.embedded()?.project_named(&Named::Id(id.to_owned()))?
    } else {
        let project = ProjectId::new(id);
        call.embedded()?.project_of(&session.user.id, &project)?
    };
    let project = found.ok_or_else(|| not_found("project", id))?;
    let view = project_view(call, &project);
    Ok(Reply::json(200, json!({ "project": view })))
}

/// The user that the path names: the caller, or for administrators any user. As in Keystone, other callers do not learn
/// whether the user exists.
pub(crate) fn shown_user(call: &Call<'_>, what: &'static str) -> std::result::Result<User, Error> {
    let caller = &call.session()?.user;
    let id = call.parameter("id");
    if caller.id.as_str() == id {
        return Ok(caller.clone());
    }
    let found = managed(call, what)?.user_named(&Named::Id(id.to_owned()))?;
    found.ok_or_else(|| not_found("user", id))
}

/// `GET /users/{id}`
pub(crate) fn show_user(call: &Call<'_>) -> Result {
    let view = user_view(call, &shown_user(call, "identity:get_user")?);
    Ok(Reply::json(200, json!({ "user": view })))
}

/// `GET /domains/{id}`
pub(crate) fn show_domain(call: &Call<'_>) -> Result {
    match call.parameter("id") {
        DOMAIN => Ok(Reply::json(200, json!({ "domain": domain_view(call) }))),
        id => Err(not_found("domain", id)),
    }
}

/// `GET /domains`
pub(crate) fn list_domains(call: &Call<'_>) -> Result {
    let name = call.query("name");
    let items = [domain_view(call)]
        .into_iter()
        .filter(|domain| name.is_none_or(|name| domain["name"] == name))
        .collect();
    Ok(list_view(call, "domains", items))
}

fn domain_view(call: &Call<'_>) -> Value {
    let mut view = domain();
    view["enabled"] = json!(true);
    view["description"] = json!("The default domain");
    view["tags"] = json!([]);
    view["options"] = json!({});
    view["links"] = json!({ "self": format!("{}/identity/v3/domains/{DOMAIN}", call.base) });
    view
}
