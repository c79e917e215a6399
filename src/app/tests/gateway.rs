//! The gateway, over its socket, in front of a Cinder that these tests play.

mod merged;

use super::*;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;

const MIB: usize = 1 << 20;
/// More than all buffers of the system between two ends of a connection.
const BUFFERS: u64 = 32 << 20;
const PATIENCE: Duration = Duration::from_secs(20);

/// A service whose Cinder is played by a test.
struct Front {
    address: SocketAddr,
    running: Option<Running>,
    runtime: Runtime,
    _dir: TempDir,
}

impl Front {
    fn of(url: &str, change: impl FnOnce(&mut Config)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let runtime = Runtime::new().unwrap();
        let mut config = Config {
            data_dir: DataDir(dir.path().to_owned()),
            ..Config::default()
        };
        config.api.listen = SocketAddr::from(([127, 0, 0, 1], 0));
        config.identity.mode = IdentityMode::Keystone;
        config.identity.keystone.auth_url = "http://127.0.0.1:9/v3".to_owned();
        config.volumes.mode = VolumesMode::Cinder;
        config.cinder.gateway = true;
        config.cinder.url = url.to_owned();
        config.cinder.gateway_timeout = PATIENCE;
        change(&mut config);
        let running = runtime.block_on(start(config, Role::Api)).unwrap();
        Self {
            address: running.address.unwrap(),
            running: Some(running),
            runtime,
            _dir: dir,
        }
    }

    /// With a Cinder that does this with each connection.
    fn before(cinder: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        Self::of(&play(cinder), |_| ())
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// All that comes back for a request, until the connection is closed.
    fn ask(&self, request: &str) -> String {
        let mut stream = self.connect();
        stream.write_all(request.as_bytes()).unwrap();
        rest(&mut stream)
    }

    fn get(&self, target: &str) -> String {
        self.ask(&format!(
            "GET {target} HTTP/1.1\r\nHost: cloud.example\r\nConnection: close\r\n\r\n"
        ))
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            self.runtime.block_on(running.stop());
        }
    }
}

/// Plays a Cinder; the URL of its API.
fn play(cinder: impl Fn(TcpStream) + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v3", listener.local_addr().unwrap());
    let cinder = Arc::new(cinder);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, cinder) = (stream.unwrap(), cinder.clone());
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            std::thread::spawn(move || cinder(stream));
        }
    });
    url
}

