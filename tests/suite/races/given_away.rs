//! Volumes and snapshots that go over to another project while their last one asks for something.

use super::*;

#[test]
fn who_has_given_a_volume_away_may_do_nothing_with_it_any_more() {
    let scene = Scene::new();
    let demo = &scene.demo;
    let body = json!({ "volume_type": { "name": "other" } });
    let other_type = id_in(&scene.admin.post("/types", body), "volume_type");
    let backed_up = demo.create_volume(1);
    let body = json!({ "backup": { "volume_id": backed_up } });
    let backup = id_in(&demo.post("/backups", body), "backup");
    demo.wait("backups", &backup, "available");
    for (path, body) in [
        ("DELETE /volumes/VOLUME", Value::Null),
        ("DELETE /volumes/VOLUME?cascade=true", Value::Null),
        (
            "PUT /volumes/VOLUME",
            json!({ "volume": { "name": "mine" } }),
        ),
        (
            "POST /volumes/VOLUME/metadata",
            json!({ "metadata": { "a": "b" } }),
        ),
        ("POST /volumes/VOLUME/action", json!({ "os-reserve": {} })),
        (
            "POST /volumes/VOLUME/action",
            json!({ "os-extend": { "new_size": 2 } }),
        ),
        (
            "POST /volumes/VOLUME/action",
            json!({ "os-retype": { "new_type": other_type, "migration_policy": "never" } }),
        ),
        (
            "POST /volumes/VOLUME/action",
            json!({ "os-set_bootable": { "bootable": true } }),
        ),
        (
            "POST /volumes/VOLUME/action",
            json!({ "os-attach": { "mountpoint": "/dev/vdb", "host_name": "h" } }),
        ),
        (
            "POST /attachments",
            json!({ "attachment": { "volume_uuid": "VOLUME" } }),
        ),
        (
            "POST /snapshots",
            json!({ "snapshot": { "volume_id": "VOLUME" } }),
        ),
        (
            "POST /volume-transfers",
            json!({ "transfer": { "volume_id": "VOLUME" } }),
        ),
        (
            "POST /backups",
            json!({ "backup": { "volume_id": "VOLUME" } }),
        ),
        (
            "POST /backups/BACKUP/restore",
            json!({ "restore": { "volume_id": "VOLUME" } }),
        ),
        (
            "POST /volumes",
            json!({ "volume": { "source_volid": "VOLUME" } }),
        ),
    ] {
        let volume = demo.create_volume(1);
        let named = |text: &str| text.replace("VOLUME", &volume).replace("BACKUP", &backup);
        let (path, body) = (named(path), named(&body.to_string()));
        let (method, place) = path.split_once(' ').unwrap();
        let done = format!(
            "UPDATE volumes SET project_id = 'another', name = 'theirs' WHERE id = '{volume}'"
        );
        let body = (body != "null").then(|| body.clone());
        let place = format!("/v3/{}{place}", demo.project);
        let answer = scene.beside(&volume, &done, || demo.send(method, &place, body.clone()));
        let refused = if place.ends_with("/volumes") {
            409
        } else {
            404
        };
        assert_eq!(answer.status, refused, "{path} {body:?}: {}", answer.body);
        let is_as_before = format!(
            "SELECT COUNT(*) AS count FROM volumes WHERE id = '{volume}' AND status = 'available' \
             AND name = 'theirs' AND size_gib = 1"
        );
        assert_eq!(scene.count(&is_as_before), 1, "{path} {body:?}");
    }
}

#[test]
fn who_has_given_a_snapshot_away_may_do_nothing_with_it_any_more() {
    let scene = Scene::new();
    let demo = &scene.demo;
    for how in ["delete", "update", "metadata", "copy", "back up"] {
        let volume = demo.create_volume(1);
        let snapshot = scene.snapshot(&volume);
        let place = format!("/snapshots/{snapshot}");
        let done = format!("UPDATE snapshots SET project_id = 'another' WHERE id = '{snapshot}'");
        let ask = || match how {
            "delete" => demo.delete(&place),
            "update" => demo.put(&place, json!({ "snapshot": { "name": "mine" } })),
            "metadata" => {
                let body = json!({ "metadata": { "a": "b" } });
                demo.post(&format!("{place}/metadata"), body)
            }
            "copy" => demo.post("/volumes", json!({ "volume": { "snapshot_id": snapshot } })),
            _ => {
                let body = json!({ "backup": { "volume_id": volume, "snapshot_id": snapshot } });
                demo.post("/backups", body)
            }
        };
        let answer = scene.beside(&snapshot, &done, ask);
        let refused = if how == "copy" { 409 } else { 404 };
        assert_eq!(answer.status, refused, "{how}: {}", answer.body);
        let is_as_before = format!(
            "SELECT COUNT(*) AS count FROM snapshots WHERE id = '{snapshot}' \
             AND status = 'available' AND name IS NULL AND metadata = '{{}}'"
        );
        assert_eq!(scene.count(&is_as_before), 1, "{how}");
    }
}

#[test]
fn an_offer_that_has_ended_is_not_taken_back() {
    let scene = Scene::new();
    let demo = &scene.demo;
    for how in ["taken back", "accepted"] {
        let volume = demo.create_volume(1);
        let body = json!({ "transfer": { "volume_id": volume } });
        let offered = demo.post("/volume-transfers", body).body["transfer"].clone();
        let place = format!("/volume-transfers/{}", offered["id"].as_str().unwrap());
        // The volume is offered anew.
        let done = format!("DELETE FROM records WHERE id = {}", offered["id"]).replace('"', "'");
        let ask = || match how {
            "taken back" => demo.delete(&place),
            _ => {
                let body = json!({ "accept": { "auth_key": offered["auth_key"] } });
                demo.post(&format!("{place}/accept"), body)
            }
        };
        let answer = scene.beside(&volume, &done, ask);
        assert_eq!(answer.status, 404, "{how}: {}", answer.body);
        assert_eq!(scene.status_of(&volume), "awaiting-transfer", "{how}");
    }
}
