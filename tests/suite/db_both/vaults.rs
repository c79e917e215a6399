//! Vaults, their packs and their backups.

use super::*;
use embervault::model::vault::{StorageRow, VaultRow};
use std::collections::HashSet;
use std::sync::{Barrier, Mutex};

/// A storage of its own.
fn storage(db: &Db) -> StorageId {
    let id = StorageId::random();
    let row = StorageRow {
        id: id.clone(),
        name: id.to_string(),
        master_key_check: String::new(),
        created_at: Timestamp(0),
    };
    db.write(|c| db::vaults::insert_storage(c, &row)).unwrap();
    id
}

/// A vault in a storage of its own.
fn vault(db: &Db) -> VaultRow {
    let (project, storage) = (ProjectId::new("p"), storage(db));
    db.write(|c| db::vaults::find_or_insert(c, &project, &storage, Timestamp(0)))
        .unwrap()
}

#[test]
fn vaults_that_are_made_at_once_have_numbers_of_their_own() {
    for database in BOTH {
        let bed = bed(database);
        let storages = [storage(&bed.db), storage(&bed.db)];
        let projects = (0..8).map(|number| format!("p{number}"));
        let asked: Vec<String> = projects
            .chain((0..4).map(|_| "shared".to_owned()))
            .collect();
        let start = Barrier::new(asked.len() + 1);
        let found = VaultRow {
            number: 0,
            id: VaultId::random(),
            project_id: ProjectId::new("found"),
            storage_id: storages[0].clone(),
            next_pack: 1,
            created_at: Timestamp(0),
        };
        let mut vaults: Vec<VaultRow> = std::thread::scope(|scope| {
            let adopter = scope.spawn(|| {
                start.wait();
                bed.db.write(|c| db::vaults::adopt(c, &found)).unwrap()
            });
            let askers: Vec<_> = (0..)
                .zip(&asked)
                .map(|(at, project): (usize, _)| {
                    let (db, start) = (&bed.db, &start);
                    let project = ProjectId::new(project.as_str());
                    let storage = match project.as_str() {
                        "shared" => &storages[0],
                        _ => &storages[at % 2],
                    };
                    scope.spawn(move || {
                        start.wait();
                        let find = |c: &mut db::DbConnection| {
                            db::vaults::find_or_insert(c, &project, storage, Timestamp(0))
                        };
                        db.write(find).unwrap()
                    })
                })
                .collect();
            let found = askers.into_iter().map(|asker| asker.join().unwrap());
            found.chain([adopter.join().unwrap()]).collect()
        });
        vaults.sort_by_key(|vault| vault.number);
        vaults.dedup_by(|one, other| one.id == other.id);
        let numbers: Vec<i64> = vaults.iter().map(|vault| vault.number).collect();
        assert_eq!(numbers, Vec::from_iter(1..=10), "{database:?}");
    }
}

#[test]
fn threads_that_open_packs_of_a_vault_never_get_the_same_number() {
    for database in BOTH {
        let bed = bed(database);
        let vault = vault(&bed.db);
        let numbers = Mutex::new(HashSet::new());
        std::thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| {
                    for _ in 0..20 {
                        let session = JobId::random();
                        let pack = bed
                            .db
                            .write(|c| {
                                let kind = embervault::model::pack::PackKind::Data;
                                db::packs::open(c, vault.number, kind, &session)
                            })
                            .unwrap();
                        assert!(
                            numbers.lock().unwrap().insert(pack.number),
                            "a number came twice"
                        );
                    }
                });
            }
        });
        assert_eq!(numbers.lock().unwrap().len(), 120);
        // Behind the last number there is none, and least of all another pack's.
        let open = |c: &mut db::DbConnection| {
            let kind = embervault::model::pack::PackKind::Data;
            db::packs::open(c, vault.number, kind, &JobId::random())
        };
        bed.db
            .write(|c| db::vaults::raise_next_pack(c, vault.number, u32::MAX.into()))
            .unwrap();
        assert_eq!(bed.db.write(open).unwrap().number.get(), u32::MAX);
        let refused = bed.db.write(open).unwrap_err();
        let text = "4294967296 cannot be the number of a pack";
        let reason = embervault::model::error::chain(&refused);
        assert!(reason.contains(text), "{reason}");
        assert!(refused.is_lasting());
    }
}

