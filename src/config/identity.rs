//! Settings of who vouches for users, and of what users may do.

use crate::config::Secret;
use crate::model::role::Role;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;

/// Who vouches for users.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IdentityMode {
    /// Users and projects of our own, at `/identity/v3`.
    #[default]
    Embedded,
    /// A Keystone validates tokens.
    Keystone,
}

/// A Keystone that validates tokens. Needed in the mode `keystone`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KeystoneSettings {
    /// Keystone as this service reaches it, such as `https://keystone.example.org/v3`.
    pub auth_url: String,
    /// Keystone's address for clients, named in answers to requests without a token. Default: `auth_url`.
    pub www_authenticate_uri: Option<String>,
    /// The user of this service. It needs the role `service` or `admin`.
    pub username: String,
    pub password: Secret,
    pub project_name: String,
    pub user_domain_name: String,
    pub project_domain_name: String,
    /// Certificates to trust, PEM. Default: those of the system.
    pub cacert: Option<PathBuf>,
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// How long a validated token is accepted without asking Keystone again. A revoked token is refused after this
    /// time at the latest.
    #[serde(with = "humantime_serde")]
    pub cache_time: Duration,
    /// How many of these answers are kept. Each takes about 1 KiB; one with many access rules counts as several.
    pub cache_tokens_max: u64,
    /// Type of this service in access rules of application credentials.
    pub service_type: String,
    /// Roles of services whose requests for a user go on after the user's token has expired.
    pub service_token_roles: Vec<String>,
}

impl Default for KeystoneSettings {
    fn default() -> Self {
        Self {
            auth_url: String::new(),
            www_authenticate_uri: None,
            username: String::new(),
            password: Secret::from(""),
            project_name: "service".to_owned(),
            user_domain_name: "Default".to_owned(),
            project_domain_name: "Default".to_owned(),
            cacert: None,
            timeout: Duration::from_secs(10),
            cache_time: Duration::from_secs(300),
            cache_tokens_max: 10_000,
            service_type: "block-storage".to_owned(),
            service_token_roles: vec!["service".to_owned()],
        }
    }
}

/// Rules of who may do what.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// A `policy.yaml` as of oslo.policy. Default: `policy.yaml` in the data directory, if it is there.
    pub file: Option<PathBuf>,
}

/// Users and their tokens.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Identity {
    pub mode: IdentityMode,
    pub keystone: KeystoneSettings,
    #[serde(with = "humantime_serde")]
    pub token_lifetime: Duration,
    pub region: String,
    /// Users that every start creates, or whose password and roles it sets. List a user of several projects once
    /// for each project. A user who was listed before and no longer is cannot log in.
    pub users: Vec<ConfiguredUser>,
}

impl Default for Identity {
    fn default() -> Self {
        Self {
            mode: IdentityMode::default(),
            keystone: KeystoneSettings::default(),
            token_lifetime: Duration::from_secs(12 * 3600),
            region: "RegionOne".to_owned(),
            users: Vec::new(),
        }
    }
}

impl Identity {
    /// A user has one password, and one role in a project.
    pub(super) fn check_users(&self) -> Result<(), String> {
        for (at, user) in self.users.iter().enumerate() {
            let mut before = self.users[..at].iter().filter(|row| row.name == user.name);
            if before.clone().any(|row| row.password != user.password) {
                return Err(format!("user {:?} has two passwords", user.name));
            }
            if before.any(|row| row.project == user.project && row.role != user.role) {
                return Err(format!(
                    "user {:?} has two roles in project {:?}; give the higher one",
                    user.name, user.project
                ));
            }
        }
        Ok(())
    }
}

/// A user of the embedded identity.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfiguredUser {
    pub name: String,
    pub password: Secret,
    pub project: String,
    pub role: Role,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_has_one_password_and_one_role_in_a_project() {
        let check = |rows: &[(&str, &str, Role)]| {
            let user = |(password, project, role): &(&str, &str, Role)| ConfiguredUser {
                name: "alice".to_owned(),
                password: Secret::from(*password),
                project: (*project).to_owned(),
                role: *role,
            };
            let settings = Identity {
                users: rows.iter().map(user).collect(),
                ..Identity::default()
            };
            settings.check_users()
        };
        let first = ("p", "alpha", Role::Member);
        assert!(check(&[first, ("p", "beta", Role::Admin), first]).is_ok());
        let two_passwords = check(&[first, ("q", "beta", Role::Admin)]).unwrap_err();
        assert_eq!(two_passwords, "user \"alice\" has two passwords");
        let two_roles = check(&[first, ("p", "alpha", Role::Admin)]).unwrap_err();
        assert!(
            two_roles.contains("two roles in project \"alpha\""),
            "{two_roles}"
        );
    }
}
