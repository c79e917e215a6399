//! A volume or a backup, as far as the checks look at one: what is common to listing, showing,
//! waiting for and deleting both.

use anyhow::{Context as _, Result, anyhow};
use serde::Deserialize;
use serde_json::Value;

use crate::block_storage::BlockStorage;
use crate::exchange::{Exchange, Method};
use crate::microversion::{BACKUP, Microversion, VOLUME};
use crate::wait::{Seen, wait_for};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Backup,
    Volume,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Resource {
    pub(crate) id: String,
    pub(crate) name: Option<String>,
    /// Not in the answer to the creation of a backup.
    #[serde(default)]
    pub(crate) status: String,
    pub(crate) fail_reason: Option<String>,
    pub(crate) is_incremental: Option<bool>,
    pub(crate) has_dependent_backups: Option<bool>,
    /// ISO 8601, so that text order is time order.
    pub(crate) created_at: Option<String>,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Backup => "backup",
            Kind::Volume => "volume",
        }
    }

    pub(crate) fn collection(self) -> &'static str {
        match self {
            Kind::Backup => "backups",
            Kind::Volume => "volumes",
        }
    }

    pub(crate) fn version(self) -> Microversion {
        match self {
            Kind::Backup => BACKUP,
            Kind::Volume => VOLUME,
        }
    }

    /// The resource in an answer's body, `{"volume": {...}}`.
    pub(crate) fn read(self, exchange: Exchange) -> Result<Resource> {
        let mut body: Value = exchange.clone().decode()?;
        let found = body
            .get_mut(self.name())
            .map(Value::take)
            .unwrap_or_default();
        serde_json::from_value(found).map_err(|error| {
            exchange.into_error(&format!("answer holds no {}: {error}", self.name()))
        })
    }
}

impl BlockStorage {
    pub(crate) fn all(&self, kind: Kind) -> Result<Vec<Resource>> {
        self.listed(kind, &format!("/{}/detail", kind.collection()))
    }

    /// Of the list at `path`, which may be filtered by a query.
    pub(crate) fn listed(&self, kind: Kind, path: &str) -> Result<Vec<Resource>> {
        let items = self.list(path, kind.collection(), kind.version())?;
        let read = |item| serde_json::from_value(item);
        let resources: Result<_, _> = items.into_iter().map(read).collect();
        resources.with_context(|| format!("the list of {} reads strangely", kind.collection()))
    }

    pub(crate) fn show(&self, kind: Kind, id: &str) -> Exchange {
        self.call(Method::Get, &path(kind, id), Some(kind.version()), None)
    }

    /// Waits until the resource is `available`; a status `error...` and a 404 end the wait.
    pub(crate) fn wait_available(&self, kind: Kind, id: &str) -> Result<Resource> {
        let what = format!("{} {id} to become available", kind.name());
        wait_for(&what, self.timeout, || available(kind, self.show(kind, id)))
    }

    /// Asks for the deletion. What is gone already counts as deleted.
    pub(crate) fn delete(&self, kind: Kind, id: &str) -> Result<()> {
        let query = match kind {
            Kind::Backup => "",
            Kind::Volume => "?cascade=False&force=False",
        };
        let path = format!("{}{query}", path(kind, id));
        let exchange = self.call(Method::Delete, &path, Some(kind.version()), None);
        if is_gone(&exchange) {
            Ok(())
        } else {
            exchange.accepted()
        }
    }

    /// Waits until a deletion that was asked for is done.
    pub(crate) fn wait_gone(&self, kind: Kind, id: &str) -> Result<()> {
        let what = format!("{} {id} to be gone", kind.name());
        wait_for(&what, self.timeout, || {
            let exchange = self.show(kind, id);
            if is_gone(&exchange) {
                return Ok(Seen::Done(()));
            }
            if exchange.is_transient() {
                return Ok(Seen::NotYet(exchange.into_error("still asking")));
            }
            let resource = kind.read(exchange.clone())?;
            match resource.status.as_str() {
                "deleted" => Ok(Seen::Done(())),
                status if status.starts_with("error") => Err(failed(kind, &resource, exchange)),
                status => Ok(Seen::NotYet(anyhow!("its status is {status}"))),
            }
        })
    }
}

