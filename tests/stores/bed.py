"""Embervault's real processes on one database and one storage, and what a user does with them."""

import contextlib
import hashlib
import http.client
import json
import os
import pathlib
import random
import re
import signal
import sqlite3
import subprocess
import threading
import time
import urllib.parse

from servers.postgres import tool

ROOT = pathlib.Path(__file__).resolve().parents[2]
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
PROGRAM = TARGET / os.environ.get("EMBERVAULT_PROFILE", "debug") / "embervault"
MIB = 1 << 20
#: Short, as tests wait until it is over; long enough for a disk that others keep busy.
LEASE = 4.0
#: Nothing that is waited for takes longer, not even on a busy machine.
PATIENCE = 180


def toml(value):
    """A value as TOML writes it in one line."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(key)} = {toml(item)}" for key, item in value.items()) + " }"
    return json.dumps(str(value) if isinstance(value, pathlib.Path) else value)


def noise(seed, length):
    return random.Random(seed).randbytes(length)


def until(what, done, patience=PATIENCE):
    """What `done` gives once it gives something; it may fail on the way there."""
    deadline = time.monotonic() + patience
    while True:
        try:
            if value := done():
                return value
            problem = None
        except (AssertionError, OSError, http.client.HTTPException) as error:
            problem = error
        assert time.monotonic() < deadline, f"{what}: not within {patience} s ({problem})"
        time.sleep(0.1)


@contextlib.contextmanager
def held(url, statement):
    """A transaction of a PostgreSQL database that has run a statement, and ends with the block."""
    command = [tool("psql"), "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", url]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as psql:
        psql.stdin.write(f"BEGIN; {statement}; SELECT 'held';\n")
        psql.stdin.flush()
        while (line := psql.stdout.readline().strip()) != "held":
            assert line, "psql has ended"
        yield
        psql.stdin.write("COMMIT;\n")


class Process:
    """One process of ours. What it printed is in `log`."""

    def __init__(self, bed, role, *arguments):
        self.bed, self.role = bed, role
        bed.count += 1
        self.log = bed.dir / f"{role}-{bed.count}.log"
        with open(self.log, "w") as log:
            self.child = subprocess.Popen(
                [*bed.prefix, PROGRAM, role, "--config", bed.config, *arguments],
                stdout=subprocess.PIPE, stderr=log, text=True, env=bed.environment(),
            )
        self.greeting = self.child.stdout.readline()
        assert self.greeting, f"{role} did not start: {self.log.read_text()[-2000:]}"
        # The rest must not fill the pipe.
        self.lines = []
        threading.Thread(target=lambda: self.lines.extend(self.child.stdout), daemon=True).start()
        found = re.search(r"http://\S+", self.greeting)
        self.base = found and found.group()

    def signal(self, number):
        self.child.send_signal(number)

    def kill(self):
        self.child.kill()
        self.child.wait()

    def stop(self):
        """Asks it to end; it must, and in peace."""
        self.signal(signal.SIGTERM)
        status = self.child.wait(120)
        assert status == 0, f"{self.role} ended with {status}: {self.log.read_text()[-2000:]}"

    @property
    def is_alive(self):
        return self.child.poll() is None


class Bed:
    """A data directory, a configuration, and the processes that were started on it."""

    def __init__(self, dir, storage=None, database=None, prefix=(), users=None, **settings):
        self.dir, self.prefix, self.count = pathlib.Path(dir), list(prefix), 0
        self.dir.mkdir(parents=True, exist_ok=True)
        self.data, self.config = self.dir / "data", self.dir / "embervault.toml"
        self.store_dir = self.dir / "store"
        self.processes, self.extra = [], {}
        self.users = users or [(role, "secret", "alpha", role) for role in ("admin", "member")]
        self.storage = dict(storage or {"url": f"fs:{self.store_dir}"})
        self.database = database or f"sqlite:{self.dir / 'embervault.db'}"
        self.settings = {
            "jobs": {"lease": f"{LEASE:g}s", "poll": "100ms", "drain": "0s"},
            "engine": {"pack_bytes": "1 MiB", "paranoid": True},
            "maintenance": {"collect_every": "0s", "verify_every": "0s"},
            "quota": {"volumes": 10000, "backups": 10000, "gigabytes": 100000, "backup_gigabytes": 100000},
            "log": {"filter": "info,actix_server=warn"},
        }
        for section, values in settings.items():
            self.settings.setdefault(section, {}).update(values)
        self._trust_ssh_host()
        self.write_config()

    def _trust_ssh_host(self):
        # The client has one list of known hosts for each user; a test must not write into it.
        options = dict(self.storage.get("sftp", {}))
        if known := options.pop("known_hosts_file", None):
            self.storage["sftp"] = options
            wrapper = self.dir / "bin" / "ssh"
            wrapper.parent.mkdir(exist_ok=True)
            wrapper.write_text(f'#!/bin/sh\nexec /usr/bin/ssh -o UserKnownHostsFile={known} "$@"\n')
            wrapper.chmod(0o755)
            self.extra["PATH"] = f"{wrapper.parent}:{os.environ['PATH']}"

    def write_config(self):
        storage = {"timeout": "10s", "retry_for": "20s", **self.storage}
        lines = [
            f"data_dir = {toml(self.data)}",
            f"api.listen = {toml('127.0.0.1:0')}",
            f"database.url = {toml(self.database)}",
            f"storage.main = {toml(storage)}",
        ]
        for section, values in self.settings.items():
            lines += [f"{section}.{key} = {toml(value)}" for key, value in values.items()]
        for user in self.users:
            named = zip(("name", "password", "project", "role"), user)
            lines += ["[[identity.users]]", *(f"{key} = {toml(value)}" for key, value in named)]
        self.config.write_text("\n".join(lines) + "\n")

    def environment(self):
        own = {name: value for name, value in os.environ.items() if not name.startswith(("OS_", "EMBERVAULT_"))}
        return {**own, **self.extra}

    # Processes.

    def start(self, role="serve"):
        process = Process(self, role)
        self.processes.append(process)
        return process

    def stop(self):
        """Ends what still runs, for the next test."""
        for process in self.processes:
            if process.is_alive:
                process.signal(signal.SIGCONT)
                process.kill()
        self.processes = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def run(self, *arguments, status=0):
        """One command beside the service; what it printed."""
        done = subprocess.run(
            [*self.prefix, PROGRAM, *arguments, "--config", self.config],
            capture_output=True, text=True, timeout=600, env=self.environment(),
        )
        assert status is None or done.returncode == status, f"{arguments}: {done.stdout}{done.stderr}"
        return done

    def json(self, *arguments, status=0):
        return json.loads(self.run(*arguments, "--json", status=status).stdout)

    def collect(self, times=2):
        """What the last of so many collections did, over all vaults."""
        for _ in range(times):
            done = self.json("vault", "gc")
        return done

    # The store, where it is a directory.

    def objects(self, part=""):
        files = (path for path in self.store_dir.rglob("*") if path.is_file())
        return sorted(path for path in files if part in str(path.relative_to(self.store_dir)))

    # Rows.

    def query(self, sql):
        """Rows of the SQLite database."""
        with sqlite3.connect(self.database.removeprefix("sqlite:"), timeout=60) as connection:
            return connection.execute(sql).fetchall()

    # Volumes.

    def volume_path(self, volume):
        return self.data / "volumes" / f"volume-{volume}.raw"

    def write(self, volume, offset, data):
        with open(self.volume_path(volume), "r+b") as file:
            file.seek(offset)
            file.write(data)

    def digest(self, volume):
        digest = hashlib.blake2b()
        with open(self.volume_path(volume), "rb") as file:
            while piece := file.read(MIB):
                digest.update(piece)
        return digest.hexdigest()


class Client:
    """A user of the API of one process."""

    def __init__(self, bed, process, role="member", project="alpha"):
        self.bed, self.process, self.role, self.place = bed, process, role, project
        self.log_in()

    def log_in(self):
        domain = {"id": "default"}
        user = {"name": self.role, "password": "secret", "domain": domain}
        scope = {"project": {"name": self.place, "domain": domain}}
        body = {"auth": {"identity": {"methods": ["password"], "password": {"user": user}}, "scope": scope}}
        self.token = None
        status, headers, answer = self.request("POST", "/identity/v3/auth/tokens", body)
        assert status == 201, answer
        self.token = headers["X-Subject-Token"]
        self.project = answer["token"]["project"]["id"]

    def request(self, method, path, body=None):
        place = urllib.parse.urlsplit(self.process.base)
        connection = http.client.HTTPConnection(place.netloc, timeout=120)
        headers = {"OpenStack-API-Version": "volume 3.71", "Content-Type": "application/json"}
        if self.token:
            headers["X-Auth-Token"] = self.token
        try:
            connection.request(method, path, json.dumps(body) if body is not None else None, headers)
            response = connection.getresponse()
            text = response.read().decode()
        finally:
            connection.close()
        return response.status, response.headers, json.loads(text) if text else None

    def ask(self, method, path, body=None):
        status, _, answer = self.request(method, f"/v3/{self.project}{path}", body)
        assert status in (200, 201, 202, 204), f"{method} {path}: {status} {answer}"
        return answer

    def create_volume(self, size=1):
        volume = self.ask("POST", "/volumes", {"volume": {"size": size}})["volume"]["id"]
        self.wait("volumes", volume, "available")
        return volume

    def back_up(self, volume, **more):
        return self.ask("POST", "/backups", {"backup": {"volume_id": volume, **more}})["backup"]["id"]

    def restore(self, backup, volume=None):
        body = {"restore": {"volume_id": volume} if volume else {}}
        return self.ask("POST", f"/backups/{backup}/restore", body)["restore"]["volume_id"]

    def delete(self, kind, id, gone=True):
        self.ask("DELETE", f"/{kind}/{id}")
        if gone:
            self.wait_gone(kind, id)

    def show(self, kind, id):
        return self.ask("GET", f"/{kind}/{id}")[kind.removesuffix("s")]

    def wait(self, kind, id, status, patience=PATIENCE):
        """Until it has the status; another one in which nothing more happens is a failure."""
        settled = {"available", "error", "error_restoring", "error_deleting", "in-use"}

        def look():
            row = self.show(kind, id)
            if row["status"] in settled - {status}:
                raise RuntimeError(f"{kind} {id} is {row['status']}: {row.get('fail_reason')}")
            return row if row["status"] == status else None

        return until(f"{kind} {id} is {status}", look, patience)

    def wait_gone(self, kind, id):
        return until(f"{kind} {id} is gone", lambda: self.request("GET", f"/v3/{self.project}/{kind}/{id}")[0] == 404)

    def check(self, backup, digest):
        """Restores to a new volume, compares every byte, and removes the volume."""
        volume = self.restore(backup)
        self.wait("volumes", volume, "available")
        self.wait("backups", backup, "available")
        assert self.bed.digest(volume) == digest, f"backup {backup} came back as something else"
        self.delete("volumes", volume)
