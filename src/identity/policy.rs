//! Cinder's policy rules by name, with their defaults (Cinder reference, 6.1), and the policy in force: the defaults, with
//! those replaced that an operator's file names.

use crate::identity::expression::Expression;
use serde_saphyr::{Location, Spanned};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Most levels of a rule, those of the rules that it refers to included.
const DEPTH_MAX: usize = 64;
/// Most checks that one question may take. A list asks it for every item.
const CHECKS_MAX: usize = 1000;

/// Rules that others refer to. The names are Cinder's, so that files written for it work.
const BASE: [(&str, &str); 5] = [
    ("context_is_admin", "role:admin"),
    ("admin_api", "is_admin:True"),
    (
        "admin_or_owner",
        "is_admin:True or project_id:%(project_id)s",
    ),
    (
        "xena_system_admin_or_project_reader",
        "role:admin or (role:reader and project_id:%(project_id)s)",
    ),
    (
        "xena_system_admin_or_project_member",
        "role:admin or (role:member and project_id:%(project_id)s)",
    ),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Check {
    Admin,
    AdminOrProjectMember,
    AdminOrProjectReader,
}

impl Check {
    fn base(self) -> &'static str {
        match self {
            Check::Admin => "admin_api",
            Check::AdminOrProjectMember => "xena_system_admin_or_project_member",
            Check::AdminOrProjectReader => "xena_system_admin_or_project_reader",
        }
    }
}

