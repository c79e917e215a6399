//! Compaction: a pack of which much is unused is written again without the unused frames. Number and ordinals stay
//! the same, so no manifest changes.
//!
//! The switch to the new object (`switch.rs`) is one transaction. It is refused if a session references the pack, if
//! a backup that the census did not see needs it, or if a later generation has begun: each of them may rely on a
//! frame that was dropped. It is refused as well if the pack was marked damaged meanwhile, as its frames are left to
//! a repair, and if a backup failed meanwhile whose root may still be there. Sessions look chunks up while they hold
//! a reference on the pack, so none finds a chunk that was just dropped.

use crate::db::{gc, health};
use crate::engine::care::census::{Census, open, unless_unreadable};
use crate::engine::care::switch::{Old, Switch};
use crate::engine::format::manifest::FrameRef;
use crate::engine::format::pack::{NewFrame, PackBuilder, SealedPack};
use crate::engine::vault::{Vault, pack_name};
use crate::engine::{Error, Result};
use crate::model::id::BackupId;
use crate::model::number::Ordinal;
use crate::model::pack::Pack;
use std::collections::BTreeSet;

impl Census {
    /// Writes a pack again without its unused frames; gives the new length. `unfinished`: the failed backups whose
    /// roots are gone. `None`: the pack stays as it is, as a session or backup may need what was unused, a later
    /// generation has begun, or the pack is damaged.
    pub(crate) fn compact(
        &self,
        vault: &Vault,
        pack: &Pack,
        generation: i64,
        unfinished: &BTreeSet<BackupId>,
    ) -> Result<Option<u64>> {
        let Some(switch) = Switch::begin(vault, pack, generation)? else {
            return Ok(None);
        };
        let rewritten = self.rewritten(vault, pack, switch.builder());
        let Some((sealed, dropped)) = unless_unreadable(rewritten)? else {
            return Ok(None);
        };
        switch.finish(sealed, Old::Deleted, |c, _| {
            // First what sessions hold: of one that ends meanwhile, the others see the backup.
            if gc::is_referenced(c, pack)?
                || self.is_needed_meanwhile(c, vault, pack)?
                || health::is_damaged(c, pack)?
                || gc::unfinished(c, &vault.id)? != *unfinished
            {
                return Err(Error::Fenced);
            }
            Ok(gc::forget_frames(c, pack, &dropped)?)
        })
    }

    /// The pack as it shall be, and the ordinals that are left out. All that stays is verified.
    fn rewritten(
        &self,
        vault: &Vault,
        pack: &Pack,
        mut builder: PackBuilder,
    ) -> Result<(SealedPack, Vec<Ordinal>)> {
        let old = pack_name(vault, pack);
        let used = self.live.of(old.number);
        let reader = open(vault, old, pack)?;
        let mut dropped = Vec::new();
        for (ordinal, row) in (0_u32..).zip(&reader.rows) {
            if !used.is_some_and(|used| used.contains(ordinal)) {
                builder.skip();
                let ordinal = Ordinal::try_from(ordinal);
                dropped.push(ordinal.map_err(|error| Error::corrupt(old.key(), error))?);
                continue;
            }
            let frame: FrameRef = row.place(old.number, ordinal);
            let range = u64::from(row.offset)..u64::from(row.offset) + u64::from(row.stored_length);
            let mut sealed = vault.store.get_range(&old.key(), range)?;
            let encoded = reader.unseal(&vault.keys, &frame, &mut sealed)?;
            builder.push(NewFrame {
                chunks: row.chunks.clone(),
                encoded,
            })?;
        }
        Ok((builder.finish(), dropped))
    }
}
