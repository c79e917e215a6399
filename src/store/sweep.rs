//! Removes what killed processes left under temporary names: by its age, or by what it is.

use crate::store::call::Load;
use crate::store::key::Key;
use crate::store::temporary::{FOLDER, is_ours, name};
use crate::store::{Creation, Store, StoreError, StoreErrorKind, Verb, failed};
use bytes::Bytes;
use std::time::{Duration, SystemTime};

/// Temporary objects older than this have no living owner.
const AGE_MAX: Duration = Duration::from_secs(3600);

impl Store {
    /// Removes what killed processes left half-written. Gives how many objects that were.
    pub fn sweep(&self) -> Result<usize, StoreError> {
        let found = self.temporaries()?;
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

    /// Removes temporary objects of at most so many bytes whose content is of some kind, however young they are, so
    /// that a crash of the machine does not bring them back. Gives how many that were.
    pub fn remove_temporaries(
        &self,
        bytes_max: u64,
        is_one: &dyn Fn(&[u8]) -> bool,
    ) -> Result<usize, StoreError> {
        let mut removed = 0;
        for (object, length) in self.temporaries()? {
            if length > bytes_max {
                continue;
            }
            let key = Key::Leftover(object);
            match self.get(&key) {
                Ok(bytes) if is_one(&bytes) => {
                    self.delete_durably(&key)?;
                    removed += 1;
                }
                Ok(_) => {}
                // Its writer has just given it its name.
                Err(error) if error.kind == StoreErrorKind::Missing => {}
                Err(error) => return Err(error),
            }
        }
        Ok(removed)
    }

    /// Objects under temporary names, with their lengths.
    fn temporaries(&self) -> Result<Vec<(String, u64)>, StoreError> {
        if matches!(self.creation, Creation::Put) {
            return Ok(Vec::new());
        }
        let mut found = self.list(&format!("{FOLDER}/"))?;
        found.retain(|(object, _)| is_ours(object));
        Ok(found)
    }

    /// The time by the storage's clock, which may differ from ours.
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
        // What is of some kind goes at once.
        std::fs::write(folder.join(&old), "a key").unwrap();
        std::fs::write(folder.join(&young), "a key, and more").unwrap();
        let is_key = |bytes: &[u8]| bytes.starts_with(b"a key");
        assert_eq!(store.remove_temporaries(5, &|_| false).unwrap(), 0);
        assert_eq!(store.remove_temporaries(5, &is_key).unwrap(), 1);
        assert!(!is_there(&old) && is_there(&young));
        assert_eq!(store.remove_temporaries(99, &is_key).unwrap(), 1);
        assert!(!is_there(&young) && is_there("of somebody else"));
    }
}
