//! Volume types: who may use them, and what their administrators say of them.

use crate::db::standalone::types::Shown;
use crate::db::standalone::{records, types, volumes};
use crate::db::{self, DbConnection};
use crate::identity::RequestContext;
use crate::identity::policy::Rule;
use crate::model::column::Json;
use crate::model::error::Error;
use crate::model::id::{RecordId, VolumeTypeId};
use crate::model::page::{Condition, Listed, Page};
use crate::model::standalone::group::Group;
use crate::model::standalone::volume_type::{DEFAULT_TYPE_NAME, TypeEncryption, VolumeType};
use crate::service::cinder_services::BACKEND;
use crate::service::{Metadata, Services, check_marker};

/// The capabilities of the one backend of standalone volumes.
const CAPABILITIES: [(&str, &str); 3] = [
    ("storage_protocol", "local"),
    ("vendor_name", "Embervault"),
    ("volume_backend_name", BACKEND),
];

/// A request for a new volume type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateType {
    pub name: String,
    pub description: Option<String>,
    pub is_public: bool,
    pub extra_specs: Metadata,
}

/// The fields that an update changes; `None` leaves a field as it is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TypeChanges {
    pub name: Option<String>,
    pub description: Option<Option<String>>,
    pub is_public: Option<bool>,
}

/// The same of a type's encryption.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EncryptionChanges {
    pub provider: Option<String>,
    pub control_location: Option<String>,
    pub cipher: Option<Option<String>>,
    pub key_size: Option<Option<i64>>,
}

impl EncryptionChanges {
    fn apply(self, encryption: &mut TypeEncryption) {
        let Self {
            provider,
            control_location,
            cipher,
            key_size,
        } = self;
        if let Some(provider) = provider {
            encryption.provider = provider;
        }
        if let Some(location) = control_location {
            encryption.control_location = location;
        }
        if let Some(cipher) = cipher {
            encryption.cipher = cipher;
        }
        if let Some(key_size) = key_size {
            encryption.key_size = key_size;
        }
    }
}

impl Services {
    /// One page of volume types: with `None` all that there are, with `Some(true)` those that the
    /// caller's project may use.
    pub fn list_types(
        &self,
        ctx: &RequestContext,
        is_public: Option<bool>,
        conditions: &[Condition],
        page: &Page,
    ) -> Result<Listed<VolumeType>, Error> {
        ctx.authorize(Rule::TypeList, &ctx.project_id)?;
        let shown = match is_public {
            None => Shown::All,
            Some(false) => Shown::Private,
            Some(true) => Shown::OpenTo(&ctx.project_id),
        };
        self.db.read(|c| -> Result<_, Error> {
            if let Some(marker) = &page.marker {
                let found = types::find(c, &VolumeTypeId::new(marker));
                check_marker(found, |row| may_use(ctx, row), "Volume type", marker)?;
            }
            Ok(types::list(c, shown, conditions, page)?)
        })
    }

    /// One volume type, if the rule allows and the caller may know of it.
    pub fn show_type(
        &self,
        ctx: &RequestContext,
        rule: Rule,
        id: &VolumeTypeId,
    ) -> Result<VolumeType, Error> {
        ctx.authorize(rule, &ctx.project_id)?;
        self.db
            .read(|c| types::find(c, id))?
            .filter(|row| may_use(ctx, row))
            .ok_or_else(|| no_type(id.as_str()))
    }

    /// The volume type used when none is asked for.
    pub fn show_default_type(&self, ctx: &RequestContext) -> Result<VolumeType, Error> {
        ctx.authorize(Rule::TypeShow, &ctx.project_id)?;
        Ok(self.catalog.standalone()?.default_type()?)
    }

    /// Makes a volume type.
    pub fn create_type(
        &self,
        ctx: &RequestContext,
        wanted: CreateType,
    ) -> Result<VolumeType, Error> {
        ctx.authorize(Rule::TypeCreate, &ctx.project_id)?;
        self.metadata_limits.check_new(&wanted.extra_specs)?;
        let row = VolumeType {
            id: VolumeTypeId::random(),
            name: wanted.name,
            description: wanted.description,
            is_public: wanted.is_public,
            extra_specs: Json::new(wanted.extra_specs),
            created_at: self.clock.now(),
            updated_at: None,
            qos_specs_id: None,
            encryption: None,
            projects: Json::default(),
        };
        self.db.write(|c| -> Result<(), Error> {
            db::lock(c, types::CHANGED)?;
            check_name(c, &row.name)?;
            Ok(volumes::insert_type(c, &row)?)
        })?;
        Ok(row)
    }