/// Judges one look at a resource that is to become available.
pub(crate) fn available(kind: Kind, exchange: Exchange) -> Result<Seen<Resource>> {
    if exchange.is_transient() {
        return Ok(Seen::NotYet(exchange.into_error("still asking")));
    }
    let resource = kind.read(exchange.clone())?;
    match resource.status.as_str() {
        "available" => Ok(Seen::Done(resource)),
        status if status.starts_with("error") => Err(failed(kind, &resource, exchange)),
        status => {
            let problem = format!("its status is {status}");
            Ok(Seen::NotYet(exchange.into_error(&problem)))
        }
    }
}

/// Whether the answer says that the resource does not exist. Cinder also says 404 when it lacks
/// the service to delete a backup with, and then names that service.
pub(crate) fn is_gone(exchange: &Exchange) -> bool {
    let body = exchange
        .result
        .as_ref()
        .map(|answer| answer.body.as_str())
        .unwrap_or_default();
    exchange.status() == Some(404) && !body.contains("cinder-backup")
}

fn failed(kind: Kind, resource: &Resource, exchange: Exchange) -> anyhow::Error {
    let reason = match resource.fail_reason.as_deref() {
        Some(reason) if !reason.is_empty() => format!(", fail_reason: {reason}"),
        _ => String::new(),
    };
    exchange.into_error(&format!(
        "{} went to status {}{reason}",
        kind.name(),
        resource.status
    ))
}

fn path(kind: Kind, id: &str) -> String {
    format!("/{}/{id}", kind.collection())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::exchange::{Answer, Request};

    fn answer(status: u16, body: &Value) -> Exchange {
        let answer = Answer {
            status,
            headers: Vec::new(),
            body: body.to_string(),
        };
        let request = Request::new(Method::Get, "http://c/v3/p/backups/b");
        Exchange {
            request,
            result: Ok(answer),
            duration: Duration::ZERO,
        }
    }

    fn backup(status: &str) -> Value {
        json!({"backup": {"id": "b", "name": null, "status": status, "fail_reason": "disk full"}})
    }

    #[test]
    fn an_error_status_ends_the_wait_with_its_reason() {
        let error = available(Kind::Backup, answer(200, &backup("error")))
            .err()
            .unwrap();
        assert!(
            error
                .to_string()
                .contains("status error, fail_reason: disk full"),
            "{error}"
        );
        let volume = json!({"volume": {"id": "v", "name": "n", "status": "error_restoring"}});
        assert!(available(Kind::Volume, answer(200, &volume)).is_err());
    }

    #[test]
    fn work_in_progress_and_passing_trouble_are_waited_for() {
        let look = |exchange| available(Kind::Backup, exchange);
        assert!(matches!(
            look(answer(200, &backup("creating"))),
            Ok(Seen::NotYet(_))
        ));
        assert!(matches!(
            look(answer(503, &Value::Null)),
            Ok(Seen::NotYet(_))
        ));
        assert!(matches!(
            look(answer(200, &backup("available"))),
            Ok(Seen::Done(_))
        ));
        assert!(look(answer(404, &Value::Null)).is_err());
        assert!(look(answer(403, &Value::Null)).is_err());
    }

    #[test]
    fn a_404_about_a_missing_service_is_not_a_deletion() {
        let gone = json!({"itemNotFound": {"message": "Backup b could not be found."}});
        let down =
            json!({"itemNotFound": {"message": "Service cinder-backup could not be found."}});
        assert!(is_gone(&answer(404, &gone)));
        assert!(!is_gone(&answer(404, &down)));
        assert!(!is_gone(&answer(200, &gone)));
    }
}
