//! The whole way of a tenant, on both databases.

use crate::support::{BOTH, Bed, Database, GIBIBYTE, MEBIBYTE, noise};
use serde_json::json;

#[test]
fn full_zeroed_incremental_and_parentless_restores_equal_the_source() {
    for database in BOTH {
        let bed = Bed::new(database);
        let service = bed.start();
        let demo = bed.client(&service, "demo");
        let volume = demo.create_volume(1);
        demo.write(
            &volume,
            &[
                (0, noise(1, 40 * MEBIBYTE)),
                (GIBIBYTE - 5000, noise(2, 5000)),
            ],
        );
        let at_full = demo.digest(&volume);
        let full = demo.back_up(&volume, json!({ "name": "full" }));
        let shown = demo.wait("backups", &full, "available");
        assert_eq!(shown["is_incremental"], false);
        assert_eq!(shown["has_dependent_backups"], false);
        assert!(shown["object_count"].as_i64().unwrap() > 8, "{shown}");

        demo.write(
            &volume,
            &[
                (3 * MEBIBYTE, vec![0; 9 << 20]),
                (700 * MEBIBYTE, noise(3, MEBIBYTE)),
            ],
        );
        let at_incremental = demo.digest(&volume);
        let incremental = demo.back_up(&volume, json!({ "name": "inc", "incremental": true }));
        let shown = demo.wait("backups", &incremental, "available");
        assert_eq!(shown["is_incremental"], true);
        assert!(shown["object_count"].as_i64().unwrap() < 8, "{shown}");
        let parent = demo.get(&format!("/backups/{full}")).body["backup"].clone();
        assert_eq!(parent["has_dependent_backups"], true);

        let restored = demo.restore(&full, json!({ "name": "restored full" }));
        demo.wait("backups", &full, "available");
        let target = demo.wait("volumes", &restored, "available");
        assert_eq!(target["name"], "restored full");
        assert_eq!(target["metadata"]["src_backup_id"], full);
        assert_eq!(demo.digest(&restored), at_full, "{database:?}");

        assert_eq!(demo.delete(&format!("/backups/{full}")).status, 202);
        demo.wait_gone(&format!("/backups/{full}"));
        // Onto a volume that holds other data, which must not shine through.
        demo.restore(&incremental, json!({ "volume_id": restored }));
        demo.wait("volumes", &restored, "available");
        assert_eq!(demo.digest(&restored), at_incremental, "{database:?}");
        let fresh = demo.restore(&incremental, json!({}));
        let target = demo.wait("volumes", &fresh, "available");
        // The name a restore gave gives way to the saved one.
        assert_eq!(target["name"], "v");
        assert_eq!(demo.digest(&fresh), at_incremental, "{database:?}");
        assert!(service.terminate());
    }
}

#[test]
fn metadata_and_names_of_the_source_come_back() {
    let bed = Bed::new(Database::Sqlite);
    let service = bed.start();
    let demo = bed.client(&service, "demo");
    let body = json!({ "volume": { "size": 1, "name": "src", "description": "d", "metadata": { "a": "b" } } });
    let volume = demo.post("/volumes", body).body["volume"]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    demo.wait("volumes", &volume, "available");
    let bootable = json!({ "os-set_bootable": { "bootable": true } });
    assert_eq!(
        demo.post(&format!("/volumes/{volume}/action"), bootable)
            .status,
        200
    );
    let backup = demo.back_up(
        &volume,
        json!({ "metadata": { "k": "v" }, "description": "text" }),
    );
    let shown = demo.wait("backups", &backup, "available");
    assert_eq!(shown["metadata"], json!({ "k": "v" }));
    let restored = demo.restore(&backup, json!({}));
    let target = demo.wait("volumes", &restored, "available");
    assert_eq!(target["name"], "src");
    assert_eq!(target["description"], "d");
    assert_eq!(target["bootable"], "true");
    assert_eq!(
        target["metadata"],
        json!({ "a": "b", "src_backup_id": backup })
    );
    let updated = demo.put(
        &format!("/backups/{backup}"),
        json!({ "backup": { "name": " n ", "metadata": {} } }),
    );
    assert_eq!(updated.status, 200);
    let shown = demo.get(&format!("/backups/{backup}")).body["backup"].clone();
    assert_eq!(
        (&shown["name"], &shown["metadata"]),
        (&json!("n"), &json!({}))
    );
}

