//! One request as handlers see it, and their reply.

use crate::api::body::Body;
use crate::api::fault::Fault;
use crate::api::microversion::Microversion;
use crate::api::server::Api;
use crate::identity::RequestContext;
use crate::identity::embedded::Session;
use crate::model::error::Error;
use serde_json::Value;

/// A request that was routed and, unless its route is open, authenticated.
pub(super) struct Call<'a> {
    pub(super) api: &'a Api,
    /// Who asks, in which project. Only in block storage calls.
    pub(super) ctx: Option<RequestContext>,
    /// What the caller's token stands for.
    pub(super) session: Option<Session>,
    /// The token a caller asks about (`X-Subject-Token`).
    pub(super) subject_token: Option<String>,
    pub(super) version: Microversion,
    /// Parts of the path, by name.
    pub(super) parameters: Vec<(String, String)>,
    /// The query, decoded, in order.
    pub(super) query: Vec<(String, String)>,
    pub(super) body: Option<Value>,
    /// `scheme://host` as clients reach us.
    pub(super) base: String,
    pub(super) path: String,
}

impl Call<'_> {
    /// Who asks. Block storage routes always have somebody.
    pub(super) fn ctx(&self) -> Result<&RequestContext, Error> {
        self.ctx.as_ref().ok_or(Error::Unauthenticated)
    }

    /// The token's session. Identity routes that are not open always have one.
    pub(super) fn session(&self) -> Result<&Session, Error> {
        self.session.as_ref().ok_or(Error::Unauthenticated)
    }

    /// A part of the path.
    pub(super) fn parameter(&self, name: &str) -> &str {
        self.parameters
            .iter()
            .find(|(known, _)| known == name)
            .map_or("", |(_, value)| value)
    }

    /// The last value of a query key.
    pub(super) fn query(&self, name: &str) -> Option<&str> {
        let mut found = self.query.iter().rev().filter(|(known, _)| known == name);
        found.next().map(|(_, value)| value.as_str())
    }

    /// The body of a request that must have one.
    pub(super) fn body(&self) -> Result<Body<'_>, Error> {
        match &self.body {
            Some(body) => Ok(Body::new(body)),
            None => Err(Error::Invalid("The request needs a JSON body.".to_owned())),
        }
    }

    /// Base of the links to resources: with the project only if the request had it.
    pub(super) fn resource_base(&self, bookmark: bool) -> String {
        let version = match bookmark {
            true => "",
            false => "/v3",
        };
        match self.parameter("project_id") {
            "" => format!("{}{version}", self.base),
            project => format!("{}{version}/{project}", self.base),
        }
    }
}

/// What a handler answers.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) body: Option<Value>,
    pub(super) headers: Vec<(&'static str, String)>,
}

impl Reply {
    pub(super) fn json(status: u16, body: Value) -> Self {
        Self {
            status,
            body: Some(body),
            headers: Vec::new(),
        }
    }

    pub(super) fn empty(status: u16) -> Self {
        Self {
            status,
            body: None,
            headers: Vec::new(),
        }
    }

    pub(super) fn with_header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

impl From<Fault> for Reply {
    fn from(fault: Fault) -> Self {
        Self {
            status: fault.status,
            body: Some(fault.body),
            headers: fault.headers,
        }
    }
}
