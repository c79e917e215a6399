//! Starts the program and databases, and speaks HTTP as a client does.

use serde_json::{Value, json};
use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

pub(crate) const MEBIBYTE: u64 = 1 << 20;
pub(crate) const GIBIBYTE: u64 = 1 << 30;
/// No wait of a test is longer.
const PATIENCE: Duration = Duration::from_secs(120);

/// The two databases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Database {
    Sqlite,
    Postgres,
}

pub(crate) const BOTH: [Database; 2] = [Database::Sqlite, Database::Postgres];

/// The variables of whoever runs the tests that the program would take for settings: a database of a developer's own, or
/// a word for the tests alone, which it would refuse.
fn foreign_settings(names: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let is_setting = |name: &OsString| name.as_encoded_bytes().starts_with(b"EMBERVAULT_");
    names.filter(is_setting).collect()
}

/// Takes them from a command.
pub(crate) fn without_settings(command: &mut Command) {
    for name in foreign_settings(std::env::vars_os().map(|(name, _)| name)) {
        command.env_remove(name);
    }
}

#[test]
fn no_setting_of_a_developer_reaches_the_program_under_test() {
    let names = [
        "EMBERVAULT_SOAK",
        "EMBERVAULT_DATABASE__URL",
        "PATH",
        "HOME",
    ];
    let found = foreign_settings(names.into_iter().map(OsString::from));
    assert_eq!(found, ["EMBERVAULT_SOAK", "EMBERVAULT_DATABASE__URL"]);
}

/// A PostgreSQL server in a directory of its own, reached through a socket there.
pub(crate) struct Postgres {
    dir: TempDir,
    server: Child,
}

impl Postgres {
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// A server with settings of its own.
    pub(crate) fn start_with(settings: &[&str]) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("embervault-pg-")
            .tempdir()
            .unwrap();
        let data = dir.path().join("data");
        std::fs::create_dir(&data).unwrap();
        let user = unprivileged_user();
        if let Some((uid, gid)) = user {
            std::os::unix::fs::chown(dir.path(), Some(uid), Some(gid)).unwrap();
            std::os::unix::fs::chown(&data, Some(uid), Some(gid)).unwrap();
        }
        let run = |program: &str| {
            let mut command = Command::new(postgres_program(program));
            command
                .current_dir(dir.path())
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            if let Some((uid, gid)) = user {
                // PostgreSQL refuses to run as root.
                command.uid(uid).gid(gid);
            }
            command
        };
        let initialized = run("initdb")
            .args([
                "--auth=trust",
                "--username=embervault",
                "--no-sync",
                "--encoding=UTF8",
                "-D",
            ])
            .arg(&data)
            .status()
            .unwrap();
        assert!(initialized.success(), "initdb failed");
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        let server = run("postgres")
            .stderr(log)
            .arg("-D")
            .arg(&data)
            .args(["-c", "listen_addresses=", "-c", "fsync=off", "-c"])
            .arg(format!("unix_socket_directories={}", dir.path().display()))
            .args(settings.iter().flat_map(|setting| ["-c", *setting]))
            .spawn()
            .unwrap();
        let postgres = Self { dir, server };
        until("PostgreSQL answers", || {
            let asked = Command::new(postgres_program("pg_isready"))
                .args(["-q", "-d", "postgres", "-U", "embervault", "-h"])
                .arg(postgres.dir.path())
                .status();
            asked.unwrap().success().then_some(())
        });
        postgres
    }

    /// Where the server writes its log.
    pub(crate) fn log(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    pub(crate) fn url(&self) -> String {
        let host = self.dir.path().display().to_string().replace('/', "%2F");
        format!("postgresql://embervault@{host}/postgres")
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.server.kill().ok();
        self.server.wait().ok();
    }
}

/// User and group of `nobody`, if we are root.
fn unprivileged_user() -> Option<(u32, u32)> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let is_root = status.lines().any(|line| line.starts_with("Uid:\t0\t"));
    is_root.then_some((65534, 65534))
}

fn postgres_program(name: &str) -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql");
    let mut found: Vec<PathBuf> = versions
        .into_iter()
        .flatten()
        .map(|entry| entry.unwrap().path().join("bin").join(name))
        .filter(|path| path.exists())
        .collect();
    found.sort();
    found.pop().unwrap_or_else(|| PathBuf::from(name))
}

