//! What is checked: the standard's own flow, and what goes beyond it.

pub(crate) mod backup;
pub(crate) mod data;
