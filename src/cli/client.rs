//! A client of the service's own HTTP API, for the demonstration and the benchmark: it knows only what any
//! client knows.

use anyhow::{Context, bail};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;

const VERSION: &str = "volume 3.71";
const POLL: Duration = Duration::from_millis(50);

/// Logged in to one project.
pub(super) struct Client {
    agent: ureq::Agent,
    token: String,
    block_storage: String,
}

impl Client {
    /// Logs in with a password.
    pub(super) fn log_in(
        base: &str,
        user: &str,
        password: &str,
        project: &str,
    ) -> anyhow::Result<Self> {
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(60)))
            .build()
            .into();
        let domain = json!({ "id": "default" });
        let body = json!({ "auth": {
            "identity": { "methods": ["password"], "password": { "user": {
                "name": user, "password": password, "domain": domain,
            } } },
            "scope": { "project": { "name": project, "domain": domain } },
        } });
        let mut response = agent
            .post(format!("{base}/identity/v3/auth/tokens"))
            .send_json(&body)
            .context("the service does not answer")?;
        if response.status() != 201 {
            bail!(
                "login was refused: {}",
                response.body_mut().read_to_string()?
            );
        }
        let token = response
            .headers()
            .get("X-Subject-Token")
            .and_then(|token| token.to_str().ok())
            .context("the login gave no token")?
            .to_owned();
        let body: Value = response.body_mut().read_json()?;
        let block_storage = body["token"]["catalog"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|service| service["type"] == "block-storage")
            .and_then(|service| service["endpoints"][0]["url"].as_str())
            .context("the catalogue has no block storage")?
            .to_owned();
        Ok(Self {
            agent,
            token,
            block_storage,
        })
    }

    fn answer(
        method: &str,
        path: &str,
        sent: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
    ) -> anyhow::Result<Value> {
        let mut response = sent.with_context(|| format!("{method} {path}"))?;
        let status = response.status();
        let text = response.body_mut().read_to_string()?;
        if !status.is_success() {
            bail!("{method} {path}: {status}: {text}");
        }
        Ok(serde_json::from_str(&text).unwrap_or(Value::Null))
    }

    fn look(&self, path: &str) -> Result<ureq::http::Response<ureq::Body>, ureq::Error> {
        let request = self.agent.get(format!("{}{path}", self.block_storage));
        let request = request
            .header("X-Auth-Token", &self.token)
            .header("OpenStack-API-Version", VERSION);
        request.call()
    }

    pub(super) fn get(&self, path: &str) -> anyhow::Result<Value> {
        Self::answer("GET", path, self.look(path))
    }

    pub(super) fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        let request = self.agent.post(format!("{}{path}", self.block_storage));
        let request = request
            .header("X-Auth-Token", &self.token)
            .header("OpenStack-API-Version", VERSION);
        Self::answer("POST", path, request.send_json(body))
    }

    pub(super) fn delete(&self, path: &str) -> anyhow::Result<Value> {
        let request = self.agent.delete(format!("{}{path}", self.block_storage));
        let request = request
            .header("X-Auth-Token", &self.token)
            .header("OpenStack-API-Version", VERSION);
        Self::answer("DELETE", path, request.call())
    }

    /// Waits until a resource is available, as any client does: by looking.
    pub(super) fn wait_available(
        &self,
        collection: &str,
        key: &str,
        id: &str,
        mut tick: impl FnMut(),
    ) -> anyhow::Result<Value> {
        loop {
            let resource = self.get(&format!("/{collection}/{id}"))?[key].take();
            match resource["status"].as_str().unwrap_or_default() {
                "available" => return Ok(resource),
                status if status.starts_with("error") => {
                    bail!("{key} {id} is in {status}: {}", resource["fail_reason"]);
                }
                _ => {}
            }
            tick();
            std::thread::sleep(POLL);
        }
    }

    /// Posts something that makes a resource, and gives its id.
    pub(super) fn id_of(&self, path: &str, body: &Value, place: &str) -> anyhow::Result<String> {
        let answer = self.post(path, body)?;
        let id = answer.pointer(place).and_then(Value::as_str);
        Ok(id
            .with_context(|| format!("no {place} in {answer}"))?
            .to_owned())
    }

    /// Makes a volume and waits for it.
    pub(super) fn create_volume(&self, volume: &Value) -> anyhow::Result<String> {
        let body = json!({ "volume": volume });
        let id = self.id_of("/volumes", &body, "/volume/id")?;
        self.wait_available("volumes", "volume", &id, || {})?;
        Ok(id)
    }

    /// Attaches a volume, hands out its path, and detaches it again.
    pub(super) fn with_volume<T>(
        &self,
        volume: &str,
        work: impl FnOnce(&Path) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let body = json!({ "attachment": {
            "volume_uuid": volume,
            "connector": { "host": "embervault", "ip": "127.0.0.1" },
        } });
        let attachment = self.post("/attachments", &body)?["attachment"].take();
        let id = attachment["id"]
            .as_str()
            .context("the attachment has no id")?;
        // The volume is detached again whatever fails.
        let worked = || {
            let path = attachment["connection_info"]["device_path"]
                .as_str()
                .context("the attachment has no device path")?;
            let complete = json!({ "os-complete": null });
            self.post(&format!("/attachments/{id}/action"), &complete)?;
            work(Path::new(path))
        };
        let result = worked();
        self.delete(&format!("/attachments/{id}"))?;
        self.wait_available("volumes", "volume", volume, || {})?;
        result
    }

    /// Waits until a resource is gone. That it cannot be looked at is another thing.
    pub(super) fn wait_gone(&self, path: &str) -> anyhow::Result<()> {
        loop {
            let looked = self.look(path);
            if looked.as_ref().is_ok_and(|answer| answer.status() == 404) {
                return Ok(());
            }
            Self::answer("GET", path, looked)?;
            std::thread::sleep(POLL);
        }
    }
}
