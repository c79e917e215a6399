//! Rubbish gets a clear error in the right shape, and the service lives on.

use crate::support::{Bed, Client, Database};
use serde_json::json;
use std::process::Stdio;

#[test]
fn every_bad_request_is_answered_in_the_right_shape() {
    let bed = Bed::new(Database::Sqlite);
    let service = bed.start();
    let demo = bed.client(&service, "demo");
    let volume = demo.create_volume(1);
    let path = format!("/v3/{}/backups", demo.project);
    let unknown = "00000000-0000-4000-8000-000000000000";
    let rows = [
        (
            json!({ "backup": { "volume_id": unknown } }).to_string(),
            404,
            "could not be found",
        ),
        (
            json!({ "backup": { "volume_id": "x" } }).to_string(),
            400,
            "'x' is not a 'uuid'",
        ),
        (
            json!({ "backup": { "volume_id": null } }).to_string(),
            400,
            "None is not of type 'string'",
        ),
        (
            json!({ "backup": { "volume_id": volume, "name": 5 } }).to_string(),
            400,
            "5 is not of type",
        ),
        (
            json!({ "backup": { "volume_id": volume, "force": 1 } }).to_string(),
            400,
            "1 is not of type 'boolean', 'string'",
        ),
        (
            json!({ "backup": { "volume_id": volume, "name": "n".repeat(256) } }).to_string(),
            400,
            "is too long",
        ),
        (
            json!({ "backup": { "volume_id": volume, "name": "a\u{0}b" } }).to_string(),
            400,
            "Malformed request body",
        ),
        (
            json!({ "backup": { "volume_id": volume, "description": "a\nb" } }).to_string(),
            400,
            "does not match",
        ),
        (
            json!({ "backup": { "volume_id": volume, "metadata": { "k": 1 } } }).to_string(),
            400,
            "1 is not of type",
        ),
        (
            json!({ "backup": { "volume_id": volume, "color": 1 } }).to_string(),
            400,
            "'color' was unexpected",
        ),
        (
            json!({ "backup": { "volume_id": volume, "incremental": true } }).to_string(),
            400,
            "No backups available to do an incremental backup.",
        ),
        (
            json!({ "backup": null }).to_string(),
            400,
            "None is not of type 'object'",
        ),
        (
            json!({ "backup": { "volume_id": volume }, "type": 1 }).to_string(),
            400,
            "'type' was unexpected",
        ),
        (json!([]).to_string(), 400, "[] is not of type 'object'"),
        (json!(null).to_string(), 400, "None is not of type 'object'"),
        ("{".to_owned(), 400, "Malformed request body"),
        ("\u{0}\u{1}".to_owned(), 400, "Malformed request body"),
        ("[".repeat(2_000), 400, "Malformed request body"),
        ("[".repeat(100_000), 400, "body has more than"),
    ];
    for (body, status, text) in rows {
        let answer = demo.send("POST", &path, Some(body.clone()));
        let message = answer.fault(status);
        assert!(message.contains(text), "{body:.80}: {message}");
        assert_eq!(answer.header("OpenStack-API-Version"), Some("volume 3.71"));
        assert!(
            answer
                .header("x-openstack-request-id")
                .unwrap()
                .starts_with("req-")
        );
    }
    assert_eq!(demo.send("POST", &path, None).status, 400);
    assert_eq!(
        demo.send_as("POST", &path, Some("{}".into()), "text/plain")
            .status,
        415
    );
    let large = json!({ "backup": { "volume_id": volume, "name": "n".repeat(120_000) } });
    let answer = demo.send("POST", &path, Some(large.to_string()));
    assert_eq!(
        (answer.status, &answer.body["title"]),
        (413, &json!("Request Entity Too Large"))
    );
    demo.wait("volumes", &volume, "available");
    assert!(service.terminate());
}

#[test]
fn paths_methods_tokens_and_versions_are_checked() {
    let bed = Bed::new(Database::Sqlite);
    let service = bed.start();
    let demo = bed.client(&service, "demo");
    let project = demo.project.clone();
    let status = |method: &str, path: &str| demo.send(method, path, None).status;
    assert_eq!(status("GET", "/"), 300);
    assert_eq!(status("GET", "/v3/"), 200);
    assert_eq!(status("GET", "/v3"), 302);
    assert_eq!(status("GET", "/healthcheck"), 200);
    assert_eq!(status("GET", "/v3/backups"), 200);
    assert_eq!(status("GET", &format!("/v3/{project}/backups.json")), 200);
    for (method, path) in [
        ("GET", "/v2/".to_owned()),
        ("GET", format!("/v3/{project}")),
        ("GET", format!("/v3/{project}/backups/")),
        ("GET", format!("/v3/{project}/nothing")),
        ("PATCH", format!("/v3/{project}/backups")),
        ("GET", "/v3/NotAProject/backups".to_owned()),
        ("POST", format!("/v3/{project}/backups/x/metadata")),
    ] {
        let answer = demo.send(method, &path, None);
        assert_eq!(
            (answer.status, &answer.body["title"]),
            (404, &json!("Not Found")),
            "{method} {path}"
        );
    }
    let foreign = demo.send("GET", "/v3/0123456789abcdef0123456789abcdef/backups", None);
    assert_eq!(foreign.fault(400), "Malformed request url");

    let nobody = Client::anonymous(&service.base);
    let answer = nobody.send("GET", "/v3/", None);
    assert_eq!(
        (answer.status, &answer.body["error"]["title"]),
        (401, &json!("Unauthorized"))
    );
    assert!(
        answer
            .header("WWW-Authenticate")
            .unwrap()
            .starts_with("Keystone uri=")
    );
    let mut forged = demo.clone();
    forged.token = Some("x".repeat(43));
    assert_eq!(forged.get("/backups").status, 401);

    let mut old = demo.clone();
    old.version = String::new();
    assert_eq!(
        old.get("/backups").header("OpenStack-API-Version"),
        Some("volume 3.0")
    );
    assert_eq!(old.put("/backups/x", json!({ "backup": {} })).status, 404);
    old.version = "volume 3.99".to_owned();
    assert!(
        old.get("/backups").fault(406).contains("Maximum")
            || old.get("/backups").fault(406).contains("maximum is 3.71")
    );
    old.version = "volume x".to_owned();
    assert_eq!(old.get("/backups").status, 400);
}

