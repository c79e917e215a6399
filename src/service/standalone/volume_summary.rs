//! Volumes, taken together.

use crate::db::DbConnection;
use crate::db::standalone::volumes;
use crate::identity::RequestContext;
use crate::identity::policy::Rule;
use crate::model::error::Error;
use crate::model::id::VolumeId;
use crate::model::page::Filter;
use crate::service::{Metadata, Services};
use std::collections::{BTreeMap, BTreeSet};

/// How many volumes' metadata is read at once.
const VOLUMES_AT_ONCE: i64 = 16;
/// Memory of an entry beside its text.
const ENTRY_BYTES: u64 = 64;

/// The totals of some volumes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    pub count: i64,
    pub size_gib: i64,
    pub metadata: Values,
}

/// Every value of every key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Values {
    pub of_keys: BTreeMap<String, BTreeSet<String>>,
    bytes: u64,
}

impl Values {
    fn add(&mut self, metadata: Metadata, bytes_max: u64) -> Result<(), Error> {
        for (key, value) in metadata {
            let bytes = |text: &str| text.len() as u64 + ENTRY_BYTES;
            let (of_key, of_value) = (bytes(&key), bytes(&value));
            let values = self.of_keys.entry(key).or_insert_with(|| {
                self.bytes += of_key;
                BTreeSet::new()
            });
            if values.insert(value) {
                self.bytes += of_value;
            }
        }
        if self.bytes <= bytes_max {
            Ok(())
        } else {
            Err(Error::invalid(
                "input received",
                "The metadata of these volumes is too much for one summary. Filter them, or ask for one \
                 without metadata, as before version 3.36.",
            ))
        }
    }
}

impl Services {
    /// How many volumes there are, how large they are together, and, if it is asked for, what their metadata
    /// says. A summary has no pages, so it is refused where its metadata would take more than this many bytes.
    pub fn summarize_volumes(
        &self,
        ctx: &RequestContext,
        filter: &Filter,
        metadata_bytes_max: Option<u64>,
    ) -> Result<Summary, Error> {
        ctx.authorize(Rule::VolumeList, &ctx.project_id)?;
        self.db.read(|c| {
            let sizes = volumes::sizes(c, filter)?;
            let mut summary = Summary {
                count: i64::try_from(sizes.len()).unwrap_or(i64::MAX),
                size_gib: sizes.iter().sum(),
                metadata: Values::default(),
            };
            if let Some(bytes_max) = metadata_bytes_max {
                summary.metadata = values(c, filter, bytes_max)?;
            }
            Ok(summary)
        })
    }
}

/// The metadata of the volumes that match, read some volumes at a time.
fn values(connection: &mut DbConnection, filter: &Filter, bytes_max: u64) -> Result<Values, Error> {
    let mut values = Values::default();
    let mut last = VolumeId::new("");
    loop {
        let some = volumes::metadata_after(connection, filter, &last, VOLUMES_AT_ONCE)?;
        let Some((id, _)) = some.last() else {
            return Ok(values);
        };
        last = id.clone();
        for (_, metadata) in some {
            values.add(metadata.into_inner(), bytes_max)?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_a_key_come_once_and_not_too_many_of_them() {
        let mut values = Values::default();
        let one = |value: &str| Metadata::from([("k".to_owned(), value.to_owned())]);
        for value in ["a", "b", "a"] {
            values.add(one(value), 1000).unwrap();
        }
        assert_eq!(
            values.of_keys["k"],
            BTreeSet::from(["a".to_owned(), "b".to_owned()])
        );
        let bytes = values.bytes;
        values.add(one("b"), 1000).unwrap();
        assert_eq!(values.bytes, bytes);
        let room = 1000 - values.bytes;
        let added = (0..100).take_while(|n| values.add(one(&format!("{n:02}")), 1000).is_ok());
        assert_eq!(added.count() as u64, room / (ENTRY_BYTES + 2));
    }
}
