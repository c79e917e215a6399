//! Requests to a Cinder, each alone. They block, with a deadline each.

use crate::clock::Clock;
use crate::config::{self, Secret};
use crate::keystone::{self, Session};
use crate::volume::cinder::{CinderError, CinderSnapshot, CinderVolume};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

/// The oldest version that has all that is asked for.
const MICROVERSION: &str = "volume 3.44";
/// Longest answer that is read.
const ANSWER_BYTES_MAX: usize = 4 << 20;
/// Longest part of an answer that is shown in errors.
const MESSAGE_CHARS_MAX: usize = 300;
/// What lists call the project of a volume, and of a snapshot.
const PROJECT_KEYS: [&str; 2] = [
    "os-vol-tenant-attr:tenant_id",
    "os-extended-snapshot-attributes:project_id",
];

/// A volume that is made for a tenant.
#[derive(Debug, Clone)]
pub struct NewVolume<'a> {
    pub project_id: &'a str,
    pub name: &'a str,
    pub description: Option<&'a str>,
    /// GiB.
    pub size: i64,
    /// Cinder's own default, if none is named.
    pub volume_type: Option<&'a str>,
    pub availability_zone: Option<&'a str>,
    pub metadata: BTreeMap<String, String>,
}

/// One Cinder. Cheap to clone.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    http: reqwest::Client,
    /// With `/v3`, and no slash behind it.
    url: String,
    session: Session,
    timeout: Duration,
    handle: Handle,
}

/// As whom a request is sent.
enum As<'a> {
    /// This service's own user.
    Service,
    /// A tenant, in a project.
    Tenant(&'a Secret, &'a str),
}

impl Client {
    /// Prepares the connection. Cinder and Keystone need not be there yet.
    pub fn new(
        settings: &config::Cinder,
        identity: &config::KeystoneSettings,
        clock: Clock,
        handle: Handle,
    ) -> Result<Self, CinderError> {
        let own = keystone::connect(identity.cacert.as_deref())?;
        let client = keystone::Client::new(
            own,
            &identity.auth_url,
            keystone::Credentials::from(identity),
            identity.timeout,
        );
        Ok(Self(Arc::new(Inner {
            http: keystone::connect(settings.cacert.as_deref().or(identity.cacert.as_deref()))?,
            url: settings.url.trim_end_matches('/').to_owned(),
            session: Session::new(client, clock, handle.clone()),
            timeout: settings.timeout,
            handle,
        })))
    }

    /// Logs in, if that was not done before. The project of this service's own user.
    pub fn log_in(&self) -> Result<String, CinderError> {
        let own = self.0.handle.block_on(self.0.session.own(None));
        own.map(|own| own.project_id).map_err(CinderError::Token)
    }

    /// The names of the backends, as Cinder's own list of services has them.
    pub fn backends(&self) -> Result<Vec<String>, CinderError> {
        let path = "/os-services?binary=cinder-volume";
        let answer = self.send(As::Service, Method::GET, path, None)?;
        let listed = answer["services"].as_array().cloned().unwrap_or_default();
        let backend = |service: &Value| {
            let (_, backend) = service["host"].as_str()?.split_once('@')?;
            Some(backend.to_owned())
        };
        let mut names: Vec<String> = listed.iter().filter_map(backend).collect();
        names.sort();
        names.dedup();
        Ok(names)
    }

    /// A volume, whosever it is.
    pub fn volume(&self, id: &str) -> Result<Option<CinderVolume>, CinderError> {
        self.find("volume", &format!("/volumes/{}", segment(id)))
    }

    /// A snapshot, whosever it is.
    pub fn snapshot(&self, id: &str) -> Result<Option<CinderSnapshot>, CinderError> {
        self.find("snapshot", &format!("/snapshots/{}", segment(id)))
    }

    /// Puts a volume into a state, whatever state it is in.
    pub fn reset_status(&self, volume: &str, status: &str) -> Result<(), CinderError> {
        let body = json!({ "os-reset_status": { "status": status } });
        self.act(volume, &body)
    }

