//! Attaching a volume to this machine, so that its data can be written and read: only where the
//! cloud hands out a local path, which then is opened like any file.

use std::fs::{self, File, OpenOptions};
use std::path::PathBuf;

use anyhow::{Context as _, Result, anyhow};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::block_storage::BlockStorage;
use crate::exchange::{Exchange, Method};
use crate::log;
use crate::microversion::ATTACHMENT;
use crate::resource::Kind;
use crate::verdict::Abort;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    ReadOnly,
    ReadWrite,
}

#[derive(Deserialize)]
struct Attachment {
    id: String,
    #[serde(default)]
    connection_info: Value,
}

#[derive(Deserialize)]
struct Envelope {
    attachment: Attachment,
}

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Mode::ReadOnly => "ro",
            Mode::ReadWrite => "rw",
        }
    }

    fn open(self, path: &PathBuf) -> Result<File> {
        let file = OpenOptions::new()
            .read(true)
            .write(self == Mode::ReadWrite)
            .open(path);
        file.with_context(|| path.display().to_string())
    }
}

impl BlockStorage {
    /// Lets `work` have the volume's data, and detaches the volume afterwards in any case.
    pub(crate) fn with_device<T>(
        &self,
        volume_id: &str,
        mode: Mode,
        work: impl FnOnce(&File) -> Result<T>,
    ) -> Result<T> {
        let attachment = self.attach(volume_id, mode)?;
        let outcome = self.open(&attachment, mode).and_then(|file| work(&file));
        let detached = self
            .detach(&attachment.id)
            .context("volume cannot be detached");
        let value = outcome?;
        detached?;
        self.wait_available(Kind::Volume, volume_id)?;
        Ok(value)
    }

    /// Ends what attachments of ours an interrupted run left on a volume; those of servers stay.
    pub(crate) fn release(&self, volume_id: &str) -> Result<()> {
        let path = format!("/attachments/detail?volume_id={volume_id}");
        for attachment in self.list(&path, "attachments", ATTACHMENT)? {
            let ours = attachment["volume_id"] == volume_id && attachment["instance"].is_null();
            if let (true, Some(id)) = (ours, attachment["id"].as_str()) {
                log::info(format_args!(
                    "volume {volume_id} is still attached, detaching it"
                ));
                self.detach(id)?;
            }
        }
        Ok(())
    }

    fn attach(&self, volume_id: &str, mode: Mode) -> Result<Attachment> {
        if self.max().is_none_or(|max| max < ATTACHMENT) {
            return Err(unreachable(anyhow!(
                "the cloud lacks microversion {ATTACHMENT}"
            )));
        }
        let connector = json!({"host": host_name(), "ip": "127.0.0.1", "multipath": false,
            "os_type": std::env::consts::OS, "platform": std::env::consts::ARCH});
        let body = json!({"attachment": {"volume_uuid": volume_id, "connector": connector,
            "mode": mode.name()}});
        let exchange = self.call(Method::Post, "/attachments", Some(ATTACHMENT), Some(body));
        let refused = matches!(exchange.status(), Some(400..=499));
        let created: Result<Envelope> = exchange.decode();
        Ok(created
            .map_err(|error| if refused { unreachable(error) } else { error })?
            .attachment)
    }

    /// Completes the attachment once its data is at hand.
    fn open(&self, attachment: &Attachment, mode: Mode) -> Result<File> {
        let path = local_path(&attachment.connection_info).map_err(unreachable)?;
        let file = mode.open(&path).map_err(unreachable)?;
        let path = format!("/attachments/{}/action", attachment.id);
        let body = json!({"os-complete": attachment.id});
        self.call(Method::Post, &path, Some(ATTACHMENT), Some(body))
            .accepted()?;
        Ok(file)
    }

    fn detach(&self, attachment_id: &str) -> Result<()> {
        let path = format!("/attachments/{attachment_id}");
        let exchange: Exchange = self.call(Method::Delete, &path, Some(ATTACHMENT), None);
        if exchange.status() == Some(404) {
            Ok(())
        } else {
            exchange.accepted()
        }
    }
}

/// Nothing is said about the backups of a cloud whose data is out of reach.
fn unreachable(reason: anyhow::Error) -> anyhow::Error {
    reason.context(Abort(
        "the data of volumes cannot be reached from this machine".into(),
    ))
}

/// The path in connection information, which is flat in attachments and nested in older answers.
fn local_path(connection: &Value) -> Result<PathBuf> {
    let kind = connection["driver_volume_type"].as_str().unwrap_or("none");
    if kind != "local" {
        return Err(anyhow!(
            "they attach by driver_volume_type {kind}, not by local path"
        ));
    }
    let flat = connection["device_path"].as_str();
    let path = flat.or_else(|| connection["data"]["device_path"].as_str());
    path.map(PathBuf::from)
        .context("the connection information names no device_path")
}

fn host_name() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() {
        "localhost".into()
    } else {
        name.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::Verdict;

    #[test]
    fn a_local_path_is_found_flat_and_nested() {
        let flat = json!({"driver_volume_type": "local", "device_path": "/dev/x", "mode": "rw"});
        let nested = json!({"driver_volume_type": "local", "data": {"device_path": "/dev/x"}});
        assert_eq!(local_path(&flat).unwrap(), PathBuf::from("/dev/x"));
        assert_eq!(local_path(&nested).unwrap(), PathBuf::from("/dev/x"));
    }

    #[test]
    fn other_connections_are_out_of_reach_and_abort() {
        let rbd = json!({"driver_volume_type": "rbd", "device_path": "/dev/x"});
        let error = local_path(&rbd).map_err(unreachable).unwrap_err();
        assert!(format!("{error:#}").contains("rbd"), "{error:#}");
        assert_eq!(Verdict::of(&error), Verdict::Abort);
        assert!(local_path(&json!({"driver_volume_type": "local"})).is_err());
        assert!(local_path(&Value::Null).is_err());
    }
}
