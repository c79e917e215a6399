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
