//! What a project uses of its quotas, and which services run.

use crate::config::Quota;
use crate::db::{self, DbError};
use crate::identity::RequestContext;
use crate::identity::policy::Rule;
use crate::model::error::Error;
use crate::model::id::ProjectId;
use crate::service::Services;

/// What a project has. Sizes in GiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    pub volumes: i64,
    pub snapshots: i64,
    /// Volumes and snapshots together.
    pub gigabytes: i64,
    pub backups: i64,
    pub backup_gigabytes: i64,
}

impl Services {
    /// Quotas and usage of a project.
    pub fn limits(
        &self,
        ctx: &RequestContext,
        project: &ProjectId,
    ) -> Result<(Quota, Usage), Error> {
        ctx.authorize(Rule::LimitsShow, project)?;
        let usage = self.db.read(|c| -> Result<_, DbError> {
            let (volumes, volume_gigabytes) = db::volumes::usage(c, project)?;
            let (snapshots, snapshot_gigabytes) = db::snapshots::usage(c, project)?;
            let (backups, backup_gigabytes) = db::backups::usage(c, project)?;
            Ok(Usage {
                volumes,
                snapshots,
                gigabytes: volume_gigabytes + snapshot_gigabytes,
                backups,
                backup_gigabytes,
            })
        })?;
        Ok((self.quota.clone(), usage))
    }
}
