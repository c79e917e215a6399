//! How much users may keep with an object, and how pages end early where that is much.

use crate::quotas::{edited, export};
use crate::support::{Answer, BOTH, Bed, Client, Database};
use embervault::db::{self, Db};
use embervault::model::id::VolumeId;
use serde_json::{Map, Value, json};

const ITEMS_MAX: usize = 4;
const TOO_MANY: &str = "Invalid metadata size: 5 keys exceed the 4 allowed (api.metadata_items_max";

fn bed(database: Database) -> Bed {
    let mut bed = Bed::new(database);
    bed.set("API__METADATA_ITEMS_MAX", &ITEMS_MAX.to_string());
    bed.set("API__METADATA_BYTES_MAX", "256 B");
    bed.set("API__PAGE_BYTES_MAX", "100 B");
    bed.set("QUOTA__VOLUMES", "20");
    bed.set("QUOTA__SNAPSHOTS", "20");
    bed
}

/// Entries under the keys `k0`, `k1` and so on.
fn entries(count: usize) -> Value {
    let entry = |number| (format!("k{number}"), json!("v"));
    Value::Object((0..count).map(entry).collect::<Map<_, _>>())
}

fn id_in(answer: &Answer, key: &str) -> String {
    assert!(answer.status < 300, "{}", answer.body);
    answer.body[key]["id"].as_str().unwrap().to_owned()
}

/// The keys of a volume or snapshot.
fn keys(client: &Client, place: &str) -> Vec<String> {
    let shown = client.get(&format!("{place}/metadata"));
    assert_eq!(shown.status, 200, "{}", shown.body);
    let metadata = shown.body["metadata"].as_object().unwrap();
    metadata.keys().cloned().collect()
}

/// Where an administrator can keep something: what asks for it, method and path, and the object around the
/// entries. `{…}` stands in paths for the id of an object of this kind.
type Kind = (&'static str, &'static str, fn(Value, &str) -> Value);

const CREATIONS: &[(Kind, &str)] = &[
    (
        (
            "POST",
            "/volumes",
            |entries, _| json!({ "volume": { "size": 1, "metadata": entries } }),
        ),
        "volume",
    ),
    (
        (
            "POST",
            "/snapshots",
            |entries, volume| json!({ "snapshot": { "volume_id": volume, "metadata": entries } }),
        ),
        "snapshot",
    ),
    (
        (
            "POST",
            "/backups",
            |entries, volume| json!({ "backup": { "volume_id": volume, "metadata": entries } }),
        ),
        "backup",
    ),
    (
        (
            "POST",
            "/types",
            |entries, _| json!({ "volume_type": { "name": "t", "extra_specs": entries } }),
        ),
        "volume_type",
    ),
    (
        (
            "POST",
            "/group_types",
            |entries, _| json!({ "group_type": { "name": "g", "group_specs": entries } }),
        ),
        "group_type",
    ),
    (
        ("POST", "/qos-specs", |entries, _| {
            let mut specs = entries;
            specs["name"] = json!("q");
            json!({ "qos_specs": specs })
        }),
        "qos_specs",
    ),
];

const CHANGES: &[Kind] = &[
    (
        "POST",
        "/volumes/{volume}/metadata",
        |entries, _| json!({ "metadata": entries }),
    ),
    (
        "PUT",
        "/volumes/{volume}/metadata",
        |entries, _| json!({ "metadata": entries }),
    ),
    (
        "PUT",
        "/volumes/{volume}",
        |entries, _| json!({ "volume": { "metadata": entries } }),
    ),
    (
        "POST",
        "/volumes/{volume}/action",
        |entries, _| json!({ "os-set_image_metadata": { "metadata": entries } }),
    ),
    (
        "POST",
        "/snapshots/{snapshot}/metadata",
        |entries, _| json!({ "metadata": entries }),
    ),
    (
        "PUT",
        "/snapshots/{snapshot}/metadata",
        |entries, _| json!({ "metadata": entries }),
    ),
    (
        "PUT",
        "/backups/{backup}",
        |entries, _| json!({ "backup": { "metadata": entries } }),
    ),
    (
        "POST",
        "/types/{volume_type}/extra_specs",
        |entries, _| json!({ "extra_specs": entries }),
    ),
    (
        "POST",
        "/group_types/{group_type}/group_specs",
        |entries, _| json!({ "group_specs": entries }),
    ),
    (
        "PUT",
        "/qos-specs/{qos_specs}",
        |entries, _| json!({ "qos_specs": entries }),
    ),
];