#[test]
fn a_generation_waits_for_those_who_change_packs_in_an_earlier_one() {
    for database in BOTH {
        let bed = bed(database);
        let vault = vault(&bed.db).number;
        let is_later = takes_turns(
            &bed.db,
            |c| db::gc::lock(c, vault),
            |c| db::gc::next_generation(c, vault).map(drop),
        );
        assert!(is_later, "{database:?}");
    }
}

#[test]
fn a_backup_whose_data_has_a_known_time_is_a_parent_before_one_without() {
    for database in BOTH {
        let bed = bed(database);
        let storage = storage(&bed.db);
        let bytes = match database {
            Database::Sqlite => "X'00'",
            Database::Postgres => "'\\x00'::bytea",
        };
        for (id, time) in [("old", "5"), ("new", "6"), ("unknown", "NULL")] {
            let text = format!(
                "INSERT INTO backups (id, project_id, user_id, storage_id, volume_id, status, size_gib, object_count, \
                 metadata, data_timestamp, pack_set, logical_bytes, read_bytes, stored_bytes, deduplicated_bytes, \
                 created_at) VALUES ('{id}', 'p', 'u', '{storage}', 'v', 'available', 1, 1, '{{}}', {time}, {bytes}, 0, \
                 0, 0, 0, 9)"
            );
            bed.db
                .write(|c| -> Result<(), DbError> { Ok(c.batch_execute(&text)?) })
                .unwrap();
        }
        let (volume, project) = (VolumeId::new("v"), ProjectId::new("p"));
        let found = bed
            .db
            .read(|c| db::backups::parent_for(c, &volume, &project, &storage, None));
        let id = found.unwrap().unwrap().id;
        assert_eq!(id.as_str(), "new", "{database:?}");
    }
}

#[test]
fn the_backups_of_a_vault_are_read_in_pages_by_time() {
    for database in BOTH {
        let bed = bed(database);
        let (vault, other) = (vault(&bed.db), vault(&bed.db));
        let rows = [("c", 1), ("a", 5), ("b", 5), ("d", 5), ("0", 9)];
        let of_other = [("e", 5)].map(|row| (row, &other));
        for ((id, time), vault) in rows.map(|row| (row, &vault)).into_iter().chain(of_other) {
            let text = format!(
                "INSERT INTO backups (id, project_id, user_id, storage_id, vault_id, volume_id, status, size_gib, \
                 object_count, metadata, logical_bytes, read_bytes, stored_bytes, deduplicated_bytes, created_at) \
                 VALUES ('{id}', 'p', 'u', '{}', '{}', 'v', 'error', 1, 1, '{{}}', 0, 0, 0, 0, {time})",
                vault.storage_id, vault.id
            );
            bed.db
                .write(|c| -> Result<(), DbError> { Ok(c.batch_execute(&text)?) })
                .unwrap();
        }
        let (mut found, mut last) = (Vec::new(), None);
        loop {
            let page = bed.db.read(|c| {
                let after = last.as_ref().map(|(time, id)| (*time, id));
                db::backups::stored_in_vault(c, &vault.id, after, 2)
            });
            let page = page.unwrap();
            let Some(end) = page.last() else { break };
            last = Some((end.created_at, end.id.clone()));
            found.extend(page.iter().map(|row| (row.id.to_string(), row.created_at)));
        }
        let expected = rows.map(|(id, time)| (id.to_owned(), Timestamp(time)));
        assert_eq!(found, expected, "{database:?}");
    }
}
