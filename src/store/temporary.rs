//! Objects under temporary names, where a storage makes no object there whole or not at all by itself.

use crate::store::call::Load;
use crate::store::{Creation, Store, StoreError, Verb, failed};
use bytes::Bytes;
use std::time::{Duration, SystemTime};

/// Folder of temporary objects.
pub(super) const FOLDER: &str = "tmp";

/// Those older than this belong to nobody any more.
const AGE_MAX: Duration = Duration::from_secs(3600);

/// A temporary name that nobody else uses.
pub(super) fn name() -> String {
    format!("{FOLDER}/{}", uuid::Uuid::new_v4())
}

/// Whether we gave this name: others may have a folder of the same name there.
fn is_ours(object: &str) -> bool {
    let name = object
        .strip_prefix(FOLDER)
        .and_then(|rest| rest.strip_prefix('/'));
    name.is_some_and(|name| uuid::Uuid::parse_str(name).is_ok_and(|id| id.to_string() == name))
}

impl Store {
    /// Removes what killed processes left half-written. Gives how many objects that were.
    pub fn sweep(&self) -> Result<usize, StoreError> {
        if matches!(self.creation, Creation::Put) {
            return Ok(0);
        }
        let mut found = self.list(&format!("{FOLDER}/"))?;
        found.retain(|(object, _)| is_ours(object));
        if found.is_empty() {
            return Ok(0);
        }
        let Some(now) = self.time()? else {
            return Ok(0);
        };
        let mut swept = 0;
        for (object, _) in found {
            let age = self
                .modified(&object)?
                .and_then(|at| now.duration_since(at).ok());
            if age.is_some_and(|age| age > AGE_MAX) {
                self.remove(&object, &|| None)?;
                swept += 1;
            }
        }
        Ok(swept)
    }

    /// What the storage's clock says, which need not be ours.
    fn time(&self) -> Result<Option<SystemTime>, StoreError> {
        let probe = name();
        let write = || async { self.operator.write(&probe, Bytes::from_static(b"?")).await };
        let called = self.call(Verb::Put, &probe, Load::Up(1), write)?;
        called
            .result
            .map_err(|error| failed(Verb::Put, &probe, error))?;
        let now = self.modified(&probe);
        self.remove(&probe, &|| None)?;
        now
    }

    fn modified(&self, object: &str) -> Result<Option<SystemTime>, StoreError> {
        let stat = || async { self.operator.stat(object).await };
        let called = self.call(Verb::Head, object, Load::Nothing, stat)?;
        match called.result {
            Ok(found) => Ok(found.last_modified().map(SystemTime::from)),
            Err(error) if error.kind() == opendal::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed(Verb::Head, object, error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use std::fs::File;

    #[test]
    fn what_is_old_is_swept_and_what_may_be_under_way_is_not() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let settings = config::Storage::at(format!("fs:{}", dir.path().display()));
        let store = Store::open(&settings, runtime.handle().clone()).unwrap();
        let folder = dir.path().join(FOLDER);
        let age = |name: &str, age| {
            let file = File::create(folder.join(name)).unwrap();
            let now = file.metadata().unwrap().modified().unwrap();
            file.set_modified(now - age).unwrap();
        };
        let [old, young] = [(); 2].map(|()| uuid::Uuid::new_v4().to_string());
        age(&old, AGE_MAX * 2);
        age(&young, AGE_MAX / 2);
        age("of somebody else", AGE_MAX * 2);
        assert_eq!(store.sweep().unwrap(), 1);
        let is_there = |name: &str| folder.join(name).exists();
        assert!(!is_there(&old) && is_there(&young) && is_there("of somebody else"));
    }
}
