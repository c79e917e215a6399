//! Requests that come while another transaction, which the test holds open, is changing what they depend on. On
//! PostgreSQL: SQLite has one writer.

mod given_away;

use crate::support::{Answer, Bed, Client, Database, Service, until};
use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::sql_types::BigInt;
use embervault::clock::Clock;
use embervault::config::{Config, DataDir};
use embervault::db::Db;
use embervault::model::id::{JobId, VolumeId};
use embervault::model::job::Lease;
use embervault::volume::catalog::standalone::Standalone;
use serde_json::{Value, json};
use std::time::Duration;

#[derive(QueryableByName)]
struct Waiting {
    #[diesel(sql_type = BigInt)]
    count: i64,
}

const NOTHING: &str = "SELECT 1";

/// Asks while a transaction has a lock and has done something. Once the asker waits, or has its answer already, the
/// transaction does the rest and is committed.
fn beside<T: Send>(
    url: &str,
    lock: &str,
    [done, rest]: [&str; 2],
    ask: impl FnOnce() -> T + Send,
) -> T {
    let mut other = PgConnection::establish(url).unwrap();
    let mut watcher = PgConnection::establish(url).unwrap();
    other.batch_execute("BEGIN").unwrap();
    let lock = format!("SELECT pg_advisory_xact_lock(hashtext('{lock}'))");
    other.batch_execute(&lock).unwrap();
    other.batch_execute(done).unwrap();
    std::thread::scope(|scope| {
        let asked = scope.spawn(ask);
        let mut is_waiting = || {
            let query = "SELECT COUNT(*) AS count FROM pg_locks WHERE NOT granted";
            let waiting: Waiting = diesel::sql_query(query).get_result(&mut watcher).unwrap();
            waiting.count > 0
        };
        while !asked.is_finished() && !is_waiting() {
            std::thread::sleep(Duration::from_millis(5));
        }
        other.batch_execute(rest).unwrap();
        other.batch_execute("COMMIT").unwrap();
        asked.join().unwrap()
    })
}

/// A service on PostgreSQL, and its users.
struct Scene {
    bed: Bed,
    _service: Service,
    demo: Client,
    admin: Client,
}

impl Scene {
    fn new() -> Self {
        Self::of(Bed::new(Database::Postgres))
    }

    /// Where the service takes no job for lost while the test is at work.
    fn patient() -> Self {
        let mut bed = Bed::new(Database::Postgres);
        bed.set("JOBS__LEASE", "300s");
        Self::of(bed)
    }

    fn of(bed: Bed) -> Self {
        let service = bed.start();
        Self {
            demo: bed.client(&service, "demo"),
            admin: bed.client(&service, "admin"),
            _service: service,
            bed,
        }
    }

    fn url(&self) -> String {
        self.bed.postgres.as_ref().unwrap().url()
    }

    fn execute(&self, text: &str) {
        let mut connection = PgConnection::establish(&self.url()).unwrap();
        connection.batch_execute(text).unwrap();
    }

    /// The number that a query with one `count` gives.
    fn count(&self, query: &str) -> i64 {
        let mut connection = PgConnection::establish(&self.url()).unwrap();
        let found: Waiting = diesel::sql_query(query)
            .get_result(&mut connection)
            .unwrap();
        found.count
    }

    fn beside<T: Send>(&self, lock: &str, done: &str, ask: impl FnOnce() -> T + Send) -> T {
        beside(&self.url(), lock, [done, NOTHING], ask)
    }

    fn snapshot(&self, volume: &str) -> String {
        let body = json!({ "snapshot": { "volume_id": volume, "force": true } });
        let id = id_in(&self.demo.post("/snapshots", body), "snapshot");
        self.demo.wait("snapshots", &id, "available");
        id
    }