    /// Says that a machine may start from a volume.
    pub fn set_bootable(&self, volume: &str) -> Result<(), CinderError> {
        self.act(volume, &json!({ "os-set_bootable": { "bootable": true } }))
    }

    /// Adds to what is known of the image that a volume was made from.
    pub fn set_image_metadata(
        &self,
        volume: &str,
        metadata: &BTreeMap<String, String>,
    ) -> Result<(), CinderError> {
        self.act(
            volume,
            &json!({ "os-set_image_metadata": { "metadata": metadata } }),
        )
    }

    /// Changes the name and the description of a volume.
    pub fn rename(
        &self,
        volume: &str,
        name: &str,
        description: Option<&str>,
    ) -> Result<(), CinderError> {
        let path = format!("/volumes/{}", segment(volume));
        let body = json!({ "volume": { "name": name, "description": description } });
        self.send(As::Service, Method::PUT, &path, Some(&body))
            .map(drop)
    }

    /// Makes these the whole metadata of a volume.
    pub fn set_metadata(
        &self,
        volume: &str,
        metadata: &BTreeMap<String, String>,
    ) -> Result<(), CinderError> {
        let path = format!("/volumes/{}/metadata", segment(volume));
        let body = json!({ "metadata": metadata });
        self.send(As::Service, Method::PUT, &path, Some(&body))
            .map(drop)
    }

    /// Makes a volume as a tenant, in the tenant's project and quota. Its id; it is not ready yet.
    pub fn create_volume(
        &self,
        token: &Secret,
        wanted: &NewVolume<'_>,
    ) -> Result<String, CinderError> {
        let mut body = json!({ "volume": {
            "name": wanted.name,
            "description": wanted.description,
            "size": wanted.size,
            "metadata": wanted.metadata,
        }});
        let of_cloud = [
            ("volume_type", wanted.volume_type),
            ("availability_zone", wanted.availability_zone),
        ];
        for (key, value) in of_cloud {
            if let Some(value) = value {
                body["volume"][key] = value.into();
            }
        }
        let project = As::Tenant(token, wanted.project_id);
        let answer = self.send(project, Method::POST, "/volumes", Some(&body))?;
        let id = answer.pointer("/volume/id").and_then(Value::as_str);
        id.map(str::to_owned)
            .ok_or_else(|| CinderError::Unreadable("POST /volumes".to_owned()))
    }

    /// Deletes a volume; one that is not there is no error.
    pub fn delete_volume(&self, id: &str) -> Result<(), CinderError> {
        self.delete(&format!("/volumes/{}", segment(id)))
    }

    /// Deletes a snapshot; one that is not there is no error.
    pub fn delete_snapshot(&self, id: &str) -> Result<(), CinderError> {
        self.delete(&format!("/snapshots/{}", segment(id)))
    }

    fn delete(&self, path: &str) -> Result<(), CinderError> {
        match self.send(As::Service, Method::DELETE, path, None) {
            Err(CinderError::Refused { status: 404, .. }) => Ok(()),
            other => other.map(drop),
        }
    }

    /// Asks for a snapshot or a volume of this service's own, with an entry in its metadata: `kind` is `snapshot` or
    /// `volume`. Its id; it is not ready yet.
    pub fn make_own(
        &self,
        kind: &str,
        of: (&str, &str),
        marker: (&str, &str),
    ) -> Result<String, CinderError> {
        let mut wanted = json!({
            "name": format!("embervault-{}", marker.1),
            "metadata": { marker.0: marker.1 },
        });
        wanted[of.0] = of.1.into();
        if kind == "snapshot" {
            // Before 3.66 Cinder wants it of a volume in use, and from then on it is passed over.
            wanted["force"] = true.into();
        }
        let path = format!("/{kind}s");
        let body = json!({ kind: wanted });
        let answer = self.send(As::Service, Method::POST, &path, Some(&body))?;
        let id = answer[kind]["id"].as_str().map(str::to_owned);
        id.ok_or_else(|| CinderError::Unreadable(format!("POST {path}")))
    }