macro_rules! rules {
    ($($rule:ident => $name:literal, $check:ident;)+) => {
        /// The actions that the rules allow or refuse.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Rule { $($rule),+ }
        impl Rule {
            /// Every rule.
            pub const ALL: &[Rule] = &[$(Rule::$rule),+];
            /// Cinder's name of the rule.
            pub fn name(self) -> &'static str {
                match self { $(Rule::$rule => $name),+ }
            }
            fn default_check(self) -> Check {
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
    BackupExport => "backup:export-import", Admin;
    BackupImport => "backup:backup-import", Admin;
    BackupResetStatus => "volume_extension:backup_admin_actions:reset_status", Admin;
    BackupForceDelete => "volume_extension:backup_admin_actions:force_delete", Admin;
    MessageList => "message:get_all", AdminOrProjectReader;
    MessageShow => "message:get", AdminOrProjectReader;
    MessageDelete => "message:delete", AdminOrProjectMember;
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
    TypeShow => "volume_extension:type_get", AdminOrProjectReader;
    TypeCreate => "volume_extension:type_create", Admin;
    TypeUpdate => "volume_extension:type_update", Admin;
    TypeDelete => "volume_extension:type_delete", Admin;
    TypeQosShow => "volume_extension:access_types_qos_specs_id", Admin;
    TypeSpecsList => "volume_extension:types_extra_specs:index", AdminOrProjectReader;
    TypeSpecsShow => "volume_extension:types_extra_specs:show", AdminOrProjectReader;
    TypeSpecsCreate => "volume_extension:types_extra_specs:create", Admin;
    TypeSpecsUpdate => "volume_extension:types_extra_specs:update", Admin;
    TypeSpecsDelete => "volume_extension:types_extra_specs:delete", Admin;
    TypeAccessList => "volume_extension:volume_type_access:get_all_for_type", Admin;
    TypeAccessAdd => "volume_extension:volume_type_access:addProjectAccess", Admin;
    TypeAccessRemove => "volume_extension:volume_type_access:removeProjectAccess", Admin;
    TypeEncryptionShow => "volume_extension:volume_type_encryption:get", Admin;
    TypeEncryptionCreate => "volume_extension:volume_type_encryption:create", Admin;
    TypeEncryptionUpdate => "volume_extension:volume_type_encryption:update", Admin;
    TypeEncryptionDelete => "volume_extension:volume_type_encryption:delete", Admin;
    QosList => "volume_extension:qos_specs_manage:get_all", Admin;
    QosShow => "volume_extension:qos_specs_manage:get", Admin;
    QosCreate => "volume_extension:qos_specs_manage:create", Admin;
    QosUpdate => "volume_extension:qos_specs_manage:update", Admin;
    QosDelete => "volume_extension:qos_specs_manage:delete", Admin;
    TransferList => "volume:get_all_transfers", AdminOrProjectReader;
    TransferShow => "volume:get_transfer", AdminOrProjectReader;
    TransferCreate => "volume:create_transfer", AdminOrProjectMember;
    TransferAccept => "volume:accept_transfer", AdminOrProjectMember;
    TransferDelete => "volume:delete_transfer", AdminOrProjectMember;
    GroupTypeList => "group:group_types:get_all", AdminOrProjectReader;
    GroupTypeShow => "group:group_types:get", AdminOrProjectReader;
    GroupTypeCreate => "group:group_types:create", Admin;
    GroupTypeUpdate => "group:group_types:update", Admin;
    GroupTypeDelete => "group:group_types:delete", Admin;
    GroupSpecsAccess => "group:access_group_types_specs", Admin;
    GroupSpecsList => "group:group_types_specs:get_all", Admin;
    GroupSpecsShow => "group:group_types_specs:get", Admin;
    GroupSpecsCreate => "group:group_types_specs:create", Admin;
    GroupSpecsUpdate => "group:group_types_specs:update", Admin;
    GroupSpecsDelete => "group:group_types_specs:delete", Admin;
    GroupList => "group:get_all", AdminOrProjectReader;
    GroupShow => "group:get", AdminOrProjectReader;
    GroupProjectAttribute => "group:group_project_attribute", Admin;
    GroupCreate => "group:create", AdminOrProjectMember;
    GroupUpdate => "group:update", AdminOrProjectMember;
    GroupDelete => "group:delete", AdminOrProjectMember;
    GroupResetStatus => "group:reset_status", Admin;
    GroupSnapshotList => "group:get_all_group_snapshots", AdminOrProjectReader;
    GroupSnapshotShow => "group:get_group_snapshot", AdminOrProjectReader;
    GroupSnapshotProjectAttribute => "group:group_snapshot_project_attribute", Admin;
    GroupSnapshotCreate => "group:create_group_snapshot", AdminOrProjectMember;
    GroupSnapshotDelete => "group:delete_group_snapshot", AdminOrProjectMember;
    GroupSnapshotResetStatus => "group:reset_group_snapshot_status", Admin;
    ServiceList => "volume_extension:services:index", Admin;
    ServiceUpdate => "volume_extension:services:update", Admin;
    DefaultTypeList => "volume_extension:default_get_all", Admin;
    VolumeForceDelete => "volume_extension:volume_admin_actions:force_delete", Admin;
    VolumeDeleteForce => "volume:force_delete", Admin;
    VolumeForceDetach => "volume_extension:volume_admin_actions:force_detach", Admin;
    VolumeReserve => "volume_extension:volume_actions:reserve", AdminOrProjectMember;
    VolumeUnreserve => "volume_extension:volume_actions:unreserve", AdminOrProjectMember;
    VolumeBeginDetaching => "volume_extension:volume_actions:begin_detaching", AdminOrProjectMember;
    VolumeRollDetaching => "volume_extension:volume_actions:roll_detaching", AdminOrProjectMember;
    VolumeAttach => "volume_extension:volume_actions:attach", AdminOrProjectMember;
    VolumeDetach => "volume_extension:volume_actions:detach", AdminOrProjectMember;
    VolumeInitializeConnection => "volume_extension:volume_actions:initialize_connection", AdminOrProjectMember;
    VolumeTerminateConnection => "volume_extension:volume_actions:terminate_connection", AdminOrProjectMember;
    VolumeRetype => "volume:retype", AdminOrProjectMember;
    VolumeImageMetadata => "volume_extension:volume_image_metadata:set", AdminOrProjectMember;
    SnapshotForceDelete => "volume_extension:snapshot_admin_actions:force_delete", Admin;
    SnapshotUpdateStatus => "snapshot_extension:snapshot_actions:update_snapshot_status", AdminOrProjectMember;
    SnapshotMetadataUpdate => "volume:update_snapshot_metadata", AdminOrProjectMember;
    ClusterList => "clusters:get_all", Admin;
    WorkersCleanup => "workers:cleanup", Admin;
    HostManage => "volume_extension:hosts", Admin;
    CapabilitiesShow => "volume_extension:capabilities", Admin;
    PoolsShow => "scheduler_extension:scheduler_stats:get_pools", Admin;
    QuotaShow => "volume_extension:quotas:show", AdminOrProjectReader;
    QuotaUpdate => "volume_extension:quotas:update", Admin;
    QuotaDelete => "volume_extension:quotas:delete", Admin;
    QuotaClassShow => "volume_extension:quota_classes:get", Admin;
    QuotaClassUpdate => "volume_extension:quota_classes:update", Admin;
    LimitsShow => "limits_extension:used_limits", AdminOrProjectReader;
}

/// The rules in force. Immutable; shared by all requests.
#[derive(Debug)]
pub struct Policy {
    pub(super) rules: BTreeMap<String, Expression>,
}

/// Why a policy file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    #[error("{path} cannot be read")]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{path}, line {line}: {reason}")]
    Rule {
        path: PathBuf,
        line: u64,
        reason: String,
    },
}

impl Default for Policy {
    fn default() -> Self {
        let base = BASE.map(|(name, text)| {
            let expression = Expression::parse(text).expect("the base rules are understood");
            (name.to_owned(), expression)
        });
        let rules = Rule::ALL.iter().map(|rule| {
            let base = rule.default_check().base().to_owned();
            (rule.name().to_owned(), Expression::Rule(base))
        });
        Self {
            rules: base.into_iter().chain(rules).collect(),
        }
    }
}

impl Policy {
    /// The defaults, overridden by a file of `rule name: "check string"` lines in YAML. Names that
    /// this service does not use are kept: others may refer to them.
    pub fn load(path: &Path) -> Result<Self, PolicyError> {
        let text = std::fs::read_to_string(path).map_err(|source| PolicyError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text).map_err(|(line, reason)| PolicyError::Rule {
            path: path.to_owned(),
            line,
            reason,
        })
    }

    fn parse(text: &str) -> Result<Self, (u64, String)> {
        let mut policy = Self::default();
        let is_empty = text
            .lines()
            .all(|line| line.trim().is_empty() || line.trim_start().starts_with('#'));
        if is_empty {
            return Ok(policy);
        }
        let file: BTreeMap<String, Spanned<String>> =
            serde_saphyr::from_str(text).map_err(|error| {
                let line = error.location().map_or(1, |location| location.line());
                (line, "it must be lines of `rule: \"check\"`".to_owned())
            })?;
        let mut lines = BTreeMap::new();
        for (name, check) in file {
            let line = check.defined.line();
            if check.value.is_empty() && !begins_quoted(text, check.defined) {
                let reason = format!("{name}: it has no check; quote it, also an empty one");
                return Err((line, reason));
            }
            let expression = Expression::parse(&check.value)
                .map_err(|reason| (line, format!("{name}: {reason}")))?;
            lines.insert(name.clone(), line);
            policy.rules.insert(name, expression);
        }
        let mut survey = Survey::of(&policy.rules);
        for (name, line) in &lines {
            survey.rule(name, DEPTH_MAX).map_err(|refused| {
                let line = lines.get(&refused.rule).unwrap_or(line);
                (*line, format!("{}: {}", refused.rule, refused.reason))
            })?;
        }
        Ok(policy)
    }
}

/// Whether the text has a quote at this place. A tag without a value is read as empty text, such as a `!` that lacks its
/// quotes, and as a check that would mean the opposite.
fn begins_quoted(text: &str, place: Location) -> bool {
    let number = |count: u64| usize::try_from(count.saturating_sub(1)).unwrap_or(usize::MAX);
    let line = text.lines().nth(number(place.line())).unwrap_or_default();
    matches!(line.chars().nth(number(place.column())), Some('"' | '\''))
}

/// The cost of evaluating an expression, with the rules that it refers to.
#[derive(Debug, Clone, Copy)]
struct Cost {
    levels: usize,
    checks: usize,
}

impl Cost {
    /// The cost of an expression around one of this cost.
    fn within_one(self) -> Self {
        Self {
            levels: self.levels + 1,
            checks: self.checks.saturating_add(1),
        }
    }
}

/// Why a rule cannot be used.
#[derive(Debug)]
struct Refused {
    rule: String,
    reason: String,
}

/// Checks rules before they are used: every rule that is referred to must exist, no rule may refer to itself in a circle,
/// and no rule may take too long to evaluate. Each rule is checked once.
struct Survey<'a> {
    rules: &'a BTreeMap<String, Expression>,
    known: BTreeMap<&'a str, Cost>,
    /// The rules that led to the present one.
    path: Vec<&'a str>,
}

