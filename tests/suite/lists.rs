//! Every column as a filter and as an order, on both databases.

use crate::support::{BOTH, Bed, Client};
use embervault::model::backup;
use embervault::model::page::{Column, Kind};
use embervault::model::standalone::{snapshot, volume};
use serde_json::{Value, json};

/// Values a filter may be given, sound and odd.
fn values(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Text => &["x", "", "%25", "_", "'", "%C3%A9"],
        Kind::Number => &["1", "-1", "99999999999999999999", "x", "1.5", ""],
        Kind::Flag => &["true", "False", "maybe", ""],
        Kind::Time => &[
            "2026-01-01T00:00:00",
            "gt:2000-01-01T00:00:00,lt:2100-01-01T00:00:00",
            "x",
            "gt:",
        ],
        Kind::Map => &[
            "%7B%22k%22:%22v%22%7D",
            "%7B'k':'v'%7D",
            "%7B%22k%22:1%7D",
            "x",
            "[]",
        ],
    }
}

fn ids(client: &Client, path: &str, collection: &str) -> Vec<String> {
    let answer = client.get(path);
    assert_eq!(answer.status, 200, "{path}: {}", answer.body);
    let items = answer.body[collection].as_array().unwrap();
    items
        .iter()
        .map(|item| item["id"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn any_column_filters_and_sorts_and_pages_join_without_gap_or_overlap() {
    let lists: [(&str, &[Column]); 3] = [
        ("backups", backup::COLUMNS),
        ("volumes", volume::COLUMNS),
        ("snapshots", snapshot::COLUMNS),
    ];
    for database in BOTH {
        let bed = Bed::new(database);
        let service = bed.start();
        let admin = bed.client(&service, "admin");
        for name in [json!("b"), json!("a"), Value::Null] {
            let body = json!({ "volume": { "size": 1, "name": name, "metadata": { "k": "v" } } });
            let answer = admin.post("/volumes", body);
            let id = answer.body["volume"]["id"].as_str().unwrap();
            admin.wait("volumes", id, "available");
            let body = json!({ "snapshot": { "volume_id": id, "name": name } });
            let answer = admin.post("/snapshots", body);
            let snapshot = answer.body["snapshot"]["id"].as_str().unwrap();
            admin.wait("snapshots", snapshot, "available");
            let backup = admin.back_up(id, json!({ "name": name }));
            admin.wait("backups", &backup, "available");
        }
        for (collection, columns) in lists {
            for column in columns {
                for value in values(column.kind) {
                    ids(
                        &admin,
                        &format!("/{collection}?{}={value}", column.name),
                        collection,
                    );
                }
                if column.kind == Kind::Map {
                    continue;
                }
                for direction in ["asc", "desc"] {
                    let sorted = format!("/{collection}?sort={}:{direction}", column.name);
                    let whole = ids(&admin, &sorted, collection);
                    assert_eq!(whole.len(), 3, "{sorted}");
                    let mut joined = ids(&admin, &format!("{sorted}&limit=1"), collection);
                    while let Some(last) = joined.last() {
                        let next = format!("{sorted}&limit=1&marker={last}");
                        match ids(&admin, &next, collection).pop() {
                            Some(id) => joined.push(id),
                            None => break,
                        }
                    }
                    assert_eq!(joined, whole, "{database:?}: {sorted}");
                }
            }
            let found = |query: &str| ids(&admin, &format!("/{collection}?{query}"), collection);
            assert_eq!(found("name=a").len(), 1, "{collection}");
            assert_eq!(found("name~=A").len(), 1, "{collection}");
            assert_eq!(found("color=red").len(), 0, "{collection}");
            assert_eq!(
                found("created_at=gt:2000-01-01T00:00:00").len(),
                3,
                "{collection}"
            );
        }
        assert_eq!(admin.get("/backups?name=%00").status, 400);
        assert_eq!(admin.get("/backups/%00").status, 400);
        let named = ids(&admin, "/volumes?metadata=%7B'k':'v'%7D", "volumes");
        assert_eq!(named.len(), 3);
        for other in ["'k':'%25'", "'k':'V'", "'K':'v'", "'k':'_'"] {
            let place = format!("/volumes?metadata=%7B{other}%7D");
            let found = ids(&admin, &place, "volumes");
            assert!(found.is_empty(), "{database:?}: {other}");
        }
    }
}
