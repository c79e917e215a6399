//! Group types: what groups of volumes are for. All projects share them.

use crate::db::standalone::records;
use crate::db::{self, DbConnection};
use crate::identity::RequestContext;
use crate::identity::policy::Rule;
use crate::model::error::Error;
use crate::model::id::RecordId;
use crate::model::page::{Filter, Listed, Page};
use crate::model::standalone::group::{Group, GroupSnapshot, GroupType, Visibility};
use crate::model::standalone::stored::{Resource, Stored};
use crate::service::standalone::stored::locked_record;
use crate::service::{Metadata, Services};

/// A request for a group type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateGroupType {
    pub name: String,
    pub visibility: Visibility,
    pub body: GroupType,
}

/// The fields that an update changes; `None` leaves a field as it is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GroupTypeChanges {
    pub name: Option<String>,
    pub description: Option<Option<String>>,
    pub visibility: Option<Visibility>,
}

impl Services {
    /// One page of group types.
    pub fn list_group_types(
        &self,
        ctx: &RequestContext,
        filter: &Filter,
        page: &Page,
    ) -> Result<Listed<Stored<GroupType>>, Error> {
        self.list_stored(ctx, Rule::GroupTypeList, filter, page)
    }

    /// One group type, if the rule allows and the caller may know of it.
    pub fn show_group_type(
        &self,
        ctx: &RequestContext,
        rule: Rule,
        id: &RecordId,
    ) -> Result<Stored<GroupType>, Error> {
        let row: Stored<GroupType> = self.shared_record(ctx, rule, id)?;
        if may_use(ctx, &row) {
            Ok(row)
        } else {
            Err(GroupType::missing(id))
        }
    }

    /// Makes a group type.
    pub fn create_group_type(
        &self,
        ctx: &RequestContext,
        wanted: CreateGroupType,
    ) -> Result<Stored<GroupType>, Error> {
        ctx.authorize(Rule::GroupTypeCreate, &ctx.project_id)?;
        self.metadata_limits.check_new(&wanted.body.group_specs)?;
        let row = Stored::new(
            ctx.project_id.clone(),
            Some(wanted.name.clone()),
            wanted.visibility.as_str(),
            wanted.body,
            self.clock.now(),
        );
        self.db.write(|c| -> Result<(), Error> {
            check_name(c, &wanted.name)?;
            Ok(records::insert(c, &row)?)
        })?;
        Ok(row)
    }

    /// Changes name, description or visibility.
    pub fn update_group_type(
        &self,
        ctx: &RequestContext,
        id: &RecordId,
        changes: GroupTypeChanges,
    ) -> Result<Stored<GroupType>, Error> {
        ctx.authorize(Rule::GroupTypeUpdate, &ctx.project_id)?;
        self.change_record(id, |c, row: &mut Stored<GroupType>| {
            if let Some(name) = &changes.name
                && row.name.as_ref() != Some(name)
            {
                check_name(c, name)?;
                row.name = Some(name.clone());
            }
            if let Some(description) = &changes.description {
                row.body.description = description.clone();
            }
            if let Some(visibility) = changes.visibility {
                row.status = visibility.to_string();
            }
            Ok(())
        })
    }

    /// Removes a group type that no group has.
    pub fn delete_group_type(&self, ctx: &RequestContext, id: &RecordId) -> Result<(), Error> {
        ctx.authorize(Rule::GroupTypeDelete, &ctx.project_id)?;
        self.settle_group_snapshots()?;
        self.db.write(|c| -> Result<(), Error> {
            locked_record::<GroupType>(c, id)?;
            let groups = records::all::<Group>(c)?;
            let snapshots = records::all::<GroupSnapshot>(c)?;
            let is_used = groups.iter().any(|row| row.body.group_type_id == *id)
                || snapshots.iter().any(|row| row.body.group_type_id == *id);
            if is_used {
                let message = "Target group type is still in use.";
                return Err(Error::Invalid(message.to_owned()));
            }
            Ok(records::remove(c, id)?)
        })
    }

    /// Adds specs to a group type, or changes those it has.
    pub fn set_group_specs(
        &self,
        ctx: &RequestContext,
        rule: Rule,
        id: &RecordId,
        specs: &Metadata,
    ) -> Result<(), Error> {
        ctx.authorize(rule, &ctx.project_id)?;
        self.change_record(id, |_, row: &mut Stored<GroupType>| {
            let mut known = row.body.group_specs.clone();
            known.extend(specs.clone());
            self.metadata_limits.check(&row.body.group_specs, &known)?;
            row.body.group_specs = known;
            Ok(())
        })?;
        Ok(())
    }

    /// Removes one spec.
    pub fn remove_group_spec(
        &self,
        ctx: &RequestContext,
        id: &RecordId,
        key: &str,
    ) -> Result<(), Error> {
        ctx.authorize(Rule::GroupSpecsDelete, &ctx.project_id)?;
        self.change_record(id, |_, row: &mut Stored<GroupType>| {
            match row.body.group_specs.remove(key) {
                Some(_) => Ok(()),
                None => Err(no_group_spec(id, key)),
            }
        })?;
        Ok(())
    }
}

fn may_use(ctx: &RequestContext, row: &Stored<GroupType>) -> bool {
    ctx.is_admin() || row.status == Visibility::Public.as_str()
}

/// The group type of this id or name, if the caller may use it. It cannot go away before the
/// transaction ends.
pub(super) fn usable_group_type(
    c: &mut DbConnection,
    ctx: &RequestContext,
    id_or_name: &str,
) -> Result<Stored<GroupType>, Error> {
    let id = RecordId::new(id_or_name);
    let found = match records::find::<GroupType>(c, &id)? {
        None => records::named::<GroupType>(c, id_or_name)?,
        found => found,
    };
    let row = found
        .filter(|row| may_use(ctx, row))
        .ok_or_else(|| GroupType::missing(&id))?;
    locked_record(c, &row.id)
}

/// The message to a client if a group type lacks a spec.
pub fn no_group_spec(id: &RecordId, key: &str) -> Error {
    Error::NotFound(format!("Group Type {id} has no specs with key {key}."))
}

fn check_name(c: &mut DbConnection, name: &str) -> Result<(), Error> {
    db::lock(c, GroupType::KIND)?;
    match records::named::<GroupType>(c, name)? {
        None => Ok(()),
        Some(_) => Err(Error::Conflict(format!(
            "Group Type {name} already exists."
        ))),
    }
}
