//! From a cloud's settings to the body of a login: who, by which method, for which project.

use anyhow::{Context as _, Result, bail};
use serde_json::{Map, Value, json};

use crate::cloud::Cloud;

/// A login ready to be sent.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Login {
    pub(crate) auth_url: String,
    /// Whether the identity version is to be discovered at `auth_url`, as the SDK does for the
    /// types that name no version.
    pub(crate) discover: bool,
    pub(crate) body: Value,
    /// Sent as `X-Auth-Token` as well when the login is by token.
    pub(crate) token: Option<String>,
}

impl Login {
    /// `asked_password` replaces the one in the file.
    pub(crate) fn new(cloud: &Cloud, asked_password: Option<String>) -> Result<Login> {
        let auth_url = cloud.auth("auth_url").context("auth.auth_url is missing")?;
        let kind = auth_type(cloud);
        let mut token = None;
        let identity = match kind.as_str() {
            "password" | "v3password" => password(cloud, asked_password)?,
            _ if asked_password.is_some() => bail!("auth_type {kind} knows no password to ask for"),
            "token" | "v3token" => {
                let id = cloud.auth("token").context("auth.token is missing")?;
                token = Some(id.clone());
                json!({"methods": ["token"], "token": {"id": id}})
            }
            "v3applicationcredential" => application_credential(cloud)?,
            _ => bail!(
                "auth_type {kind} is not supported; password, v3password, token, v3token and \
                 v3applicationcredential are"
            ),
        };
        let mut auth = json!({"identity": identity});
        if kind != "v3applicationcredential"
            && let Some(project) = project(cloud)?
        {
            auth["scope"] = json!({"project": project});
        }
        let discover = !kind.starts_with("v3");
        Ok(Login {
            auth_url,
            discover,
            body: json!({"auth": auth}),
            token,
        })
    }
}

fn auth_type(cloud: &Cloud) -> String {
    let named = cloud
        .text("auth_type")
        .or_else(|| cloud.text("auth_plugin"));
    let default = if cloud.auth("token").is_some() {
        "token"
    } else {
        "password"
    };
    named.unwrap_or_else(|| default.into())
}

fn password(cloud: &Cloud, asked: Option<String>) -> Result<Value> {
    let password = asked.or_else(|| cloud.auth("password"));
    let password = password.context("auth.password is missing; --ask asks for it")?;
    let mut user = user(cloud)?;
    user.insert("password".into(), password.into());
    Ok(json!({"methods": ["password"], "password": {"user": user}}))
}

/// The id is enough; a name needs its domain.
fn user(cloud: &Cloud) -> Result<Map<String, Value>> {
    let mut user = Map::new();
    if let Some(id) = cloud.auth("user_id") {
        user.insert("id".into(), id.into());
        return Ok(user);
    }
    let name = cloud.auth("username").or_else(|| cloud.auth("user_name"));
    user.insert(
        "name".into(),
        name.context("auth.username or auth.user_id is missing")?
            .into(),
    );
    let domain = domain(cloud, "user").context(
        "auth.user_domain_name or auth.user_domain_id is missing, and the user is given by name",
    )?;
    user.insert("domain".into(), domain);
    Ok(user)
}

fn application_credential(cloud: &Cloud) -> Result<Value> {
    let secret = cloud.auth("application_credential_secret");
    let secret = secret.context("auth.application_credential_secret is missing")?;
    let credential = match cloud.auth("application_credential_id") {
        Some(id) => json!({"id": id, "secret": secret}),
        None => {
            let name = cloud.auth("application_credential_name");
            let name = name.context("auth.application_credential_id is missing")?;
            json!({"name": name, "secret": secret, "user": user(cloud)?})
        }
    };
    Ok(json!({"methods": ["application_credential"], "application_credential": credential}))
}

/// The project to be scoped to, if one is named.
fn project(cloud: &Cloud) -> Result<Option<Value>> {
    let first = |keys: [&str; 2]| keys.into_iter().find_map(|key| cloud.auth(key));
    if let Some(id) = first(["project_id", "tenant_id"]) {
        return Ok(Some(json!({"id": id})));
    }
    let Some(name) = first(["project_name", "tenant_name"]) else {
        return Ok(None);
    };
    let domain = domain(cloud, "project").context(
        "auth.project_domain_name or auth.project_domain_id is missing, and the project is given \
         by name",
    )?;
    Ok(Some(json!({"name": name, "domain": domain})))
}

