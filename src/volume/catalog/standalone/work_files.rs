//! The files that jobs work in. Each goes with its job; those of lost jobs, or of jobs whose volume was deleted
//! meanwhile, are found here.

use crate::model::volume::WorkFile;
use crate::volume::catalog::CatalogError;
use crate::volume::catalog::standalone::Standalone;
use crate::volume::{VolumeError, file};
use uuid::Uuid;

/// Length of an id in the name of a file.
const ID_LENGTH: usize = 36;

impl Standalone {
    /// The files that jobs work in. A job makes them only when it runs, so the job of each that is listed had its
    /// row before.
    pub fn work_files(&self) -> Result<Vec<WorkFile>, CatalogError> {
        let failed = |source| VolumeError::of_file(&self.dir, "list", source);
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.dir).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let name = name.to_string_lossy();
            found.extend(owner(&name).map(|of| WorkFile {
                name: name.to_string(),
                of: of.to_owned(),
            }));
        }
        Ok(found)
    }

    /// Removes a file whose job is not there. Repeatable.
    pub fn remove_work_file(&self, left: &WorkFile) -> Result<(), CatalogError> {
        Ok(file::remove(&self.dir.join(&left.name))?)
    }
}

/// The owner of the file with this name, if a job works in it: the id of the job, or of the volume that it makes.
/// `None` for whole volumes and snapshots and for the clones of change tracking: these are not removed.
fn owner(name: &str) -> Option<&str> {
    let (stem, end) = name.rsplit_once('.')?;
    let (kind, ids) = stem.split_once('-')?;
    let at = match (kind, end) {
        ("temporary", "raw" | "partial") | ("volume" | "snapshot", "partial") => 0,
        // After the id of the volume.
        ("restoring", "raw" | "partial") | ("tracked", "partial") => ID_LENGTH + 1,
        _ => return None,
    };
    let id = ids.get(at..at + ID_LENGTH)?;
    Uuid::try_parse(id).is_ok().then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_volumes_and_strange_files_are_nobodys() {
        let [volume, job] = [0; 2].map(|_| Uuid::new_v4().to_string());
        let of_job = [
            format!("restoring-{volume}-{job}-3.raw"),
            format!("restoring-{volume}-{job}-3.{volume}.partial"),
            format!("temporary-{job}.raw"),
            format!("temporary-{job}.partial"),
            format!("temporary-{job}.2.partial"),
            format!("tracked-{volume}-{job}.0a1b2c3d.partial"),
        ];
        for name in &of_job {
            assert_eq!(owner(name), Some(job.as_str()), "{name}");
        }
        for kind in ["volume", "snapshot"] {
            for run in ["partial", "2.partial", &format!("{job}.partial")] {
                let made = format!("{kind}-{volume}.{run}");
                assert_eq!(owner(&made), Some(volume.as_str()), "{made}");
            }
            assert_eq!(owner(&format!("{kind}-{volume}.raw")), None);
        }
        for name in [
            format!("tracked-{volume}-{job}.0a1b2c3d.raw"),
            format!("restoring-{volume}.raw"),
            "restoring-my-notes.raw".to_owned(),
            "volume-data.partial".to_owned(),
            "lost+found".to_owned(),
        ] {
            assert_eq!(owner(&name), None, "{name}");
        }
    }
}