    /// A group with one volume.
    fn group(&self) -> (String, String) {
        let body = json!({ "group_type": { "name": format!("g{}", JobId::random()) } });
        let group_type = id_in(&self.admin.post("/group_types", body), "group_type");
        let types = self.demo.get("/types").body;
        let volume_type = types["volume_types"][0]["id"].clone();
        let body = json!({ "group": { "group_type": group_type, "volume_types": [volume_type] } });
        let group = id_in(&self.demo.post("/groups", body), "group");
        let volume = self.demo.create_volume(1);
        let body = json!({ "group": { "add_volumes": volume } });
        let added = self.demo.put(&format!("/groups/{group}"), body);
        assert_eq!(added.status, 202, "{}", added.body);
        (group, volume)
    }

    fn act(&self, client: &Client, volume: &str, action: Value) -> Answer {
        client.post(&format!("/volumes/{volume}/action"), action)
    }

    fn status_of(&self, volume: &str) -> String {
        let shown = self.demo.get(&format!("/volumes/{volume}")).body;
        shown["volume"]["status"].as_str().unwrap().to_owned()
    }
}

fn id_in(answer: &Answer, key: &str) -> String {
    let id = answer.body[key]["id"].as_str();
    id.unwrap_or_else(|| panic!("{}", answer.body)).to_owned()
}

/// A snapshot of a volume in some state.
fn snapshotted(volume: &str, status: &str) -> String {
    format!(
        "INSERT INTO snapshots (id, volume_id, project_id, user_id, size_gib, status, metadata, created_at) \
         SELECT gen_random_uuid()::text, id, project_id, user_id, size_gib, '{status}', '{{}}', created_at \
         FROM volumes WHERE id = '{volume}'"
    )
}

/// A volume that is being made like another one, from it or from a snapshot.
fn copied(volume: &str, column: &str, source: &str) -> String {
    format!(
        "INSERT INTO volumes (id, project_id, user_id, size_gib, status, volume_type_id, bootable, {column}, \
         availability_zone, metadata, created_at) \
         SELECT gen_random_uuid()::text, project_id, user_id, size_gib, 'creating', volume_type_id, FALSE, '{source}', \
         availability_zone, '{{}}', created_at FROM volumes WHERE id = '{volume}'"
    )
}

#[test]
fn nothing_is_imported_into_a_volume_that_is_being_snapshotted() {
    let scene = Scene::new();
    let volume = scene.demo.create_volume(1);
    let image = scene.bed.dir.path().join("image");
    std::fs::write(&image, [7; 4096]).unwrap();
    let mut import = scene
        .bed
        .command(&["volume", "import", "--volume", &volume]);
    import.arg(&image);
    let done = snapshotted(&volume, "creating");
    let output = scene.beside(&volume, &done, || import.output().unwrap());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("copy"), "{said}");
}

#[test]
fn no_volume_is_deleted_whose_snapshot_has_just_been_made() {
    let scene = Scene::new();
    let (demo, admin) = (&scene.demo, &scene.admin);
    for how in ["plainly", "with its snapshots", "by force"] {
        let volume = demo.create_volume(1);
        let ask = || match how {
            "plainly" => demo.delete(&format!("/volumes/{volume}")),
            "with its snapshots" => demo.delete(&format!("/volumes/{volume}?cascade=true")),
            _ => scene.act(admin, &volume, json!({ "os-force_delete": {} })),
        };
        let answer = scene.beside(&volume, &snapshotted(&volume, "available"), ask);
        if how == "with its snapshots" {
            // It is one of them.
            assert_eq!(answer.status, 202, "{}", answer.body);
            demo.wait_gone(&format!("/volumes/{volume}"));
            until("its snapshots are gone", || {
                let left = demo.get(&format!("/snapshots?volume_id={volume}")).body;
                (left["snapshots"] == json!([])).then_some(())
            });
            continue;
        }
        assert_eq!(answer.status, 400, "{how}: {}", answer.body);
        assert_eq!(scene.status_of(&volume), "available", "{how}");
    }
    let (group, volume) = scene.group();
    let body = json!({ "delete": { "delete-volumes": true } });
    let ask = || demo.post(&format!("/groups/{group}/action"), body);
    let answer = scene.beside(&volume, &snapshotted(&volume, "available"), ask);
    assert_eq!(answer.status, 400, "{}", answer.body);
}

