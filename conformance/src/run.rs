//! One run of the checks: creates volumes and backups under its own names, waits for each, and
//! remembers them for the cleanup.

use anyhow::{Result, ensure};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::block_storage::BlockStorage;
use crate::claim::Claim;
use crate::exchange::{Exchange, Method};
use crate::log;
use crate::resource::{Kind, Resource, available};
use crate::url::encoded;
use crate::wait::{Seen, wait_for};

pub(crate) const VOLUME_GIB: u64 = 1;

pub(crate) struct Run<'a> {
    pub(crate) storage: &'a BlockStorage,
    pub(crate) claim: &'a Claim,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    Full,
    Incremental,
}

#[derive(Deserialize)]
struct RestoreEnvelope {
    restore: Restore,
}

#[derive(Deserialize)]
struct Restore {
    volume_id: String,
}

impl Run<'_> {
    /// A new volume's id, once it is available.
    pub(crate) fn create_volume(&self, role: &str) -> Result<String> {
        let name = self.claim.name(role);
        log::info(format_args!("creating volume {name}"));
        let body = json!({"volume": {"name": name, "size": VOLUME_GIB}});
        let volume = self.create(Kind::Volume, body)?;
        Ok(self.storage.wait_available(Kind::Volume, &volume.id)?.id)
    }

    /// A new backup, once it and its volume are available.
    pub(crate) fn back_up(&self, role: &str, volume_id: &str, extent: Extent) -> Result<Resource> {
        let name = self.claim.name(role);
        log::info(format_args!("backing up volume {volume_id} as {name}"));
        let mut body = json!({"backup": {"name": name, "volume_id": volume_id}});
        if extent == Extent::Incremental {
            body["backup"]["incremental"] = Value::Bool(true);
        }
        let backup = self.create(Kind::Backup, body)?;
        let backup = self.storage.wait_available(Kind::Backup, &backup.id)?;
        self.storage.wait_available(Kind::Volume, volume_id)?;
        Ok(backup)
    }

    /// Restores to a new volume, finds that by its name as a user would, and returns its id.
    pub(crate) fn restore_by_name(&self, role: &str, backup_id: &str) -> Result<String> {
        let name = self.claim.name(role);
        log::info(format_args!(
            "restoring backup {backup_id} to a new volume {name}"
        ));
        let announced = self.restore(backup_id, json!({"name": name}))?;
        self.explain_failure(backup_id, || self.wait_found(&name, &announced))?;
        let volume = self.storage.wait_available(Kind::Volume, &announced)?;
        self.storage.wait_available(Kind::Backup, backup_id)?;
        Ok(volume.id)
    }

    /// Restores over what the volume holds.
    pub(crate) fn restore_into(&self, backup_id: &str, volume_id: &str) -> Result<()> {
        log::info(format_args!(
            "restoring backup {backup_id} into volume {volume_id}"
        ));
        let announced = self.restore(backup_id, json!({"volume_id": volume_id}))?;
        ensure!(
            announced == volume_id,
            "restore into {volume_id} went into volume {announced}"
        );
        // The backup first: the volume of an impatient cloud may still look available.
        self.storage.wait_available(Kind::Backup, backup_id)?;
        self.explain_failure(backup_id, || {
            self.storage.wait_available(Kind::Volume, volume_id)
        })?;
        Ok(())
    }

    fn create(&self, kind: Kind, body: Value) -> Result<Resource> {
        let path = format!("/{}", kind.collection());
        let exchange = self
            .storage
            .call(Method::Post, &path, Some(kind.version()), Some(body));
        let created = kind.read(exchange)?;
        self.claim.record(&created.id);
        Ok(created)
    }

    /// Sends no microversion, as the SDK does not; returns the id of the target volume.
    fn restore(&self, backup_id: &str, restore: Value) -> Result<String> {
        let path = format!("/backups/{backup_id}/restore");
        let body = json!({"restore": restore});
        let exchange = self.storage.call(Method::Post, &path, None, Some(body));
        let RestoreEnvelope { restore } = exchange.decode()?;
        self.claim.record(&restore.volume_id);
        Ok(restore.volume_id)
    }

    fn wait_found(&self, name: &str, announced_id: &str) -> Result<Resource> {
        let what = format!("volume {name} to become available");
        wait_for(&what, self.storage.timeout, || {
            self.find_available(name, announced_id)
        })
    }

    /// Looks a volume up as the SDK does: the name as an id, which must fail, then as a filter.
    fn find_available(&self, name: &str, announced_id: &str) -> Result<Seen<Resource>> {
        let by_id = self.storage.show(Kind::Volume, &encoded(name));
        if by_id.is_transient() || by_id.succeeded() {
            return available(Kind::Volume, by_id);
        }
        if !matches!(by_id.status(), Some(400 | 403 | 404)) {
            return Err(by_id.into_error("404 was expected"));
        }
        let filtered = format!("/volumes/detail?name={}", encoded(name));
        let mut volumes = self.storage.listed(Kind::Volume, &filtered)?;
        volumes.retain(|volume| volume.name.as_deref() == Some(name));
        ensure!(
            volumes.len() <= 1,
            "{} volumes are named {name}",
            volumes.len()
        );
        let exchange = self.storage.show(Kind::Volume, announced_id);
        match volumes.pop() {
            Some(volume) if volume.id != announced_id => {
                Err(exchange.into_error(&format!("volume {name} is {}, not this one", volume.id)))
            }
            Some(_) => available(Kind::Volume, exchange),
            None => Ok(Seen::NotYet(
                exchange.into_error(&format!("no volume is named {name}")),
            )),
        }
    }

    /// When a restore failed, Cinder's reason stands in the backup and not in the volume.
    fn explain_failure<T>(&self, backup_id: &str, wait: impl FnOnce() -> Result<T>) -> Result<T> {
        wait().map_err(|error| {
            let exchange: Exchange = self.storage.show(Kind::Backup, backup_id);
            let backup = Kind::Backup.read(exchange).ok();
            match backup
                .and_then(|backup| backup.fail_reason)
                .filter(|text| !text.is_empty())
            {
                Some(reason) => error.context(format!("restore failed, fail_reason: {reason}")),
                None => error,
            }
        })
    }
}
