//! First start, second start, wrong starts; the other commands.

use crate::support::{
    Answer, Bed, Database, GIBIBYTE, MEBIBYTE, digest_file, noise, without_settings,
};
use serde_json::json;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

fn refused(bed: &Bed) -> String {
    let mut command = bed.command(&["serve", "--listen", "127.0.0.1:0"]);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn the_first_start_makes_everything_private_and_the_second_finds_it() {
    let bed = Bed::new(Database::Sqlite);
    let service = bed.start();
    for file in [
        "clouds.yaml",
        "keys/master.key",
        "keys/users.toml",
        "embervault.db",
    ] {
        let mode = std::fs::metadata(bed.data().join(file))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    let demo = bed.client(&service, "demo");
    let volume = demo.create_volume(1);
    let clouds = std::fs::read_to_string(bed.data().join("clouds.yaml")).unwrap();
    assert!(
        clouds.contains("embervault:") && clouds.contains("embervault-admin:"),
        "{clouds}"
    );
    assert!(refused(&bed).contains("another embervault is running on it"));
    assert!(service.terminate());
    let service = bed.start();
    let demo = bed.client(&service, "demo");
    assert_eq!(demo.get(&format!("/volumes/{volume}")).status, 200);
    assert!(service.terminate());
    let log = bed.log();
    for secret in std::fs::read_to_string(bed.data().join("keys/users.toml"))
        .unwrap()
        .lines()
    {
        if let Some(password) = secret.strip_prefix("password = ") {
            assert!(
                !log.contains(password.trim_matches('"')),
                "a password is in the log"
            );
        }
    }
}

#[test]
fn a_wrong_missing_or_foreign_key_or_storage_is_refused_with_the_reason() {
    let bed = Bed::new(Database::Sqlite);
    let service = bed.start();
    let demo = bed.client(&service, "demo");
    let backup = demo.back_up(&demo.create_volume(1), json!({}));
    demo.wait("backups", &backup, "available");
    assert!(service.terminate());
    let key = bed.data().join("keys/master.key");
    let right = std::fs::read_to_string(&key).unwrap();
    std::fs::remove_file(&key).unwrap();
    assert!(refused(&bed).contains("it is missing, but backups exist that need it"));
    std::fs::write(&key, "0".repeat(64)).unwrap();
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    assert!(refused(&bed).contains("it is not the one that storage \"local\" was used with"));
    std::fs::write(&key, "rubbish").unwrap();
    assert!(refused(&bed).contains("must be 64 hexadecimal digits"));
    std::fs::write(&key, &right).unwrap();
    std::fs::rename(bed.storage(), bed.dir.path().join("moved")).unwrap();
    assert!(refused(&bed).contains("it is empty, but this database knows vaults in it"));
    std::fs::remove_dir_all(bed.storage()).unwrap();
    std::fs::rename(bed.dir.path().join("moved"), bed.storage()).unwrap();
    let format = bed.storage().join("format.json");
    let other = std::fs::read_to_string(&format).unwrap();
    let id = serde_json::from_str::<serde_json::Value>(&other).unwrap();
    let other = other.replace(id["storage"].as_str().unwrap(), "another");
    std::fs::write(&format, other).unwrap();
    assert!(refused(&bed).contains("it is not the storage this database knows"));
    std::fs::write(&format, "{}").unwrap();
    assert!(refused(&bed).contains("format.json is corrupt"));
}

#[test]
fn settings_are_printed_without_secrets_and_mistakes_are_named() {
    let mut bed = Bed::new(Database::Sqlite);
    bed.set(
        "IDENTITY__USERS",
        r#"[{name="a", password="hunter2", project="a", role="member"}]"#,
    );
    let print = bed.command(&["config", "print"]).output().unwrap();
    let text = String::from_utf8(print.stdout).unwrap();
    assert!(
        print.status.success() && text.contains("[engine]"),
        "{text}"
    );
    assert!(!text.contains("hunter2"), "{text}");
    bed.set("ENGINE__PACKBYTES", "1 MiB");
    let print = bed.command(&["config", "print"]).output().unwrap();
    let text = String::from_utf8(print.stderr).unwrap();
    assert!(
        !print.status.success() && text.contains("did you mean `pack_bytes`?"),
        "{text}"
    );
}

#[test]
fn the_readme_shows_the_default_settings() {
    let readme =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let (_, rest) = readme.split_once("```toml\n").unwrap();
    let (settings, _) = rest.split_once("```").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("embervault.toml");
    std::fs::write(&file, settings).unwrap();
    let print = |arguments: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_embervault"));
        without_settings(&mut command);
        let output = command
            .args(["config", "print"])
            .args(arguments)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(print(&["--config", file.to_str().unwrap()]), print(&[]));
    // The lines with `#` stand in the section that knows them, and each of them is in force once its `#` is gone.
    let secret = dir.path().join("secret");
    std::fs::write(&secret, "x").unwrap();
    let all = settings
        .replace("\n# ", "\n")
        .replace("/etc/embervault/s3-secret", secret.to_str().unwrap());
    std::fs::write(&file, &all).unwrap();
    let printed = print(&["--config", file.to_str().unwrap()]);
    let wanted: toml::Table = all.parse().unwrap();
    let effective: toml::Table = printed.parse().unwrap();
    let keys = keys_in_force(&wanted, &effective, "");
    for key in [
        "api.proxy_headers",
        "api.cors",
        "database.url",
        "jobs.worker",
    ] {
        assert!(keys.iter().any(|known| known.starts_with(key)), "{keys:?}");
    }
    assert!(printed.contains("proxy_headers = true"), "{printed}");
}

/// The paths of all settings of a file; fails at one that is not among the effective ones.
fn keys_in_force(wanted: &toml::Table, effective: &toml::Table, above: &str) -> Vec<String> {
    let mut keys = Vec::new();
    for (key, value) in wanted {
        let path = format!("{above}{key}");
        let found = effective
            .get(key)
            .unwrap_or_else(|| panic!("{path} is not in force"));
        match (value, found) {
            (toml::Value::Table(wanted), toml::Value::Table(found)) => {
                keys.extend(keys_in_force(wanted, found, &format!("{path}.")));
            }
            _ => keys.push(path),
        }
    }
    keys
}

#[test]
fn images_go_in_and_out_of_volumes() {
    let bed = Bed::new(Database::Sqlite);
    let service = bed.start();
    let demo = bed.client(&service, "demo");
    let volume = demo.create_volume(1);
    demo.write(&volume, &[(900 * MEBIBYTE, noise(9, MEBIBYTE))]);
    let image = bed.dir.path().join("image");
    let mut bytes = noise(1, 3 * MEBIBYTE + 777);
    bytes[MEBIBYTE as usize..2 * MEBIBYTE as usize].fill(0);
    std::fs::write(&image, &bytes).unwrap();
    let run = |arguments: &[&str]| bed.command(arguments).output().unwrap();
    let path = image.to_str().unwrap();
    let done = run(&["volume", "import", "--volume", &volume, path]);
    assert!(
        done.status.success(),
        "{}",
        String::from_utf8_lossy(&done.stderr)
    );
    demo.wait("volumes", &volume, "available");
    let exported = bed.dir.path().join("exported");
    let done = run(&[
        "volume",
        "export",
        "--volume",
        &volume,
        exported.to_str().unwrap(),
    ]);
    assert!(
        done.status.success(),
        "{}",
        String::from_utf8_lossy(&done.stderr)
    );
    let found = std::fs::read(&exported).unwrap();
    assert_eq!(found.len() as u64, GIBIBYTE);
    assert!(found[..bytes.len()] == bytes && found[bytes.len()..].iter().all(|byte| *byte == 0));

    // Through pipes, both ways.
    let mut import = bed
        .command(&["volume", "import", "--volume", &volume, "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    import
        .stdin
        .take()
        .unwrap()
        .write_all(&noise(5, MEBIBYTE))
        .unwrap();
    assert!(import.wait().unwrap().success());
    let piped = run(&["volume", "export", "--volume", &volume, "-"]);
    assert!(
        piped.stdout.len() as u64 == GIBIBYTE && piped.stdout[..1 << 20] == noise(5, MEBIBYTE)[..]
    );
    drop(piped);

    // Refusals leave the volume as it was.
    let too_large = std::fs::File::create(bed.dir.path().join("large")).unwrap();
    too_large.set_len(GIBIBYTE + 1).unwrap();
    let large = bed.dir.path().join("large");
    let done = run(&[
        "volume",
        "import",
        "--volume",
        &volume,
        large.to_str().unwrap(),
    ]);
    assert!(!done.status.success());
    demo.wait("volumes", &volume, "available");
    let (attachment, device) = demo.attach(&volume);
    let before = digest_file(&device);
    let done = run(&["volume", "import", "--volume", &volume, path]);
    let text = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(!done.status.success() && text.contains("in-use"), "{text}");
    assert_eq!(digest_file(&device), before);
    demo.detach(&attachment, &volume);
    let done = run(&["volume", "export", "--volume", "nothing", "-"]);
    assert!(String::from_utf8_lossy(&done.stderr).contains("does not exist"));
    assert!(service.terminate());
}

#[test]
fn volumes_are_extended_reset_and_described() {
    let bed = Bed::new(Database::Sqlite);
    let service = bed.start();
    let (demo, admin) = (bed.client(&service, "demo"), bed.client(&service, "admin"));
    let volume = demo.create_volume(1);
    let action = format!("/volumes/{volume}/action");
    assert_eq!(
        demo.post(&action, json!({ "os-extend": { "new_size": 1 } }))
            .status,
        400
    );
    assert_eq!(
        demo.post(&action, json!({ "os-extend": { "new_size": "2" } }))
            .status,
        202
    );
    let shown = demo.wait("volumes", &volume, "available");
    assert_eq!(shown["size"], 2);
    assert_eq!(demo.post(&action, json!({ "os-nothing": {} })).status, 400);
    let reset = json!({ "os-reset_status": { "status": "error" } });
    assert_eq!(demo.post(&action, reset.clone()).status, 403);
    let foreign = admin.send(
        "POST",
        &format!("/v3/volumes/{volume}/action"),
        Some(reset.to_string()),
    );
    assert_eq!(foreign.status, 202);
    assert_eq!(
        demo.get(&format!("/volumes/{volume}")).body["volume"]["status"],
        "error"
    );
    let metadata = format!("/volumes/{volume}/metadata");
    assert_eq!(
        demo.post(&metadata, json!({ "metadata": { "a": "1", "b": "2" } }))
            .status,
        200
    );
    assert_eq!(demo.delete(&format!("{metadata}/a")).status, 200);
    assert_eq!(
        demo.get(&metadata).body,
        json!({ "metadata": { "b": "2" } })
    );
    assert_eq!(
        demo.put(&format!("{metadata}/c"), json!({ "meta": { "c": "3" } }))
            .status,
        200
    );
    assert_eq!(
        demo.get(&format!("{metadata}/c")).body,
        json!({ "meta": { "c": "3" } })
    );
    assert_eq!(demo.get(&format!("{metadata}/nothing")).status, 404);
    assert_eq!(demo.delete(&format!("/volumes/{volume}")).status, 202);
    demo.wait_gone(&format!("/volumes/{volume}"));
    for path in [
        "/types",
        "/types/default",
        "/os-availability-zone",
        "/limits",
        "/extensions",
        "/resource_filters",
        "/attachments",
        "/snapshots/detail",
    ] {
        assert_eq!(demo.get(path).status, 200, "{path}");
    }
    assert_eq!(
        demo.get("/types/default").body["volume_type"]["name"],
        "__DEFAULT__"
    );
    assert_eq!(demo.get("/os-services").status, 403);
    assert_eq!(
        admin.get("/os-services?binary=cinder-backup").body["services"][0]["state"],
        "up"
    );
}

#[test]
fn a_refused_deletion_takes_no_snapshot_and_another_takes_all() {
    let bed = Bed::new(Database::Sqlite);
    let service = bed.start();
    let (demo, admin) = (bed.client(&service, "demo"), bed.client(&service, "admin"));
    let id = |answer: Answer, key: &str| answer.body[key]["id"].as_str().unwrap().to_owned();
    let volume = demo.create_volume(1);
    let body = json!({ "snapshot": { "volume_id": volume } });
    let snapshot = id(demo.post("/snapshots", body), "snapshot");
    demo.wait("snapshots", &snapshot, "available");
    let place = format!("/volumes/{volume}?cascade=true");
    let refused = |why: &str| {
        let said = demo.delete(&place).fault(400);
        assert!(said.contains("must not be migrating"), "{why}: {said}");
        let shown = demo.get(&format!("/snapshots/{snapshot}")).body;
        assert_eq!(shown["snapshot"]["status"], "available", "{why}");
    };

    let (attachment, _) = demo.attach(&volume);
    refused("it is in use");
    demo.detach(&attachment, &volume);

    let body = json!({ "transfer": { "volume_id": volume } });
    let offered = id(demo.post("/volume-transfers", body), "transfer");
    refused("it is offered");
    assert_eq!(
        demo.delete(&format!("/volume-transfers/{offered}")).status,
        202
    );

    let body = json!({ "group_type": { "name": "g" } });
    let group_type = id(admin.post("/group_types", body), "group_type");
    let types = demo.get("/types").body;
    let body = json!({ "group": { "group_type": group_type, "volume_types": [types["volume_types"][0]["id"]] } });
    let group = id(demo.post("/groups", body), "group");
    let change = |what: &str| {
        let body = json!({ "group": { what: volume } });
        let changed = demo.put(&format!("/groups/{group}"), body);
        assert_eq!(changed.status, 202, "{}", changed.body);
    };
    change("add_volumes");
    refused("it is in a group");
    change("remove_volumes");

    assert_eq!(demo.delete(&place).status, 202);
    demo.wait_gone(&format!("/volumes/{volume}"));
    demo.wait_gone(&format!("/snapshots/{snapshot}"));
}
