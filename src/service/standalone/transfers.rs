//! Transfers: offering a volume, and taking one that was offered.

use crate::db::standalone::{owners, records, snapshots, types, volumes};
use crate::db::{self, DbConnection};
use crate::identity::RequestContext;
use crate::identity::policy::Rule;
use crate::model::error::Error;
use crate::model::id::{RecordId, SnapshotId, VolumeId};
use crate::model::page::{Filter, Listed, Page};
use crate::model::snapshot::SnapshotStatus;
use crate::model::standalone::stored::{Resource, Stored};
use crate::model::standalone::transfer::VolumeTransfer;
use crate::model::standalone::volume::Volume;
use crate::model::volume::VolumeStatus;
use crate::service::Services;
use crate::service::standalone::volumes::locked_volume;
use crate::volume::catalog::standalone::demand::Demand;

/// Random bytes of a key, as clients of Cinder know its length: 16 digits.
const KEY_BYTES: usize = 8;
const SALT_BYTES: usize = 16;

/// A request for a transfer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateTransfer {
    pub volume_id: VolumeId,
    pub name: Option<String>,
    /// Whether the volume's snapshots stay where they are.
    pub no_snapshots: bool,
}

impl Services {
    /// Offers an available volume. The key is shown only this once.
    pub fn create_transfer(
        &self,
        ctx: &RequestContext,
        wanted: CreateTransfer,
    ) -> Result<(Stored<VolumeTransfer>, String), Error> {
        let volume = self.visible_volume(ctx, &wanted.volume_id)?;
        ctx.authorize(Rule::TransferCreate, &volume.project_id)?;
        let key = random_hex::<KEY_BYTES>();
        let salt = random_hex::<SALT_BYTES>();
        let body = VolumeTransfer {
            volume_id: volume.id.clone(),
            no_snapshots: wanted.no_snapshots,
            key_hash: hash(&salt, &key).to_hex().to_string(),
            salt,
        };
        let now = self.clock.now();
        let row = Stored::new(volume.project_id.clone(), wanted.name, "", body, now);
        self.db.write(|c| -> Result<(), Error> {
            let id = &volume.id;
            // A snapshot that is asked for waits from now on, or is found.
            locked_volume(c, &volume)?;
            check_offerable(c, &row.body)?;
            let (from, to) = ([VolumeStatus::Available], VolumeStatus::AwaitingTransfer);
            if !volumes::transition(c, id, &from, to, None, now)? {
                return Err(Error::invalid("volume", "status must be available"));
            }
            // Removes old offers that were left when the status of the volume was reset by hand.
            for old in records::of_project::<VolumeTransfer>(c, &volume.project_id)? {
                if old.body.volume_id == *id {
                    records::remove(c, &old.id)?;
                }
            }
            Ok(records::insert(c, &row)?)
        })?;
        Ok((row, key))
    }

    /// One page of the transfers of volumes that the caller may see.
    pub fn list_transfers(
        &self,
        ctx: &RequestContext,
        filter: &Filter,
        page: &Page,
    ) -> Result<Listed<Stored<VolumeTransfer>>, Error> {
        self.list_stored(ctx, Rule::TransferList, filter, page)
    }

    /// One transfer.
    pub fn show_transfer(
        &self,
        ctx: &RequestContext,
        id: &RecordId,
    ) -> Result<Stored<VolumeTransfer>, Error> {
        self.owned_record(ctx, Rule::TransferShow, id)
    }

    /// Takes an offer back.
    pub fn delete_transfer(&self, ctx: &RequestContext, id: &RecordId) -> Result<(), Error> {
        let transfer: Stored<VolumeTransfer> = self.owned_record(ctx, Rule::TransferDelete, id)?;
        let now = self.clock.now();
        self.db.write(|c| -> Result<(), Error> {
            let (from, to) = ([VolumeStatus::AwaitingTransfer], VolumeStatus::Available);
            locked_transfer(c, &transfer)?;
            // An administrator may have given it another state, and then it stays in that.
            volumes::transition(c, &transfer.body.volume_id, &from, to, None, now)?;
            Ok(records::remove(c, id)?)
        })
    }

    /// Makes an offered volume one of the caller's project, in which it then counts.
    pub fn accept_transfer(
        &self,
        ctx: &RequestContext,
        id: &RecordId,
        key: &str,
    ) -> Result<Stored<VolumeTransfer>, Error> {
        ctx.authorize(Rule::TransferAccept, &ctx.project_id)?;
        self.db.write(|c| -> Result<_, Error> {
            db::lock_project(c, &ctx.project_id)?;
            // Before the volumes: requests that make or retype a volume take both locks in this order.
            db::lock_shared(c, types::CHANGED)?;
            let found = records::find::<VolumeTransfer>(c, id)?;
            let transfer = found.ok_or_else(|| VolumeTransfer::missing(id))?;
            if !is_key_of(&transfer.body, key) {
                let message = format!("Attempt to transfer {id} with invalid auth key.");
                return Err(Error::invalid("auth key", message));
            }
            locked_transfer(c, &transfer)?;
            if !transfer.body.no_snapshots {
                lock_snapshots(c, &transfer.body.volume_id)?;
            }
            check_offerable(c, &transfer.body)?;
            let volume = self.take_volume(c, ctx, &transfer)?;
            if !transfer.body.no_snapshots {
                self.take_snapshots(c, ctx, &volume)?;
            }
            records::remove(c, id)?;
            Ok(transfer)
        })
    }

