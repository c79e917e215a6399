//! The resources that a request would add to a project.

use crate::model::id::VolumeTypeId;

/// The resources that a request would add to a project.
#[derive(Debug, Clone, Copy)]
pub struct Demand<'a> {
    pub(super) volumes: i64,
    pub(super) snapshots: i64,
    pub(super) gigabytes: i64,
    /// Size of the one volume it is about, GiB.
    pub(super) volume_gib: Option<i64>,
    pub(super) type_id: &'a VolumeTypeId,
    /// Whether the project has all of it already, and only the type is new.
    pub(super) only_by_type: bool,
}

impl<'a> Demand<'a> {
    /// One more volume.
    pub fn volume(size_gib: i64, type_id: &'a VolumeTypeId) -> Self {
        Self {
            volumes: 1,
            snapshots: 0,
            gigabytes: size_gib,
            volume_gib: Some(size_gib),
            type_id,
            only_by_type: false,
        }
    }

    /// One more snapshot.
    pub fn snapshot(size_gib: i64, type_id: &'a VolumeTypeId) -> Self {
        Self {
            volumes: 0,
            snapshots: 1,
            gigabytes: size_gib,
            volume_gib: None,
            type_id,
            only_by_type: false,
        }
    }

    /// A volume that grows.
    pub fn growth(from_gib: i64, to_gib: i64, type_id: &'a VolumeTypeId) -> Self {
        Self {
            volumes: 0,
            snapshots: 0,
            gigabytes: to_gib - from_gib,
            volume_gib: Some(to_gib),
            type_id,
            only_by_type: false,
        }
    }

    /// A volume that gets another type, and its snapshots with it.
    pub fn retyped(size_gib: i64, snapshots_gib: &[i64], type_id: &'a VolumeTypeId) -> Self {
        Self {
            volumes: 1,
            snapshots: i64::try_from(snapshots_gib.len()).unwrap_or(i64::MAX),
            gigabytes: size_gib + snapshots_gib.iter().sum::<i64>(),
            volume_gib: None,
            type_id,
            only_by_type: true,
        }
    }
}
