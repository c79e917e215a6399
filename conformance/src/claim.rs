//! Which volumes and backups are ours to delete: those with the prefix, or only those of one run.

use std::cell::RefCell;
use std::collections::BTreeSet;

use uuid::Uuid;

use crate::resource::Resource;

#[derive(Debug)]
pub(crate) struct Claim {
    prefix: String,
    /// Ends every name of the run; None claims whatever carries the prefix.
    suffix: Option<String>,
    /// Created by the run, whatever the cloud chose to name them.
    created: RefCell<BTreeSet<String>>,
}

impl Claim {
    /// On everything with the prefix, whoever made it.
    pub(crate) fn of_prefix(prefix: &str) -> Claim {
        Claim {
            prefix: prefix.to_owned(),
            suffix: None,
            created: RefCell::default(),
        }
    }

    /// On what this run creates; its names end in eight random hex digits.
    pub(crate) fn of_run(prefix: &str) -> Claim {
        let suffix = Uuid::new_v4().simple().to_string()[..8].to_owned();
        Claim {
            suffix: Some(suffix),
            ..Claim::of_prefix(prefix)
        }
    }

    /// `scs-test-volume-1f2e3d4c` for the role `volume`.
    pub(crate) fn name(&self, role: &str) -> String {
        match &self.suffix {
            Some(suffix) => format!("{}{role}-{suffix}", self.prefix),
            None => format!("{}{role}", self.prefix),
        }
    }

    pub(crate) fn record(&self, id: &str) {
        self.created.borrow_mut().insert(id.to_owned());
    }

    /// A resource without a name is never claimed by name.
    pub(crate) fn covers(&self, resource: &Resource) -> bool {
        let name = resource.name.as_deref();
        let rest = name.and_then(|name| name.strip_prefix(self.prefix.as_str()));
        let named = match (&self.suffix, rest) {
            (_, None) => false,
            (None, Some(_)) => true,
            (Some(suffix), Some(rest)) => rest.ends_with(suffix.as_str()),
        };
        named || self.created.borrow().contains(&resource.id)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn resource(id: &str, name: Option<&str>) -> Resource {
        serde_json::from_value(json!({"id": id, "name": name, "status": "available"})).unwrap()
    }

    #[test]
    fn a_prefix_claims_every_name_that_starts_so_and_no_null_one() {
        let claim = Claim::of_prefix("scs-test-");
        assert!(claim.covers(&resource("1", Some("scs-test-volume"))));
        assert!(!claim.covers(&resource("1", Some("my-scs-test-volume"))));
        assert!(!claim.covers(&resource("1", None)));
    }

    #[test]
    fn a_run_claims_only_what_is_its_own() {
        let (mine, other) = (Claim::of_run("scs-test-"), Claim::of_run("scs-test-"));
        let name = mine.name("volume");
        assert!(name.starts_with("scs-test-volume-") && name.len() == "scs-test-volume-".len() + 8);
        assert!(mine.covers(&resource("1", Some(&name))));
        assert!(!mine.covers(&resource("2", Some(&other.name("volume")))));
        assert!(!mine.covers(&resource("3", None)));
        mine.record("3");
        assert!(mine.covers(&resource("3", None)));
    }
}