#[test]
fn no_group_is_deleted_while_one_of_its_volumes_is_copied() {
    let scene = Scene::new();
    let demo = &scene.demo;
    let (group, volume) = scene.group();
    let done = copied(&volume, "source_volume_id", &volume);
    let delete = || {
        let body = json!({ "delete": { "delete-volumes": true } });
        demo.post(&format!("/groups/{group}/action"), body)
    };
    let answer = scene.beside(&volume, &done, delete);
    assert_eq!(answer.status, 400, "{}", answer.body);
    scene.execute("DELETE FROM volumes WHERE source_volume_id IS NOT NULL");
    assert_eq!(delete().status, 202);
}

#[test]
fn no_group_snapshot_is_deleted_while_a_volume_is_made_from_it() {
    let scene = Scene::new();
    let demo = &scene.demo;
    let (group, volume) = scene.group();
    let body = json!({ "group_snapshot": { "group_id": group } });
    let taken = id_in(&demo.post("/group_snapshots", body), "group_snapshot");
    demo.wait("group_snapshots", &taken, "available");
    let snapshots = demo.get("/snapshots").body;
    let snapshot = snapshots["snapshots"][0]["id"].as_str().unwrap();
    let done = copied(&volume, "snapshot_id", snapshot);
    let place = format!("/group_snapshots/{taken}");
    let answer = scene.beside(snapshot, &done, || demo.delete(&place));
    assert_eq!(answer.status, 400, "{}", answer.body);
    scene.execute("DELETE FROM volumes WHERE snapshot_id IS NOT NULL");
    assert_eq!(demo.delete(&place).status, 202);
    demo.wait_gone(&place);
}

#[test]
fn a_snapshot_is_not_deleted_under_a_volume_that_is_made_from_it() {
    let scene = Scene::new();
    let demo = &scene.demo;
    let volume = demo.create_volume(1);
    let snapshot = scene.snapshot(&volume);
    let done = copied(&volume, "snapshot_id", &snapshot);
    let place = format!("/snapshots/{snapshot}");
    let answer = scene.beside(&snapshot, &done, || demo.delete(&place));
    assert_eq!(answer.status, 400, "{}", answer.body);

    let done = format!("UPDATE snapshots SET status = 'deleting' WHERE id = '{snapshot}'");
    let body = json!({ "volume": { "size": 1, "snapshot_id": snapshot } });
    let answer = scene.beside(&snapshot, &done, || demo.post("/volumes", body));
    assert_eq!(answer.status, 409, "{}", answer.body);
}

#[test]
fn the_last_of_two_attachments_that_end_at_once_makes_the_volume_available() {
    let scene = Scene::new();
    let demo = &scene.demo;
    for how in ["attachment", "action"] {
        let volume = demo.create_volume(1);
        let body = json!({ "attachment": { "volume_uuid": volume } });
        let reserved = id_in(&demo.post("/attachments", body), "attachment");
        let by_hand = json!({ "os-attach": { "mountpoint": "/dev/vdb", "host_name": "h" } });
        assert_eq!(scene.act(demo, &volume, by_hand).status, 202);
        let other =
            format!("DELETE FROM attachments WHERE volume_id = '{volume}' AND id <> '{reserved}'");
        let ask = || match how {
            "attachment" => demo.delete(&format!("/attachments/{reserved}")),
            _ => {
                let body = json!({ "os-detach": { "attachment_id": reserved } });
                scene.act(demo, &volume, body)
            }
        };
        let answer = scene.beside(&volume, &other, ask);
        assert!(answer.status < 300, "{how}: {}", answer.body);
        assert_eq!(scene.status_of(&volume), "available", "{how}");
    }
}