    /// The snapshots or volumes of this service's own project with an entry in their metadata: ids and states. Anyone may
    /// give a volume of another project the same entry.
    pub fn found_by(
        &self,
        kind: &str,
        marker: (&str, &str),
    ) -> Result<Vec<(String, String)>, CinderError> {
        let wanted = json!({ marker.0: marker.1 }).to_string().replace('"', "'");
        let path = format!("/{kind}s/detail?metadata={}", segment(&wanted));
        let own = self.log_in()?;
        let answer = self.send(As::Service, Method::GET, &path, None)?;
        let listed = answer[format!("{kind}s")].as_array();
        let listed = listed.ok_or_else(|| CinderError::Unreadable(format!("GET {path}")))?;
        let found = |one: &Value| {
            // A Cinder that passes over the filter lists others too.
            (one["metadata"][marker.0].as_str() == Some(marker.1)).then_some(())?;
            let project = PROJECT_KEYS.iter().find_map(|key| one[*key].as_str());
            (project == Some(own.as_str())).then_some(())?;
            Some((
                one["id"].as_str()?.to_owned(),
                one["status"].as_str()?.to_owned(),
            ))
        };
        Ok(listed.iter().filter_map(found).collect())
    }

    /// Lets a machine reach a volume, in whatever state it is. How it is reached, for os-brick.
    pub fn initialize_connection(
        &self,
        volume: &str,
        connector: &Value,
    ) -> Result<Value, CinderError> {
        let path = format!("/volumes/{}/action", segment(volume));
        let body = json!({ "os-initialize_connection": { "connector": connector } });
        let mut answer = self.send(As::Service, Method::POST, &path, Some(&body))?;
        match answer.get_mut("connection_info").map(Value::take) {
            Some(info) if info["data"].is_object() => Ok(info),
            _ => Err(CinderError::Unreadable(format!("POST {path}"))),
        }
    }

    /// Ends what `initialize_connection` has begun.
    pub fn terminate_connection(&self, volume: &str, connector: &Value) -> Result<(), CinderError> {
        self.act(
            volume,
            &json!({ "os-terminate_connection": { "connector": connector } }),
        )
    }

    /// The states of a volume's attachments, whosever they are: those that are only begun too, which the volume itself
    /// does not show.
    pub fn attachments(&self, volume: &str) -> Result<Vec<String>, CinderError> {
        let path = format!("/attachments?all_tenants=1&volume_id={}", segment(volume));
        let answer = self.send(As::Service, Method::GET, &path, None)?;
        let listed = answer["attachments"].as_array();
        let listed = listed.ok_or(CinderError::Unreadable(format!("GET {path}")))?;
        let state = |attachment: &Value| attachment["status"].as_str().map(str::to_owned);
        // A Cinder that passes over the filter lists those of other volumes too.
        let ours = listed
            .iter()
            .filter(|attachment| attachment["volume_id"].as_str() == Some(volume));
        Ok(ours.filter_map(state).collect())
    }

    /// The ids of the volumes, of all projects, with an entry in their metadata.
    pub fn volumes_with(&self, key: &str, value: &str) -> Result<Vec<String>, CinderError> {
        let wanted = json!({ key: value }).to_string().replace('"', "'");
        let path = format!("/volumes?all_tenants=1&metadata={}", segment(&wanted));
        let answer = self.send(As::Service, Method::GET, &path, None)?;
        let listed = answer["volumes"].as_array().cloned().unwrap_or_default();
        let id = |volume: &Value| volume["id"].as_str().map(str::to_owned);
        Ok(listed.iter().filter_map(id).collect())
    }

    fn act(&self, volume: &str, body: &Value) -> Result<(), CinderError> {
        let path = format!("/volumes/{}/action", segment(volume));
        self.send(As::Service, Method::POST, &path, Some(body))
            .map(drop)
    }

    fn find<T: DeserializeOwned>(&self, key: &str, path: &str) -> Result<Option<T>, CinderError> {
        match self.send(As::Service, Method::GET, path, None) {
            // Without the rights of an administrator, Cinder answers 404 for volumes of others.
            Err(CinderError::Refused { status: 404, .. }) => self.backends().map(|_| None),
            other => {
                // Only an object can have the part.
                let found = other?.get_mut(key).map_or(Value::Null, Value::take);
                let found = serde_json::from_value(found);
                let found = found.map_err(|_| CinderError::Unreadable(format!("GET {path}")));
                found.map(Some)
            }
        }
    }

