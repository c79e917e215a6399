//! Every route with every kind of caller, as one table that is reviewed: `policy.txt` beside this
//! file. The routes come from the routing table itself, so a new one cannot be forgotten.
//! `UPDATE_SNAPSHOTS=1` writes the table anew.

use crate::support::{Bed, Client, Database};
use embervault::api::routes::{Area, ROUTES, Route};
use serde_json::{Value, json};
use std::fmt::Write;
use std::path::Path;

const TABLE: &str = "tests/suite/policy.txt";
const NOBODY_KNOWS: &str = "99999999-2222-4333-8444-555555555555";

struct Callers {
    nobody: Client,
    stranger: Client,
    reader: Client,
    member: Client,
    admin: Client,
}

fn callers(bed: &mut Bed) -> (crate::support::Service, Callers) {
    let users = [
        ("stranger", "other", "member"),
        ("reader", "demo", "reader"),
        ("member", "demo", "member"),
        ("admin", "demo", "admin"),
    ];
    let listed: Vec<String> = users
        .iter()
        .map(|(name, project, role)| {
            format!("{{name=\"{name}\", password=\"p\", project=\"{project}\", role=\"{role}\"}}")
        })
        .collect();
    bed.set("IDENTITY__USERS", &format!("[{}]", listed.join(", ")));
    for quota in ["VOLUMES", "SNAPSHOTS", "BACKUPS", "GROUPS"] {
        bed.set(&format!("QUOTA__{quota}"), "-1");
    }
    let service = bed.start();
    let as_user = |name: &str, project: &str| Client::log_in(&service.base, name, "p", project);
    let callers = Callers {
        nobody: Client::anonymous(&service.base),
        stranger: as_user("stranger", "other"),
        reader: as_user("reader", "demo"),
        member: as_user("member", "demo"),
        admin: as_user("admin", "demo"),
    };
    (service, callers)
}

/// A new object of a collection, for a caller to do something to.
fn object(collection: &str, callers: &Callers) -> String {
    let member = &callers.member;
    match collection {
        "volumes" => member.create_volume(1),
        "backups" => {
            let volume = member.create_volume(1);
            let backup = member.back_up(&volume, json!({}));
            member.wait("backups", &backup, "available");
            backup
        }
        "snapshots" => {
            let volume = member.create_volume(1);
            let body = json!({ "snapshot": { "volume_id": volume } });
            let answer = member.post("/snapshots", body);
            let id = answer.body["snapshot"]["id"].as_str().unwrap().to_owned();
            member.wait("snapshots", &id, "available");
            id
        }
        "attachments" => {
            let volume = member.create_volume(1);
            member.attach(&volume).0
        }
        _ => NOBODY_KNOWS.to_owned(),
    }
}

/// The path of a route with objects in it.
fn path(route: &Route, callers: &Callers) -> String {
    let collection = route.path.split('/').nth(1).unwrap_or_default();
    let mut path = route.path.to_owned();
    if path.contains("{id}") {
        path = path.replace("{id}", &object(collection, callers));
    }
    path.replace("{project}", &callers.member.project)
        .replace("{class}", "default")
        .replace("{key}", "k")
        .replace("{action}", "enable")
        .replace("{alias}", "backups")
        .replace("{host}", "nowhere")
        .replace("{encryption}", NOBODY_KNOWS)
}