impl<'a> Survey<'a> {
    fn of(rules: &'a BTreeMap<String, Expression>) -> Self {
        Self {
            rules,
            known: BTreeMap::new(),
            path: Vec::new(),
        }
    }

    /// The cost of a rule of at most so many levels.
    fn rule(&mut self, name: &str, levels: usize) -> Result<Cost, Refused> {
        let refused = |reason: String| Refused {
            rule: name.to_owned(),
            reason,
        };
        let Some((name, expression)) = self.rules.get_key_value(name) else {
            let rule = self.path.last().copied().unwrap_or(name).to_owned();
            let reason = format!("there is no rule `{name}`");
            return Err(Refused { rule, reason });
        };
        if let Some(cost) = self.known.get(name.as_str()) {
            return if cost.levels <= levels {
                Ok(*cost)
            } else {
                Err(refused(too_deep()))
            };
        }
        if self.path.contains(&name.as_str()) {
            let through = self.path.last().copied().unwrap_or_default();
            return Err(refused(format!(
                "the rule refers to itself through `{through}`"
            )));
        }
        self.path.push(name);
        let cost = self.expression(expression, levels)?;
        self.path.pop();
        if cost.checks > CHECKS_MAX {
            return Err(refused(format!("it takes more than {CHECKS_MAX} checks")));
        }
        self.known.insert(name, cost);
        Ok(cost)
    }

