//! Keystone's answer about a token.

use crate::keystone::error::ClientError;
use crate::model::time::Timestamp;
use serde::Deserialize;

#[derive(Deserialize)]
struct Body {
    token: Token,
}

/// A token as Keystone describes it.
#[derive(Debug, Deserialize)]
pub struct Token {
    expires_at: Option<String>,
    user: Option<Named>,
    project: Option<Named>,
    #[serde(default)]
    roles: Vec<RoleName>,
    application_credential: Option<Credential>,
    #[serde(default)]
    catalog: Vec<Service>,
}

#[derive(Debug, Deserialize)]
struct Named {
    id: String,
}

#[derive(Debug, Deserialize)]
struct RoleName {
    name: String,
}

#[derive(Debug, Deserialize)]
struct Credential {
    access_rules: Option<Vec<AccessRule>>,
}

/// A request that an application credential allows.
#[derive(Debug, Clone, Deserialize)]
pub struct AccessRule {
    pub service: String,
    pub path: String,
    pub method: String,
}

#[derive(Debug, Deserialize)]
struct Service {
    r#type: String,
    #[serde(default)]
    endpoints: Vec<Endpoint>,
}

#[derive(Debug, Deserialize)]
struct Endpoint {
    interface: String,
    region: Option<String>,
    url: String,
}

impl Token {
    pub(super) fn parse(body: &[u8]) -> Result<Self, ClientError> {
        // The cause could quote the answer.
        let body: Body = serde_json::from_slice(body).map_err(|_| ClientError::Unreadable)?;
        Ok(body.token)
    }

    /// Until when it is good.
    pub fn expires_at(&self) -> Result<Timestamp, ClientError> {
        let expires_at = self.expires_at.as_deref().and_then(Timestamp::parse);
        expires_at.ok_or(ClientError::NoExpiry)
    }

    /// The id of the user.
    pub fn user_id(&self) -> Option<&str> {
        self.user.as_ref().map(|user| user.id.as_str())
    }

    /// The id of the project it is scoped to.
    pub fn project_id(&self) -> Option<&str> {
        self.project.as_ref().map(|project| project.id.as_str())
    }

    /// The names of the roles.
    pub fn roles(&self) -> impl Iterator<Item = &str> {
        self.roles.iter().map(|role| role.name.as_str())
    }

    /// The access rules of the application credential behind it, if it has any.
    pub fn access_rules(&self) -> Option<&[AccessRule]> {
        self.application_credential
            .as_ref()
            .and_then(|credential| credential.access_rules.as_deref())
    }

    /// Where clients reach a service; in this region, or in the first without one.
    pub fn public_endpoint(&self, service_type: &str, region: Option<&str>) -> Option<&str> {
        self.catalog
            .iter()
            .filter(|service| service.r#type == service_type)
            .flat_map(|service| &service.endpoints)
            .filter(|endpoint| endpoint.interface == "public")
            .find(|endpoint| region.is_none() || endpoint.region.as_deref() == region)
            .map(|endpoint| endpoint.url.trim_end_matches('/'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_endpoint_is_the_public_one_of_the_region() {
        let token = json!({"token": {"catalog": [
            {"type": "volumev3", "endpoints": [{"interface": "public", "url": "http://v"}]},
            {"type": "object-store", "endpoints": [
                {"interface": "internal", "region": "a", "url": "http://i"},
                {"interface": "public", "region": "a", "url": "http://a/"},
                {"interface": "public", "region": "b", "url": "http://b"},
            ]},
        ]}});
        let token = Token::parse(token.to_string().as_bytes()).unwrap();
        let endpoint = |region| token.public_endpoint("object-store", region);
        assert_eq!(endpoint(None), Some("http://a"));
        assert_eq!(endpoint(Some("b")), Some("http://b"));
        assert_eq!(endpoint(Some("c")), None);
        assert!(matches!(token.expires_at(), Err(ClientError::NoExpiry)));
    }
}