#[test]
fn restores_that_cannot_be_are_refused() {
    let bed = Bed::new(Database::Sqlite);
    let service = bed.start();
    let demo = bed.client(&service, "demo");
    let (large, small) = (demo.create_volume(2), demo.create_volume(1));
    let backup = demo.back_up(&large, json!({}));
    demo.wait("backups", &backup, "available");
    let restore = |body| {
        demo.post(
            &format!("/backups/{backup}/restore"),
            json!({ "restore": body }),
        )
    };
    let refused = restore(json!({ "volume_id": small }));
    assert_eq!(
        refused.fault(400),
        "Invalid volume: volume size 1 is too small to restore backup of size 2."
    );
    let (attachment, _) = demo.attach(&large);
    let refused = restore(json!({ "volume_id": large }));
    assert_eq!(
        refused.fault(400),
        "Invalid volume: Volume to be restored to must be available"
    );
    demo.detach(&attachment, &large);
    assert_eq!(
        restore(json!({ "volume_id": "00000000-0000-4000-8000-000000000000" })).status,
        404
    );
    assert_eq!(restore(json!({ "volume_id": 7 })).status, 400);
    assert_eq!(restore(json!({ "color": 7 })).status, 400);
    assert_eq!(
        demo.post(
            &format!("/backups/{backup}/restore"),
            json!({ "restore": null })
        )
        .status,
        400
    );
    demo.wait("backups", &backup, "available");
}

#[test]
fn logins_are_checked_and_application_credentials_work() {
    let bed = Bed::new(Database::Sqlite);
    let service = bed.start();
    let demo = bed.client(&service, "demo");
    let nobody = Client::anonymous(&service.base);
    let log_in = |body: serde_json::Value| {
        nobody.send("POST", "/identity/v3/auth/tokens", Some(body.to_string()))
    };
    let user = json!({ "name": "demo", "password": "wrong", "domain": { "id": "default" } });
    let wrong = json!({ "auth": { "identity": { "methods": ["password"], "password": { "user": user } } } });
    assert_eq!(
        log_in(wrong).fault(401),
        "The request you have made requires authentication."
    );
    for rubbish in [
        json!({}),
        json!({ "auth": [] }),
        json!({ "auth": { "identity": { "methods": ["x"] } } }),
        json!(7),
    ] {
        assert!([400, 401].contains(&log_in(rubbish).status));
    }
    let shown = demo.send("GET", "/identity/v3/auth/tokens", None);
    assert_eq!(shown.status, 403, "a subject token is missing");
    let me = {
        let body = json!({ "auth": { "identity": { "methods": ["token"], "token": { "id": demo.token } } } });
        let answer = log_in(body);
        assert_eq!(answer.status, 201);
        assert!(
            answer.body["token"].get("catalog").is_none(),
            "it is unscoped"
        );
        answer.body["token"]["user"]["id"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let path = format!("/identity/v3/users/{me}/application_credentials");
    let wanted =
        json!({ "application_credential": { "name": "ci", "roles": [{ "name": "reader" }] } });
    let made = demo.send("POST", &path, Some(wanted.to_string()));
    assert_eq!(made.status, 201, "{}", made.body);
    assert_eq!(
        demo.send("POST", &path, Some(wanted.to_string())).status,
        409
    );
    let credential = &made.body["application_credential"];
    let body = json!({ "auth": { "identity": { "methods": ["application_credential"],
        "application_credential": { "id": credential["id"], "secret": credential["secret"] } } } });
    let answer = log_in(body.clone());
    assert_eq!(answer.status, 201, "{}", answer.body);
    let mut limited = demo.clone();
    limited.token = answer.header("X-Subject-Token").map(str::to_owned);
    assert_eq!(limited.get("/backups").status, 200);
    let refused = limited.post("/volumes", json!({ "volume": { "size": 1 } }));
    assert_eq!(
        refused.status, 403,
        "the credential has only the role reader"
    );
    // Taking the credential away takes its tokens away.
    let one = format!("{path}/{}", credential["id"].as_str().unwrap());
    assert_eq!(demo.send("DELETE", &one, None).status, 204);
    assert_eq!(limited.get("/backups").status, 401);
    assert_eq!(log_in(body).status, 401);
}

#[test]
fn output_that_cannot_be_written_stops_no_command() {
    let bed = Bed::new(Database::Sqlite);
    let full = || {
        std::fs::File::options()
            .write(true)
            .open("/dev/full")
            .unwrap()
    };
    let done = bed
        .command(&["config", "print"])
        .stdout(full())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert_eq!(done.status.code(), Some(1), "{said}");
    assert!(
        said.contains("the command has done its work, but its output could not be written"),
        "{said}"
    );
    assert!(!said.contains("panicked"), "{said}");
    // What is said to people may be lost.
    std::fs::create_dir_all(bed.data()).unwrap();
    let status = bed
        .command(&["vault", "gc"])
        .stderr(full())
        .stdout(Stdio::null())
        .status();
    assert!(status.unwrap().success());
}
