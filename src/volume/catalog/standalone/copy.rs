//! Copies that jobs make of volumes and snapshots. Each run of a job fills a file of its own, and the first that is
//! whole gets the name of what was to be made. So a run that was halted and overtaken, however late it wakes, neither
//! writes into nor replaces what its successor has made.

use crate::model::job::Lease;
use crate::model::progress::Progress;
use crate::volume::catalog::CatalogError;
use crate::volume::catalog::standalone::Standalone;
use crate::volume::{VolumeError, file};
use std::path::Path;

impl Standalone {
    /// Makes `to` a copy of `from`, at least so long, unless it is there already. An error once the run was asked to
    /// stop, or its lease is over.
    pub(super) fn copy(
        &self,
        (from, to): (&Path, &Path),
        length: u64,
        lease: &Lease,
        progress: &Progress,
    ) -> Result<(), CatalogError> {
        if to.exists() {
            return Ok(());
        }
        self.remove_earlier(to, lease)?;
        let partial = to.with_extension(format!("{}.partial", lease.attempt));
        let may_go_on = || !progress.is_asked_to_stop() && !progress.is_overdue();
        if file::clone(from, to, length, &partial, &may_go_on)? {
            Ok(())
        } else if progress.is_asked_to_stop() {
            Err(CatalogError::Stopped)
        } else {
            Err(CatalogError::Overdue)
        }
    }

    /// Removes what earlier runs of the job, which are over, have filled.
    fn remove_earlier(&self, to: &Path, lease: &Lease) -> Result<(), CatalogError> {
        let listed = std::fs::read_dir(&self.dir)
            .map_err(|source| VolumeError::of_file(&self.dir, "list", source))?;
        let stem = to.file_stem().unwrap_or_default().to_string_lossy();
        for entry in listed.flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let run = name
                .strip_prefix(&*stem)
                .and_then(|rest| rest.strip_prefix('.')?.strip_suffix(".partial"));
            let attempt = run.and_then(|run| run.parse::<i32>().ok());
            if attempt.is_some_and(|attempt| attempt < lease.attempt) {
                file::remove(&entry.path())?;
            }
        }
        Ok(())
    }
}