#[test]
fn a_volume_is_not_detached_while_a_backup_takes_it() {
    let scene = Scene::new();
    let demo = &scene.demo;
    for how in ["attachment", "action"] {
        let volume = demo.create_volume(1);
        let (attachment, _) = demo.attach(&volume);
        let done = format!(
            "UPDATE volumes SET status = 'backing-up', previous_status = 'in-use' WHERE id = '{volume}'"
        );
        let ask = || match how {
            "attachment" => demo.delete(&format!("/attachments/{attachment}")),
            _ => {
                let body = json!({ "os-detach": { "attachment_id": attachment } });
                scene.act(demo, &volume, body)
            }
        };
        let answer = scene.beside(&volume, &done, ask);
        let refused = answer.fault(400);
        assert!(refused.contains("backed up"), "{how}: {refused}");
    }
}

#[test]
fn a_backup_that_ends_while_its_volume_is_detached_leaves_it_available() {
    let scene = Scene::patient();
    let volume = scene.demo.create_volume(1);
    let (attachment, _) = scene.demo.attach(&volume);
    let job_id = JobId::random();
    scene.execute(&format!(
        "UPDATE volumes SET status = 'backing-up', previous_status = 'in-use', reserved_by = '{job_id}#1' \
         WHERE id = '{volume}'"
    ));
    let config = Config {
        data_dir: DataDir(scene.bed.data()),
        ..Config::default()
    };
    let db = Db::open(&scene.url()).unwrap();
    let catalog = Standalone::open(db, Clock::System, &config).unwrap();
    let lease = Lease { job_id, attempt: 1 };
    let done = format!("DELETE FROM attachments WHERE id = '{attachment}'");
    let id = VolumeId::new(&volume);
    let ended = scene.beside(&volume, &done, || {
        catalog.end_backup(&lease, &id, None, true)
    });
    ended.unwrap();
    assert_eq!(scene.status_of(&volume), "available");
}

#[test]
fn a_volume_is_offered_only_as_its_snapshots_are_now() {
    let scene = Scene::new();
    let volume = scene.demo.create_volume(1);
    let body = json!({ "transfer": { "volume_id": volume } });
    let done = snapshotted(&volume, "creating");
    let ask = || scene.demo.post("/volume-transfers", body);
    let answer = scene.beside(&volume, &done, ask);
    assert_eq!(answer.status, 400, "{}", answer.body);
}

#[test]
fn two_first_starts_make_one_default_type() {
    let scene = Scene::new();
    scene.execute("UPDATE volume_types SET name = 'other'");
    let config = Config {
        data_dir: DataDir(scene.bed.data()),
        ..Config::default()
    };
    let db = Db::open(&scene.url()).unwrap();
    let done = "INSERT INTO volume_types (id, name, is_public, extra_specs, created_at) \
                VALUES ('t', '__DEFAULT__', TRUE, '{}', 1)";
    let opened = scene.beside("volume types", done, || {
        Standalone::open(db, Clock::System, &config)
    });
    let found = opened.unwrap().default_type().unwrap();
    assert_eq!(found.id.as_str(), "t");
}

#[test]
fn a_project_is_disabled_in_the_order_in_which_it_is_removed() {
    let scene = Scene::new();
    let token = scene.admin.clone();
    let body = json!({ "project": { "name": "p" } });
    let made = token.send("POST", "/identity/v3/projects", Some(body.to_string()));
    let project = id_in(&made, "project");
    let place = format!("/identity/v3/projects/{project}");
    let body = json!({ "project": { "enabled": false } }).to_string();
    // What a removal does: it has the lock of tokens, and then takes the row.
    let row = format!(
        "SET LOCAL lock_timeout = '300ms'; \
         UPDATE projects SET generation = generation + 1 WHERE id = '{project}'"
    );
    let answer = beside(&scene.url(), "tokens", [NOTHING, &row], || {
        token.send("PATCH", &place, Some(body))
    });
    assert_eq!(answer.status, 200, "{}", answer.body);
}