    /// Changes name, description or visibility.
    pub fn update_type(
        &self,
        ctx: &RequestContext,
        id: &VolumeTypeId,
        changes: TypeChanges,
    ) -> Result<VolumeType, Error> {
        ctx.authorize(Rule::TypeUpdate, &ctx.project_id)?;
        self.change_type(id, |c, row| {
            if let Some(name) = changes.name.as_ref().filter(|name| **name != row.name) {
                // The default type is found by its name.
                if row.name == DEFAULT_TYPE_NAME {
                    let message = "The default volume type cannot be renamed.";
                    return Err(Error::Invalid(message.to_owned()));
                }
                check_name(c, name)?;
                row.name = name.clone();
            }
            if let Some(description) = &changes.description {
                row.description = description.clone();
            }
            if let Some(is_public) = changes.is_public {
                row.is_public = is_public;
            }
            Ok(())
        })
    }

    /// Removes a volume type that no volume and no group uses.
    pub fn delete_type(&self, ctx: &RequestContext, id: &VolumeTypeId) -> Result<(), Error> {
        ctx.authorize(Rule::TypeDelete, &ctx.project_id)?;
        self.db.write(|c| -> Result<(), Error> {
            let row = locked_type(c, id)?;
            if row.name == DEFAULT_TYPE_NAME {
                return Err(Error::Invalid(format!(
                    "The volume type {id} is the default volume type and cannot be deleted."
                )));
            }
            let groups = records::all::<Group>(c)?;
            let is_grouped = groups
                .iter()
                .any(|group| group.body.volume_type_ids.contains(id));
            if is_grouped || types::is_used(c, id)? {
                let message = "Target volume type is still in use.";
                return Err(Error::Invalid(message.to_owned()));
            }
            Ok(types::remove(c, id)?)
        })
    }

    /// Adds extra specs to a volume type, or changes those it has.
    pub fn set_extra_specs(
        &self,
        ctx: &RequestContext,
        rule: Rule,
        id: &VolumeTypeId,
        specs: &Metadata,
    ) -> Result<(), Error> {
        ctx.authorize(rule, &ctx.project_id)?;
        self.change_type(id, |_, row| {
            let mut known = (*row.extra_specs).clone();
            known.extend(specs.clone());
            self.metadata_limits.check(&row.extra_specs, &known)?;
            row.extra_specs = Json::new(known);
            Ok(())
        })?;
        Ok(())
    }

    /// Removes one extra spec.
    pub fn remove_extra_spec(
        &self,
        ctx: &RequestContext,
        id: &VolumeTypeId,
        key: &str,
    ) -> Result<(), Error> {
        ctx.authorize(Rule::TypeSpecsDelete, &ctx.project_id)?;
        self.change_type(id, |_, row| {
            let mut known = (*row.extra_specs).clone();
            if known.remove(key).is_none() {
                return Err(no_extra_spec(id, key));
            }
            row.extra_specs = Json::new(known);
            Ok(())
        })?;
        Ok(())
    }

    /// Says how volumes of a type are to be encrypted. Provider and location must be given.
    pub fn create_encryption(
        &self,
        ctx: &RequestContext,
        id: &VolumeTypeId,
        wanted: EncryptionChanges,
    ) -> Result<VolumeType, Error> {
        ctx.authorize(Rule::TypeEncryptionCreate, &ctx.project_id)?;
        let mut encryption = TypeEncryption {
            encryption_id: RecordId::random().to_string(),
            provider: String::new(),
            control_location: String::new(),
            cipher: None,
            key_size: None,
            created_at: self.clock.now(),
            updated_at: None,
        };
        wanted.apply(&mut encryption);
        self.change_type(id, |c, row| {
            check_unused(c, id, "create")?;
            if row.encryption.is_some() {
                return Err(Error::Invalid(format!(
                    "Volume type encryption for type {id} already exists."
                )));
            }
            row.encryption = Some(Json::new(encryption.clone()));
            Ok(())
        })
    }

    /// Says it otherwise.
    pub fn update_encryption(
        &self,
        ctx: &RequestContext,
        id: &VolumeTypeId,
        changes: EncryptionChanges,
    ) -> Result<VolumeType, Error> {
        ctx.authorize(Rule::TypeEncryptionUpdate, &ctx.project_id)?;
        let now = self.clock.now();
        self.change_type(id, |c, row| {
            check_unused(c, id, "update")?;
            let Some(known) = &row.encryption else {
                return Err(no_encryption(id));
            };
            let mut encryption = (**known).clone();
            changes.clone().apply(&mut encryption);
            encryption.updated_at = Some(now);
            row.encryption = Some(Json::new(encryption));
            Ok(())
        })
    }

    /// Volumes of the type are not to be encrypted any more.
    pub fn delete_encryption(&self, ctx: &RequestContext, id: &VolumeTypeId) -> Result<(), Error> {
        ctx.authorize(Rule::TypeEncryptionDelete, &ctx.project_id)?;
        self.change_type(id, |c, row| {
            check_unused(c, id, "delete")?;
            match row.encryption.take() {
                Some(_) => Ok(()),
                None => Err(no_encryption(id)),
            }
        })?;
        Ok(())
    }

