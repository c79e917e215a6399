//! Change tracking on file systems with reflinks, mounted here for the purpose: what is read of a
//! changed volume is what changed.

use crate::support::{Bed, Client, Database, GIBIBYTE, MEBIBYTE, noise};
use embervault::db::{self, Db};
use embervault::model::backup::Backup;
use embervault::model::id::BackupId;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A file system in a file, mounted until it goes out of scope.
struct Mount(PathBuf);

impl Mount {
    fn new(make: &[&str], image: &Path, at: &Path) -> Self {
        std::fs::create_dir_all(at).unwrap();
        let file = std::fs::File::create(image).unwrap();
        file.set_len(3 * GIBIBYTE).unwrap();
        run(Command::new(make[0]).args(&make[1..]).arg(image));
        run(Command::new("mount")
            .args(["-o", "loop"])
            .arg(image)
            .arg(at));
        Self(at.to_owned())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        run(Command::new("umount").arg("--lazy").arg(&self.0));
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{command:?} (mounting needs root): {errors}"
    );
}

fn finished(bed: &Bed, client: &Client, id: &str) -> Backup {
    client.wait("backups", id, "available");
    let url = format!("sqlite:{}", bed.data().join("embervault.db").display());
    let db = Db::open(&url).unwrap();
    db.read(|c| db::backups::find(c, &BackupId::new(id)))
        .unwrap()
        .unwrap()
}

fn tracked_clones(dir: &Path) -> usize {
    std::fs::read_dir(dir)
        .unwrap()
        .filter(|entry| {
            let name = entry.as_ref().unwrap().file_name();
            name.to_string_lossy().starts_with("tracked-")
        })
        .count()
}

fn incrementals_read_what_changed(make: &[&str]) {
    let mut bed = Bed::new(Database::Sqlite);
    let volumes = bed.dir.path().join("volumes");
    let _mount = Mount::new(make, &bed.dir.path().join("disk"), &volumes);
    bed.set("VOLUMES__DIR", &format!("\"{}\"", volumes.display()));
    // Otherwise everything that is said to be unchanged is read and compared.
    bed.set("ENGINE__PARANOID", "false");
    let service = bed.start();
    let demo = bed.client(&service, "demo");
    let volume = demo.create_volume(1);
    let mut content: Vec<(u64, Vec<u8>)> = (0..40)
        .map(|part| (part * 16 * MEBIBYTE, noise(part, 4 * MEBIBYTE)))
        .collect();
    demo.write(&volume, &content);
    let full = demo.back_up(&volume, json!({}));
    let full = finished(&bed, &demo, &full);
    assert!(full.read_bytes >= 160 << 20);
    assert_eq!(tracked_clones(&volumes), 1);

    // Overwritten, newly written, and a hole punched: all three are told.
    let changes = [
        (3 * 16 * MEBIBYTE + 8192, noise(100, 8192)),
        (9 * MEBIBYTE, noise(101, 12_288)),
        (500 * MEBIBYTE, noise(102, 4096)),
    ];
    demo.write(&volume, &changes);
    let (attachment, path) = demo.attach(&volume);
    run(Command::new("fallocate")
        .args([
            "--punch-hole",
            "--offset",
            "67108864",
            "--length",
            "1048576",
        ])
        .arg(&path));
    demo.detach(&attachment, &volume);
    content.extend(changes);
    let child = demo.back_up(&volume, json!({ "incremental": true }));
    let child = finished(&bed, &demo, &child);
    // 24 KiB changed; eight blocks of each of up to 16 spans are sampled.
    assert!(
        child.read_bytes <= (24 << 10) + 16 * 8 * 4096,
        "{}",
        child.read_bytes
    );
    assert_eq!(tracked_clones(&volumes), 1);

    // Nothing changed: only samples are read, and no pack is stored.
    let packs = bed.objects("/p/").len();
    let same = demo.back_up(&volume, json!({ "incremental": true }));
    let same = finished(&bed, &demo, &same);
    assert!(same.read_bytes <= 16 * 8 * 4096, "{}", same.read_bytes);
    assert_eq!((same.stored_bytes, bed.objects("/p/").len()), (0, packs));

    // A snapshot is tracked like its volume, and does not cost the volume its clone.
    let body = json!({ "snapshot": { "volume_id": volume, "name": "s" } });
    let snapshot = demo.post("/snapshots", body).body["snapshot"]["id"].clone();
    let snapshot = snapshot.as_str().unwrap();
    demo.wait("snapshots", snapshot, "available");
    let options = json!({ "incremental": true, "snapshot_id": snapshot });
    let of_snapshot = finished(&bed, &demo, &demo.back_up(&volume, options));
    assert!(
        of_snapshot.read_bytes <= 16 * 8 * 4096,
        "{}",
        of_snapshot.read_bytes
    );
    assert_eq!(tracked_clones(&volumes), 2);
    demo.write(&volume, &[(600 * MEBIBYTE, noise(104, 4096))]);
    let next = demo.back_up(&volume, json!({ "incremental": true }));
    let next = finished(&bed, &demo, &next);
    assert!(next.read_bytes <= 17 * 8 * 4096, "{}", next.read_bytes);
    assert_eq!(tracked_clones(&volumes), 1);
    assert_eq!(demo.delete(&format!("/snapshots/{snapshot}")).status, 202);
    demo.wait_gone(&format!("/snapshots/{snapshot}"));

    // Without the clone everything is read again.
    demo.write(&volume, &[(700 * MEBIBYTE, noise(103, 4096))]);
    let clone = std::fs::read_dir(&volumes)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.to_string_lossy().contains("tracked-"))
        .unwrap();
    std::fs::remove_file(clone).unwrap();
    let last = demo.back_up(&volume, json!({ "incremental": true }));
    let last = finished(&bed, &demo, &last);
    assert!(last.read_bytes >= 159 << 20, "{}", last.read_bytes);
    let restored = demo.restore(last.id.as_str(), json!({}));
    demo.wait("volumes", &restored, "available");
    assert_eq!(demo.digest(&restored), demo.digest(&volume));
    let older = demo.restore(child.id.as_str(), json!({}));
    demo.wait("volumes", &older, "available");
    assert_ne!(demo.digest(&older), demo.digest(&volume));

    assert_eq!(demo.delete(&format!("/volumes/{volume}")).status, 202);
    demo.wait_gone(&format!("/volumes/{volume}"));
    assert_eq!(tracked_clones(&volumes), 0);
}

#[test]
fn on_xfs_incrementals_read_what_changed() {
    incrementals_read_what_changed(&["mkfs.xfs", "-q"]);
}

#[test]
fn on_btrfs_incrementals_read_what_changed() {
    incrementals_read_what_changed(&["mkfs.btrfs", "-q"]);
}