    fn take_volume(
        &self,
        c: &mut DbConnection,
        ctx: &RequestContext,
        transfer: &Stored<VolumeTransfer>,
    ) -> Result<Volume, Error> {
        let (id, transfer_id) = (&transfer.body.volume_id, &transfer.id);
        // An offer that was made by another project than the owner's is worth nothing any more.
        let found = volumes::find(c, id)?;
        let found = found.filter(|volume| volume.project_id == transfer.project_id);
        let volume = found.ok_or_else(|| Error::not_found("Volume", id))?;
        let demand = Demand::volume(volume.size_gib, &volume.volume_type_id);
        self.catalog
            .standalone()?
            .check_quota(c, &ctx.project_id, &demand, true)?;
        let now = self.clock.now();
        let (from, to) = ([VolumeStatus::AwaitingTransfer], VolumeStatus::Available);
        if !volumes::transition(c, id, &from, to, None, now)? {
            let message = format!(
                "Transfer {transfer_id}: Volume id {id} in unexpected state {}, expected awaiting-transfer",
                volume.status
            );
            return Err(Error::invalid("volume", message));
        }
        let owner = (&ctx.project_id, &ctx.user_id);
        owners::give_volume(c, id, owner, now)?;
        Ok(volume)
    }

    fn take_snapshots(
        &self,
        c: &mut DbConnection,
        ctx: &RequestContext,
        volume: &Volume,
    ) -> Result<(), Error> {
        let now = self.clock.now();
        let owner = (&ctx.project_id, &ctx.user_id);
        for snapshot in snapshots::of_volume(c, &volume.id)? {
            let demand = Demand::snapshot(snapshot.size_gib, &volume.volume_type_id);
            self.catalog
                .standalone()?
                .check_quota(c, &ctx.project_id, &demand, true)?;
            owners::give_snapshot(c, &snapshot.id, owner, now)?;
        }
        Ok(())
    }
}

/// Refuses a transfer that has ended since it was looked at. None of its volume ends or begins before the transaction
/// does.
fn locked_transfer(c: &mut DbConnection, seen: &Stored<VolumeTransfer>) -> Result<(), Error> {
    db::lock(c, seen.body.volume_id.as_str())?;
    match records::find::<VolumeTransfer>(c, &seen.id)? {
        Some(_) => Ok(()),
        None => Err(VolumeTransfer::missing(&seen.id)),
    }
}

/// What is asked of the snapshots of a volume waits until the transaction ends.
fn lock_snapshots(c: &mut DbConnection, volume: &VolumeId) -> Result<(), Error> {
    let snapshots = snapshots::of_volume(c, volume)?;
    let mut ids: Vec<SnapshotId> = snapshots.into_iter().map(|row| row.id).collect();
    ids.sort();
    for id in &ids {
        db::lock(c, id.as_str())?;
    }
    Ok(())
}

/// Refuses a transfer that would split a group, or take a snapshot along that is being created or deleted.
fn check_offerable(c: &mut DbConnection, wanted: &VolumeTransfer) -> Result<(), Error> {
    let id = &wanted.volume_id;
    let volume = volumes::find(c, id)?;
    if volume.is_some_and(|volume| volume.group_id.is_some()) {
        let message = format!("Volume {id} belongs to a group and cannot be transferred.");
        return Err(Error::invalid("volume", message));
    }
    for snapshot in snapshots::of_volume(c, id)? {
        if snapshot.group_snapshot_id.is_some() {
            let message = format!("snapshot: {} belongs to a group snapshot", snapshot.id);
            return Err(Error::invalid("snapshot", message));
        }
        if wanted.no_snapshots {
            continue;
        }
        if snapshot.status != SnapshotStatus::Available {
            let message = format!("snapshot: {} status must be available", snapshot.id);
            return Err(Error::invalid("snapshot", message));
        }
    }
    Ok(())
}

fn random_hex<const BYTES: usize>() -> String {
    let mut bytes = [0u8; BYTES];
    getrandom::fill(&mut bytes).expect("the system gives random bytes");
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn hash(salt: &str, key: &str) -> blake3::Hash {
    blake3::hash(format!("{salt}{key}").as_bytes())
}

/// Whether this is the key. Hashes compare in a time that says nothing of them.
fn is_key_of(transfer: &VolumeTransfer, key: &str) -> bool {
    blake3::Hash::from_hex(&transfer.key_hash)
        .is_ok_and(|expected| expected == hash(&transfer.salt, key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_key_itself_opens_a_transfer() {
        let (salt, key) = (random_hex::<SALT_BYTES>(), random_hex::<KEY_BYTES>());
        let transfer = VolumeTransfer {
            volume_id: VolumeId::random(),
            no_snapshots: false,
            key_hash: hash(&salt, &key).to_hex().to_string(),
            salt,
        };
        assert_eq!(key.len(), 16);
        assert!(is_key_of(&transfer, &key));
        assert!(!is_key_of(&transfer, &random_hex::<KEY_BYTES>()));
        assert!(!is_key_of(&transfer, ""));
    }
}
