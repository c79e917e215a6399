//! Shredding: destroys the key of a vault, in the database and in the storage. Nothing of it can be read any more,
//! wherever copies of its packs may be. Then what is stored is removed, and the rows last.
//!
//! A crash leaves the following. Until the last step `vault shred` can be run again and goes on:
//!
//! | crash after | left behind | who clears it up |
//! |---|---|---|
//! | the sessions were ended and the key in the database replaced by a mark, in one transaction ([`forget_key`]) | `vault.json` with the wrapped key. The vault cannot be opened any more | `vault shred`, run again |
//! | `vault.json` was deleted ([`remove_objects`]) | copies of it under temporary names; objects that no key opens | the same |
//! | the objects were deleted | the wrapped key in unused parts of the database's files | the same |
//! | the database erased those | rows of packs, backups and the vault | the same |
//! | the rows were removed ([`remove_rows`]) | at most an object that was stored after the last listing. No key opens it; a rebuild passes the folder over, as it has no `vault.json` | its writer, a backup or a compaction or a repair, which looks for the mark after each object that it stores. Only what a writer stores after the last listing, and is killed before it looks, stays |

use crate::db::vaults::SHREDDED;
use crate::db::{self, Db};
use crate::engine::vault::{pack_folders, record};
use crate::engine::{Error, Result, parallel};
use crate::model::vault::VaultRow;
use crate::store::Store;
use crate::store::key::Key;

/// How many times what remains is listed and deleted. More than once, because a run that had opened the vault may
/// still store something, and because lists may be stale.
const LOOKS_MAX: usize = 5;

/// Destroys the key in the database, for which no storage is needed. No process can open the vault from now on.
pub fn forget_key(db: &Db, row: &VaultRow) -> Result<()> {
    Ok(db.write(|c| {
        // A process that is storing `vault.json` has stored it when the mark is set, and then it is deleted.
        db::vaults::lock_record(c, row.number)?;
        db::sessions::end_all(c, &row.id)?;
        db::vaults::set_record(c, row.number, SHREDDED)
    })?)
}

/// Destroys the key in the storage, and removes what the vault stored there. Gives how many objects that were.
pub fn remove_objects(store: &Store, row: &VaultRow) -> Result<usize> {
    let key = Key::Vault(row.id.clone());
    store.delete_durably(&key)?;
    if store.length(&key)?.is_some() {
        return Err(Error::corrupt(&key, "it is still there after its deletion"));
    }
    let mut count = 0;
    // An upload that was under way when its session was ended may have arrived since.
    for _ in 0..LOOKS_MAX {
        let mut removed = record::remove_temporaries(store, Some(&row.id))?;
        let mut folders = pack_folders(store, &row.id)?;
        folders.push(format!("v/{}/", row.id));
        for folder in folders {
            let listed = store.list(&folder)?;
            parallel::each(&listed, 8, |(object, _)| {
                Ok(store.delete(&Key::Leftover(object.clone()))?)
            })?;
            removed += listed.len();
        }
        count += removed;
        if removed == 0 {
            break;
        }
    }
    Ok(count)
}

/// Removes the rows of a vault of which nothing else is left.
pub fn remove_rows(db: &Db, row: &VaultRow) -> Result<()> {
    // A little at a time: a vault may have a million packs, and others wait for each transaction.
    while db.write(|c| db::vaults::remove_packs(c, row.number))? {}
    Ok(db.write(|c| db::vaults::remove(c, row))?)
}
