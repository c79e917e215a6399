//! Cinder's policy rules and their defaults, by name (Cinder reference, 6.1).

use crate::model::identity::Role;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Check {
    Admin,
    AdminOrProjectMember,
    AdminOrProjectReader,
}

macro_rules! rules {
    ($($rule:ident => $name:literal, $check:ident;)+) => {
        /// What a caller may want to do.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Rule { $($rule),+ }
        impl Rule {
            /// Every rule.
            pub const ALL: &[Rule] = &[$(Rule::$rule),+];
            /// Cinder's name of the rule.
            pub fn name(self) -> &'static str {
                match self { $(Rule::$rule => $name),+ }
            }
            fn check(self) -> Check {
                match self { $(Rule::$rule => Check::$check),+ }
            }
        }
    };
}

rules! {
    BackupList => "backup:get_all", AdminOrProjectReader;
    BackupShow => "backup:get", AdminOrProjectReader;
    BackupProjectAttribute => "backup:backup_project_attribute", Admin;
    BackupCreate => "backup:create", AdminOrProjectMember;
    BackupUpdate => "backup:update", AdminOrProjectMember;
    BackupDelete => "backup:delete", AdminOrProjectMember;
    BackupRestore => "backup:restore", AdminOrProjectMember;
    VolumeList => "volume:get_all", AdminOrProjectReader;
    VolumeShow => "volume:get", AdminOrProjectReader;
    VolumeCreate => "volume:create", AdminOrProjectMember;
    VolumeUpdate => "volume:update", AdminOrProjectMember;
    VolumeDelete => "volume:delete", AdminOrProjectMember;
    VolumeExtend => "volume:extend", AdminOrProjectMember;
    VolumeMetadataShow => "volume:get_volume_metadata", AdminOrProjectReader;
    VolumeMetadataUpdate => "volume:update_volume_metadata", AdminOrProjectMember;
    VolumeResetStatus => "volume_extension:volume_admin_actions:reset_status", Admin;
    VolumeSetBootable => "volume_extension:volume_actions:set_bootable", AdminOrProjectMember;
    VolumeSetReadonly => "volume:update_readonly_flag", AdminOrProjectMember;
    SnapshotList => "volume:get_all_snapshots", AdminOrProjectReader;
    SnapshotShow => "volume:get_snapshot", AdminOrProjectReader;
    SnapshotCreate => "volume:create_snapshot", AdminOrProjectMember;
    SnapshotUpdate => "volume:update_snapshot", AdminOrProjectMember;
    SnapshotDelete => "volume:delete_snapshot", AdminOrProjectMember;
    SnapshotResetStatus => "volume_extension:snapshot_admin_actions:reset_status", Admin;
    AttachmentShow => "volume:attachment_get", AdminOrProjectReader;
    AttachmentCreate => "volume:attachment_create", AdminOrProjectMember;
    AttachmentUpdate => "volume:attachment_update", AdminOrProjectMember;
    AttachmentDelete => "volume:attachment_delete", AdminOrProjectMember;
    AttachmentComplete => "volume:attachment_complete", AdminOrProjectMember;
    TypeList => "volume_extension:type_get_all", AdminOrProjectReader;
    ServiceList => "volume_extension:services:index", Admin;
    LimitsShow => "limits_extension:used_limits", AdminOrProjectReader;
}

impl Rule {
    /// Whether these roles allow it, in the caller's own project or in another.
    pub fn allows(self, roles: &[Role], is_own_project: bool) -> bool {
        let has = |role| roles.contains(&role);
        match self.check() {
            Check::Admin => has(Role::Admin),
            Check::AdminOrProjectMember => {
                has(Role::Admin) || (is_own_project && has(Role::Member))
            }
            Check::AdminOrProjectReader => {
                has(Role::Admin) || (is_own_project && has(Role::Reader))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_change_nothing_and_nobody_but_admins_reaches_another_project() {
        for rule in Rule::ALL {
            let reader = rule.allows(Role::Reader.implied(), true);
            let member = rule.allows(Role::Member.implied(), true);
            assert!(member || !reader, "{}", rule.name());
            assert!(
                !rule.allows(Role::Member.implied(), false),
                "{}",
                rule.name()
            );
            assert!(rule.allows(Role::Admin.implied(), false), "{}", rule.name());
        }
        assert!(!Rule::BackupCreate.allows(Role::Reader.implied(), true));
        assert!(Rule::BackupList.allows(Role::Reader.implied(), true));
        assert!(!Rule::BackupList.allows(&[], true));
    }
}
