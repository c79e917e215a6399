//! The volumes and snapshots that the stand-in keeps on a host, for administrators (Cinder reference, 8.5).

use crate::db::DbError;
use crate::db::standalone::{snapshots, volumes};
use crate::model::error::Error;
use crate::model::id::ProjectId;
use crate::service::Services;
use std::collections::HashMap;

/// A project, its volumes, their GiB, its snapshots, their GiB.
pub type HostUsage = (ProjectId, i64, i64, i64, i64);

impl Services {
    /// One row for each project on a host: project, volumes, their GiB, snapshots, their GiB.
    pub fn usage_of_host(&self, host: &str) -> Result<Vec<HostUsage>, Error> {
        if host != self.host_of("cinder-volume") {
            return Ok(Vec::new());
        }
        let (volumes, snapshots) = self.db.read(|c| -> Result<_, DbError> {
            let volumes = volumes::usage_by_project(c)?;
            Ok((volumes, snapshots::usage_by_project(c)?))
        })?;
        let snapshots: HashMap<_, _> = snapshots
            .into_iter()
            .map(|(project, count, gib)| (project, (count, gib)))
            .collect();
        let usage = volumes.into_iter().map(|(project, volumes, volume_gib)| {
            let (snapshots, snapshot_gib) = snapshots.get(&project).copied().unwrap_or_default();
            (project, volumes, volume_gib, snapshots, snapshot_gib)
        });
        Ok(usage.collect())
    }
}
