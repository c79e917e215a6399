//! One request as handlers see it, and their reply.

use crate::api::body::{Body, Fields};
use crate::api::fault::Fault;
use crate::api::microversion::Microversion;
use crate::api::server::Api;
use crate::identity::RequestContext;
use crate::identity::embedded::{Embedded, Session};
use crate::model::error::Error;
use crate::service::Metadata;
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
    /// The mark a client expects metadata to bear (`If-Match`).
    pub(super) if_match: Option<String>,
    /// What the client can read (`Accept`).
    pub(super) accept: Option<String>,
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

    /// The embedded identity. Identity routes are not served without it.
    pub(super) fn embedded(&self) -> Result<&Embedded, Error> {
        let embedded = self.api.identity.embedded();
        embedded.ok_or_else(|| Error::NotFound("The resource could not be found.".to_owned()))
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

    /// `{"metadata": {…}}`
    pub(super) fn metadata_body(&self) -> Result<Metadata, Error> {
        let fields = self.body()?.whole_as("metadata")?;
        fields.only(&["metadata"])?;
        fields.require("metadata")?;
        Ok(fields.metadata("metadata", false)?.unwrap_or_default())
    }

    /// `{"meta": {key: value}}`, where the key must be that of the path.
    pub(super) fn metadata_entry(&self) -> Result<(String, String), Error> {
        let fields = self.body()?.object("meta")?;
        if fields.len() > 1 {
            let message = "Request body contains too many items";
            return Err(Error::Invalid(message.to_owned()));
        }
        let key = self.parameter("key");
        let Some(value) = fields.value(key) else {
            return Err(Error::Invalid("Request body and URI mismatch".to_owned()));
        };
        let entry = serde_json::json!({ "metadata": { key: value } });
        let metadata = Fields::of("meta", &entry)?.metadata("metadata", false)?;
        let mut entries = metadata.unwrap_or_default().into_iter();
        entries.next().ok_or(Error::Invalid(String::new()))
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
    pub(super) form: Form,
}

/// How Cinder frames an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// JSON with all of Cinder's headers.
    Full,
    /// A handler of Cinder that answers by itself: no `x-compute-request-id`, declared as HTML.
    Bare,
    /// Not Cinder but what stands in front of it: no version.
    Plain(&'static str),
    /// Nothing at all.
    Silent,
}

impl Reply {
    pub(super) fn json(status: u16, body: Value) -> Self {
        Self {
            status,
            body: Some(body),
            headers: Vec::new(),
            form: Form::Full,
        }
    }

    pub(super) fn empty(status: u16) -> Self {
        Self {
            status,
            body: None,
            headers: Vec::new(),
            form: Form::Full,
        }
    }

    pub(super) fn bare(mut self) -> Self {
        self.form = Form::Bare;
        self
    }

    pub(super) fn in_form(mut self, form: Form) -> Self {
        self.form = form;
        self
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
            form: match fault.is_enveloped {
                true => Form::Full,
                false => Form::Plain("application/json"),
            },
        }
    }
}