/// A data directory, and the database beside it.
pub(crate) struct Bed {
    pub(crate) dir: TempDir,
    pub(crate) postgres: Option<Postgres>,
    settings: Vec<(String, String)>,
}

impl Bed {
    pub(crate) fn new(database: Database) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("embervault-test-")
            .tempdir()
            .unwrap();
        let postgres = (database == Database::Postgres).then(Postgres::start);
        let mut bed = Self {
            dir,
            postgres,
            settings: Vec::new(),
        };
        bed.set("JOBS__LEASE", "1s");
        bed.set("JOBS__POLL", "100ms");
        bed.set("JOBS__DRAIN", "0s");
        bed.set("ENGINE__PARANOID", "true");
        bed.set("ENGINE__PACK_BYTES", "4 MiB");
        if let Some(postgres) = &bed.postgres {
            let url = postgres.url();
            bed.set("DATABASE__URL", &url);
        }
        bed
    }

    pub(crate) fn set(&mut self, key: &str, value: &str) {
        let name = format!("EMBERVAULT_{key}");
        self.settings.retain(|(known, _)| *known != name);
        self.settings.push((name, value.to_owned()));
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub(crate) fn storage(&self) -> PathBuf {
        self.data().join("storage")
    }

    /// The program with this bed's settings and arguments.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        self.command_in(&[env!("CARGO_BIN_EXE_embervault")], arguments)
    }

    fn command_in(&self, program: &[&str], arguments: &[&str]) -> Command {
        let mut command = Command::new(program[0]);
        without_settings(&mut command);
        command
            .args(&program[1..])
            .args(arguments)
            .arg("--data-dir")
            .arg(self.data());
        command.envs(self.settings.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null());
        command
    }

    pub(crate) fn start(&self) -> Service {
        self.start_in(&[env!("CARGO_BIN_EXE_embervault")])
    }

    /// Starts the service behind a wrapping command.
    pub(crate) fn start_in(&self, program: &[&str]) -> Service {
        let mut command = self.command_in(program, &["serve", "--listen", "127.0.0.1:0"]);
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.dir.path().join("log"))
            .unwrap();
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let base = lines.find_map(|line| {
            let line = line.ok()?;
            line.split_once("listens on ")
                .map(|(_, base)| base.to_owned())
        });
        let base = base.unwrap_or_else(|| panic!("the service did not start:\n{}", self.log()));
        // Somebody must read the rest, or the service would stop at a full pipe.
        std::thread::spawn(move || lines.for_each(drop));
        Service { child, base }
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Logs in as a user the first start made: `demo` or `admin`.
    pub(crate) fn client(&self, service: &Service, user: &str) -> Client {
        let text = std::fs::read_to_string(self.data().join("keys/users.toml")).unwrap();
        let users: toml::Table = text.parse().unwrap();
        let found = users["users"]
            .as_array()
            .unwrap()
            .iter()
            .find(|row| row["name"].as_str() == Some(user))
            .unwrap();
        Client::log_in(
            &service.base,
            user,
            found["password"].as_str().unwrap(),
            found["project"].as_str().unwrap(),
        )
    }

    /// Files of the storage whose path holds a part, sorted.
    pub(crate) fn objects(&self, part: &str) -> Vec<PathBuf> {
        fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
            for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
                match entry.path() {
                    path if path.is_dir() => walk(&path, found),
                    path => found.push(path),
                }
            }
        }
        let mut found = Vec::new();
        walk(&self.storage(), &mut found);
        found.retain(|path| path.to_string_lossy().contains(part));
        found.sort();
        found
    }

    /// Bytes of these files.
    pub(crate) fn bytes_of(files: &[PathBuf]) -> u64 {
        files
            .iter()
            .map(|path| std::fs::metadata(path).unwrap().len())
            .sum()
    }
}

/// A running program.
pub(crate) struct Service {
    child: Child,
    pub(crate) base: String,
}

