//! As whom a service logs in.

use crate::config::{KeystoneSettings, Secret};
use serde_json::{Value, json};

/// A service's own user, in a project.
#[derive(Debug, Clone)]
pub enum Credentials {
    Password {
        username: String,
        user_domain: String,
        password: Secret,
        project: String,
        project_domain: String,
    },
    /// It belongs to a user and a project already.
    ApplicationCredential { id: String, secret: Secret },
}

impl From<&KeystoneSettings> for Credentials {
    /// This service's own user.
    fn from(settings: &KeystoneSettings) -> Self {
        Self::Password {
            username: settings.username.clone(),
            user_domain: settings.user_domain_name.clone(),
            password: settings.password.clone(),
            project: settings.project_name.clone(),
            project_domain: settings.project_domain_name.clone(),
        }
    }
}

impl Credentials {
    /// The body of a log-in.
    pub(super) fn body(&self) -> Value {
        match self {
            Credentials::Password {
                username,
                user_domain,
                password,
                project,
                project_domain,
            } => {
                let user = json!({
                    "name": username,
                    "domain": { "name": user_domain },
                    "password": password.expose(),
                });
                let project = json!({ "name": project, "domain": { "name": project_domain } });
                json!({ "auth": {
                    "identity": { "methods": ["password"], "password": { "user": user } },
                    "scope": { "project": project },
                }})
            }
            Credentials::ApplicationCredential { id, secret } => json!({ "auth": { "identity": {
                "methods": ["application_credential"],
                "application_credential": { "id": id, "secret": secret.expose() },
            }}}),
        }
    }
}
