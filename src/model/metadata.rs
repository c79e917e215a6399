//! How large the maps of texts may become that users and administrators keep with objects: metadata, properties of
//! images, specs of types. What was larger before there was a bound can be read, removed and made smaller.

use crate::model::error::Error;
use std::collections::BTreeMap;

/// Keys and values that a client chose.
pub type Metadata = BTreeMap<String, String>;

/// The bounds, of each object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MetadataLimits {
    /// Most keys.
    pub items_max: usize,
    /// Most bytes of keys and values together.
    pub bytes_max: u64,
}

impl MetadataLimits {
    /// Refuses what a new object comes with, if it is too much.
    pub fn check_new(&self, metadata: &Metadata) -> Result<(), Error> {
        self.check(&Metadata::new(), metadata)
    }

    /// Refuses what an object's metadata would become, if that is too much and more than it is. To be asked in
    /// the transaction that writes it, of what was read there, so that no other request comes in between.
    pub fn check(&self, before: &Metadata, after: &Metadata) -> Result<(), Error> {
        let items = after.len();
        if items > self.items_max && items > before.len() {
            return Err(self.refused(&format!(
                "{items} keys exceed the {} allowed",
                self.items_max
            )));
        }
        let bytes = bytes(after);
        if bytes > self.bytes_max && bytes > self::bytes(before) {
            return Err(self.refused(&format!(
                "{bytes} bytes of keys and values exceed the {} allowed",
                self.bytes_max
            )));
        }
        Ok(())
    }

    fn refused(&self, why: &str) -> Error {
        Error::OverQuota {
            class: None,
            message: format!(
                "Invalid metadata size: {why} (api.metadata_items_max and api.metadata_bytes_max in the service's \
                 configuration)."
            ),
        }
    }
}

fn bytes(metadata: &Metadata) -> u64 {
    let sizes = metadata.iter().map(|(key, value)| key.len() + value.len());
    sizes.map(|size| size as u64).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: MetadataLimits = MetadataLimits {
        items_max: 3,
        bytes_max: 12,
    };

    fn metadata(entries: &[(&str, &str)]) -> Metadata {
        let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        entries.iter().map(owned).collect()
    }

    fn refusal(before: &Metadata, after: &Metadata) -> Option<String> {
        let refused = LIMITS.check(before, after);
        refused.err().map(|error| error.to_string())
    }

    #[test]
    fn neither_keys_nor_bytes_grow_beyond_their_bound() {
        let full = metadata(&[("a", "1"), ("b", "2"), ("c", "3456789")]);
        assert!(LIMITS.check_new(&full).is_ok());
        let mut more = full.clone();
        more.insert("c".to_owned(), "34567890".to_owned());
        let refused = refusal(&full, &more).unwrap();
        assert!(
            refused.contains("13 bytes of keys and values exceed the 12 allowed"),
            "{refused}"
        );
        let many = metadata(&[("a", ""), ("b", ""), ("c", ""), ("d", "")]);
        let refused = refusal(&Metadata::new(), &many).unwrap();
        assert!(refused.contains("4 keys exceed the 3 allowed"), "{refused}");
        assert!(refused.contains("api.metadata_items_max"), "{refused}");
    }

    #[test]
    fn what_is_too_large_already_may_shrink_or_stay_and_not_grow() {
        let old = metadata(&[
            ("a", "123456"),
            ("b", "123456"),
            ("c", ""),
            ("d", ""),
            ("e", ""),
        ]);
        let mut less = old.clone();
        less.remove("e");
        assert_eq!(refusal(&old, &less), None);
        assert_eq!(refusal(&old, &old), None);
        let mut other = less.clone();
        other.insert("f".to_owned(), String::new());
        assert_eq!(refusal(&old, &other), None);
        other.insert("g".to_owned(), String::new());
        assert!(refusal(&old, &other).is_some());
        let mut longer = less.clone();
        longer.insert("a".to_owned(), "12345678".to_owned());
        assert!(refusal(&old, &longer).is_some());
    }
}
