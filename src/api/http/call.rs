//! One request as handlers see it, and their reply.

use crate::api::http::body::Body;
use crate::api::http::microversion::Microversion;
use crate::api::http::schema::{Fields, Schema};
use crate::api::http::state::Api;
use crate::identity::RequestContext;
use crate::identity::embedded::{Embedded, IssuedToken};
use crate::model::error::Error;
use crate::service::Metadata;
use crate::volume::cinder::Head;
use bytes::Bytes;
use serde_json::Value;
use std::net::IpAddr;

/// A request that was routed and, unless its route is open, authenticated.
pub(crate) struct Call<'a> {
    pub(crate) api: &'a Api,
    /// Who asks, in which project. Only in block storage calls.
    pub(crate) ctx: Option<RequestContext>,
    /// The session of the caller's token.
    pub(crate) session: Option<IssuedToken>,
    /// The token a caller asks about (`X-Subject-Token`).
    pub(crate) subject_token: Option<String>,
    pub(crate) version: Microversion,
    /// Parts of the path, by name.
    pub(crate) parameters: Vec<(String, String)>,
    /// The query, decoded, in order.
    pub(crate) query: Vec<(String, String)>,
    /// The query as the client wrote it.
    pub(crate) query_string: String,
    pub(crate) body: Option<Value>,
    /// The head and the body as Cinder would get them, where this service stands in front of it.
    pub(crate) passed: Option<(Head, Bytes)>,
    /// `scheme://host` as clients reach us.
    pub(crate) base: String,
    pub(crate) path: String,
    /// The mark a client expects metadata to bear (`If-Match`).
    pub(crate) if_match: Option<String>,
    /// The media types that the client can read (`Accept`).
    pub(crate) accept: Option<String>,
    /// Where the request comes from.
    pub(crate) client: Option<IpAddr>,
}

impl Call<'_> {
    /// Who asks. Always known on block storage routes.
    pub(crate) fn ctx(&self) -> Result<&RequestContext, Error> {
        self.ctx.as_ref().ok_or(Error::Unauthenticated)
    }

    /// The token's session. Identity routes that are not open always have one.
    pub(crate) fn session(&self) -> Result<&IssuedToken, Error> {
        self.session.as_ref().ok_or(Error::Unauthenticated)
    }

    /// The embedded identity. Identity routes are not served without it.
    pub(crate) fn embedded(&self) -> Result<&Embedded, Error> {
        let embedded = self.api.identity.embedded();
        embedded.ok_or_else(|| Error::NotFound("The resource could not be found.".to_owned()))
    }

    /// A part of the path.
    pub(crate) fn parameter(&self, name: &str) -> &str {
        self.parameters
            .iter()
            .find(|(known, _)| known == name)
            .map_or("", |(_, value)| value)
    }

    /// The last value of a query key.
    pub(crate) fn query(&self, name: &str) -> Option<&str> {
        let mut found = self.query.iter().rev().filter(|(known, _)| known == name);
        found.next().map(|(_, value)| value.as_str())
    }

    /// The body of a request that must have one.
    pub(crate) fn body(&self) -> Result<Body<'_>, Error> {
        match &self.body {
            Some(body) => Ok(Body::new(body)),
            None => Err(Error::Invalid("The request needs a JSON body.".to_owned())),
        }
    }

    /// The fields of a body that must be as the schema says.
    pub(crate) fn fields(&self, schema: &Schema) -> Result<Fields<'_>, Error> {
        self.body()?.read(schema, self.version)
    }

    /// The name of the action that the body asks for.
    pub(crate) fn action(&self) -> Result<&str, Error> {
        match &self.body {
            Some(_) => self.body()?.action(),
            None => Err(no_such_action("None")),
        }
    }

    /// The only entry under a key, which must be that of the path.
    pub(crate) fn entry(&self, entries: &Metadata) -> Result<(String, String), Error> {
        let key = self.parameter("key");
        match entries.get(key) {
            Some(value) => Ok((key.to_owned(), value.clone())),
            None => Err(Error::Invalid("Request body and URI mismatch".to_owned())),
        }
    }

    /// Base of the links to resources: with the project only if the request had it.
    pub(crate) fn resource_base(&self, bookmark: bool) -> String {
        let version = if bookmark { "" } else { "/v3" };
        match self.parameter("project_id") {
            "" => format!("{}{version}", self.base),
            project => format!("{}{version}/{project}", self.base),
        }
    }
}

/// The answer to a request for an unknown action.
pub(crate) fn no_such_action(name: &str) -> Error {
    Error::Invalid(format!(
        "There is no such action: {name}. Verify the request body and Content-Type header and try again."
    ))
}