#[test]
fn a_volume_in_use_needs_force_and_returns_to_in_use() {
    let bed = Bed::new(Database::Sqlite);
    let service = bed.start();
    let demo = bed.client(&service, "demo");
    let volume = demo.create_volume(1);
    demo.write(&volume, &[(MEBIBYTE, noise(1, MEBIBYTE))]);
    let digest = demo.digest(&volume);
    let (attachment, _) = demo.attach(&volume);
    let refused = demo.post("/backups", json!({ "backup": { "volume_id": volume } }));
    assert!(refused.fault(400).contains("must use the force flag"));
    let backup = demo.back_up(&volume, json!({ "force": true }));
    demo.wait("backups", &backup, "available");
    demo.wait("volumes", &volume, "in-use");
    demo.detach(&attachment, &volume);
    let restored = demo.restore(&backup, json!({}));
    demo.wait("volumes", &restored, "available");
    assert_eq!(demo.digest(&restored), digest);
    let left: Vec<_> = std::fs::read_dir(bed.data().join("volumes"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("temporary"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_snapshot_is_backed_up_as_it_was() {
    let bed = Bed::new(Database::Sqlite);
    let service = bed.start();
    let demo = bed.client(&service, "demo");
    let volume = demo.create_volume(1);
    demo.write(&volume, &[(MEBIBYTE, noise(1, MEBIBYTE))]);
    let digest = demo.digest(&volume);
    let body = json!({ "snapshot": { "volume_id": volume, "name": "s" } });
    let snapshot = demo.post("/snapshots", body).body["snapshot"]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    demo.wait("snapshots", &snapshot, "available");
    demo.write(&volume, &[(MEBIBYTE, noise(2, MEBIBYTE))]);
    let backup = demo.back_up(&volume, json!({ "snapshot_id": snapshot }));
    let shown = demo.wait("backups", &backup, "available");
    assert_eq!(shown["snapshot_id"], snapshot);
    demo.wait("snapshots", &snapshot, "available");
    let restored = demo.restore(&backup, json!({}));
    demo.wait("volumes", &restored, "available");
    assert_eq!(demo.digest(&restored), digest);
    // A volume with snapshots stays; with cascade it goes.
    assert_eq!(demo.delete(&format!("/volumes/{volume}")).status, 400);
    assert_eq!(
        demo.delete(&format!("/volumes/{volume}?cascade=True&force=False"))
            .status,
        202
    );
    demo.wait_gone(&format!("/volumes/{volume}"));
}

#[test]
fn equal_data_of_two_volumes_is_stored_once() {
    let bed = Bed::new(Database::Sqlite);
    let service = bed.start();
    let demo = bed.client(&service, "demo");
    let (one, two) = (demo.create_volume(1), demo.create_volume(1));
    demo.write(&one, &[(0, noise(1, 24 * MEBIBYTE))]);
    demo.write(&two, &[(333 * 4096, noise(1, 24 * MEBIBYTE))]);
    let first = demo.back_up(&one, json!({}));
    demo.wait("backups", &first, "available");
    let stored = Bed::bytes_of(&bed.objects("/p/"));
    let second = demo.back_up(&two, json!({}));
    demo.wait("backups", &second, "available");
    let added = Bed::bytes_of(&bed.objects("/p/")) - stored;
    assert!(added < stored / 20, "{added} bytes were stored again");
}

#[test]
fn two_creates_at_once_one_wins() {
    for database in BOTH {
        let bed = Bed::new(database);
        let service = bed.start();
        let demo = bed.client(&service, "demo");
        let volume = demo.create_volume(1);
        demo.write(&volume, &[(0, noise(1, 30 * MEBIBYTE))]);
        let answers: Vec<_> = std::thread::scope(|scope| {
            let ask = || demo.post("/backups", json!({ "backup": { "volume_id": volume } }));
            let asking: Vec<_> = (0..6).map(|_| scope.spawn(ask)).collect();
            asking
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        });
        let (won, lost): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == 202);
        assert_eq!(won.len(), 1, "{database:?}: {answers:?}");
        for answer in lost {
            assert!(
                answer
                    .fault(400)
                    .contains("current status is \"backing-up\""),
                "{}",
                answer.body
            );
        }
        let id = won[0].body["backup"]["id"].as_str().unwrap();
        demo.wait("backups", id, "available");
        demo.wait("volumes", &volume, "available");
        let listed = demo.get("/backups").body["backups"]
            .as_array()
            .unwrap()
            .len();
        assert_eq!(listed, 1, "the losers left rows behind");
    }
}

#[test]
fn lists_are_paged_filtered_sorted_and_counted() {
    for database in BOTH {
        let bed = Bed::new(database);
        let service = bed.start();
        let demo = bed.client(&service, "demo");
        let volume = demo.create_volume(1);
        let mut ids = Vec::new();
        for name in ["c", "a", "b"] {
            let id = demo.back_up(&volume, json!({ "name": name }));
            demo.wait("backups", &id, "available");
            ids.push(id);
        }
        let names = |path: &str| -> Vec<String> {
            let answer = demo.get(path);
            let items = answer.body["backups"]
                .as_array()
                .unwrap_or_else(|| panic!("{}", answer.body));
            items
                .iter()
                .map(|item| item["name"].as_str().unwrap().to_owned())
                .collect()
        };
        assert_eq!(names("/backups"), ["b", "a", "c"]);
        assert_eq!(names("/backups/detail?sort=name:asc"), ["a", "b", "c"]);
        assert_eq!(
            names("/backups?sort_key=created_at&sort_dir=asc"),
            ["c", "a", "b"]
        );
        assert_eq!(names("/backups?name=a"), ["a"]);
        assert_eq!(names("/backups?status=error"), [""; 0]);
        assert_eq!(
            names(&format!("/backups?volume_id={volume}&offset=1")),
            ["a", "c"]
        );
        assert_eq!(names(&format!("/backups?marker={}&limit=1", ids[2])), ["a"]);
        assert_eq!(
            names(&format!("/backups?sort=name:asc&marker={}", ids[1])),
            ["b", "c"]
        );
        let page = demo.get("/backups?limit=2&with_count=True").body;
        assert_eq!(page["count"], 3);
        let next = page["backups_links"][0]["href"].as_str().unwrap();
        let next = next.strip_prefix(&demo.base).unwrap();
        let rest = demo.send("GET", next, None).body;
        assert_eq!(rest["backups"][0]["name"], "c");
        // As in Cinder: with a count there is always a next page, and the last one is empty.
        let next = rest["backups_links"][0]["href"].as_str().unwrap();
        let next = next.strip_prefix(&demo.base).unwrap();
        let end = demo.send("GET", next, None).body;
        assert_eq!(end, json!({ "backups": [], "count": 3 }));
        assert_eq!(demo.get("/backups?limit=0").body, json!({ "backups": [] }));
        assert_eq!(demo.get("/backups?marker=nothing").status, 404);
        for bad in [
            "limit=-1",
            "limit=x",
            "sort=color",
            "sort_dir=up",
            "all_tenants=maybe",
            "color=red",
        ] {
            assert_eq!(demo.get(&format!("/backups?{bad}")).status, 400, "{bad}");
        }
    }
}

#[test]
fn quotas_hold_and_are_shown() {
    let mut bed = Bed::new(Database::Sqlite);
    bed.set("QUOTA__BACKUPS", "1");
    bed.set("QUOTA__VOLUMES", "2");
    let service = bed.start();
    let demo = bed.client(&service, "demo");
    let volume = demo.create_volume(1);
    let backup = demo.back_up(&volume, json!({}));
    demo.wait("backups", &backup, "available");
    let refused = demo.post("/backups", json!({ "backup": { "volume_id": volume } }));
    assert_eq!(
        refused.fault(413),
        "BackupLimitExceeded: Maximum number of backups allowed (1) exceeded"
    );
    assert_eq!(refused.header("Retry-After"), Some("0"));
    demo.create_volume(1);
    let refused = demo.post(
        &format!("/backups/{backup}/restore"),
        json!({ "restore": {} }),
    );
    assert!(
        refused
            .fault(413)
            .starts_with("Maximum number of volumes allowed (2)")
    );
    // The refused restore left nothing behind.
    demo.wait("backups", &backup, "available");
    assert_eq!(
        demo.get("/volumes").body["volumes"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    let limits = demo.get("/limits").body["limits"]["absolute"].clone();
    assert_eq!(
        (&limits["totalBackupsUsed"], &limits["maxTotalBackups"]),
        (&json!(1), &json!(1))
    );
}

#[test]
fn projects_never_see_each_others_objects() {
    let mut bed = Bed::new(Database::Sqlite);
    bed.set(
        "IDENTITY__USERS",
        r#"[{name="a", password="pa", project="a", role="member"}, {name="b", password="pb", project="b", role="member"}, {name="r", password="pr", project="a", role="reader"}]"#,
    );
    let service = bed.start();
    let log_in = |user: &str, password: &str, project: &str| {
        crate::support::Client::log_in(&service.base, user, password, project)
    };
    let (a, b, reader) = (
        log_in("a", "pa", "a"),
        log_in("b", "pb", "b"),
        log_in("r", "pr", "a"),
    );
    let volume = a.create_volume(1);
    a.write(&volume, &[(0, noise(1, MEBIBYTE))]);
    let backup = a.back_up(&volume, json!({}));
    a.wait("backups", &backup, "available");
    assert_eq!(b.get(&format!("/backups/{backup}")).status, 404);
    assert_eq!(b.get(&format!("/volumes/{volume}")).status, 404);
    assert_eq!(b.delete(&format!("/backups/{backup}")).status, 404);
    assert_eq!(
        b.post(
            &format!("/backups/{backup}/restore"),
            json!({ "restore": {} })
        )
        .status,
        404
    );
    assert_eq!(
        b.post("/backups", json!({ "backup": { "volume_id": volume } }))
            .status,
        404
    );
    assert_eq!(
        b.get("/backups?all_tenants=True").body,
        json!({ "backups": [] })
    );
    assert_eq!(reader.get(&format!("/backups/{backup}")).status, 200);
    let refused = reader.delete(&format!("/backups/{backup}"));
    assert_eq!(
        refused.fault(403),
        "Policy doesn't allow backup:delete to be performed."
    );
    // Equal data in another project is another vault's business: nothing tells that it is known.
    let other = b.create_volume(1);
    b.write(&other, &[(0, noise(1, MEBIBYTE))]);
    let second = b.back_up(&other, json!({}));
    b.wait("backups", &second, "available");
    assert!(Bed::bytes_of(&bed.objects("/p/")) > 2 * MEBIBYTE);
    assert_eq!(bed.objects("vault.json").len(), 2);
}
