//! Quotas under concurrent requests, and records of backups that move between installations.

use crate::support::{BOTH, Bed, Client, Database, MEBIBYTE, noise, until};
use serde_json::{Value, json};

const ASKING: usize = 8;

/// The statuses of equal requests sent at once.
fn at_once(client: &Client, path: &str, body: impl Fn(usize) -> Value + Sync) -> Vec<u16> {
    std::thread::scope(|scope| {
        let body = &body;
        let ask = |n| move || client.post(path, body(n)).status;
        let asking: Vec<_> = (0..ASKING).map(|n| scope.spawn(ask(n))).collect();
        let answers = asking.into_iter().map(|thread| thread.join().unwrap());
        answers.collect()
    })
}

fn count(statuses: &[u16], status: u16) -> usize {
    statuses.iter().filter(|found| **found == status).count()
}

#[test]
fn requests_at_once_do_not_overrun_a_quota() {
    for database in BOTH {
        let mut bed = Bed::new(database);
        bed.set("QUOTA__VOLUMES", "13");
        bed.set("QUOTA__BACKUPS", "3");
        bed.set("QUOTA__SNAPSHOTS", "2");
        let service = bed.start();
        let demo = bed.client(&service, "demo");
        let volumes: Vec<String> = (0..ASKING).map(|_| demo.create_volume(1)).collect();
        let made = at_once(
            &demo,
            "/backups",
            |n| json!({ "backup": { "volume_id": volumes[n] } }),
        );
        assert_eq!(
            (count(&made, 202), count(&made, 413)),
            (3, 5),
            "{database:?}: {made:?}"
        );
        let made = at_once(&demo, "/volumes", |_| json!({ "volume": { "size": 1 } }));
        assert_eq!(
            (count(&made, 202), count(&made, 413)),
            (5, 3),
            "{database:?}: {made:?}"
        );
        for backup in demo.get("/backups").body["backups"].as_array().unwrap() {
            demo.wait("backups", backup["id"].as_str().unwrap(), "available");
        }
        let made = at_once(
            &demo,
            "/snapshots",
            |_| json!({ "snapshot": { "volume_id": volumes[0] } }),
        );
        assert_eq!(
            (count(&made, 202), count(&made, 413)),
            (2, 6),
            "{database:?}: {made:?}"
        );
        let limits = demo.get("/limits").body["limits"]["absolute"].clone();
        assert_eq!(limits["totalVolumesUsed"], 13);
        assert_eq!(limits["totalBackupsUsed"], 3);
        assert_eq!(limits["totalSnapshotsUsed"], 2);
    }
}

#[test]
fn limits_of_a_project_and_of_the_default_class_are_set_and_forgotten() {
    let bed = Bed::new(Database::Sqlite);
    let service = bed.start();
    let (demo, admin) = (bed.client(&service, "demo"), bed.client(&service, "admin"));
    let project = &demo.project;
    let path = format!("/os-quota-sets/{project}");
    let backups = || demo.get(&path).body["quota_set"]["backups"].clone();
    assert_eq!(backups(), 10);
    admin.put(
        "/os-quota-class-sets/default",
        json!({ "quota_class_set": { "backups": 7 } }),
    );
    assert_eq!(backups(), 7);
    admin.put(
        &path,
        json!({ "quota_set": { "backups": 0, "volumes": -1 } }),
    );
    assert_eq!(backups(), 0);
    let volume = demo.create_volume(1);
    let answer = demo.post("/backups", json!({ "backup": { "volume_id": volume } }));
    assert!(answer.fault(413).starts_with("BackupLimitExceeded:"));
    let answer = admin.put(&path, json!({ "quota_set": { "volumes": 0 } }));
    assert_eq!(
        answer.fault(400),
        "Quota volumes limit must be equal or greater than existing resources. Current usage is 1 and the \
         requested limit is 0."
    );
    assert_eq!(admin.delete(&path).status, 200);
    assert_eq!(backups(), 7);
}

