//! Login at the Identity service: finds its version 3, sends the login, keeps what the token
//! says. The token is not renewed; a run is shorter than any usual token's life.

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use serde_json::Value;

use crate::catalog::Service;
use crate::credentials::Login;
use crate::exchange::{Exchange, Method, Request};
use crate::http::Http;
use crate::{log, url};

/// A project-scoped token and what came with it.
#[derive(Clone)]
pub(crate) struct Session {
    pub(crate) token: String,
    pub(crate) project_id: String,
    roles: Vec<String>,
    pub(crate) catalog: Vec<Service>,
}

#[derive(Deserialize)]
struct Envelope {
    token: Token,
}

#[derive(Deserialize)]
struct Token {
    project: Option<Project>,
    #[serde(default)]
    roles: Vec<Role>,
    #[serde(default)]
    catalog: Vec<Service>,
}

#[derive(Deserialize)]
struct Project {
    id: String,
}

#[derive(Deserialize)]
struct Role {
    name: String,
}

pub(crate) fn log_in(http: &Http, login: &Login) -> Result<Session> {
    let base = if login.discover {
        discovered(http, &login.auth_url)?
    } else {
        url::with_v3(&login.auth_url)
    };
    let mut request = Request::new(Method::Post, format!("{base}/auth/tokens"));
    if let Some(token) = &login.token {
        request = request.header("X-Auth-Token", token);
    }
    session(http.send(request.body(login.body.clone())))
}

fn session(exchange: Exchange) -> Result<Session> {
    let subject = exchange
        .result
        .as_ref()
        .ok()
        .and_then(|answer| answer.header("x-subject-token"));
    let subject = subject.map(str::to_owned);
    let Envelope { token } = exchange.decode()?;
    let project = token
        .project
        .context("the token is not scoped to a project")?;
    Ok(Session {
        token: subject.context("the login's answer has no X-Subject-Token header")?,
        project_id: project.id,
        roles: token.roles.into_iter().map(|role| role.name).collect(),
        catalog: token.catalog,
    })
}

/// The URL of Identity version 3, without a slash at its end. Where no version document can be
/// had the usual path is taken, as the SDK does.
fn discovered(http: &Http, auth_url: &str) -> Result<String> {
    let exchange = http.send(Request::new(Method::Get, auth_url));
    if exchange.result.is_err() {
        return Err(exchange.into_error("no version document"));
    }
    let found = match exchange.status() {
        Some(200 | 300) => version_3(&exchange.json(), auth_url),
        _ => None,
    };
    Ok(found.unwrap_or_else(|| {
        let guess = url::with_v3(auth_url);
        log::warning(format_args!(
            "no identity version document at {auth_url}, trying {guess}"
        ));
        guess
    }))
}

/// `{"version": v}`, `{"versions": {"values": [v]}}` and `{"versions": [v]}` are all in use.
fn version_3(document: &Value, found_at: &str) -> Option<String> {
    let single = document.get("version").map(std::slice::from_ref);
    let versions = document.get("versions");
    let several = versions.map(|versions| versions.get("values").unwrap_or(versions));
    let several = several.and_then(Value::as_array).map(Vec::as_slice);
    let version = single.or(several)?.iter().find(|version| {
        version["id"]
            .as_str()
            .is_some_and(|id| id == "v3" || id.starts_with("v3."))
    })?;
    let links = version["links"].as_array()?;
    let own = links.iter().find(|link| link["rel"] == "self")?["href"].as_str()?;
    Some(url::join(found_at, own).trim_end_matches('/').to_owned())
}

impl Session {
    /// The check is meant for ordinary users: an administrator sees and may do too much.
    pub(crate) fn refuse_administrators(&self) -> Result<()> {
        let roles = self.roles.join(", ");
        let has = |name: &str| {
            self.roles
                .iter()
                .any(|role| role.eq_ignore_ascii_case(name))
        };
        if has("admin") || has("manager") {
            bail!("the user is an administrator (roles: {roles}); use an ordinary member");
        }
        if !has("member") {
            bail!("the user lacks the role member (roles: {roles})");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::exchange::Answer;

    fn answered(headers: &[(&str, &str)], body: Value) -> Result<Session> {
        let headers = headers
            .iter()
            .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
            .collect();
        let answer = Answer {
            status: 201,
            headers,
            body: body.to_string(),
        };
        let request = Request::new(Method::Post, "http://c/v3/auth/tokens");
        session(Exchange {
            request,
            result: Ok(answer),
            duration: Duration::ZERO,
        })
    }

    fn with_roles(roles: &[&str]) -> Session {
        let roles: Vec<_> = roles
            .iter()
            .map(|name| json!({"id": "x", "name": name}))
            .collect();
        let token = json!({"token": {"project": {"id": "p"}, "roles": roles}});
        answered(&[("x-subject-token", "t")], token).unwrap()
    }

    #[test]
    fn version_3_is_found_in_every_form_of_the_document() {
        let old = json!({"id": "v2.0", "links": [{"rel": "self", "href": "http://c/v2.0/"}]});
        let version =
            json!({"id": "v3.14", "links": [{"rel": "self", "href": "http://c/identity/v3/"}]});
        let expected = Some("http://c/identity/v3".to_owned());
        let find = |document| version_3(&document, "http://c/identity");
        assert_eq!(find(json!({"version": version})), expected);
        assert_eq!(
            find(json!({"versions": {"values": [old, version]}})),
            expected
        );
        assert_eq!(find(json!({"versions": [version]})), expected);
        assert_eq!(find(json!({"versions": [old]})), None);
        assert_eq!(find(Value::Null), None);
    }

    #[test]
    fn a_relative_link_leads_to_the_same_server() {
        let document =
            json!({"version": {"id": "v3.0", "links": [{"rel": "self", "href": "/v3/"}]}});
        assert_eq!(
            version_3(&document, "http://c/identity").as_deref(),
            Some("http://c/v3")
        );
    }

    #[test]
    fn administrators_and_strangers_are_refused() {
        assert!(
            with_roles(&["member", "reader"])
                .refuse_administrators()
                .is_ok()
        );
        assert!(
            with_roles(&["member", "admin"])
                .refuse_administrators()
                .is_err()
        );
        assert!(
            with_roles(&["member", "manager"])
                .refuse_administrators()
                .is_err()
        );
        assert!(with_roles(&["reader"]).refuse_administrators().is_err());
        assert!(with_roles(&[]).refuse_administrators().is_err());
    }

    #[test]
    fn a_token_without_project_or_header_is_no_session() {
        assert!(answered(&[("x-subject-token", "t")], json!({"token": {"roles": []}})).is_err());
        assert!(answered(&[], json!({"token": {"project": {"id": "p"}}})).is_err());
    }
}