    /// Opens a private volume type to a project.
    pub fn add_type_access(
        &self,
        ctx: &RequestContext,
        id: &VolumeTypeId,
        project: &str,
    ) -> Result<(), Error> {
        ctx.authorize(Rule::TypeAccessAdd, &ctx.project_id)?;
        self.change_type(id, |_, row| {
            check_private(row)?;
            let mut projects = (*row.projects).clone();
            if !projects.insert(project.to_owned()) {
                return Err(Error::Conflict(format!(
                    "Volume type access for {id} / {project} combination already exists."
                )));
            }
            row.projects = Json::new(projects);
            Ok(())
        })?;
        Ok(())
    }

    /// Closes it again.
    pub fn remove_type_access(
        &self,
        ctx: &RequestContext,
        id: &VolumeTypeId,
        project: &str,
    ) -> Result<(), Error> {
        ctx.authorize(Rule::TypeAccessRemove, &ctx.project_id)?;
        self.change_type(id, |_, row| {
            check_private(row)?;
            let mut projects = (*row.projects).clone();
            if !projects.remove(project) {
                return Err(Error::NotFound(format!(
                    "Volume type access not found for {id} / {project} combination."
                )));
            }
            row.projects = Json::new(projects);
            Ok(())
        })?;
        Ok(())
    }

    /// Changes a volume type by a function of what is there, in one step. Who may do so was asked
    /// before.
    pub(super) fn change_type(
        &self,
        id: &VolumeTypeId,
        mut change: impl FnMut(&mut DbConnection, &mut VolumeType) -> Result<(), Error>,
    ) -> Result<VolumeType, Error> {
        let now = self.clock.now();
        self.db.write(|c| -> Result<VolumeType, Error> {
            let mut row = locked_type(c, id)?;
            change(c, &mut row)?;
            row.updated_at = Some(now);
            types::update(c, &row)?;
            Ok(row)
        })
    }
}

fn locked_type(c: &mut DbConnection, id: &VolumeTypeId) -> Result<VolumeType, Error> {
    db::lock(c, types::CHANGED)?;
    types::find(c, id)?.ok_or_else(|| no_type(id.as_str()))
}

/// Whether the caller may use volumes of a type, and know of it.
pub(super) fn may_use(ctx: &RequestContext, row: &VolumeType) -> bool {
    row.is_public || ctx.is_admin() || row.projects.contains(ctx.project_id.as_str())
}

/// The volume type of this id or name, if the caller may use it.
pub(super) fn usable_type(
    c: &mut DbConnection,
    ctx: &RequestContext,
    id_or_name: &str,
) -> Result<VolumeType, Error> {
    volumes::find_type(c, id_or_name)?
        .filter(|row| may_use(ctx, row))
        .ok_or_else(|| no_type(id_or_name))
}

/// Whether the backend of standalone volumes is what a type asks for. Specs with a scope of their
/// own, such as `RESKEY:availability_zones`, ask nothing of it.
pub(super) fn is_served(row: &VolumeType) -> bool {
    row.encryption.is_none()
        && row.extra_specs.iter().all(|(key, wanted)| {
            let key = match key.split_once(':') {
                None => key.as_str(),
                Some(("capabilities", rest)) => rest,
                Some(_) => return true,
            };
            let is_known = |(name, value): &(&str, &str)| *name == key && *value == wanted;
            CAPABILITIES.iter().any(is_known)
        })
}

/// The message to a client if a type lacks an extra spec.
pub fn no_extra_spec(id: &VolumeTypeId, key: &str) -> Error {
    Error::NotFound(format!(
        "Volume Type {id} has no extra specs with key {key}."
    ))
}

/// The message to a client if a type has no encryption.
pub fn no_encryption(id: &VolumeTypeId) -> Error {
    Error::NotFound(format!(
        "Volume type encryption for type {id} does not exist."
    ))
}

fn check_name(c: &mut DbConnection, name: &str) -> Result<(), Error> {
    let known = volumes::type_names(c)?;
    if known.iter().any(|(_, known)| known == name) {
        Err(Error::Conflict(format!(
            "Volume Type {name} already exists."
        )))
    } else {
        Ok(())
    }
}

fn check_unused(c: &mut DbConnection, id: &VolumeTypeId, action: &str) -> Result<(), Error> {
    if types::is_used(c, id)? {
        Err(Error::Invalid(format!(
            "Cannot {action} encryption specs. Volume type in use."
        )))
    } else {
        Ok(())
    }
}

fn check_private(row: &VolumeType) -> Result<(), Error> {
    if row.is_public {
        Err(Error::invalid(
            "volume type",
            "Type access modification is not applicable to public volume type.",
        ))
    } else {
        Ok(())
    }
}

/// Cinder's answer to a name or id that no type has.
pub(crate) fn no_type(name: &str) -> Error {
    match uuid::Uuid::parse_str(name) {
        Ok(_) => Error::not_found("Volume type", name),
        Err(_) => Error::not_found("Volume type with name", name),
    }
}
