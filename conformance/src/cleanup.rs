//! Cleanup: deletes the claimed backups, then the claimed volumes, and waits until they are gone.
//! One resource that resists does not keep the others; what is left in the end is an error.

use anyhow::{Result, anyhow, bail};

use crate::block_storage::BlockStorage;
use crate::claim::Claim;
use crate::interrupt;
use crate::log::{self, Level};
use crate::resource::{Kind, Resource, is_gone};
use crate::wait::{Seen, wait_for};

pub(crate) fn clean(storage: &BlockStorage, claim: &Claim) -> Result<()> {
    let mut left = Vec::new();
    for kind in [Kind::Backup, Kind::Volume] {
        clear(storage, claim, kind)?;
        for resource in claimed(storage, claim, kind)? {
            left.push(format!(
                "{} {} in status {}",
                kind.name(),
                resource.id,
                resource.status
            ));
        }
    }
    if !left.is_empty() {
        bail!("cleanup left {}", left.join(", "));
    }
    Ok(())
}

/// Deletes in rounds, as a backup can only go after those that build on it. Ends when nothing is
/// left or a round got nothing deleted.
fn clear(storage: &BlockStorage, claim: &Claim, kind: Kind) -> Result<()> {
    loop {
        let round = deletable(claimed(storage, claim, kind)?);
        let mut refusals = Vec::new();
        let mut asked = Vec::new();
        for resource in round {
            interrupt::check()?;
            match delete(storage, kind, &resource) {
                Ok(()) => asked.push(resource),
                Err(error) => refusals.push(error),
            }
        }
        let mut gone = 0;
        for resource in asked {
            match storage.wait_gone(kind, &resource.id) {
                Ok(()) => gone += 1,
                Err(error) => refusals.push(error),
            }
            interrupt::check()?;
        }
        if gone == 0 {
            refusals
                .iter()
                .for_each(|error| log::failure(Level::Warning, error));
            return Ok(());
        }
    }
}

fn claimed(storage: &BlockStorage, claim: &Claim, kind: Kind) -> Result<Vec<Resource>> {
    let mut resources = storage.all(kind)?;
    resources.retain(|resource| claim.covers(resource) && resource.status != "deleted");
    Ok(resources)
}

/// What to delete in one round, youngest first: backups that no other builds on, or all of them
/// where that would be none.
fn deletable(mut resources: Vec<Resource>) -> Vec<Resource> {
    resources.sort_by(|a, b| b.created_at.cmp(&a.created_at));
    let is_free = |resource: &Resource| resource.has_dependent_backups != Some(true);
    if resources.iter().any(is_free) {
        resources.retain(is_free);
    }
    resources
}

/// Waits for work in progress first, which would make the cloud refuse.
fn delete(storage: &BlockStorage, kind: Kind, resource: &Resource) -> Result<()> {
    let id = &resource.id;
    let Some(mut status) = settled(storage, kind, id)? else {
        return Ok(());
    };
    if kind == Kind::Volume && is_attached(&status) {
        storage.release(id)?;
        status = storage.wait_available(kind, id)?.status;
    }
    if status == "deleting" {
        return Ok(());
    }
    let name = resource.name.as_deref().unwrap_or("without name");
    log::info(format_args!(
        "deleting {} {name} ({id}), status {status}",
        kind.name()
    ));
    storage.delete(kind, id)
}

/// The status once it is one that lasts, or None when the resource is gone.
fn settled(storage: &BlockStorage, kind: Kind, id: &str) -> Result<Option<String>> {
    let what = format!("{} {id} to settle", kind.name());
    wait_for(&what, storage.timeout, || {
        let exchange = storage.show(kind, id);
        if is_gone(&exchange) {
            return Ok(Seen::Done(None));
        }
        if exchange.is_transient() {
            return Ok(Seen::NotYet(exchange.into_error("still asking")));
        }
        let status = kind.read(exchange)?.status;
        if lasts(&status) {
            return Ok(Seen::Done(Some(status)));
        }
        Ok(Seen::NotYet(anyhow!("its status is {status}")))
    })
}

fn lasts(status: &str) -> bool {
    matches!(status, "available" | "deleting") || status.starts_with("error") || is_attached(status)
}

fn is_attached(status: &str) -> bool {
    matches!(status, "in-use" | "reserved" | "attaching")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn backup(id: &str, created_at: &str, has_dependents: Value) -> Resource {
        serde_json::from_value(json!({"id": id, "name": null, "status": "available",
            "created_at": created_at, "has_dependent_backups": has_dependents}))
        .unwrap()
    }

    fn order(backups: Vec<Resource>) -> Vec<String> {
        deletable(backups)
            .into_iter()
            .map(|backup| backup.id)
            .collect()
    }

    #[test]
    fn parents_wait_for_their_children() {
        let backups = vec![
            backup("full", "2026-01-01", json!(true)),
            backup("child", "2026-01-02", json!(false)),
            backup("single", "2026-01-03", Value::Null),
        ];
        assert_eq!(order(backups), ["single", "child"]);
    }

    #[test]
    fn where_only_parents_are_left_the_youngest_is_tried_first() {
        let backups = vec![
            backup("a", "2026-01-01", json!(true)),
            backup("b", "2026-01-02", json!(true)),
        ];
        assert_eq!(order(backups), ["b", "a"]);
    }

    #[test]
    fn work_in_progress_does_not_last() {
        for status in [
            "creating",
            "backing-up",
            "restoring",
            "restoring-backup",
            "detaching",
        ] {
            assert!(!lasts(status), "{status}");
        }
        for status in [
            "available",
            "error",
            "error_restoring",
            "in-use",
            "deleting",
        ] {
            assert!(lasts(status), "{status}");
        }
    }
}
