//! Objects under temporary names, for storages that do not create objects atomically by themselves.

/// Folder of temporary objects.
pub(super) const FOLDER: &str = "tmp";

/// A temporary name that is used only once.
pub(super) fn name() -> String {
    format!("{FOLDER}/{}", uuid::Uuid::new_v4())
}

/// Whether this is a name of ours: the folder may also hold other objects.
pub(super) fn is_ours(object: &str) -> bool {
    let name = object
        .strip_prefix(FOLDER)
        .and_then(|rest| rest.strip_prefix('/'));
    name.is_some_and(|name| uuid::Uuid::parse_str(name).is_ok_and(|id| id.to_string() == name))
}