    fn expression(&mut self, expression: &'a Expression, levels: usize) -> Result<Cost, Refused> {
        let Some(below) = levels.checked_sub(1) else {
            let rule = self.path.last().copied().unwrap_or_default().to_owned();
            let reason = too_deep();
            return Err(Refused { rule, reason });
        };
        let inner = match expression {
            Expression::Always
            | Expression::Never
            | Expression::Role(_)
            | Expression::OwnProject => Cost {
                levels: 0,
                checks: 0,
            },
            Expression::Rule(name) => self.rule(name, below)?,
            Expression::Admin(_) => self.rule("context_is_admin", below)?,
            Expression::Not(inner) => self.expression(inner, below)?,
            Expression::And(parts) | Expression::Or(parts) => self.parts(parts, below)?,
        };
        Ok(inner.within_one())
    }

    /// All of them together.
    fn parts(&mut self, parts: &'a [Expression], levels: usize) -> Result<Cost, Refused> {
        let mut all = Cost {
            levels: 0,
            checks: 0,
        };
        for part in parts {
            let cost = self.expression(part, levels)?;
            all.levels = all.levels.max(cost.levels);
            all.checks = all.checks.saturating_add(cost.checks);
        }
        Ok(all)
    }
}

fn too_deep() -> String {
    format!("it has more than {DEPTH_MAX} levels, with the rules that it refers to")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::RequestContext;
    use crate::model::id::ProjectId;
    use crate::model::role::Role;
    use std::sync::Arc;

    fn context(roles: &[&str], policy: Policy) -> RequestContext {
        RequestContext {
            user_id: crate::model::id::UserId::new("u"),
            project_id: ProjectId::new("own"),
            roles: roles.iter().map(|role| (*role).to_owned()).collect(),
            request_id: String::new(),
            token: None,
            policy: Arc::new(policy),
        }
    }

    fn allows(role: Option<Role>, rule: Rule, project: &str) -> bool {
        let roles: Vec<&str> = role.map_or_else(Vec::new, |role| {
            role.implied().iter().map(Role::as_str).collect()
        });
        let ctx = context(&roles, Policy::default());
        ctx.authorize(rule, &ProjectId::new(project)).is_ok()
    }

    #[test]
    fn readers_change_nothing_and_nobody_but_admins_reaches_another_project() {
        for rule in Rule::ALL {
            let reader = allows(Some(Role::Reader), *rule, "own");
            let member = allows(Some(Role::Member), *rule, "own");
            assert!(member || !reader, "{}", rule.name());
            assert!(
                !allows(Some(Role::Member), *rule, "other"),
                "{}",
                rule.name()
            );
            assert!(allows(Some(Role::Admin), *rule, "other"), "{}", rule.name());
            assert!(!allows(None, *rule, "own"), "{}", rule.name());
        }
        assert!(!allows(Some(Role::Reader), Rule::BackupCreate, "own"));
        assert!(allows(Some(Role::Reader), Rule::BackupList, "own"));
    }

    #[test]
    fn a_file_overrides_defaults_and_may_name_rules_of_its_own() {
        let text = "# comment\nbackup_operator: \"role:backup_operator\"\n\
                    \"backup:create\": \"rule:backup_operator and project_id:%(project_id)s\"\n\
                    \"backup:delete\": \"!\"\n\"volume:migrate\": \"rule:admin_api\"\n\
                    context_is_admin: \"role:cloud_admin\"\n";
        let ctx = |roles: &[&str]| context(roles, Policy::parse(text).unwrap());
        let own = ProjectId::new("own");
        let member = ctx(&["member", "reader"]);
        assert!(member.authorize(Rule::BackupCreate, &own).is_err());
        assert!(member.authorize(Rule::BackupDelete, &own).is_err());
        assert!(member.authorize(Rule::BackupRestore, &own).is_ok());
        let operator = ctx(&["backup_operator"]);
        assert!(operator.authorize(Rule::BackupCreate, &own).is_ok());
        assert!(!ctx(&["admin"]).is_admin());
        assert!(ctx(&["cloud_admin"]).is_admin());
        for empty in ["", "# nothing\n\n"] {
            assert!(Policy::parse(empty).is_ok());
        }
    }

    #[test]
    fn a_bad_file_is_refused_with_the_line() {
        let refused = |text: &str| Policy::parse(text).unwrap_err();
        let (line, reason) = refused("a: \"role:x\"\n\"backup:create\": \"role:a or\"\n");
        assert_eq!(line, 2);
        assert!(reason.contains("backup:create"), "{reason}");
        assert_eq!(refused("a: \"@\"\nb: \"rule:missing\"\n").0, 2);
        assert_eq!(refused("\n\na: \"rule:b\"\nb: \"rule:a\"\n").0, 3);
        assert_eq!(refused("a: \"@\"\n- b\n").0, 2);
        assert!(refused("a: [role:x]\n").1.contains("rule"));
        assert!(refused("a: \"http://x\"\n").1.contains("no check"));
        // Only quotes make an empty check, which lets everyone; what has lost them is refused, as null is.
        for value in ["!", "! # none", "!!str", "!none", "~", "", "|"] {
            let (line, reason) = refused(&format!("a: \"@\"\n\"volume:create\": {value}\n"));
            assert_eq!(line, 2, "{value}: {reason}");
        }
        for value in ["\"\"", "''", "  \"\" # everyone", "\n  ''"] {
            let parsed = Policy::parse(&format!("a: \"@\"\n\"volume:create\": {value}\n"));
            assert!(parsed.is_ok(), "{value}: {parsed:?}");
        }
        assert!(Policy::parse("{a: \"\", b: ''}").is_ok());
    }

    #[test]
    fn a_file_that_would_take_long_is_refused_with_the_line() {
        let refused = |text: &str| Policy::parse(text).unwrap_err();
        let deep = format!("a: \"@\"\nb: \"{}@\"\n", "not ".repeat(100_000));
        assert_eq!(refused(&deep).0, 2);
        assert!(Policy::parse(&format!("a: {}", "[".repeat(100_000))).is_err());
        // Each refers to the next one twice.
        let doubled = |count: usize| {
            let rules = (0..count).map(|n| {
                let next = n + 1;
                format!("r{n:05}: \"rule:r{next:05} or rule:r{next:05}\"\n")
            });
            rules.collect::<String>() + &format!("r{count:05}: \"!\"\n")
        };
        assert!(Policy::parse(&doubled(7)).is_ok());
        let (line, reason) = refused(&doubled(20));
        assert!((1..=20).contains(&line), "{line}");
        assert!(reason.contains("more than 1000 checks"), "{reason}");
        assert!(Policy::parse(&doubled(33)).is_err());
        let chain = |count: usize| {
            let rules = (0..count).map(|n| format!("r{n:05}: \"rule:r{:05}\"\n", n + 1));
            rules.collect::<String>() + &format!("r{count:05}: \"@\"\n")
        };
        assert!(Policy::parse(&chain(40)).is_ok());
        let (line, reason) = refused(&chain(20_000));
        assert!((1..=70).contains(&line), "{line}");
        assert!(reason.contains("levels"), "{reason}");
        // The error names the rule that is wrong, not the rules that refer to it.
        let (line, reason) = refused("a: \"rule:b\"\nb: \"rule:missing\"\n");
        assert_eq!(
            (line, reason.as_str()),
            (2, "b: there is no rule `missing`")
        );
    }
}
