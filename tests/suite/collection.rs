//! `embervault vault gc`, beside the running service.

use crate::support::{Bed, Database, MEBIBYTE, noise};
use serde_json::{Value, json};

fn collect(bed: &Bed, more: &[&str]) -> Value {
    let arguments = [&["vault", "gc", "--json"], more].concat();
    let output = bed.command(&arguments).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    serde_json::from_slice::<Value>(&output.stdout).unwrap()[0].clone()
}

#[test]
fn the_space_of_deleted_backups_comes_back_and_what_others_share_stays() {
    let bed = Bed::new(Database::Sqlite);
    let service = bed.start();
    let demo = bed.client(&service, "demo");
    let volume = demo.create_volume(1);
    demo.write(&volume, &[(0, noise(1, 8 * MEBIBYTE))]);
    let full = demo.back_up(&volume, json!({}));
    demo.wait("backups", &full, "available");
    demo.write(&volume, &[(0, noise(2, 4 * MEBIBYTE))]);
    let child = demo.back_up(&volume, json!({ "incremental": true }));
    demo.wait("backups", &child, "available");
    let kept = demo.digest(&volume);
    demo.write(&volume, &[(0, noise(3, 8 * MEBIBYTE))]);
    let last = demo.back_up(&volume, json!({ "incremental": true }));
    demo.wait("backups", &last, "available");
    assert_eq!(collect(&bed, &[])["condemned"]["packs"], 0);

    for backup in [&full, &last] {
        assert_eq!(demo.delete(&format!("/backups/{backup}")).status, 202);
        demo.wait_gone(&format!("/backups/{backup}"));
    }
    let packs = || (bed.objects("/p/").len() + bed.objects("/m/").len()) as u64;
    let before = packs();
    let planned = collect(&bed, &["--dry-run"]);
    let condemned = collect(&bed, &[]);
    assert_eq!(planned, condemned);
    // The last backup's 8 MiB; of the full's its child still needs some.
    assert!(condemned["condemned"]["bytes"].as_u64() > Some(8 << 20));
    assert_eq!(packs(), before);
    let deleted = collect(&bed, &[]);
    assert_eq!(deleted["deleted"], condemned["condemned"]);
    let gone = deleted["deleted"]["packs"].as_u64().unwrap();
    assert_eq!(packs(), before - gone);

    let restored = demo.restore(&child, json!({}));
    demo.wait("volumes", &restored, "available");
    assert_eq!(demo.digest(&restored), kept);
    // What was reclaimed is stored anew when it comes again.
    let again = demo.back_up(&volume, json!({ "incremental": true }));
    demo.wait("backups", &again, "available");
    let restored = demo.restore(&again, json!({}));
    demo.wait("volumes", &restored, "available");
    assert_eq!(demo.digest(&restored), demo.digest(&volume));
}
