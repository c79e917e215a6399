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
        // The user is told, and may forget it.
        let told = demo.get(&format!("/messages?resource_uuid={backup}"));
        let message = told.body["messages"][0].clone();
        let text = "restore backup:Backup driver failed to restore backup.";
        assert_eq!(message["user_message"], text, "{}", told.body);
        assert_eq!(message["event_id"], "VOLUME_VOLUME_BACKUP_015_026");
        let path = format!("/messages/{}", message["id"].as_str().unwrap());
        assert_eq!(demo.delete(&path).status, 204);
        assert_eq!(demo.get(&path).status, 404);
        let name = pack.file_name().unwrap().to_string_lossy().into_owned();
        // A line reaches the log some time after the row is written.
        let line = until("the failure to be logged", || {
            let log = bed.log();
            let mut lines = log.lines();
            lines
                .find(|line| line.contains("job failed"))
                .map(str::to_owned)
        });
        assert!(line.contains(&name), "{damage}: {line}");
        // Mended, it restores.
        std::fs::write(&pack, &good).unwrap();
        assert_eq!(demo.delete(&format!("/volumes/{target}")).status, 202);
        let again = demo.restore(&backup, json!({}));
        demo.wait("volumes", &again, "available");
        assert_eq!(demo.digest(&again), demo.digest(&volume));
    }
}

#[test]
fn what_needs_a_disabled_service_is_refused_as_cinder_refuses_it() {
    let bed = Bed::new(Database::Sqlite);
    let service = bed.start();
    let (demo, admin) = (bed.client(&service, "demo"), bed.client(&service, "admin"));
    let volume = demo.create_volume(1);
    let backup = demo.back_up(&volume, json!({}));
    demo.wait("backups", &backup, "available");
    let listed = admin.get("/os-services?binary=cinder-backup").body["services"][0].clone();
    let turn = |action: &str| {
        let body = json!({ "host": listed["host"], "binary": "cinder-backup" });
        assert_eq!(
            admin.put(&format!("/os-services/{action}"), body).status,
            200
        );
    };
    turn("disable");
    let missing = "Service cinder-backup could not be found.";
    assert_eq!(
        demo.delete(&format!("/backups/{backup}")).fault(404),
        missing
    );
    let restore = format!("/backups/{backup}/restore");
    assert_eq!(
        demo.post(&restore, json!({ "restore": {} })).fault(404),
        missing
    );
    let created = demo.back_up(&volume, json!({}));
    let failed = until("the backup to fail", || {
        let shown = demo.get(&format!("/backups/{created}")).body["backup"].clone();
        (shown["status"] == "error").then_some(shown)
    });
    assert_eq!(
        failed["fail_reason"],
        "Service not found for creating backup."
    );
    demo.wait("volumes", &volume, "available");
    turn("enable");
    let restored = demo.restore(&backup, json!({}));
    demo.wait("volumes", &restored, "available");
    assert_eq!(demo.delete(&format!("/backups/{created}")).status, 202);
    demo.wait_gone(&format!("/backups/{created}"));
}