#[test]
fn metadata_of_every_kind_has_a_bound_that_requests_at_once_keep_to() {
    for database in BOTH {
        let bed = bed(database);
        let service = bed.start();
        let admin = bed.client(&service, "admin");
        let first = admin.create_volume(1);
        let mut made = Vec::new();
        for ((method, path, body), key) in CREATIONS {
            let ask = |count| {
                let body = body(entries(count), &first).to_string();
                admin.send(method, &admin.v3(path), Some(body))
            };
            let refused = ask(ITEMS_MAX + 1);
            assert!(
                refused.fault(413).starts_with(TOO_MANY),
                "{path}: {}",
                refused.body
            );
            assert_eq!(refused.header("Retry-After"), Some("0"));
            made.push((*key, id_in(&ask(ITEMS_MAX), key)));
            if matches!(*key, "volume" | "snapshot" | "backup") {
                admin.wait(&path[1..], &made.last().unwrap().1, "available");
            }
        }
        for (method, path, body) in CHANGES {
            let mut place = (*path).to_owned();
            for (key, id) in &made {
                place = place.replace(&format!("{{{key}}}"), id);
            }
            let ask = |count| {
                let body = body(entries(count), "").to_string();
                admin.send(method, &admin.v3(&place), Some(body))
            };
            let refused = ask(ITEMS_MAX + 1);
            assert!(
                refused.fault(413).starts_with(TOO_MANY),
                "{path}: {}",
                refused.body
            );
            assert!(ask(ITEMS_MAX).status < 300, "{path}");
        }
        let of = |key: &str| {
            made.iter()
                .find(|(known, _)| *known == key)
                .unwrap()
                .1
                .clone()
        };

        let volume = format!("/volumes/{}", of("volume"));
        let fifth = json!({ "meta": { "k4": "v" } });
        let refused = admin.put(&format!("{volume}/metadata/k4"), fifth.clone());
        assert!(refused.fault(413).starts_with(TOO_MANY));
        let long = json!({ "metadata": { "k0": "x".repeat(255) } });
        let refused = admin.post(&format!("{volume}/metadata"), long).fault(413);
        assert!(
            refused.contains("266 bytes of keys and values exceed the 256 allowed"),
            "{refused}"
        );
        assert_eq!(admin.delete(&format!("{volume}/metadata/k0")).status, 200);
        assert_eq!(
            admin.put(&format!("{volume}/metadata/k4"), fifth).status,
            200
        );
        assert_eq!(keys(&admin, &volume), ["k1", "k2", "k3", "k4"]);

        // A record is not how one gets around it; and a restore is not refused over a key of its own.
        let record = export(&admin, &of("backup"));
        let other = edited(&record, "id", json!("11111111-2222-4333-8444-555555555555"));
        let refused = admin.post(
            "/backups/import_record",
            edited(&other["backup-record"], "metadata", entries(5)),
        );
        assert!(refused.fault(413).starts_with(TOO_MANY));
        let backup = admin.back_up(&of("volume"), json!({}));
        admin.wait("backups", &backup, "available");
        let restored = admin.restore(&backup, json!({}));
        admin.wait("volumes", &restored, "available");
        let restored = format!("/volumes/{restored}");
        assert_eq!(keys(&admin, &restored).len(), ITEMS_MAX + 1);
        let sixth = json!({ "metadata": { "k5": "" } });
        assert_eq!(
            admin.post(&format!("{restored}/metadata"), sixth).status,
            413
        );
        let same = json!({ "metadata": { "k4": "w" } });
        assert_eq!(
            admin.post(&format!("{restored}/metadata"), same).status,
            200
        );
        assert_eq!(admin.delete(&format!("{restored}/metadata/k1")).status, 200);

        // None of those that are let in is lost.
        for place in [
            format!("/volumes/{first}"),
            format!("/snapshots/{}", of("snapshot")),
        ] {
            let none = json!({ "metadata": {} });
            assert_eq!(admin.put(&format!("{place}/metadata"), none).status, 200);
            let ask = |number: usize| {
                let key = format!("k{number}");
                let body = json!({ "metadata": { key.as_str(): "" } });
                let status = admin.post(&format!("{place}/metadata"), body).status;
                (status == 200).then_some(key)
            };
            let mut added: Vec<String> = std::thread::scope(|scope| {
                let ask = &ask;
                let asking: Vec<_> = (0..9)
                    .map(|number| scope.spawn(move || ask(number)))
                    .collect();
                let answers = asking
                    .into_iter()
                    .filter_map(|thread| thread.join().unwrap());
                answers.collect()
            });
            added.sort();
            assert_eq!(added.len(), ITEMS_MAX, "{database:?}: {place}");
            assert_eq!(keys(&admin, &place), added, "{database:?}: {place}");
        }
    }
}