/// The id goes before the name, the particular setting before the common ones.
fn domain(cloud: &Cloud, of: &str) -> Option<Value> {
    for common in [of, "", "default"] {
        let key = |what| {
            format!("{common}_domain_{what}")
                .trim_start_matches('_')
                .to_owned()
        };
        if let Some(id) = cloud.auth(&key("id")) {
            return Some(json!({"id": id}));
        }
        if let Some(name) = cloud.auth(&key("name")) {
            return Some(json!({"name": name}));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cloud;

    fn login(settings: Value, asked: Option<&str>) -> Result<Login> {
        let cloud = cloud::from_settings("demo", settings)?;
        Login::new(&cloud, asked.map(str::to_owned))
    }

    #[test]
    fn a_user_by_name_is_sent_as_the_sdk_sends_it() {
        let login = login(
            json!({"auth": {"auth_url": "http://c/identity", "username": "demo",
                "password": "secret", "user_domain_id": "default", "project_name": "demo",
                "project_domain_id": "default"}}),
            None,
        );
        let login = login.unwrap();
        assert!(login.discover);
        assert_eq!(
            login.body,
            json!({"auth": {"identity": {"methods": ["password"], "password": {"user": {
                "password": "secret", "name": "demo", "domain": {"id": "default"}}}},
                "scope": {"project": {"name": "demo", "domain": {"id": "default"}}}}})
        );
    }

    #[test]
    fn an_asked_password_wins_and_ids_need_no_domain() {
        let settings = json!({"auth_type": "v3password", "auth": {"auth_url": "http://c/v3",
            "user_id": "u1", "password": "old", "project_id": "p1"}});
        let login = login(settings, Some("new")).unwrap();
        assert!(!login.discover);
        let user = &login.body["auth"]["identity"]["password"]["user"];
        assert_eq!(*user, json!({"id": "u1", "password": "new"}));
        assert_eq!(
            login.body["auth"]["scope"],
            json!({"project": {"id": "p1"}})
        );
    }

    #[test]
    fn an_application_credential_carries_no_scope() {
        let settings = json!({"auth_type": "v3applicationcredential", "auth": {
            "auth_url": "http://c/v3", "application_credential_id": "ac",
            "application_credential_secret": "s", "project_name": "p"}});
        let login = login(settings, None).unwrap();
        let auth = &login.body["auth"];
        assert_eq!(
            auth["identity"]["application_credential"],
            json!({"id": "ac", "secret": "s"})
        );
        assert!(auth.get("scope").is_none());
    }

    #[test]
    fn a_named_application_credential_names_its_user() {
        let settings = json!({"auth_type": "v3applicationcredential", "auth": {
            "auth_url": "http://c/v3", "application_credential_name": "ac", "username": "u",
            "domain_name": "Default", "application_credential_secret": "s"}});
        let login = login(settings, None).unwrap();
        let credential = &login.body["auth"]["identity"]["application_credential"];
        assert_eq!(
            credential["user"],
            json!({"name": "u", "domain": {"name": "Default"}})
        );
    }

    #[test]
    fn a_token_makes_the_login_one_by_token() {
        let settings = json!({"auth": {"auth_url": "http://c", "token": "t", "project_id": "p"}});
        let login = login(settings, None).unwrap();
        assert_eq!(login.token.as_deref(), Some("t"));
        assert_eq!(
            login.body["auth"]["identity"],
            json!({"methods": ["token"], "token": {"id": "t"}})
        );
    }

    #[test]
    fn what_is_missing_is_named() {
        let refusal = |settings| login(settings, None).unwrap_err().to_string();
        assert!(refusal(json!({})).contains("auth_url"));
        let auth = json!({"auth_url": "http://c", "username": "u", "password": "p"});
        assert!(refusal(json!({"auth": auth})).contains("user_domain"));
        let settings = json!({"auth_type": "v3oidcpassword", "auth": {"auth_url": "http://c"}});
        assert!(refusal(settings).contains("v3oidcpassword"));
    }
}