impl Service {
    /// `kill -9`.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM; gives whether it ended well.
    pub(crate) fn terminate(mut self) -> bool {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill")
            .arg("-TERM")
            .arg(&pid)
            .status()
            .unwrap();
        assert!(sent.success());
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.success();
            }
            assert!(started.elapsed() < PATIENCE, "the service does not stop");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// An answer: status and body.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Value,
    pub(crate) headers: Vec<(String, String)>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self
            .headers
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// The message of a fault of this status.
    pub(crate) fn fault(&self, status: u16) -> String {
        assert_eq!(self.status, status, "{}", self.body);
        let fault = self.body.as_object().unwrap().values().next().unwrap();
        fault["message"].as_str().unwrap().to_owned()
    }
}

/// A client that is logged in.
#[derive(Clone)]
pub(crate) struct Client {
    agent: ureq::Agent,
    pub(crate) base: String,
    pub(crate) token: Option<String>,
    pub(crate) project: String,
    pub(crate) version: String,
}

impl Client {
    pub(crate) fn log_in(base: &str, user: &str, password: &str, project: &str) -> Self {
        let mut client = Self::anonymous(base);
        let domain = json!({ "id": "default" });
        let body = json!({ "auth": {
            "identity": { "methods": ["password"], "password": { "user": {
                "name": user, "password": password, "domain": domain,
            } } },
            "scope": { "project": { "name": project, "domain": domain } },
        } });
        let answer = client.send("POST", "/identity/v3/auth/tokens", Some(body.to_string()));
        assert_eq!(answer.status, 201, "{}", answer.body);
        client.token = answer.header("X-Subject-Token").map(str::to_owned);
        client.project = answer.body["token"]["project"]["id"]
            .as_str()
            .unwrap()
            .to_owned();
        client
    }

    pub(crate) fn anonymous(base: &str) -> Self {
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .allow_non_standard_methods(true)
            .max_redirects(0)
            .timeout_global(Some(PATIENCE))
            .build()
            .into();
        Self {
            agent,
            base: base.to_owned(),
            token: None,
            project: String::new(),
            version: "volume 3.71".to_owned(),
        }
    }

    /// Any request to any path, the body as it is.
    pub(crate) fn send(&self, method: &str, path: &str, body: Option<String>) -> Answer {
        self.send_as(method, path, body, "application/json")
    }

