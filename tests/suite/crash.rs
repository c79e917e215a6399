//! `kill -9` at random moments of backup and restore, through the real program.

use crate::support::{BOTH, Bed, Client, Database, GIBIBYTE, MEBIBYTE, Service, noise};
use serde_json::{Value, json};
use std::time::Duration;

const KILLS: u64 = 6;
/// A restore takes a moment only, so it may take several to be hit often enough.
const RESTORES_MAX: u64 = 8;
const DATA_BYTES: u64 = 160 * MEBIBYTE;
/// Compressed so hard that it takes seconds.
const SLOW_BYTES: u64 = 64 * MEBIBYTE;

/// A moment that differs from run to run and is printed with a failure.
fn moment(seed: u64, kill: u64, within: u64) -> Duration {
    let hash = blake3::hash(format!("{seed} {kill}").as_bytes());
    let random = u64::from_le_bytes(hash.as_bytes()[..8].try_into().unwrap());
    Duration::from_millis(30 + random % within)
}

fn seed() -> u64 {
    match std::env::var("TEST_SEED") {
        Ok(seed) => seed.parse().unwrap(),
        Err(_) => std::process::id().into(),
    }
}

fn is_transitional(resource: &Value) -> bool {
    let status = resource["status"].as_str().unwrap();
    !status.starts_with("error") && status != "available" && status != "in-use"
}

/// Kills and restarts the service until there were enough kills or the work is done; then waits.
fn torment(
    bed: &Bed,
    mut service: Service,
    seed: u64,
    within: u64,
    is_done: impl Fn(&Client) -> bool,
) -> (Service, u64) {
    let mut kills = 0;
    while kills < KILLS {
        std::thread::sleep(moment(seed, kills, within));
        let done = is_done(&bed.client(&service, "demo"));
        if done {
            break;
        }
        service.kill();
        kills += 1;
        service = bed.start();
    }
    (service, kills)
}

#[test]
fn nothing_is_lost_or_stuck_or_uploaded_twice_when_killed() {
    let seed = seed();
    let mut kills = 0;
    for database in BOTH {
        let mut bed = Bed::new(database);
        // Slow enough to be killed in many places.
        bed.set("ENGINE__THREADS", "1");
        bed.set("ENGINE__COMPRESSION", "zstd:19");
        // Short, so that after a kill the work goes on soon enough to be killed again.
        bed.set("JOBS__LEASE", "500ms");
        let mut service = bed.start();
        let demo = bed.client(&service, "demo");
        let volume = demo.create_volume(1);
        demo.write(
            &volume,
            &[
                (8 * MEBIBYTE, noise(1, SLOW_BYTES)),
                (GIBIBYTE - 4096, noise(2, 4096)),
            ],
        );
        let digest = demo.digest(&volume);

        let backup = demo.back_up(&volume, json!({ "name": "killed" }));
        let is_done = |client: &Client| {
            let shown = client.get(&format!("/backups/{backup}")).body["backup"].clone();
            assert_ne!(
                shown["status"], "error",
                "{database:?}, seed {seed}: {shown}"
            );
            shown["status"] == "available"
        };
        let killed;
        (service, killed) = torment(&bed, service, seed, 900, is_done);
        kills += killed;
        println!("{database:?}: {killed} kills of the backup");
        let demo = bed.client(&service, "demo");
        let shown = demo.wait("backups", &backup, "available");
        demo.wait("volumes", &volume, "available");
        assert!(
            killed >= 2,
            "{database:?}: the backup was too fast, only {killed} kills"
        );
        let stored = Bed::bytes_of(&bed.objects("/p/"));
        // Noise does not shrink, so whatever was uploaded twice would show.
        assert!(
            stored < SLOW_BYTES + SLOW_BYTES / 50,
            "{database:?}, seed {seed}: {stored} bytes are stored for {SLOW_BYTES}"
        );
        assert_eq!(shown["fail_reason"], Value::Null);

        let mut killed = 0;
        for round in 1..=RESTORES_MAX {
            let demo = bed.client(&service, "demo");
            let target = demo.restore(&backup, json!({ "name": "restored" }));
            let is_done = |client: &Client| {
                let shown = client.get(&format!("/volumes/{target}")).body["volume"].clone();
                shown["status"] == "available"
            };
            let times;
            (service, times) = torment(&bed, service, seed + round, 300, is_done);
            killed += times;
            let demo = bed.client(&service, "demo");
            demo.wait("volumes", &target, "available");
            demo.wait("backups", &backup, "available");
            assert_eq!(demo.digest(&target), digest, "{database:?}, seed {seed}");
            if killed >= 3 {
                break;
            }
        }
        kills += killed;
        println!("{database:?}: {killed} kills of restores");

        let demo = bed.client(&service, "demo");
        for collection in ["volumes", "backups"] {
            let listed = demo.get(&format!("/{collection}/detail")).body[collection].clone();
            for resource in listed.as_array().unwrap() {
                assert!(
                    !is_transitional(resource),
                    "{database:?}, seed {seed}: {resource}"
                );
            }
        }
        assert!(service.terminate());
    }
    assert!(
        kills >= 10,
        "the work was too fast: only {kills} kills, seed {seed}"
    );
}

#[test]
fn sigterm_ends_cleanly_and_the_next_start_resumes() {
    let mut bed = Bed::new(Database::Sqlite);
    // Slow enough to be stopped in the middle.
    let url = format!("fs:{}", bed.storage().display());
    bed.set("STORAGE__LOCAL__URL", &url);
    bed.set("STORAGE__LOCAL__UPLOAD_LIMIT", "8 MiB");
    // Given back, not timed out: the next start must not have to wait for the lease.
    bed.set("JOBS__LEASE", "10m");
    let service = bed.start();
    let demo = bed.client(&service, "demo");
    let volume = demo.create_volume(1);
    demo.write(&volume, &[(0, noise(1, DATA_BYTES))]);
    let digest = demo.digest(&volume);
    let backup = demo.back_up(&volume, json!({}));
    std::thread::sleep(Duration::from_millis(400));
    assert_eq!(
        demo.get(&format!("/backups/{backup}")).body["backup"]["status"],
        "creating"
    );
    assert!(service.terminate(), "{}", bed.log());
    let service = bed.start();
    let demo = bed.client(&service, "demo");
    demo.wait("backups", &backup, "available");
    let target = demo.restore(&backup, json!({}));
    demo.wait("volumes", &target, "available");
    assert_eq!(demo.digest(&target), digest);
}