/// The ids on all pages, from one to the next by their links; and how many pages there were.
fn followed(client: &Client, path: &str, collection: &str) -> (Vec<String>, usize) {
    let (mut ids, mut pages, mut next) = (Vec::new(), 0, Some(client.v3(path)));
    let links = match collection {
        "volume_types" => "volume_type_links".to_owned(),
        _ => format!("{collection}_links"),
    };
    while let Some(path) = next {
        let answer = client.send("GET", &path, None);
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        let items = answer.body[collection].as_array().unwrap();
        ids.extend(
            items
                .iter()
                .map(|item| item["id"].as_str().unwrap().to_owned()),
        );
        let link = answer.body[&links][0]["href"].as_str();
        next = link.map(|link| link.strip_prefix(&client.base).unwrap().to_owned());
        pages += 1;
        assert!(pages < 20, "{path}");
    }
    (ids, pages)
}

#[test]
fn pages_that_end_early_join_without_gap_or_overlap() {
    for database in BOTH {
        let bed = bed(database);
        let service = bed.start();
        let admin = bed.client(&service, "admin");
        let source = admin.create_volume(1);
        // The second fills a page by itself, and more; two of the others are a page.
        let sizes = [1, 200, 30, 30, 30, 0, 60];
        for (number, size) in sizes.into_iter().enumerate() {
            let (name, metadata) = (format!("n{number}"), json!({ "k": "x".repeat(size) }));
            let volume = json!({ "volume": { "size": 1, "name": name, "metadata": metadata } });
            let snapshot =
                json!({ "snapshot": { "volume_id": source, "name": name, "metadata": metadata } });
            let kind = json!({ "volume_type": { "name": name, "extra_specs": metadata } });
            id_in(&admin.post("/volumes", volume), "volume");
            id_in(&admin.post("/snapshots", snapshot), "snapshot");
            id_in(&admin.post("/types", kind), "volume_type");
        }
        for collection in ["volumes", "snapshots", "volume_types"] {
            let path = match collection {
                "volume_types" => "/types".to_owned(),
                _ => format!("/{collection}/detail"),
            };
            let all = |query: &str| followed(&admin, &format!("{path}?{query}"), collection);
            let mut sorted = all("sort=name:asc&limit=1").0;
            assert!(sorted.len() >= sizes.len(), "{sorted:?}");
            let (ids, pages) = all("sort=name:asc");
            assert_eq!(ids, sorted, "{database:?}");
            assert!(
                (4..sizes.len()).contains(&pages),
                "{database:?}: {collection}: {pages} pages"
            );
            assert_eq!(
                all("sort=name:asc&offset=2").0,
                sorted[2..],
                "{database:?}: {collection}"
            );
            let mut newest_first = all("").0;
            newest_first.sort();
            sorted.sort();
            assert_eq!(newest_first, sorted, "{database:?}: {collection}");
        }
        // What has no pages is refused where it is longer than one.
        assert_eq!(admin.get("/volumes/summary").status, 400, "{database:?}");
    }
}

#[test]
fn attachments_of_a_volume_have_a_bound_and_keep_little() {
    let bed = bed(Database::Sqlite);
    let service = bed.start();
    let demo = bed.client(&service, "demo");
    let volume = demo.create_volume(1);
    let connector = |host: &str| json!({ "host": host, "more": "x".repeat(50_000) });
    let reserve = |connector: Value| {
        let body = json!({ "attachment": { "volume_uuid": volume, "connector": connector } });
        demo.post("/attachments", body)
    };
    let refused = reserve(connector(&"h".repeat(256))).fault(400);
    assert!(
        refused.contains("host has more than 255 characters"),
        "{refused}"
    );
    let place = format!(
        "/attachments/{}",
        id_in(&reserve(connector("h")), "attachment")
    );
    let by_hand = json!({ "os-attach": { "mountpoint": "/dev/vdb", "host_name": "h" } });
    // By turns, so that the volume is never in use when it is attached by hand.
    let attach = || {
        let body = json!({ "attachment": { "connector": connector("h") } });
        assert_eq!(demo.put(&place, body).status, 200);
        demo.post(&format!("/volumes/{volume}/action"), by_hand.clone())
    };
    for _ in 1..16 {
        assert_eq!(attach().status, 202);
    }
    assert!(attach().fault(400).contains("has 16 attachments already"));
    let listed = demo.get("/attachments/detail").body["attachments"].clone();
    assert_eq!(listed.as_array().unwrap().len(), 16);
    let url = format!("sqlite:{}", bed.data().join("embervault.db").display());
    let volumes = vec![VolumeId::new(&volume)];
    let rows = Db::open(&url)
        .unwrap()
        .read(|c| db::standalone::volumes::attachments_of(c, volumes))
        .unwrap();
    for row in rows {
        let connector = row.connector.map(|connector| connector.into_inner());
        assert!(connector.is_none_or(|connector| connector == json!({ "host": "h" })));
    }
}
