//! Every later version must read what was stored once. Each folder in `stored` is a vault as the engine stored it on that
//! day, under the master key of the tests: a full and an incremental backup, with an inner node, patched sums and a value
//! in every field of a description.
//!
//! A new field of a root, a description or `vault.json` must not change how the folders read. A root without the field
//! needs `#[serde(default)]` on it. `root.json` is the plain form of a root: if it differs from what is written today,
//! the form has changed on purpose or by accident. After a change on purpose put a new date into `TODAY`: the next run of
//! the tests writes that folder, and fails once. Keep the old ones.

use super::*;
use crate::model::id::{SnapshotId, VaultId};
use crate::model::volume::SavedVolume;
use std::path::Path;

/// The youngest folder: what is written today looks like it.
const TODAY: &str = "2026-11-29";

/// More spans than one node has.
const LENGTH: u64 = 300 * (64 << 10);

const FULL: &str = "00000000-0000-4000-8000-000000000001";
const INCREMENTAL: &str = "00000000-0000-4000-8000-000000000002";

fn folders() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/engine/tests/stored")
}

fn write_full(bed: &Bed) {
    let volume = std::fs::OpenOptions::new().write(true).open(bed.volume());
    volume.unwrap().set_len(LENGTH).unwrap();
    bed.write(&noise(1, 9_000), 4096);
    bed.write(&b"the same line again and again\n".repeat(1000), 200_000);
    bed.write(&noise(2, 3_000), LENGTH - 3_000);
}

fn write_incremental(bed: &Bed) {
    bed.write(&noise(3, 5_000), 8_192);
    bed.zero(210_000, 220_000);
}

fn described(id: &str, parent: Option<&str>) -> Description {
    let metadata = || [("key".to_owned(), "value".to_owned())].into();
    Description {
        snapshot_id: Some(SnapshotId::new("s")),
        parent_id: parent.map(BackupId::new),
        description: Some("text".to_owned()),
        metadata: metadata(),
        availability_zone: Some("nova".to_owned()),
        container: Some("storage".to_owned()),
        data_timestamp: Some(Timestamp(2)),
        volume: SavedVolume {
            name: Some("volume".to_owned()),
            description: Some("saved".to_owned()),
            bootable: true,
            metadata: metadata(),
            ..SavedVolume::default()
        },
        ..describe(&BackupId::new(id))
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let (path, to) = (
            entry.as_ref().unwrap().path(),
            to.join(entry.unwrap().file_name()),
        );
        if path.is_dir() {
            copy(&path, &to);
        } else {
            std::fs::copy(&path, &to).unwrap();
        }
    }
}

/// A bed whose database knows the vault of a folder, and nothing in it.
fn opened(folder: &Path) -> Bed {
    let mut bed = Bed::new();
    let store = bed.dir.path().join("store");
    copy(&folder.join("store"), &store);
    let vault = std::fs::read_dir(store.join("v")).unwrap().next();
    let name = vault.unwrap().unwrap().file_name();
    let storage = vault::storage::identify(&bed.store()).unwrap().unwrap();
    bed.row.id = VaultId::new(name.into_string().unwrap());
    bed.row.storage_id = storage.clone();
    bed.row = bed
        .db
        .write(|c| {
            db::vaults::insert_storage(
                c,
                &StorageRow {
                    id: storage.clone(),
                    name: "stored".to_owned(),
                    master_key_check: String::new(),
                    created_at: Timestamp(0),
                },
            )?;
            db::vaults::adopt(c, &bed.row)
        })
        .unwrap();
    bed
}

#[test]
fn vaults_of_earlier_days_are_read_and_continued() {
    for folder in std::fs::read_dir(folders()).unwrap() {
        let folder = folder.unwrap().path();
        let bed = opened(&folder);
        let vault = bed.vault();
        let found = care::rebuild::vault(vault.store(), &vault.id)
            .unwrap()
            .unwrap();
        let (_, unreadable) = care::rebuild::packs(&vault, &found, None).unwrap();
        assert!(unreadable.is_empty(), "{unreadable:?}");
        let (full, incremental) = (BackupId::new(FULL), BackupId::new(INCREMENTAL));
        write_full(&bed);
        assert!(bed.restore(&full).unwrap() == bed.content());
        // Equal data is still cut into equal chunks, and found.
        let packs = bed.objects("/p/").len();
        bed.backup(None);
        assert_eq!(bed.objects("/p/").len(), packs);
        write_incremental(&bed);
        assert!(bed.restore(&incremental).unwrap() == bed.content());
        let root = vault.root(&incremental).unwrap();
        assert_eq!(root.backup, described(INCREMENTAL, Some(FULL)));
        bed.announce(&incremental);
        bed.record(&root);
        // The sums of the parent still say that nothing has changed.
        let (unchanged, _) = bed.backup(Some(&root));
        assert_eq!(unchanged.stored_bytes, 0);
    }
}

#[test]
fn roots_are_written_as_they_were() {
    let folder = folders().join(TODAY);
    let root = opened(&folder)
        .vault()
        .root(&BackupId::new(INCREMENTAL))
        .unwrap();
    let written = serde_json::to_string_pretty(&root).unwrap();
    let before = std::fs::read_to_string(folder.join("root.json")).unwrap();
    assert_eq!(written, before.trim_end());
}

/// The names of all fields of a value, from the outside in.
fn fields(value: &serde_json::Value, path: &str, found: &mut Vec<String>) {
    for (name, inner) in value.as_object().into_iter().flatten() {
        let path = format!("{path}/{name}");
        fields(inner, &path, found);
        found.push(path);
    }
}

#[test]
fn a_folder_holds_each_field_of_today() {
    let (bed, folder) = (Bed::new(), folders().join(TODAY));
    let root = serde_json::to_value(store_two(&bed)).unwrap();
    if !folder.exists() {
        copy(&bed.dir.path().join("store"), &folder.join("store"));
        let plain = serde_json::to_string_pretty(&root).unwrap();
        std::fs::write(folder.join("root.json"), plain + "\n").unwrap();
        panic!("the folder {TODAY} was missing and has been written: commit it");
    }
    let before = std::fs::read_to_string(folder.join("root.json")).unwrap();
    let (mut today, mut then) = (Vec::new(), Vec::new());
    fields(&root, "", &mut today);
    fields(&serde_json::from_str(&before).unwrap(), "", &mut then);
    today.sort();
    then.sort();
    assert_eq!(today, then, "name a new folder in `TODAY`");
}

/// Stores a full and an incremental backup; the root of the latter.
fn store_two(bed: &Bed) -> Root {
    let (vault, session) = (bed.vault(), Lease::unclaimed(&JobId::random()));
    let mut parent = None;
    for (id, write) in [
        (FULL, write_full as fn(&Bed)),
        (INCREMENTAL, write_incremental),
    ] {
        write(bed);
        let source = Source {
            change_id: Some(format!("state of {id}")),
            ..bed.source()
        };
        let description = described(id, parent.as_ref().map(|_| FULL));
        let progress = Progress::default();
        let root = write::backup::run(
            &vault,
            &session,
            description,
            parent.as_ref(),
            &source,
            &progress,
        );
        let root = root.unwrap();
        bed.announce(&root.backup.id);
        bed.record(&root);
        parent = Some(root);
    }
    parent.unwrap()
}
