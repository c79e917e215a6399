//! What operators meet: variables, secrets, the file of the database, images.

use crate::support::{Bed, Database, Postgres, noise};
use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

fn output(bed: &Bed, arguments: &[&str]) -> Output {
    bed.command(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn variables_of_kubernetes_are_ignored_with_one_warning() {
    let mut bed = Bed::new(Database::Sqlite);
    bed.set("PORT", "tcp://10.0.0.1:8776");
    bed.set("PORT_8776_TCP_ADDR", "10.0.0.1");
    bed.set("SERVICE_HOST", "10.0.0.1");
    assert!(bed.start().terminate());
    let log = bed.log();
    assert_eq!(log.matches("EMBERVAULT_SERVICE_HOST").count(), 1, "{log}");
    let printed = output(&bed, &["config", "print"]);
    assert!(printed.status.success(), "{}", text(&printed.stderr));
    assert!(text(&printed.stderr).contains("EMBERVAULT_PORT_8776_TCP_ADDR"));
    // A mistake in the name of a setting is still an error.
    bed.set("JOBS__LEESE", "3s");
    assert!(!output(&bed, &["config", "print"]).status.success());
}

#[test]
fn no_output_shows_the_password_of_a_url() {
    let mut bed = Bed::new(Database::Sqlite);
    // Nothing listens there.
    for url in [
        "postgresql://u:hunter2@127.0.0.1:1/n?sslpassword=hunter2",
        "postgresql://u:hunter2/@127.0.0.1:1/n",
        "mysql://u:hunter2@127.0.0.1/n",
    ] {
        bed.set("DATABASE__URL", url);
        for command in [
            &["config", "print"][..],
            &["serve", "--listen", "127.0.0.1:0"],
            &["db", "status"],
            &["vault", "usage"],
            &["volume", "export", "--volume", "v", "-"],
        ] {
            let shown = output(&bed, command);
            let shown = text(&shown.stdout) + &text(&shown.stderr);
            assert!(!shown.contains("hunter2"), "{command:?}: {shown}");
        }
    }
    bed.set("DATABASE__URL", "postgresql://u:hunter2@127.0.0.1:1/n");
    let shown = text(&output(&bed, &["config", "print"]).stdout);
    assert!(
        shown.contains("postgresql://u:<hidden>@127.0.0.1:1/n"),
        "{shown}"
    );
}

/// A file that is no database of ours is refused at once, by name, and stays as it is.
#[test]
fn a_damaged_or_foreign_database_is_refused_at_once() {
    let bed = Bed::new(Database::Sqlite);
    assert!(bed.start().terminate());
    let path = bed.data().join("embervault.db");
    for end in ["-wal", "-shm"] {
        std::fs::remove_file(bed.data().join(format!("embervault.db{end}"))).ok();
    }
    let sound = std::fs::read(&path).unwrap();
    let mut holed = sound.clone();
    let middle = holed.len() / 4096 / 2 * 4096;
    holed[4096..middle].fill(0xa5);
    let other = bed.dir.path().join("other");
    SqliteConnection::establish(other.to_str().unwrap())
        .unwrap()
        .batch_execute("CREATE TABLE notes (text TEXT); INSERT INTO notes VALUES ('mine')")
        .unwrap();
    let theirs = bed.dir.path().join("theirs");
    SqliteConnection::establish(theirs.to_str().unwrap())
        .unwrap()
        .batch_execute(
            "CREATE TABLE __diesel_schema_migrations (version TEXT PRIMARY KEY, run_on TEXT); \
             INSERT INTO __diesel_schema_migrations (version) VALUES ('20200101000000')",
        )
        .unwrap();
    let damaged = "vault rebuild";
    let foreign = "tables of another program";
    for (bytes, expected) in [
        (noise(1, 20_000), damaged),
        (b"# a text file, no database\n".repeat(100), damaged),
        (sound[..sound.len() / 2].to_vec(), damaged),
        (holed, damaged),
        (std::fs::read(&other).unwrap(), foreign),
        (std::fs::read(&theirs).unwrap(), foreign),
    ] {
        std::fs::write(&path, &bytes).unwrap();
        for command in [
            &["serve", "--listen", "127.0.0.1:0"][..],
            &["vault", "gc"],
            &["db", "status"],
        ] {
            let started = Instant::now();
            let refused = output(&bed, command);
            let took = started.elapsed();
            let shown = text(&refused.stderr);
            assert!(!refused.status.success(), "{command:?}");
            assert!(
                shown.contains("embervault.db") && shown.contains(expected),
                "{command:?}: {shown}"
            );
            assert!(shown.lines().count() <= 2, "{command:?}: {shown}");
            assert!(took < Duration::from_secs(5), "{command:?}: {took:?}");
        }
        assert!(
            std::fs::read(&path).unwrap() == bytes,
            "the file was changed"
        );
    }
    std::fs::write(&path, &sound).unwrap();
    assert!(bed.start().terminate());
}

#[test]
fn the_database_is_copied_while_it_is_used() {
    let bed = Bed::new(Database::Sqlite);
    let service = bed.start();
    let demo = bed.client(&service, "demo");
    let volume = demo.create_volume(1);
    let file = bed.dir.path().join("copy");
    let name = file.to_str().unwrap();
    let done = output(&bed, &["db", "backup", name]);
    assert!(done.status.success(), "{}", text(&done.stderr));
    let mode = std::fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let before = std::fs::read(&file).unwrap();
    let later = demo.create_volume(1);
    let refused = output(&bed, &["db", "backup", name]);
    assert!(!refused.status.success());
    assert!(
        text(&refused.stderr).contains("--force"),
        "{}",
        text(&refused.stderr)
    );
    assert!(std::fs::read(&file).unwrap() == before);
    let nowhere = output(&bed, &["db", "backup", "/nowhere/at/all"]);
    assert!(!nowhere.status.success());
    assert!(text(&nowhere.stderr).contains("/nowhere/at/all"));
    service.kill();
    // The copy is the whole database as it was then.
    let database = bed.data().join("embervault.db");
    for end in ["", "-wal", "-shm"] {
        std::fs::remove_file(format!("{}{end}", database.display())).ok();
    }
    std::fs::copy(&file, &database).unwrap();
    let service = bed.start();
    let demo = bed.client(&service, "demo");
    assert_eq!(demo.get(&format!("/volumes/{volume}")).status, 200);
    assert_eq!(demo.get(&format!("/volumes/{later}")).status, 404);
    let replaced = output(&bed, &["db", "backup", "--force", name]);
    assert!(replaced.status.success(), "{}", text(&replaced.stderr));
    let left: Vec<_> = std::fs::read_dir(bed.dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .filter(|name| name.to_string_lossy().contains("partial"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn postgresql_makes_its_own_copies() {
    let postgres = Postgres::start();
    let mut bed = Bed::new(Database::Sqlite);
    bed.set("DATABASE__URL", &postgres.url());
    let file = bed.dir.path().join("copy");
    let refused = output(&bed, &["db", "backup", file.to_str().unwrap()]);
    assert!(!refused.status.success() && !file.exists());
    assert!(
        text(&refused.stderr).contains("pg_dump"),
        "{}",
        text(&refused.stderr)
    );
}

#[test]
fn images_that_are_not_raw_do_not_reach_a_volume() {
    let bed = Bed::new(Database::Sqlite);
    let service = bed.start();
    let demo = bed.client(&service, "demo");
    let volume = demo.create_volume(1);
    demo.write(&volume, &[(0, noise(3, 4096))]);
    let before = demo.digest(&volume);
    let image = bed.dir.path().join("image");
    let name = image.to_str().unwrap();
    let import = |arguments: &[&str], piped: Option<&[u8]>| {
        let mut all = vec!["volume", "import", "--volume", &volume];
        all.extend(arguments);
        let mut command = bed.command(&all);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // It may end before it has read everything.
        stdin.write_all(piped.unwrap_or_default()).ok();
        drop(stdin);
        child.wait_with_output().unwrap()
    };
    let mut fixed_vhd = noise(4, 8192);
    fixed_vhd.extend(b"conectix");
    fixed_vhd.resize(8192 + 512, 0);
    for (bytes, expected) in [
        (
            [b"QFI\xfb\0\0\0\x03", &noise(5, 4096)[..]].concat(),
            "qemu-img convert -f qcow2 -O raw",
        ),
        (
            [b"KDMV\x01\0\0\0", &noise(5, 4096)[..]].concat(),
            "qemu-img convert -f vmdk -O raw",
        ),
        (
            [b"vhdxfile", &noise(5, 4096)[..]].concat(),
            "qemu-img convert -f vhdx -O raw",
        ),
        (fixed_vhd, "qemu-img convert -f vpc -O raw"),
        (
            [b"\x1f\x8b\x08\0", &noise(5, 4096)[..]].concat(),
            "gzip -dc",
        ),
        ([b"\xfd7zXZ\0", &noise(5, 4096)[..]].concat(), "xz -dc"),
        (
            [b"\x28\xb5\x2f\xfd", &noise(5, 4096)[..]].concat(),
            "zstd -dc",
        ),
        ([b"BZh91AY&SY", &noise(5, 4096)[..]].concat(), "bzip2 -dc"),
    ] {
        std::fs::write(&image, &bytes).unwrap();
        let refused = import(&[name], None);
        let shown = text(&refused.stderr);
        assert!(!refused.status.success(), "{expected}");
        assert!(shown.contains(expected) && shown.contains(name), "{shown}");
        if !expected.contains("vpc") {
            let refused = import(&["-"], Some(&bytes));
            assert!(!refused.status.success(), "{expected}");
            assert!(text(&refused.stderr).contains(expected));
        }
    }
    demo.wait("volumes", &volume, "available");
    assert_eq!(demo.digest(&volume), before);
    // Whoever means it can have it.
    let meant = import(&["--as-raw", name], None);
    assert!(meant.status.success(), "{}", text(&meant.stderr));
    assert_ne!(demo.digest(&volume), before);
}

#[test]
fn an_export_overwrites_nothing_by_itself_and_takes_names() {
    let bed = Bed::new(Database::Sqlite);
    let service = bed.start();
    let demo = bed.client(&service, "demo");
    let create = |name: &str| {
        let body = serde_json::json!({ "volume": { "size": 1, "name": name } });
        let answer = demo.post("/volumes", body);
        let id = answer.body["volume"]["id"].as_str().unwrap().to_owned();
        demo.wait("volumes", &id, "available");
        id
    };
    let (only, one, other) = (create("only"), create("twice"), create("twice"));
    demo.write(&only, &[(0, noise(6, 4096))]);
    let file = bed.dir.path().join("image");
    std::fs::write(&file, "precious").unwrap();
    let name = file.to_str().unwrap();
    let refused = output(&bed, &["volume", "export", "--volume", "only", name]);
    assert!(!refused.status.success());
    assert!(
        text(&refused.stderr).contains("--force"),
        "{}",
        text(&refused.stderr)
    );
    assert_eq!(std::fs::read(&file).unwrap(), b"precious");
    let done = output(
        &bed,
        &["volume", "export", "--force", "--volume", "only", name],
    );
    assert!(done.status.success(), "{}", text(&done.stderr));
    assert!(std::fs::read(&file).unwrap()[..4096] == noise(6, 4096)[..]);
    let ambiguous = output(&bed, &["volume", "export", "--volume", "twice", "-"]);
    let shown = text(&ambiguous.stderr);
    assert!(!ambiguous.status.success() && ambiguous.stdout.is_empty());
    assert!(shown.contains(&one) && shown.contains(&other), "{shown}");
}
