//! Tests a storage before it is used: does everything once that backups need of it.

use crate::model::check::Verdict;
use crate::store::key::Key;
use crate::store::{Store, StoreError, StoreErrorKind};
use serde::Serialize;
use std::time::{Duration, Instant};

/// Small objects of the check, bytes.
const SMALL_BYTES: usize = 256 << 10;
/// As large as a pack, bytes.
const LARGE_BYTES: usize = 32 << 20;
/// Reads whose median is the latency.
const LATENCY_READS: usize = 9;

/// One part of the check.
#[derive(Debug, Clone, Serialize)]
pub struct Step {
    pub name: &'static str,
    pub verdict: Verdict,
    pub detail: String,
    pub milliseconds: u64,
}

/// Runs all steps, also after one has failed, and removes what it stored.
pub fn run(store: &Store) -> Vec<Step> {
    let name = uuid::Uuid::new_v4();
    let check = Check {
        store: store.clone(),
        small: Key::Check(format!("{name}-small")),
        large: Key::Check(format!("{name}-large")),
    };
    let steps: [(&'static str, Run); 10] = [
        ("list", Check::list),
        ("write", Check::write),
        ("read", Check::read),
        ("range", Check::range),
        ("range past the end", Check::range_past_end),
        ("find", Check::find),
        ("conditional create", Check::conditional_create),
        ("write and read 32 MiB", Check::large),
        ("latency", Check::latency),
        ("delete", Check::delete),
    ];
    steps
        .into_iter()
        .map(|(name, step)| {
            let started = Instant::now();
            let (verdict, detail) = step(&check).unwrap_or_else(|detail| (Verdict::Failed, detail));
            Step {
                name,
                verdict,
                detail,
                milliseconds: started.elapsed().as_millis() as u64,
            }
        })
        .collect()
}

type Run = fn(&Check) -> Found;
type Found = Result<(Verdict, String), String>;

struct Check {
    store: Store,
    small: Key,
    large: Key,
}

impl Check {
    fn list(&self) -> Found {
        let listed = self.store.list("check/").map_err(said)?;
        passed(match listed.len() {
            0 => String::new(),
            count => format!("{count} objects of earlier checks are left in check/"),
        })
    }

    fn write(&self) -> Found {
        self.store
            .put_new(&self.small, content(SMALL_BYTES))
            .map_err(said)?;
        passed(String::new())
    }

    fn read(&self) -> Found {
        if self.store.get(&self.small).map_err(said)? == content(SMALL_BYTES) {
            passed(String::new())
        } else {
            Err("the bytes that were read differ from those written".to_owned())
        }
    }

    fn range(&self) -> Found {
        let range = 1000..5000;
        let bytes = self
            .store
            .get_range(&self.small, range.clone())
            .map_err(said)?;
        if bytes == content(SMALL_BYTES)[range.start as usize..range.end as usize] {
            passed(String::new())
        } else {
            Err("the bytes that were read differ from those written".to_owned())
        }
    }

    fn range_past_end(&self) -> Found {
        let end = SMALL_BYTES as u64;
        match self.store.get_range(&self.small, end - 10..end + 10) {
            Err(error) if error.kind == StoreErrorKind::Truncated => passed(String::new()),
            Err(error) => Err(said(error)),
            Ok(_) => Err("it returned more bytes than the object has".to_owned()),
        }
    }

    fn find(&self) -> Found {
        let name = self.small.to_string();
        let listed = self.store.list("check/").map_err(said)?;
        let length = self.store.length(&self.small).map_err(said)?;
        let expected = SMALL_BYTES as u64;
        match listed.iter().find(|(found, _)| *found == name) {
            None => Err("the object that was just written is not in the list".to_owned()),
            Some((_, listed)) if *listed != expected || length != Some(expected) => Err(format!(
                "its length is {listed} in the list and {length:?} by itself"
            )),
            Some(_) => passed(String::new()),
        }
    }

    fn conditional_create(&self) -> Found {
        let absent = |detail: &str| Ok((Verdict::Absent, detail.to_owned()));
        if !self.store.abilities().conditional_create {
            return absent("not offered; not needed, as the database decides");
        }
        let other = vec![7; SMALL_BYTES];
        match self.store.put_new(&self.small, other.clone()) {
            Err(error) if error.kind == StoreErrorKind::Exists => {}
            Err(error) => return Err(said(error)),
            Ok(()) => return absent("the storage ignores it; not needed, as the database decides"),
        }
        if self.store.get(&self.small).map_err(said)? == other {
            Err("it refused, but replaced the object".to_owned())
        } else {
            passed(String::new())
        }
    }

    fn large(&self) -> Found {
        let bytes = content(LARGE_BYTES);
        let speed = |duration: Duration| LARGE_BYTES as f64 / 1e6 / duration.as_secs_f64();
        let started = Instant::now();
        self.store
            .put_new(&self.large, bytes.clone())
            .map_err(said)?;
        let up = speed(started.elapsed());
        let started = Instant::now();
        let read = self.store.get(&self.large).map_err(said)?;
        let down = speed(started.elapsed());
        if read == bytes {
            passed(format!("{up:.0} MB/s up, {down:.0} MB/s down"))
        } else {
            Err("the bytes that were read differ from those written".to_owned())
        }
    }

    fn latency(&self) -> Found {
        let mut times = Vec::new();
        for number in 0..LATENCY_READS as u64 {
            let started = Instant::now();
            let range = number * 4096..(number + 1) * 4096;
            self.store.get_range(&self.large, range).map_err(said)?;
            times.push(started.elapsed());
        }
        times.sort();
        let (median, worst) = (times[LATENCY_READS / 2], times[LATENCY_READS - 1]);
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        passed(format!(
            "{:.1} ms median, {:.1} ms worst",
            ms(median),
            ms(worst)
        ))
    }

    fn delete(&self) -> Found {
        for key in [&self.small, &self.large] {
            self.store.delete(key).map_err(said)?;
            match self.store.get(key) {
                Err(error) if error.kind == StoreErrorKind::Missing => {}
                Err(error) => return Err(said(error)),
                Ok(_) => return Err("a deleted object can still be read".to_owned()),
            }
        }
        // Deleting an object that does not exist must succeed: a job that is repeated does so.
        self.store.delete(&self.small).map_err(said)?;
        passed(String::new())
    }
}

fn passed(detail: String) -> Found {
    Ok((Verdict::Passed, detail))
}

fn said(error: StoreError) -> String {
    crate::model::error::chain(&error)
}

/// Bytes that no two places have in common, the same each time.
fn content(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new()
        .update(b"embervault storage check")
        .finalize_xof()
        .fill(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn verdicts(steps: &[Step]) -> Vec<(&str, Verdict)> {
        steps.iter().map(|step| (step.name, step.verdict)).collect()
    }

    #[test]
    fn a_directory_passes_and_nothing_is_left() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let settings = config::Storage::at(format!("fs:{}", dir.path().display()));
        let store = Store::open(&settings, runtime.handle().clone()).unwrap();
        let steps = run(&store);
        assert!(
            steps.iter().all(|step| step.verdict == Verdict::Passed),
            "{steps:?}"
        );
        assert!(store.list("check/").unwrap().is_empty());
    }

    #[test]
    fn a_storage_that_does_not_let_us_fails_where_it_must() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let store = Store::memory(runtime.handle().clone());
        let store = store.with_hook(std::sync::Arc::new(|verb, _| match verb {
            crate::store::Verb::Put => Err(StoreErrorKind::Denied),
            _ => Ok(()),
        }));
        let steps = run(&store);
        assert_eq!(
            steps[1].detail,
            format!(
                "{}: the backup storage refused our credentials",
                steps[1].detail.split(':').next().unwrap()
            )
        );
        let failed = verdicts(&steps)
            .iter()
            .filter(|(_, verdict)| *verdict == Verdict::Failed)
            .count();
        assert!(failed >= 6, "{steps:?}");
    }
}
