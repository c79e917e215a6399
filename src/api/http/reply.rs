//! The answer of a handler.

use bytes::Bytes;
use serde_json::Value;

/// The content of an answer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Content {
    Json(Value),
    /// JSON that is written already, or another text.
    Written(Bytes),
}

/// The answer of a handler.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) body: Option<Content>,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) form: Form,
    /// The headers of Cinder's answer, in place of all of ours.
    pub(crate) passed: Option<Box<http::HeaderMap>>,
}

/// How Cinder frames an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
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
    pub(crate) fn json(status: u16, body: Value) -> Self {
        Self::of(status, Some(Content::Json(body)))
    }

    pub(crate) fn written(status: u16, body: impl Into<Bytes>) -> Self {
        Self::of(status, Some(Content::Written(body.into())))
    }

    /// Cinder's answer, or one in its place with its headers.
    pub(crate) fn passed(status: u16, headers: http::HeaderMap, body: Bytes) -> Self {
        Self {
            passed: Some(Box::new(headers)),
            ..Self::written(status, body)
        }
    }

    pub(crate) fn empty(status: u16) -> Self {
        Self::of(status, None)
    }

    fn of(status: u16, body: Option<Content>) -> Self {
        Self {
            status,
            body,
            headers: Vec::new(),
            form: Form::Full,
            passed: None,
        }
    }

    /// The same, with its JSON as text, which takes less memory.
    pub(crate) fn in_text(mut self) -> Self {
        if let Some(Content::Json(body)) = self.body {
            let mut text = body.to_string();
            text.shrink_to_fit();
            self.body = Some(Content::Written(text.into()));
        }
        self
    }

    /// How long the text is.
    pub(crate) fn bytes(&self) -> usize {
        match &self.body {
            Some(Content::Written(text)) => text.len(),
            Some(Content::Json(_)) | None => 0,
        }
    }

    pub(crate) fn bare(mut self) -> Self {
        self.form = Form::Bare;
        self
    }

    pub(crate) fn in_form(mut self, form: Form) -> Self {
        self.form = form;
        self
    }

    pub(crate) fn with_header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}