#[test]
fn a_volume_gets_no_type_of_which_its_project_may_not_have_so_much() {
    let mut bed = Bed::new(Database::Sqlite);
    bed.set("QUOTA__VOLUMES", "1");
    let service = bed.start();
    let (demo, admin) = (bed.client(&service, "demo"), bed.client(&service, "admin"));
    let body = json!({ "volume_type": { "name": "fast" } });
    assert_eq!(admin.post("/types", body).status, 200);
    let volume = demo.create_volume(2);
    let made = demo.post("/snapshots", json!({ "snapshot": { "volume_id": volume } }));
    let snapshot = made.body["snapshot"]["id"].as_str().unwrap();
    demo.wait("snapshots", snapshot, "available");
    let retyped = |limits: Value| {
        let path = format!("/os-quota-sets/{}", demo.project);
        let set = admin.put(&path, json!({ "quota_set": limits }));
        assert_eq!(set.status, 200, "{}", set.body);
        let body = json!({ "os-retype": { "new_type": "fast", "migration_policy": "never" } });
        demo.post(&format!("/volumes/{volume}/action"), body).status
    };
    assert_eq!(retyped(json!({ "volumes_fast": 0 })), 413);
    // The snapshot goes over with its volume.
    let most = json!({ "volumes_fast": 1, "gigabytes_fast": 3 });
    assert_eq!(retyped(most), 413);
    assert_eq!(retyped(json!({ "gigabytes_fast": 4 })), 202);
    let shown = demo.get(&format!("/volumes/{volume}")).body;
    assert_eq!(shown["volume"]["volume_type"], "fast");
}

pub(crate) fn export(admin: &Client, backup: &str) -> Value {
    let answer = admin.get(&format!("/backups/{backup}/export_record"));
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.body["backup-record"].clone()
}

/// The record with one field changed.
pub(crate) fn edited(record: &Value, key: &str, value: Value) -> Value {
    use base64::Engine;
    use base64::prelude::BASE64_STANDARD;
    let json = BASE64_STANDARD
        .decode(record["backup_url"].as_str().unwrap())
        .unwrap();
    let mut fields: Value = serde_json::from_slice(&json).unwrap();
    fields[key] = value;
    let url = BASE64_STANDARD.encode(fields.to_string());
    json!({ "backup-record": { "backup_service": record["backup_service"], "backup_url": url } })
}

#[test]
fn records_that_share_data_are_restored_and_deleted_in_any_order() {
    for database in BOTH {
        let bed = Bed::new(database);
        let service = bed.start();
        let (demo, admin) = (bed.client(&service, "demo"), bed.client(&service, "admin"));
        let volume = demo.create_volume(1);
        demo.write(&volume, &[(0, noise(1, 5 * MEBIBYTE))]);
        let digest = demo.digest(&volume);
        let original = demo.back_up(&volume, json!({ "name": "original" }));
        demo.wait("backups", &original, "available");
        let record = export(&admin, &original);
        let copy = "11111111-2222-4333-8444-555555555555";
        let answer = admin.post("/backups/import_record", edited(&record, "id", json!(copy)));
        assert_eq!(answer.status, 201, "{}", answer.body);
        let shown = admin.wait("backups", copy, "available");
        assert_eq!(shown["name"], "original");
        assert_eq!(shown["volume_id"], volume);
        let again = admin.post("/backups/import_record", edited(&record, "id", json!(copy)));
        assert!(again.fault(400).contains("already exists"));

        assert_eq!(demo.delete(&format!("/backups/{original}")).status, 202);
        demo.wait_gone(&format!("/backups/{original}"));
        let restored = admin.restore(copy, json!({}));
        admin.wait("volumes", &restored, "available");
        assert_eq!(admin.digest(&restored), digest);
        assert_eq!(admin.delete(&format!("/backups/{copy}")).status, 202);
        admin.wait_gone(&format!("/backups/{copy}"));
        assert_eq!(bed.objects("/b/").len(), 0, "a root is left");

        // With the data gone, the record is worth nothing, and says so.
        let answer = admin.post("/backups/import_record", edited(&record, "id", json!(copy)));
        assert_eq!(answer.status, 201);
        until("the import to fail", || {
            let shown = admin.get(&format!("/backups/{copy}")).body["backup"].clone();
            (shown["status"] == "error").then_some(shown)
        });
        assert_eq!(admin.delete(&format!("/backups/{copy}")).status, 202);
    }
}

