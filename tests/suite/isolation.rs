//! What one project must not be able to do to another, beyond what `policy.rs` shows.

use crate::support::{BOTH, Bed, Client};
use serde_json::{Value, json};

fn id(answer: &crate::support::Answer, key: &str) -> String {
    assert!(answer.status < 300, "{}", answer.body);
    answer.body[key]["id"].as_str().unwrap().to_owned()
}

fn offer(client: &Client, volume: &str) -> Value {
    let body = json!({ "transfer": { "volume_id": volume } });
    let answer = client.post("/os-volume-transfer", body);
    assert_eq!(answer.status, 202, "{}", answer.body);
    answer.body["transfer"].clone()
}

fn accept(client: &Client, offer: &Value) -> u16 {
    let path = format!(
        "/os-volume-transfer/{}/accept",
        offer["id"].as_str().unwrap()
    );
    let body = json!({ "accept": { "auth_key": offer["auth_key"] } });
    client.post(&path, body).status
}

#[test]
fn an_offer_is_worth_nothing_once_the_volume_has_another_owner() {
    for database in BOTH {
        let bed = Bed::new(database);
        let service = bed.start();
        let (demo, admin) = (bed.client(&service, "demo"), bed.client(&service, "admin"));
        let volume = demo.create_volume(1);
        let forgotten = offer(&demo, &volume);
        let reset = json!({ "os-reset_status": { "status": "available" } });
        assert_eq!(
            admin
                .post(&format!("/volumes/{volume}/action"), reset)
                .status,
            202
        );
        let wrong = json!({ "id": forgotten["id"], "auth_key": "0123456789abcdef" });
        assert_eq!(accept(&admin, &wrong), 400);
        let given = offer(&demo, &volume);
        assert_eq!(accept(&admin, &given), 202);
        assert_eq!(demo.get(&format!("/volumes/{volume}")).status, 404);
        // The new owner offers it to somebody; the old one still has the key of before.
        offer(&admin, &volume);
        assert!(accept(&demo, &forgotten) >= 400);
        assert_eq!(demo.get(&format!("/volumes/{volume}")).status, 404);
    }
}

#[test]
fn a_volume_goes_into_no_group_of_another_project() {
    let bed = Bed::new(crate::support::Database::Sqlite);
    let service = bed.start();
    let (demo, admin) = (bed.client(&service, "demo"), bed.client(&service, "admin"));
    let group_type = admin.post("/group_types", json!({ "group_type": { "name": "g" } }));
    let body = json!({ "group": {
        "group_type": id(&group_type, "group_type"), "volume_types": ["__DEFAULT__"], "name": "theirs",
    }});
    let group = id(&admin.post("/groups", body), "group");
    let volume = demo.create_volume(1);
    let backup = demo.back_up(&volume, json!({}));
    demo.wait("backups", &backup, "available");
    for source in [json!(null), json!(backup)] {
        let body = json!({ "volume": {
            "size": 1, "group_id": group, "volume_type": "__DEFAULT__", "backup_id": source,
        }});
        assert_eq!(demo.post("/volumes", body).status, 404, "{source}");
    }
    demo.wait("backups", &backup, "available");
}