/// A body that would do, so that the policy and not the body decides.
fn body(route: &Route, callers: &Callers) -> Option<Value> {
    if route.method != "POST" && route.method != "PUT" {
        return None;
    }
    let named = |key: &str| json!({ key: { "name": "n" } });
    Some(match (route.method, route.path) {
        ("POST", "/backups") => {
            json!({ "backup": { "volume_id": callers.member.create_volume(1) } })
        }
        (_, "/backups/{id}") => named("backup"),
        (_, "/backups/{id}/restore") => json!({ "restore": {} }),
        (_, "/backups/{id}/action") => json!({ "os-reset_status": { "status": "error" } }),
        (_, "/backups/import_record") => {
            json!({ "backup-record": { "backup_service": "s", "backup_url": "e30=" } })
        }
        ("POST", "/volumes") => json!({ "volume": { "size": 1 } }),
        (_, "/volumes/{id}") => named("volume"),
        (_, "/volumes/{id}/action") => json!({ "os-extend": { "new_size": 2 } }),
        ("POST", "/snapshots") => {
            json!({ "snapshot": { "volume_id": callers.member.create_volume(1) } })
        }
        (_, "/snapshots/{id}") => named("snapshot"),
        (_, "/snapshots/{id}/action") => json!({ "os-reset_status": { "status": "error" } }),
        ("POST", "/attachments") => {
            json!({ "attachment": { "volume_uuid": callers.member.create_volume(1) } })
        }
        (_, "/attachments/{id}") => json!({ "attachment": { "connector": { "host": "h" } } }),
        (_, "/attachments/{id}/action") => json!({ "os-complete": null }),
        (_, "/os-quota-sets/{project}") => json!({ "quota_set": { "backups": -1 } }),
        (_, "/os-quota-class-sets/{class}") => json!({ "quota_class_set": { "groups": 10 } }),
        (_, "/os-services/set-log") => json!({ "level": "info" }),
        (_, "/os-services/{action}") => json!({ "host": "nowhere", "binary": "cinder-backup" }),
        (_, path) if path.ends_with("/metadata") => json!({ "metadata": { "k": "v" } }),
        (_, path) if path.ends_with("/metadata/{key}") => json!({ "meta": { "k": "v" } }),
        ("POST", "/types") => json!({ "volume_type": { "name": NOBODY_KNOWS } }),
        ("POST", "/group_types") => json!({ "group_type": { "name": NOBODY_KNOWS } }),
        ("POST", "/qos-specs") => json!({ "qos_specs": { "name": NOBODY_KNOWS } }),
        (_, path) if path.starts_with("/types") => match path.rsplit('/').next() {
            Some("extra_specs") => json!({ "extra_specs": { "k": "v" } }),
            Some("action") => json!({ "addProjectAccess": { "project": NOBODY_KNOWS } }),
            Some("encryption" | "{encryption}") => json!({ "encryption": { "provider": "luks" } }),
            Some("{key}") => json!({ "k": "v" }),
            _ => json!({ "volume_type": { "name": "n" } }),
        },
        (_, path) if path.starts_with("/group_types") => match path.rsplit('/').next() {
            Some("group_specs") => json!({ "group_specs": { "k": "v" } }),
            Some("{key}") => json!({ "k": "v" }),
            _ => json!({ "group_type": { "name": "n" } }),
        },
        _ => json!({}),
    })
}

fn ask(client: &Client, url: &str, method: &str, body: Option<&Value>) -> u16 {
    let body = body.map(Value::to_string);
    client.send(method, url, body).status
}

#[test]
fn every_route_lets_in_whom_the_policy_lets_in() {
    let mut bed = Bed::new(Database::Sqlite);
    let (_service, callers) = callers(&mut bed);
    let mut table = String::from(
        "# nobody: no token. astray: a token of another project than the path's. stranger: a member of\n\
         # another project in its own path.\n\
         method path                                            nobody astray stranger reader member admin\n",
    );
    let mut holes = Vec::new();
    for route in ROUTES {
        if route.area != Area::BlockStorage {
            continue;
        }
        let mut statuses = Vec::new();
        let (own, other) = (&callers.member, &callers.stranger);
        for (client, place) in [
            (&callers.nobody, own),
            (&callers.stranger, own),
            (&callers.stranger, other),
            (&callers.reader, own),
            (&callers.member, own),
            (&callers.admin, own),
        ] {
            let body = body(route, &callers);
            let url = place.v3(&path(route, &callers));
            statuses.push(ask(client, &url, route.method, body.as_ref()));
        }
        if statuses[0] != 401 || !matches!(statuses[1], 400 | 404) {
            holes.push(format!("{} {}: {statuses:?}", route.method, route.path));
        }
        let cells: Vec<String> = statuses
            .iter()
            .map(|status| format!("{status:6}"))
            .collect();
        writeln!(
            table,
            "{:6} {:47} {}",
            route.method,
            route.path,
            cells.join(" ")
        )
        .unwrap();
    }
    assert!(
        holes.is_empty(),
        "let in without a token or astray: {holes:#?}"
    );
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(TABLE);
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        std::fs::write(&file, &table).unwrap();
    }
    let reviewed = std::fs::read_to_string(&file).unwrap_or_default();
    let changed: Vec<&str> = table
        .lines()
        .filter(|line| !reviewed.lines().any(|known| known == *line))
        .collect();
    assert!(
        changed.is_empty() && reviewed.lines().count() == table.lines().count(),
        "not as reviewed in {TABLE}; after a review, UPDATE_SNAPSHOTS=1 writes it anew:\n{}",
        changed.join("\n")
    );
}
