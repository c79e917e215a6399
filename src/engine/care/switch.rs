//! The switch of a pack to a new object: a compaction writes the pack again without its unused frames, a repair
//! without its damaged ones. Number and ordinals stay the same, so no manifest changes.
//!
//! # Order, and what a crash leaves
//!
//! | step | a crash after it leaves | who clears it up |
//! |---|---|---|
//! | 1. the number of the rewrite is taken | nothing; the number is not given out again | |
//! | 2. the new object is stored, and seen in the storage | the new object, beside the one that the row leads to | a later collection removes it, once it has read all of the current object and found it sound. If the current object is damaged both stay, and the next repair takes frames from both |
//! | 3. the row is switched to the new object | the old object | a later collection, once it has read all of the new object; not while frames are marked lost |
//! | 4. the old object is deleted, if the new one lacks nothing that is needed | nothing | |
//!
//! The old object stays if frames that backups need could not be read ([`Old::Kept`]). The storage may give them again
//! one day; the next repair takes them from there.
//!
//! At every moment, the row leads to an object that was stored before the row was changed. A reader that looked the
//! row up before step 3 and reads after step 4 looks it up again ([`crate::engine::read::reader`]). If the database is
//! lost before step 4, a rebuild finds two objects and takes one that holds everything the backups need.
//!
//! # What refuses step 3
//!
//! A generation that began since step 1; a shredding of the vault; a row that leads to another object by now, is no
//! longer live, or belongs to a session; and any reason that the caller adds. The caller asks in the same
//! transaction, after the row was locked: a session that wants to reference the pack waits until the transaction
//! ends, and then finds the new object. After a refusal the new object is deleted.
//!
//! Step 4 looks at the row again, as a rebuild may have switched it back to the old object.

use crate::db::{self, DbConnection, gc};
use crate::engine::format::pack::{PackBuilder, SealedPack};
use crate::engine::format::row::PackName;
use crate::engine::vault::{Vault, pack_name};
use crate::engine::{Error, Result};
use crate::model::number::{ByteCount, Count, ImpossibleNumber, Rewrite};
use crate::model::pack::Pack;
use crate::store::StoreErrorKind;

/// The fate of the old object after the switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Old {
    /// The new object has every frame that a backup needs, so the old one is deleted.
    Deleted,
    /// The old object stays: it may hold frames that the new one lacks, even if they cannot be read now.
    Kept,
}

/// A pack whose next object is being written.
pub(super) struct Switch<'v> {
    vault: &'v Vault,
    old: &'v Pack,
    rewrite: Rewrite,
    generation: i64,
}

impl<'v> Switch<'v> {
    /// Step 1. `None`: a later generation has begun, or the pack has no row any more.
    pub(super) fn begin(vault: &'v Vault, old: &'v Pack, generation: i64) -> Result<Option<Self>> {
        let rewrite = vault.db.write(|c| gc::next_rewrite(c, old, generation))?;
        Ok(rewrite.map(|rewrite| Self {
            vault,
            old,
            rewrite,
            generation,
        }))
    }

    /// The new object, still empty.
    pub(super) fn builder(&self) -> PackBuilder {
        let name = PackName {
            rewrite: self.rewrite.get(),
            ..pack_name(self.vault, self.old)
        };
        let bytes = self.vault.options.pack_bytes;
        PackBuilder::new(name, &self.vault.keys, true, bytes, Vec::new())
    }

    /// Steps 2 to 4, the last one as `fate` says; gives the length of the new object. `agree` gets the new row,
    /// changes the rows that depend on it, and refuses by [`Error::Fenced`]. `None`: the switch was refused, or the
    /// name is taken; the pack stays as it is.
    pub(super) fn finish(
        &self,
        sealed: SealedPack,
        fate: Old,
        mut agree: impl FnMut(&mut DbConnection, &Pack) -> Result<()>,
    ) -> Result<Option<u64>> {
        let (vault, old) = (self.vault, self.old);
        let (key, length) = (sealed.name.key(), sealed.bytes.len() as u64);
        let chunk_count = sealed.rows.iter().map(|row| row.chunks.len()).sum();
        let new = self
            .row(length, chunk_count)
            .map_err(|error| Error::corrupt(&key, error))?;
        match vault.store.put_new(&key, sealed.bytes) {
            // The database is older than the object; the next number will be free.
            Err(error) if error.kind == StoreErrorKind::Exists => return Ok(None),
            stored => stored?,
        }
        vault.expect(&key, length)?;
        let switched = vault.db.write(|c| {
            // First the row's lock: a session that wants to reference the pack waits until we are done.
            if !gc::switch(c, old, &new, self.generation)? {
                return Err(Error::Fenced);
            }
            agree(c, &new)
        });
        match switched {
            Ok(()) => {}
            Err(Error::Fenced) => {
                vault.store.delete(&key)?;
                return Ok(None);
            }
            Err(error) => return Err(error),
        }
        if fate == Old::Kept {
            return Ok(Some(length));
        }
        let row = vault
            .db
            .read(|c| db::packs::find(c, old.vault, old.number))?;
        if row.is_some_and(|row| row.rewrite == self.rewrite) {
            vault.store.delete(&pack_name(vault, old).key())?;
        }
        Ok(Some(length))
    }

    fn row(&self, length: u64, chunk_count: usize) -> std::result::Result<Pack, ImpossibleNumber> {
        Ok(Pack {
            rewrite: self.rewrite,
            stored_bytes: ByteCount::try_from(length)?,
            chunk_count: Count::try_from(chunk_count)?,
            ..self.old.clone()
        })
    }
}