    fn send(
        &self,
        sender: As<'_>,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, CinderError> {
        self.0
            .handle
            .block_on(self.0.send(sender, method, path, body))
    }
}

impl Inner {
    async fn send(
        &self,
        sender: As<'_>,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, CinderError> {
        let what = format!("{method} {path}");
        let (url, path) = (&self.url, path);
        let request = |project: &str| {
            let request = self
                .http
                .request(method.clone(), format!("{url}/{project}{path}"))
                .header("OpenStack-API-Version", MICROVERSION)
                .timeout(self.timeout);
            match body {
                Some(body) => request
                    .header("Content-Type", "application/json")
                    .body(body.to_string()),
                None => request,
            }
        };
        let answer = match sender {
            As::Tenant(token, project) => {
                reach(request(project).header("X-Auth-Token", token.expose())).await?
            }
            As::Service => self.send_as_service(request).await?,
        };
        read(what, answer).await
    }

    /// Sends a request with our own token; once more if that was refused.
    async fn send_as_service(
        &self,
        request: impl Fn(&str) -> RequestBuilder,
    ) -> Result<Response, CinderError> {
        let mut refused = None;
        loop {
            let own = self
                .session
                .own(refused.as_ref())
                .await
                .map_err(CinderError::Token)?;
            let sent = request(&own.project_id).header("X-Auth-Token", &own.token);
            let answer = reach(sent).await?;
            if answer.status() != StatusCode::UNAUTHORIZED || refused.is_some() {
                return Ok(answer);
            }
            refused = Some(own.token);
        }
    }
}

async fn reach(request: RequestBuilder) -> Result<Response, CinderError> {
    let sent = request.send().await;
    sent.map_err(|error| CinderError::Reach(error.without_url()))
}

async fn read(what: String, mut answer: Response) -> Result<Value, CinderError> {
    let status = answer.status();
    let mut bytes = Vec::new();
    loop {
        let part = answer.chunk().await;
        let part = part.map_err(|error| CinderError::Reach(error.without_url()))?;
        let Some(part) = part else { break };
        if bytes.len() + part.len() > ANSWER_BYTES_MAX {
            return Err(CinderError::Unreadable(what));
        }
        bytes.extend_from_slice(&part);
    }
    if !status.is_success() {
        return Err(CinderError::Refused {
            what,
            status: status.as_u16(),
            message: message(&bytes),
        });
    }
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(&bytes).map_err(|_| CinderError::Unreadable(what))
}

/// The words in an answer that refuses: `{"badRequest": {"message": "…"}}`, or the text itself.
fn message(bytes: &[u8]) -> String {
    let envelope: Option<Value> = serde_json::from_slice(bytes).ok();
    let inner = envelope
        .as_ref()
        .and_then(Value::as_object)
        .and_then(|envelope| envelope.values().next());
    let words = inner
        .and_then(|inner| inner["message"].as_str())
        .map(str::to_owned);
    let words = words.unwrap_or_else(|| String::from_utf8_lossy(bytes).into_owned());
    words.chars().take(MESSAGE_CHARS_MAX).collect()
}

/// A text as one part of a path or query.
fn segment(text: &str) -> String {
    let mut written = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                written.push(char::from(byte));
            }
            _ => written.push_str(&format!("%{byte:02X}")),
        }
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_wrote_stays_one_part_of_the_path() {
        assert_eq!(segment("../a b?c"), "..%2Fa%20b%3Fc");
        assert_eq!(segment("0f-A_z"), "0f-A_z");
    }

    #[test]
    fn cinders_words_are_taken_out_of_their_envelope() {
        let body = br#"{"badRequest": {"code": 400, "message": "no"}}"#;
        assert_eq!(message(body), "no");
        assert_eq!(message(b"<html>"), "<html>");
    }
}
