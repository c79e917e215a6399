//! Bad days: a full disk, damaged objects.

use crate::support::{Bed, Database, MEBIBYTE, noise, until};
use serde_json::json;

#[test]
fn a_full_disk_fails_the_backup_with_a_reason_and_nothing_else() {
    let mut bed = Bed::new(Database::Sqlite);
    let storage = bed.dir.path().join("small");
    std::fs::create_dir(&storage).unwrap();
    let url = format!("fs:{}", storage.display());
    bed.set("STORAGE__SMALL__URL", &format!("\"{url}\""));
    // A file system of its own, in a mount namespace that ends with the service.
    let script = format!(
        "mount -t tmpfs -o size=12m tmpfs {} && exec \"$0\" \"$@\"",
        storage.display()
    );
    let program = [
        "unshare",
        "--user",
        "--map-root-user",
        "--mount",
        "sh",
        "-c",
        &script,
        env!("CARGO_BIN_EXE_embervault"),
    ];
    let service = bed.start_in(&program);
    let demo = bed.client(&service, "demo");
    let volume = demo.create_volume(1);
    demo.write(&volume, &[(0, noise(1, 40 * MEBIBYTE))]);
    let backup = demo.back_up(&volume, json!({}));
    let failed = until("the backup to fail", || {
        let shown = demo.get(&format!("/backups/{backup}")).body["backup"].clone();
        assert_ne!(shown["status"], "available");
        (shown["status"] == "error").then_some(shown)
    });
    let reason = failed["fail_reason"].as_str().unwrap();
    assert!(
        reason.contains("no space left on the backup storage"),
        "{reason}"
    );
    demo.wait("volumes", &volume, "available");
    // The service lives: what fits is backed up, and the failed backup can be deleted.
    assert_eq!(demo.delete(&format!("/backups/{backup}")).status, 202);
    demo.wait_gone(&format!("/backups/{backup}"));
    let empty = demo.create_volume(1);
    let small = demo.back_up(&empty, json!({}));
    demo.wait("backups", &small, "available");
}

#[test]
fn a_damaged_or_missing_pack_fails_the_restore_and_spares_the_backup() {
    for damage in ["flip", "truncate", "remove"] {
        let bed = Bed::new(Database::Sqlite);
        let service = bed.start();
        let demo = bed.client(&service, "demo");
        let volume = demo.create_volume(1);
        demo.write(&volume, &[(0, noise(1, 3 * MEBIBYTE))]);
        let backup = demo.back_up(&volume, json!({}));
        demo.wait("backups", &backup, "available");
        let pack = bed.objects("/p/").remove(0);
        let good = std::fs::read(&pack).unwrap();
        match damage {
            "flip" => {
                let mut bad = good.clone();
                bad[1 << 20] ^= 1;
                std::fs::write(&pack, bad).unwrap();
            }
            "truncate" => std::fs::write(&pack, &good[..good.len() / 2]).unwrap(),
            _ => std::fs::remove_file(&pack).unwrap(),
        }
        let target = demo.restore(&backup, json!({ "name": "t" }));
        until("the restore to fail", || {
            let status = demo.get(&format!("/volumes/{target}")).body["volume"]["status"].clone();
            assert_ne!(status, "available", "{damage}");
            (status == "error_restoring").then_some(())
        });
        demo.wait("backups", &backup, "available");
        let name = pack.file_name().unwrap().to_string_lossy().into_owned();
        let log = bed.log();
        let line = log
            .lines()
            .find(|line| line.contains("job failed"))
            .unwrap_or_else(|| panic!("{log}"));
        assert!(line.contains(&name), "{damage}: {line}");
        // Mended, it restores.
        std::fs::write(&pack, &good).unwrap();
        assert_eq!(demo.delete(&format!("/volumes/{target}")).status, 202);
        let again = demo.restore(&backup, json!({}));
        demo.wait("volumes", &again, "available");
        assert_eq!(demo.digest(&again), demo.digest(&volume));
    }
}