/// The head of a request or answer, with the empty line.
fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) == 1 {
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

fn rest(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    stream.read_to_end(&mut text).unwrap();
    String::from_utf8(text).unwrap()
}

/// How many bytes go into a connection until it takes no more for a while.
fn fill(stream: &mut TcpStream, counted: &AtomicU64) {
    let piece = vec![b'x'; 64 << 10];
    stream
        .set_write_timeout(Some(Duration::from_secs(3)))
        .unwrap();
    while counted.load(Ordering::Relaxed) < 4 * BUFFERS {
        match stream.write(&piece) {
            Ok(written) => counted.fetch_add(written as u64, Ordering::Relaxed),
            Err(_) => break,
        };
    }
}

#[test]
fn requests_and_answers_pass_as_they_are() {
    let (seen, heads) = mpsc::channel();
    let front = Front::before(move |mut stream| {
        seen.send(head(&mut stream)).unwrap();
        let answer = "HTTP/1.1 302 Found\r\nLocation: http://elsewhere/v3/x\r\nX-Openstack-Request-Id: req-1\r\n\
                      Content-Type: application/json\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\n\
                      X-Twice: 1\r\nX-Twice: 2\r\nContent-Length: 4\r\n\r\n{ \t}";
        stream.write_all(answer.as_bytes()).unwrap();
    });
    let target = "/v3/0f/vol%75mes//{detail};x?name=%41%2f+a&&metadata=%7b'k':{&limit=1";
    let answer = front.ask(&format!(
        "PATCH {target} HTTP/1.1\r\nHost: cloud.example:1\r\nX-Auth-Token: token\r\nConnection: close, x-mine, x-forwarded-host\r\n\
         X-Mine: 1\r\nTE: trailers\r\nProxy-Authorization: Basic x\r\nX-Forwarded-For: 192.0.2.1\r\n\
         OpenStack-API-Version: volume 3.44\r\nX-Openstack-Request-Id: req-2\r\nX-Other: \u{e9}\r\n\r\n"
    ));
    let request = heads.recv_timeout(PATIENCE).unwrap();
    let (line, headers) = request.split_once("\r\n").unwrap();
    // A URL must not have these as they are.
    let written = target.replace('\'', "%27");
    let written = written.replace("{detail}", "%7Bdetail%7D");
    assert_eq!(line, format!("PATCH {written} HTTP/1.1"));
    let mut headers: Vec<&str> = headers.lines().filter(|line| !line.is_empty()).collect();
    headers.sort_unstable();
    let host = headers
        .iter()
        .position(|line| line.starts_with("host: 127.0.0.1:"));
    headers.remove(host.expect("the host is Cinder"));
    let expected = [
        "accept: ",
        "openstack-api-version: volume 3.44",
        "x-auth-token: token",
        "x-forwarded-for: 127.0.0.1",
        "x-forwarded-for: 192.0.2.1",
        "x-forwarded-host: cloud.example:1",
        "x-forwarded-proto: http",
        "x-openstack-request-id: req-2",
        "x-other: \u{e9}",
    ];
    assert_eq!(headers, expected);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert_eq!(body, "{ \t}");
    let mut lines: Vec<&str> = head
        .lines()
        .filter(|line| !line.starts_with("date:"))
        .collect();
    lines[1..].sort_unstable();
    let expected = [
        "HTTP/1.1 302 Found",
        "connection: close",
        "content-length: 4",
        "content-type: application/json",
        "location: http://elsewhere/v3/x",
        "x-openstack-request-id: req-1",
        "x-twice: 1",
        "x-twice: 2",
    ];
    assert_eq!(lines, expected);
}

#[test]
fn what_leads_elsewhere_or_is_for_backups_is_not_passed_on() {
    let (seen, heads) = mpsc::channel();
    let front = Front::before(move |mut stream| seen.send(head(&mut stream)).unwrap());
    for target in [
        "/v3/../v2/x",
        "/v3/0f/%2e%2e/%2E./x",
        "/v3/0f/..%2f..%2f..%2fidentity",
        "/v3/0f/%252e%252e%252fx",
        "/v3/0f/.%5c..%5cx",
        "/v3/0f/a\\b",
        "/v3/./x",
    ] {
        let answer = front.get(target);
        assert!(answer.starts_with("HTTP/1.1 400"), "{target}: {answer}");
        assert!(answer.contains("Malformed request url"), "{answer}");
    }
    for target in [
        "/v3/0f/backups",
        "/v3/0f/backup%73/detail",
        "/v3/backup%73",
        "/v3/0f/backup%2573",
        "/v3//0f//backups",
        "/v3/0f/backups%0A",
        "/v3/0f/backups%250a",
        "/v3/0f/backups%0A/detail",
        "/v3/0f/backups.xml",
        "/v3/0f/backups;x",
        "/v3/0f/backups%00",
        "/v3/0f/embervault%0a",
        "/v3/0f/embervault/x",
        "/v2/0f/volumes",
    ] {
        let answer = front.get(target);
        let status = &answer[9..12];
        assert!(["401", "404"].contains(&status), "{target}: {answer}");
    }
    let answer = front.ask("TRACE /v3/0f/x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
    assert!(heads.try_recv().is_err(), "nothing reaches Cinder");
}

#[test]
fn bodies_pass_as_a_stream_and_wait_for_who_takes_them() {
    let stuck = Arc::new(AtomicU64::new(0));
    let counted = stuck.clone();
    let (filled, is_filled) = mpsc::channel();
    let front = Front::before(move |mut stream| {
        let request = head(&mut stream);
        if request.contains("/download") {
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffff\r\n")
                .unwrap();
            fill(&mut stream, &counted);
            filled.send(()).unwrap();
        } else {
            is_stuck(&stream);
        }
    });

    let mut stream = front.connect();
    stream
        .write_all(b"GET /v3/0f/download HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    is_filled.recv_timeout(PATIENCE).unwrap();
    let sent = stuck.load(Ordering::Relaxed);
    assert!(sent < BUFFERS, "{sent} bytes were taken for who reads none");
    drop(stream);

    let mut stream = front.connect();
    stream
        .write_all(b"POST /v3/0f/upload HTTP/1.1\r\nHost: x\r\nContent-Length: 999999999\r\n\r\n")
        .unwrap();
    let counted = AtomicU64::new(0);
    fill(&mut stream, &counted);
    let sent = counted.load(Ordering::Relaxed);
    assert!(sent < BUFFERS, "{sent} bytes were taken for who reads none");
}

/// Holds a connection, and reads nothing, until the other side ends it.
fn is_stuck(stream: &TcpStream) {
    let mut space = [0];
    let started = Instant::now();
    while started.elapsed() < PATIENCE && stream.peek(&mut space).is_ok_and(|read| read > 0) {
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_large_body_comes_through_whole_in_both_directions() {
    let much = 24 * MIB;
    let front = Front::before(move |mut stream| {
        let request = head(&mut stream);
        assert!(request.contains("transfer-encoding: chunked"), "{request}");
        let (mut all, mut piece) = (Vec::new(), vec![0; 64 << 10]);
        while !all.ends_with(b"\r\n0\r\n\r\n") {
            let read = stream.read(&mut piece).unwrap();
            assert!(read > 0, "the body was broken off");
            all.extend_from_slice(&piece[..read]);
        }
        let count = all.iter().filter(|byte| **byte == b'y').count();
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", count);
        stream.write_all(answer.as_bytes()).unwrap();
        stream.write_all(&vec![b'z'; count]).unwrap();
    });
    let mut stream = front.connect();
    let request = format!(
        "POST /v3/0f/x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n{much:x}\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    stream.write_all(&vec![b'y'; much]).unwrap();
    stream.write_all(b"\r\n0\r\n\r\n").unwrap();
    let answer = rest(&mut stream);
    assert!(answer.starts_with("HTTP/1.1 200"), "{}", &answer[..200]);
    assert_eq!(answer.bytes().filter(|byte| *byte == b'z').count(), much);
}

#[test]
fn an_answer_that_breaks_off_is_never_taken_for_whole() {
    let front = Front::before(|mut stream| {
        let request = head(&mut stream);
        let framing = if request.contains("/length") {
            "Content-Length: 100\r\n\r\n0123456789"
        } else {
            "Transfer-Encoding: chunked\r\n\r\na\r\n0123456789\r\n"
        };
        let answer = format!("HTTP/1.1 200 OK\r\n{framing}");
        stream.write_all(answer.as_bytes()).unwrap();
        std::thread::sleep(Duration::from_millis(200));
    });
    for (target, version) in [("/length", "1.1"), ("/chunks", "1.1"), ("/chunks", "1.0")] {
        let mut stream = front.connect();
        let request = format!("GET /v3/0f{target} HTTP/{version}\r\nHost: x\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        let ended = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        assert!(
            answer.starts_with("HTTP/1.1 200") || answer.starts_with("HTTP/1.0 200"),
            "{answer}"
        );
        assert!(!answer.ends_with("0\r\n\r\n"), "{answer}");
        let error = ended.expect_err("the connection ends with a reset").kind();
        assert_eq!(error, ErrorKind::ConnectionReset, "{target} {version}");
    }
}

#[test]
fn a_request_that_breaks_off_is_never_taken_for_whole() {
    let (seen, bodies) = mpsc::channel();
    let front = Front::before(move |mut stream| {
        head(&mut stream);
        let mut body = Vec::new();
        stream.read_to_end(&mut body).ok();
        seen.send(String::from_utf8(body).unwrap()).unwrap();
    });
    let mut stream = front.connect();
    stream
        .write_all(
            b"POST /v3/0f/x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        )
        .unwrap();
    std::thread::sleep(Duration::from_millis(300));
    drop(stream);
    assert_eq!(bodies.recv_timeout(PATIENCE).unwrap(), "3\r\nabc\r\n");
}

#[test]
fn a_client_that_is_gone_takes_its_request_with_it() {
    let (seen, ends) = mpsc::channel();
    let front = Front::before(move |mut stream| {
        let request = head(&mut stream);
        if request.contains("/begun") {
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")
                .unwrap();
        }
        seen.send(false).unwrap();
        let mut space = [0];
        seen.send(matches!(stream.read(&mut space), Ok(0) | Err(_)))
            .unwrap();
    });
    for target in ["/waits", "/begun"] {
        let mut stream = front.connect();
        let request = format!("GET /v3/0f{target} HTTP/1.1\r\nHost: x\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        assert!(!ends.recv_timeout(PATIENCE).unwrap());
        let started = Instant::now();
        stream.shutdown(Shutdown::Both).unwrap();
        drop(stream);
        assert!(ends.recv_timeout(PATIENCE).unwrap(), "{target}");
        assert!(started.elapsed() < PATIENCE / 4, "{target}");
    }
}

#[test]
fn a_cinder_that_is_away_or_slow_is_named() {
    let away = Front::of("http://127.0.0.1:9/v3", |_| ());
    let answer = away.get("/v3/0f/volumes");
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    let words = r#"{"serviceUnavailable":{"code":503,"message":"Cinder cannot be reached. Backups can be listed meanwhile."}}"#;
    assert!(answer.ends_with(words), "{answer}");
    drop(away);

    let url = play(|mut stream| {
        let request = head(&mut stream);
        if request.contains("/broken") {
            return;
        } else if request.contains("/begun") {
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")
                .unwrap();
        } else if request.contains("/early") {
            stream
                .write_all(
                    b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc",
                )
                .unwrap();
        }
        is_stuck(&stream);
        std::thread::sleep(PATIENCE / 4);
    });
    let slow = Front::of(&url, |config| {
        config.cinder.gateway_timeout = Duration::from_secs(1);
        config.api.client_timeout = Duration::from_secs(1);
    });
    // Cinder may have done as asked.
    let answer = slow.get("/v3/0f/volumes");
    assert!(answer.starts_with("HTTP/1.1 504"), "{answer}");
    assert!(
        answer.contains("Cinder has not answered in time."),
        "{answer}"
    );
    let answer = slow.get("/v3/0f/broken");
    assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
    // A head that came cannot be taken back.
    let mut stream = slow.connect();
    stream
        .write_all(b"GET /v3/0f/begun HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    let mut answer = Vec::new();
    stream
        .read_to_end(&mut answer)
        .expect_err("it is broken off");
    // Who announces a body and does not send it is told.
    let half = "POST /v3/0f/x HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nabc";
    let answer = slow.ask(half);
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    let answer = slow.ask(&half.replace("/x", "/early"));
    assert!(
        answer.starts_with("HTTP/1.1 413") && answer.ends_with("abc"),
        "{answer}"
    );
}

#[test]
fn only_so_many_requests_are_on_their_way() {
    let (seen, heads) = mpsc::channel();
    let (go, gone) = mpsc::channel::<()>();
    let gone = std::sync::Mutex::new(gone);
    let url = play(move |mut stream| {
        seen.send(head(&mut stream)).unwrap();
        gone.lock().unwrap().recv_timeout(PATIENCE).unwrap();
        stream
            .write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
            .unwrap();
    });
    let front = Front::of(&url, |config| config.cinder.gateway_requests_max = 1);
    std::thread::scope(|scope| {
        let both = ["/a", "/b"].map(|target| {
            let front = &front;
            scope.spawn(move || front.get(&format!("/v3/0f{target}")))
        });
        heads.recv_timeout(PATIENCE).unwrap();
        assert!(heads.recv_timeout(Duration::from_secs(1)).is_err());
        go.send(()).unwrap();
        heads.recv_timeout(PATIENCE).unwrap();
        go.send(()).unwrap();
        for one in both {
            let answer = one.join().unwrap();
            assert!(answer.starts_with("HTTP/1.1 204"), "{answer}");
        }
    });
}

#[test]
fn a_head_alone_says_how_long_the_body_would_be() {
    let front = Front::before(|mut stream| {
        head(&mut stream);
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 77\r\nConnection: close\r\n\r\n")
            .unwrap();
    });
    let answer = front.ask("HEAD /v3/0f/x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    assert!(answer.contains("content-length: 77\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\n"), "{answer}");
}
