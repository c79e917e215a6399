//! Callers whose tokens a Keystone knows, which these tests play too, and answers that are put together.

use super::*;
use std::sync::RwLock;

fn value_of<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    let mut lines = head.lines().filter_map(|line| line.split_once(": "));
    lines.find(|(key, _)| *key == name).map(|(_, value)| value)
}

/// The head of a request whose body was read, too: a connection that ends with some of it unread takes the answer with it.
fn whole(stream: &mut TcpStream) -> String {
    let head = head(stream).to_ascii_lowercase();
    let length = value_of(&head, "content-length").and_then(|length| length.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body).unwrap();
    head
}

/// The token of a user is the user's name; the project is called `0` and that name.
fn keystone() -> String {
    play(|mut stream| {
        let head = whole(&mut stream);
        let user = value_of(&head, "x-subject-token");
        let user = user.unwrap_or("service");
        let token = serde_json::json!({ "token": {
            "expires_at": "2099-01-01T00:00:00.000000Z",
            "user": { "id": user },
            "project": { "id": format!("0{user}") },
            "roles": [{ "name": "admin" }],
        } })
        .to_string();
        let is_known = user.len() < 8;
        let (status, body) = match is_known.then_some(token) {
            Some(token) => ("200 OK", token),
            None => ("404 Not Found", "{}".to_owned()),
        };
        let answer = format!(
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nX-Subject-Token: ours\r\nConnection: close\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(answer.as_bytes()).unwrap();
    })
}

fn front(cinder: &str, change: impl FnOnce(&mut Config)) -> Front {
    let url = keystone();
    Front::of(cinder, |config| {
        config.identity.keystone.auth_url = url;
        config.api.proxy_headers = true;
        change(config);
    })
}

/// A request of a user, in the user's project.
fn request(user: &str, method: &str, path: &str, body: &str) -> String {
    format!(
        "{method} /v3/0{user}{path} HTTP/1.1\r\nHost: x\r\nX-Auth-Token: {user}\r\nConnection: close\r\n\
         OpenStack-API-Version: volume 3.60\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

impl Front {
    fn send(&self, request: &str) -> TcpStream {
        let mut stream = self.connect();
        stream.write_all(request.as_bytes()).unwrap();
        stream
    }
}

/// A Cinder that answers nothing until its door is opened; what it was asked.
fn hanging(door: &Arc<RwLock<()>>) -> (String, mpsc::Receiver<String>) {
    let (seen, heads) = mpsc::channel();
    let door = door.clone();
    let url = play(move |mut stream| {
        seen.send(head(&mut stream)).ok();
        drop(door.read());
    });
    (url, heads)
}

/// How many requests reach Cinder before a while passes in which none does.
fn count(heads: &mpsc::Receiver<String>) -> usize {
    let mut count = 0;
    while heads.recv_timeout(Duration::from_secs(2)).is_ok() {
        count += 1;
    }
    count
}

#[test]
fn a_cinder_that_hangs_keeps_no_request_for_backups_waiting() {
    let door = Arc::new(RwLock::new(()));
    let closed = door.write().unwrap();
    let (url, heads) = hanging(&door);
    let front = front(&url, |_| ());
    let paths = [
        ("GET", "/limits", ""),
        ("GET", "/os-services", ""),
        ("GET", "/messages", ""),
        ("GET", "/resource_filters", ""),
        ("POST", "/volumes", "{}"),
        ("GET", "/os-quota-sets/0a", ""),
    ];
    let mut open: Vec<TcpStream> = (0..32)
        .flat_map(|at| {
            let (method, path, body) = paths[at % paths.len()];
            ["a", "b"].map(|user| front.send(&request(user, method, path, body)))
        })
        .collect();
    let reached = count(&heads);
    let started = Instant::now();
    for user in ["a", "c"] {
        let answer = front.ask(&request(user, "GET", "/backups", ""));
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let answer = front.ask(&request(user, "GET", "/backups/none", ""));
        assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
    }
    assert!(started.elapsed() < Duration::from_secs(2));
    // They have the places of requests that are passed on, all of which are taken.
    assert_eq!(reached, 64);
    open.push(front.send(&request("c", "GET", "/types", "")));
    assert_eq!(count(&heads), 0);
    drop(closed);
}

#[test]
fn an_answer_of_another_shape_is_not_taken_for_one_that_was_put_together() {
    let answers = [
        "[]",
        "7",
        "{}",
        r#"{"limits":[],"quota_set":7,"quota_class_set":null,"services":{},"messages":"x","resource_filters":1}"#,
        r#"{"limits":{"absolute":[]},"services":[7],"messages":[7],"resource_filters":[[]]}"#,
    ];
    for given in answers {
        let url = play(move |mut stream| {
            whole(&mut stream);
            let answer = format!(
                "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{given}",
                given.len()
            );
            stream.write_all(answer.as_bytes()).unwrap();
        });
        let front = front(&url, |_| ());
        for (method, path, body) in [
            ("GET", "/limits", ""),
            ("GET", "/os-services", ""),
            ("GET", "/messages", ""),
            ("GET", "/resource_filters", ""),
            ("GET", "/os-quota-sets/0a", ""),
            ("GET", "/os-quota-sets/0a/defaults", ""),
            ("GET", "/os-quota-class-sets/default", ""),
            ("PUT", "/os-quota-sets/0a", r#"{"quota_set":{"volumes":1}}"#),
        ] {
            let answer = front.ask(&request("a", method, path, body));
            let words = "Cinder's answer is not understood.";
            assert!(
                answer.starts_with("HTTP/1.1 502"),
                "{path} {given}: {answer}"
            );
            assert!(answer.contains(words), "{path} {given}: {answer}");
        }
    }
}

#[test]
fn who_has_no_known_token_leaves_places_to_who_has_one() {
    let door = Arc::new(RwLock::new(()));
    let closed = door.write().unwrap();
    let (url, heads) = hanging(&door);
    let front = front(&url, |config| config.cinder.gateway_requests_max = 4);
    let _open = ["unknown-token", ""].map(|token| {
        [1, 2].map(|host| {
            front.send(&format!(
                "GET /v3/0a/types HTTP/1.1\r\nHost: x\r\nX-Auth-Token: {token}\r\nX-Forwarded-For: 192.0.2.{host}{}\r\n\r\n",
                token.len()
            ))
        })
    });
    assert_eq!(count(&heads), 3);
    let _known = front.send(&request("a", "GET", "/types", ""));
    assert_eq!(count(&heads), 1);
    drop(closed);
}

#[test]
fn cinders_links_lead_where_the_gateway_is_whatever_the_client_says() {
    let (seen, heads) = mpsc::channel();
    let url = play(move |mut stream| {
        seen.send(head(&mut stream)).unwrap();
        stream
            .write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
            .unwrap();
    });
    let told = |front: &Front| {
        front.ask(
            "GET /v3/0f/types HTTP/1.1\r\nHost: cloud.example:1\r\nConnection: close\r\nForwarded: host=evil;proto=https\r\n\
             X-Forwarded-Host: evil\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Prefix: /evil\r\n\r\n",
        );
        let head = heads.recv_timeout(PATIENCE).unwrap();
        let lines = head.lines().filter(|line| line.contains("forwarded"));
        let lines = lines.filter(|line| !line.starts_with("x-forwarded-for"));
        let mut lines: Vec<String> = lines.map(str::to_owned).collect();
        lines.sort_unstable();
        lines
    };
    let plain = Front::of(&url, |_| ());
    assert_eq!(
        told(&plain),
        [
            "x-forwarded-host: cloud.example:1",
            "x-forwarded-proto: http"
        ]
    );
    drop(plain);
    let public = Front::of(&url, |config| {
        config.api.public_endpoint = Some("https://public.example/block/storage".to_owned());
    });
    assert_eq!(
        told(&public),
        [
            "x-forwarded-host: public.example",
            "x-forwarded-prefix: /block/storage",
            "x-forwarded-proto: https"
        ]
    );
}

#[test]
fn a_page_that_asks_whether_it_may_is_answered_here() {
    let (seen, heads) = mpsc::channel();
    let url = play(move |mut stream| {
        seen.send(head(&mut stream)).unwrap();
        stream
            .write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
            .unwrap();
    });
    let front = Front::of(&url, |config| {
        config.api.cors.allowed_origins = vec!["https://page.example".to_owned()];
    });
    let ask = |headers: &str| {
        front.ask(&format!(
            "OPTIONS /v3/0f/volumes HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n"
        ))
    };
    let method = "Access-Control-Request-Method: POST\r\n";
    let answer = ask(&format!(
        "Origin: https://page.example\r\n{method}Access-Control-Request-Headers: x-auth-token\r\n"
    ));
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    for header in [
        "access-control-allow-origin: https://page.example\r\n",
        "access-control-allow-headers: X-Auth-Token\r\n",
    ] {
        assert!(answer.contains(header), "{answer}");
    }
    assert!(heads.try_recv().is_err(), "nothing reaches Cinder");
    for others in [
        format!("Origin: https://other.example\r\n{method}"),
        "Origin: https://page.example\r\n".to_owned(),
        method.to_owned(),
    ] {
        let answer = ask(&others);
        assert!(answer.starts_with("HTTP/1.1 204"), "{answer}");
        heads.recv_timeout(PATIENCE).unwrap();
    }
}

#[test]
fn what_a_restore_into_a_new_volume_cannot_heed_is_refused() {
    let url = play(|mut stream| drop(head(&mut stream)));
    let front = front(&url, |_| ());
    let id = "6f6f6f6f-0000-4000-8000-000000000000";
    for (volume, beside, named) in [
        (r#","multiattach":true"#, "", "multiattach"),
        (r#","multiattach":"true""#, "", "multiattach"),
        (
            "",
            r#","OS-SCH-HNT:scheduler_hints":{"same_host":["x"]}"#,
            "OS-SCH-HNT:scheduler_hints",
        ),
    ] {
        let body = format!(r#"{{"volume":{{"size":1,"backup_id":"{id}"{volume}}}{beside}}}"#);
        let answer = front.ask(&request("a", "POST", "/volumes", &body));
        assert!(answer.starts_with("HTTP/1.1 400"), "{body}: {answer}");
        let words = format!("{named} cannot be given together with backup_id.");
        assert!(answer.contains(&words), "{body}: {answer}");
    }
    for beside in [r#","OS-SCH-HNT:scheduler_hints":{}"#, ""] {
        let body =
            format!(r#"{{"volume":{{"size":1,"backup_id":"{id}","multiattach":false}}{beside}}}"#);
        let answer = front.ask(&request("a", "POST", "/volumes", &body));
        assert!(answer.starts_with("HTTP/1.1 404"), "{body}: {answer}");
    }
}

#[test]
fn what_is_refused_of_a_quota_is_refused_before_cinder_changes_it() {
    let (seen, heads) = mpsc::channel();
    let url = play(move |mut stream| seen.send(head(&mut stream)).unwrap());
    let dir = tempfile::tempdir().unwrap();
    let policy = dir.path().join("policy.yaml");
    std::fs::write(&policy, "\"volume_extension:quotas:show\": \"!\"\n").unwrap();
    let front = front(&url, |config| config.policy.file = Some(policy));
    let body = r#"{"quota_set":{"volumes":1}}"#;
    let answer = front.ask(&request("a", "PUT", "/os-quota-sets/0a", body));
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    assert!(heads.try_recv().is_err(), "nothing reaches Cinder");
}

#[test]
fn a_backup_made_meanwhile_does_not_undo_half_of_a_quota() {
    let bed = Bed::standalone();
    let (ctx, project) = (&bed.ctx, &bed.ctx.project_id);
    let none = BTreeMap::from([("backups".to_owned(), 0)]);
    bed.services.check_limits(ctx, project, &none).unwrap();
    let volume = bed.make_volume();
    bed.accept_backup(&volume, false);
    bed.services.set_limits(ctx, project, &none).unwrap_err();
    let limits = bed.services.set_checked_limits(ctx, project, &none);
    assert_eq!(limits.unwrap().limit("backups"), 0);
}