    pub(crate) fn send_as(
        &self,
        method: &str,
        path: &str,
        body: Option<String>,
        kind: &str,
    ) -> Answer {
        let mut request = ureq::http::Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base))
            .header("Accept", "application/json");
        if !self.version.is_empty() {
            request = request.header("OpenStack-API-Version", &self.version);
        }
        if let Some(token) = &self.token {
            request = request.header("X-Auth-Token", token);
        }
        let sent = match body {
            Some(body) => self
                .agent
                .run(request.header("Content-Type", kind).body(body).unwrap()),
            None => self.agent.run(request.body(()).unwrap()),
        };
        let mut response = sent.unwrap_or_else(|error| panic!("{method} {path}: {error}"));
        let text = response.body_mut().read_to_string().unwrap();
        Answer {
            status: response.status().as_u16(),
            body: serde_json::from_str(&text).unwrap_or(Value::String(text)),
            headers: response
                .headers()
                .iter()
                .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
                .collect(),
        }
    }

    pub(crate) fn v3(&self, path: &str) -> String {
        format!("/v3/{}{path}", self.project)
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.send("GET", &self.v3(path), None)
    }

    pub(crate) fn post(&self, path: &str, body: Value) -> Answer {
        self.send("POST", &self.v3(path), Some(body.to_string()))
    }

    pub(crate) fn put(&self, path: &str, body: Value) -> Answer {
        self.send("PUT", &self.v3(path), Some(body.to_string()))
    }

    pub(crate) fn delete(&self, path: &str) -> Answer {
        self.send("DELETE", &self.v3(path), None)
    }

    /// Waits until a resource has a status; another final one is a failure.
    pub(crate) fn wait(&self, collection: &str, id: &str, status: &str) -> Value {
        let key = collection.trim_end_matches('s');
        let mut seen = String::new();
        until(&format!("{key} {id} to be {status}"), || {
            let answer = self.get(&format!("/{collection}/{id}"));
            assert_eq!(answer.status, 200, "{}", answer.body);
            let resource = answer.body[key].clone();
            let now = resource["status"].as_str().unwrap();
            if now != status && now.starts_with("error") {
                panic!("{key} is in {now}: {}", resource["fail_reason"]);
            }
            now.clone_into(&mut seen);
            (now == status).then_some(resource)
        })
    }

    pub(crate) fn wait_gone(&self, path: &str) {
        until(&format!("{path} to be gone"), || {
            (self.get(path).status == 404).then_some(())
        });
    }

    pub(crate) fn create_volume(&self, size_gib: u64) -> String {
        let answer = self.post(
            "/volumes",
            json!({ "volume": { "size": size_gib, "name": "v" } }),
        );
        assert_eq!(answer.status, 202, "{}", answer.body);
        let id = answer.body["volume"]["id"].as_str().unwrap().to_owned();
        self.wait("volumes", &id, "available");
        id
    }

    /// Asks for a backup; gives its id.
    pub(crate) fn back_up(&self, volume: &str, more: Value) -> String {
        let mut body = json!({ "backup": { "volume_id": volume } });
        for (key, value) in more.as_object().into_iter().flatten() {
            body["backup"][key] = value.clone();
        }
        let answer = self.post("/backups", body);
        assert_eq!(answer.status, 202, "{}", answer.body);
        answer.body["backup"]["id"].as_str().unwrap().to_owned()
    }

    /// Asks for a restore; gives the target's id.
    pub(crate) fn restore(&self, backup: &str, body: Value) -> String {
        let answer = self.post(
            &format!("/backups/{backup}/restore"),
            json!({ "restore": body }),
        );
        assert_eq!(answer.status, 202, "{}", answer.body);
        answer.body["restore"]["volume_id"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    /// Opens a volume as an attachment and gives the attachment's id and the path.
    pub(crate) fn attach(&self, volume: &str) -> (String, PathBuf) {
        let body = json!({ "attachment": { "volume_uuid": volume, "connector": { "host": "t" } } });
        let answer = self.post("/attachments", body);
        assert_eq!(answer.status, 200, "{}", answer.body);
        let attachment = &answer.body["attachment"];
        let id = attachment["id"].as_str().unwrap().to_owned();
        let info = &attachment["connection_info"];
        assert_eq!(info["driver_volume_type"], "local");
        let path = PathBuf::from(info["device_path"].as_str().unwrap());
        let done = self.post(
            &format!("/attachments/{id}/action"),
            json!({ "os-complete": {} }),
        );
        assert_eq!(done.status, 204, "{}", done.body);
        (id, path)
    }

    pub(crate) fn detach(&self, attachment: &str, volume: &str) {
        let answer = self.delete(&format!("/attachments/{attachment}"));
        assert_eq!(answer.status, 200, "{}", answer.body);
        self.wait("volumes", volume, "available");
    }

    /// Writes to a volume through an attachment.
    pub(crate) fn write(&self, volume: &str, pieces: &[(u64, Vec<u8>)]) {
        let (attachment, path) = self.attach(volume);
        let file = OpenOptions::new().write(true).open(path).unwrap();
        for (offset, bytes) in pieces {
            file.write_all_at(bytes, *offset).unwrap();
        }
        self.detach(&attachment, volume);
    }

    /// A digest of all of a volume's bytes.
    pub(crate) fn digest(&self, volume: &str) -> blake3::Hash {
        let (attachment, path) = self.attach(volume);
        let digest = digest_file(&path);
        self.detach(&attachment, volume);
        digest
    }
}

/// A digest of a file, its length included.
pub(crate) fn digest_file(path: &Path) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&std::fs::metadata(path).unwrap().len().to_le_bytes());
    hasher
        .update_reader(std::fs::File::open(path).unwrap())
        .unwrap();
    hasher.finalize()
}

/// Bytes that do not compress, the same for the same seed.
pub(crate) fn noise(seed: u64, length: u64) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(length).unwrap()];
    blake3::Hasher::new()
        .update(&seed.to_le_bytes())
        .finalize_xof()
        .fill(&mut bytes);
    bytes
}

/// Asks again and again until there is an answer; fails after a while.
pub(crate) fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(started.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(30));
    }
}
