//! QoS specs, and the volume types they belong to.

use crate::db::standalone::{records, types};
use crate::db::{self, DbConnection};
use crate::identity::RequestContext;
use crate::identity::policy::Rule;
use crate::model::error::Error;
use crate::model::id::{RecordId, VolumeTypeId};
use crate::model::page::{Filter, Listed, Page};
use crate::model::standalone::qos::{Consumer, QosSpecs};
use crate::model::standalone::stored::{Resource, Stored};
use crate::model::standalone::volume_type::VolumeType;
use crate::service::standalone::stored::locked_record;
use crate::service::{Metadata, Services};

impl Services {
    /// One page of QoS specs.
    pub fn list_qos(
        &self,
        ctx: &RequestContext,
        filter: &Filter,
        page: &Page,
    ) -> Result<Listed<Stored<QosSpecs>>, Error> {
        self.list_stored(ctx, Rule::QosList, filter, page)
    }

    /// One of them.
    pub fn show_qos(&self, ctx: &RequestContext, id: &RecordId) -> Result<Stored<QosSpecs>, Error> {
        self.shared_record(ctx, Rule::QosShow, id)
    }

    /// Makes QoS specs.
    pub fn create_qos(
        &self,
        ctx: &RequestContext,
        name: String,
        body: QosSpecs,
    ) -> Result<Stored<QosSpecs>, Error> {
        ctx.authorize(Rule::QosCreate, &ctx.project_id)?;
        self.metadata_limits.check_new(&body.specs)?;
        let now = self.clock.now();
        let row = Stored::new(ctx.project_id.clone(), Some(name.clone()), "", body, now);
        self.db.write(|c| -> Result<(), Error> {
            db::lock(c, QosSpecs::KIND)?;
            if records::named::<QosSpecs>(c, &name)?.is_some() {
                return Err(Error::Conflict(format!("QoS Specs {name} already exists.")));
            }
            Ok(records::insert(c, &row)?)
        })?;
        Ok(row)
    }

    /// Adds specs or changes those that are there, and the consumer if one is named.
    pub fn set_qos(
        &self,
        ctx: &RequestContext,
        id: &RecordId,
        consumer: Option<Consumer>,
        specs: &Metadata,
    ) -> Result<(), Error> {
        ctx.authorize(Rule::QosUpdate, &ctx.project_id)?;
        self.change_record(id, |_, row: &mut Stored<QosSpecs>| {
            if let Some(consumer) = consumer {
                row.body.consumer = consumer;
            }
            let mut known = row.body.specs.clone();
            known.extend(specs.clone());
            self.metadata_limits.check(&row.body.specs, &known)?;
            row.body.specs = known;
            Ok(())
        })?;
        Ok(())
    }

    /// Removes specs, all of them or, if one is not there, none.
    pub fn remove_qos_keys(
        &self,
        ctx: &RequestContext,
        id: &RecordId,
        keys: &[String],
    ) -> Result<(), Error> {
        ctx.authorize(Rule::QosUpdate, &ctx.project_id)?;
        self.change_record(id, |_, row: &mut Stored<QosSpecs>| {
            for key in keys {
                if row.body.specs.remove(key).is_none() {
                    return Err(Error::NotFound(format!(
                        "QoS spec {id} has no spec with key {key}."
                    )));
                }
            }
            Ok(())
        })?;
        Ok(())
    }

    /// Removes QoS specs; with `force` also those that volume types have.
    pub fn delete_qos(
        &self,
        ctx: &RequestContext,
        id: &RecordId,
        force: bool,
    ) -> Result<(), Error> {
        ctx.authorize(Rule::QosDelete, &ctx.project_id)?;
        let now = self.clock.now();
        self.db.write(|c| -> Result<(), Error> {
            // Whoever gives them to a type takes both in this order.
            db::lock(c, types::CHANGED)?;
            locked_record::<QosSpecs>(c, id)?;
            let types = types::of_qos(c, id.as_str())?;
            if !types.is_empty() && !force {
                return Err(Error::Invalid(format!(
                    "QoS Specs {id} is still associated with entities."
                )));
            }
            for mut row in types {
                row.qos_specs_id = None;
                row.updated_at = Some(now);
                types::update(c, &row)?;
            }
            Ok(records::remove(c, id)?)
        })
    }

    /// The volume types that have these specs.
    pub fn qos_associations(
        &self,
        ctx: &RequestContext,
        id: &RecordId,
    ) -> Result<Vec<VolumeType>, Error> {
        self.shared_record::<QosSpecs>(ctx, Rule::QosList, id)?;
        self.qos_types(id)
    }

    /// Gives the specs to a volume type.
    pub fn associate_qos(
        &self,
        ctx: &RequestContext,
        id: &RecordId,
        type_id: &VolumeTypeId,
    ) -> Result<(), Error> {
        self.shared_record::<QosSpecs>(ctx, Rule::QosUpdate, id)?;
        self.change_type(type_id, |c, row| {
            // They may have been deleted meanwhile.
            locked_record::<QosSpecs>(c, id)?;
            match &row.qos_specs_id {
                Some(other) if other != id.as_str() => {
                    let message = format!(
                        "Type {type_id} is already associated with another qos specs: {other}"
                    );
                    Err(Error::invalid("volume type", message))
                }
                _ => {
                    row.qos_specs_id = Some(id.to_string());
                    Ok(())
                }
            }
        })?;
        Ok(())
    }

    /// Takes the specs from a volume type, or from all that have them.
    pub fn disassociate_qos(
        &self,
        ctx: &RequestContext,
        id: &RecordId,
        type_id: Option<&VolumeTypeId>,
    ) -> Result<(), Error> {
        self.shared_record::<QosSpecs>(ctx, Rule::QosUpdate, id)?;
        self.take_from_types(id, type_id)
    }

    fn qos_types(&self, id: &RecordId) -> Result<Vec<VolumeType>, Error> {
        Ok(self.db.read(|c| types::of_qos(c, id.as_str()))?)
    }

    fn take_from_types(&self, id: &RecordId, only: Option<&VolumeTypeId>) -> Result<(), Error> {
        let types = match only {
            Some(type_id) => vec![type_id.clone()],
            None => self.qos_types(id)?.into_iter().map(|row| row.id).collect(),
        };
        let take = |_: &mut DbConnection, row: &mut VolumeType| {
            if row.qos_specs_id.as_deref() == Some(id.as_str()) {
                row.qos_specs_id = None;
            }
            Ok(())
        };
        for type_id in &types {
            self.change_type(type_id, take)?;
        }
        Ok(())
    }
}