#[test]
fn a_record_is_taken_in_where_the_database_never_knew_the_backup() {
    let mut bed = Bed::new(Database::Sqlite);
    let (volume, digest, record, backup);
    {
        let service = bed.start();
        let (demo, admin) = (bed.client(&service, "demo"), bed.client(&service, "admin"));
        volume = demo.create_volume(1);
        demo.write(&volume, &[(0, noise(7, 9 * MEBIBYTE))]);
        digest = demo.digest(&volume);
        backup = demo.back_up(&volume, json!({}));
        demo.wait("backups", &backup, "available");
        record = export(&admin, &backup);
        assert!(service.terminate());
    }
    // The database is lost; storage, keys and users are there.
    let lost = bed.data().join("lost.db");
    bed.set("DATABASE__URL", &format!("sqlite:{}", lost.display()));
    let service = bed.start();
    let admin = bed.client(&service, "admin");
    assert_eq!(admin.get(&format!("/backups/{backup}")).status, 404);
    let answer = admin.post("/backups/import_record", json!({ "backup-record": record }));
    assert_eq!(answer.status, 201, "{}", answer.body);
    admin.wait("backups", &backup, "available");
    let restored = admin.restore(&backup, json!({}));
    admin.wait("volumes", &restored, "available");
    assert_eq!(admin.digest(&restored), digest);
    // What is backed up now does not overwrite packs that were there before.
    let before = bed.objects("/p/").len();
    let again = admin.back_up(&restored, json!({}));
    admin.wait("backups", &again, "available");
    assert!(bed.objects("/p/").len() >= before);
    let last = admin.restore(&backup, json!({ "name": "last" }));
    admin.wait("volumes", &last, "available");
    assert_eq!(admin.digest(&last), digest);
}

#[test]
fn a_running_backup_is_deleted_by_force_and_leaves_nothing_held() {
    for database in BOTH {
        let mut bed = Bed::new(database);
        bed.set("ENGINE__THREADS", "1");
        bed.set("ENGINE__COMPRESSION", "zstd:19");
        let service = bed.start();
        let (demo, admin) = (bed.client(&service, "demo"), bed.client(&service, "admin"));
        let volume = demo.create_volume(1);
        demo.write(&volume, &[(0, noise(1, 48 * MEBIBYTE))]);
        let digest = demo.digest(&volume);
        let running = demo.back_up(&volume, json!({}));
        let action = |id: &str, body: Value| admin.post(&format!("/backups/{id}/action"), body);
        assert_eq!(
            demo.post(
                &format!("/backups/{running}/action"),
                json!({ "os-force_delete": {} })
            )
            .status,
            403,
        );
        let answer = action(&running, json!({ "os-force_delete": {} }));
        assert_eq!(answer.status, 202, "{}", answer.body);
        demo.wait_gone(&format!("/backups/{running}"));
        demo.wait("volumes", &volume, "available");
        assert_eq!(bed.objects("/b/").len(), 0, "a root is left");

        let failed = demo.back_up(&volume, json!({}));
        let reset = json!({ "os-reset_status": { "status": "error" } });
        assert_eq!(action(&failed, reset.clone()).status, 202);
        demo.wait("volumes", &volume, "available");
        let status =
            |id: &str| demo.get(&format!("/backups/{id}")).body["backup"]["status"].clone();
        assert_eq!(status(&failed), "error");
        // It has no data, so nobody can declare it sound.
        let sound = json!({ "os-reset_status": { "status": "available" } });
        assert_eq!(action(&failed, sound.clone()).status, 202);
        assert_eq!(status(&failed), "error");

        let good = demo.back_up(&volume, json!({}));
        demo.wait("backups", &good, "available");
        assert_eq!(action(&good, reset.clone()).status, 202);
        assert_eq!(status(&good), "error");
        assert_eq!(action(&good, sound).status, 202);
        until("the data to be found", || {
            (status(&good) == "available").then_some(())
        });
        let restored = demo.restore(&good, json!({}));
        demo.wait("volumes", &restored, "available");
        assert_eq!(demo.digest(&restored), digest);
    }
}

#[test]
fn a_volume_is_made_from_a_backup() {
    let bed = Bed::new(Database::Sqlite);
    let service = bed.start();
    let demo = bed.client(&service, "demo");
    let volume = demo.create_volume(1);
    demo.write(&volume, &[(0, noise(1, MEBIBYTE))]);
    let backup = demo.back_up(&volume, json!({}));
    demo.wait("backups", &backup, "available");
    let body = json!({ "volume": { "backup_id": backup, "size": 2, "name": "made" } });
    let answer = demo.post("/volumes", body);
    assert_eq!(answer.status, 202, "{}", answer.body);
    assert_eq!(answer.body["volume"]["status"], "creating");
    let id = answer.body["volume"]["id"].as_str().unwrap();
    let made = demo.wait("volumes", id, "available");
    assert_eq!((&made["size"], &made["name"]), (&json!(2), &json!("made")));
    assert_eq!(made["metadata"]["src_backup_id"], backup);
    demo.wait("backups", &backup, "available");
}
