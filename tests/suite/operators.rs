//! What operators meet: variables, secrets, the file of the database, images.

use crate::support::{Bed, Database};
use std::process::Output;

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