#[test]
fn a_volume_type_is_not_deleted_under_a_new_volume_or_group() {
    let scene = Scene::new();
    let demo = &scene.demo;
    let volume = demo.create_volume(1);
    for how in ["volume", "group", "retype"] {
        let body = json!({ "volume_type": { "name": how } });
        let id = id_in(&scene.admin.post("/types", body), "volume_type");
        let body = json!({ "group_type": { "name": format!("for {how}") } });
        let group_type = id_in(&scene.admin.post("/group_types", body), "group_type");
        let ask = || match how {
            "volume" => {
                let body = json!({ "volume": { "size": 1, "volume_type": id } });
                demo.post("/volumes", body)
            }
            "group" => {
                let body = json!({ "group": { "group_type": group_type, "volume_types": [id] } });
                demo.post("/groups", body)
            }
            _ => {
                let body = json!({ "os-retype": { "new_type": id, "migration_policy": "never" } });
                scene.act(demo, &volume, body)
            }
        };
        let done = format!("DELETE FROM volume_types WHERE id = '{id}'");
        let answer = scene.beside("volume types", &done, ask);
        let refused = if how == "group" { 404 } else { 409 };
        assert_eq!(answer.status, refused, "{how}: {}", answer.body);
    }
}

#[test]
fn a_volume_that_a_backup_takes_is_not_retyped() {
    let scene = Scene::new();
    let demo = &scene.demo;
    let volume = demo.create_volume(1);
    let body = json!({ "volume_type": { "name": "other" } });
    let other_type = id_in(&scene.admin.post("/types", body), "volume_type");
    let done = format!("UPDATE volumes SET status = 'backing-up' WHERE id = '{volume}'");
    let body = json!({ "os-retype": { "new_type": other_type, "migration_policy": "never" } });
    let answer = scene.beside(&volume, &done, || scene.act(demo, &volume, body));
    assert!(answer.fault(400).contains("backing-up"));
}

#[test]
fn no_volume_type_has_qos_specs_that_are_gone() {
    let scene = Scene::new();
    let admin = &scene.admin;
    let made = |name: &str| {
        let body = json!({ "volume_type": { "name": name } });
        let volume_type = id_in(&admin.post("/types", body), "volume_type");
        let body = json!({ "qos_specs": { "name": name } });
        (
            volume_type,
            id_in(&admin.post("/qos-specs", body), "qos_specs"),
        )
    };
    let (volume_type, specs) = made("deleted meanwhile");
    let done = format!("DELETE FROM records WHERE id = '{specs}'");
    let place = format!("/qos-specs/{specs}/associate?vol_type_id={volume_type}");
    let answer = scene.beside("volume types", &done, || admin.get(&place));
    assert_eq!(answer.status, 404, "{}", answer.body);

    let (volume_type, specs) = made("given meanwhile");
    let done =
        format!("UPDATE volume_types SET qos_specs_id = '{specs}' WHERE id = '{volume_type}'");
    let place = format!("/qos-specs/{specs}");
    let answer = scene.beside("volume types", &done, || admin.delete(&place));
    assert_eq!(answer.status, 400, "{}", answer.body);
    assert_eq!(admin.delete(&format!("{place}?force=true")).status, 202);
    let left = "SELECT COUNT(*) AS count FROM volume_types WHERE qos_specs_id IS NOT NULL";
    assert_eq!(scene.count(left), 0);
}

#[test]
fn a_user_who_has_just_been_deleted_gets_no_credential() {
    let scene = Scene::new();
    let users = scene
        .admin
        .send("GET", "/identity/v3/users?name=demo", None);
    let user = users.body["users"][0]["id"].as_str().unwrap();
    let done = ["tokens", "assignments", "users"].map(|table| {
        let column = if table == "users" { "id" } else { "user_id" };
        format!("DELETE FROM {table} WHERE {column} = '{user}'; ")
    });
    let place = format!("/identity/v3/users/{user}/application_credentials");
    let body = json!({ "application_credential": { "name": "left" } }).to_string();
    let answer = scene.beside(user, &done.concat(), || {
        scene.demo.send("POST", &place, Some(body))
    });
    assert_eq!(answer.status, 404, "{}", answer.body);
    let left = "SELECT COUNT(*) AS count FROM application_credentials";
    assert_eq!(scene.count(left), 0);
}
