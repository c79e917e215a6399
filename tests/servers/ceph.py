"""Ceph: one monitor, one OSD and a RADOS gateway that speaks S3 and Swift. It does without a manager."""

import base64
import os
import re
import struct
import subprocess
import time
import uuid

from . import Server, program, web
from .account import Account
from .process import kill
from .s3 import S3

ACCESS_KEY, SECRET_KEY = "embervault", "embervault-secret"
USER, PASSWORD = "test:tester", "testing"

# Small proposal intervals are what makes the start quick: each new pool, map and user is a round of
# the monitor, and it would otherwise wait up to a second before each.
CONFIGURATION = """\
[global]
fsid = {fsid}
mon initial members = a
mon host = [v2:127.0.0.1:{mon}]
public network = 127.0.0.0/8
cluster network = 127.0.0.0/8
public addr = 127.0.0.1
ms bind ipv6 = false
auth allow insecure global id reclaim = false
mon allow pool delete = true
rbd default features = 61
paxos propose interval = 0.05
paxos min wait = 0.01
mon allow pool size one = true
mon data avail warn = 2
mon data avail crit = 1
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pgp num = 8
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
osd objectstore = bluestore
osd memory target = 1073741824
bluestore block size = {size}
bluestore block db create = false
bluestore block wal create = false
bluestore fsck on mkfs = false
admin socket =
run dir = {data}
log file = {log}/$name.log
keyring = {data}/keyring
[mon.a]
mon data = {data}/mon
[osd.0]
osd data = {data}/osd
[client.rgw.a]
rgw data = {data}/rgw
rgw frontends = beast endpoint=127.0.0.1:{gateway} tcp_nodelay=1
"""

# Everybody's rights, told to the monitor before it runs for the first time.
RIGHTS = {
    "mon.": {"mon": "allow *"},
    "client.admin": {"mon": "allow *", "osd": "allow *"},
    "osd.0": {"mon": "allow profile osd", "osd": "allow *"},
    "client.rgw.a": {"mon": "allow rw", "osd": "allow rwx"},
}


class Ceph(Server):
    """Survives `kill()` with all it acknowledged: the OSD is a real BlueStore, on a sparse file."""

    programs = {
        "ceph": "ceph-common", "rbd": "ceph-common", "radosgw-admin": "radosgw", "radosgw": "radosgw", "monmaptool": "ceph-base",
        "ceph-mon": "ceph-mon", "ceph-osd": "ceph-osd",
    }
    port_names = ("mon", "gateway")

    def __init__(self, dir, size=16 << 30, with_gateway=True):
        """`size` is how many bytes the store may grow to; the file is sparse."""
        super().__init__(dir)
        self.size, self.with_gateway = size, with_gateway
        self.endpoint = f"http://127.0.0.1:{self.ports['gateway']}"
        self.s3 = S3(self.endpoint, "default", ACCESS_KEY, SECRET_KEY)

    def make(self):
        for part in ("mon", "osd", "rgw"):
            (self.data / part).mkdir()
        (self.dir / "log").mkdir(exist_ok=True)
        fsid, osd = uuid.uuid4(), uuid.uuid4()
        self._file("osd-uuid").write_text(str(osd))
        self._file("keyring").write_text("".join(key_of(who, rights) for who, rights in RIGHTS.items()))
        self._file("ceph.conf").write_text(
            CONFIGURATION.format(fsid=fsid, data=self.data, log=self.dir / "log", size=self.size, **self.ports)
        )
        address = f"[v2:127.0.0.1:{self.ports['mon']}]"
        self.call("monmaptool", "--create", "--fsid", fsid, "--addv", "a", address, self._file("monmap"))
        maps = ["--monmap", self._file("monmap"), "--keyring", self._file("keyring")]
        self.call("ceph-mon", "--mkfs", "-i", "a", *maps)
        self.call("ceph-osd", "--mkfs", "-i", "0", "--osd-uuid", osd, "--no-mon-config", *maps)

    def run(self):
        self._spawn("mon", "ceph-mon", "-i", "a")
        if not self._file("introduced").exists():
            self._ask("osd", "new", self._file("osd-uuid").read_text())
            self._file("introduced").touch()
        else:  # After a kill the monitor has not noticed: it would send the gateway to where the OSD was.
            self._ask("osd", "down", "0")
        self._spawn("osd", "ceph-osd", "-i", "0")
        # A gateway that is there before the OSD looks for it again only every five seconds.
        self.until(lambda: " 1 up" in self._ask("osd", "stat"), "the OSD is up")
        if not self.with_gateway:
            return
        self.start_gateway()
        if not self._file("users").exists():
            self._make_users()
            self._file("users").touch()

    def version(self):
        printed = subprocess.run([program("radosgw"), "--version"], capture_output=True, text=True, check=True).stdout
        return "Ceph RGW " + re.search(r"version (\S+)", printed)[1]

    def start_gateway(self):
        """Brings up the gateway alone, and waits until it answers, so until the OSD does."""
        self._spawn("gateway", "radosgw", "-n", "client.rgw.a")
        self.until(lambda: web.answers(f"{self.endpoint}/"), "the gateway answers")

    def kill_gateway(self):
        """The gateway alone, with no chance to finish what it was doing; the cluster goes on."""
        kill([self.processes["gateway"]])

    def storage(self, name, place):
        return self.storage_s3(name, place)

    def storage_s3(self, name, place):
        """A bucket over S3."""
        if not self.s3.make_bucket(place.partition("/")[0]):
            raise self.failure(f"storage {name}: cannot make the bucket of {place}")
        return {
            "url": f"s3://{place}",
            "s3": {
                "endpoint": self.endpoint, "region": "default",
                "access_key_id": ACCESS_KEY, "secret_access_key": SECRET_KEY,
            },
        }

    def storage_swift(self, name, place):
        """A container over Swift. It is the same thing as a bucket of that name."""
        section = {
            "url": f"swift://{place}",
            "swift": {"auth_url": f"{self.endpoint}/auth/v1.0", "username": USER, "password": PASSWORD},
        }
        if not Account(**section["swift"]).make_container(place.partition("/")[0]):
            raise self.failure(f"storage {name}: cannot make the container of {place}")
        return section

    @property
    def client_conf(self):
        """What clients need: where the monitor is. Their keys lie beside it, as `client.NAME.keyring`."""
        return self._file("client.conf")

    def make_pool(self, name):
        """A pool for images, if there is none of the name."""
        if name not in self._ask("osd", "pool", "ls").split():
            self._ask("osd", "pool", "create", name, "8", "8")
            self.call("rbd", "pool", "init", name)

    def make_user(self, name, **rights):
        """A client with these rights; the path of its keyring."""
        caps = [word for part, right in rights.items() for word in (part, right)]
        keyring = self._file(f"client.{name}.keyring")
        keyring.write_text(self._ask("auth", "get-or-create", f"client.{name}", *caps))
        conf = self._file("ceph.conf").read_text().split("[mon.a]")[0]
        lines = [line for line in conf.splitlines() if not line.startswith(("keyring", "log file", "run dir"))]
        keyrings = self.data / "client.$id.keyring"
        self.client_conf.write_text("\n".join([*lines, f"keyring = {keyrings}", ""]))
        return keyring

    def call(self, *argv):
        """Runs a tool of Ceph to its end; what it prints on its standard output."""
        command = [program(str(argv[0])), "-c", self._file("ceph.conf"), *argv[1:]]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=self.limit)
        if done.returncode:
            raise self.failure(f"{' '.join(map(str, argv))}: status {done.returncode}\n{done.stderr}")
        return done.stdout

    def _make_users(self):
        """One user with a key for S3, who under another name and password is one of Swift too."""
        user, subuser = USER.split(":")
        known = self.call("radosgw-admin", "user", "list")
        if f'"{user}"' not in known:
            keys = ["--access-key", ACCESS_KEY, "--secret-key", SECRET_KEY]
            self.call("radosgw-admin", "user", "create", "--uid", user, "--display-name", user, *keys)
        key = ["--access", "full", "--key-type", "swift", "--secret-key", PASSWORD]
        self.call("radosgw-admin", "subuser", "create", "--uid", user, "--subuser", f"{user}:{subuser}", *key)

    def _ask(self, *words):
        return self.call("ceph", "--connect-timeout", self.limit, *words)

    def _spawn(self, name, command, *options):
        self.spawn(name, [command, "-f", "-c", self._file("ceph.conf"), *options])

    def _file(self, name):
        return self.data / name


def key_of(who, rights):
    """A section of a keyring with a fresh key. A key is its type, its age, its length, and random bytes."""
    secret = os.urandom(16)
    key = base64.b64encode(struct.pack("<HIIH", 1, int(time.time()), 0, len(secret)) + secret).decode()
    caps = "".join(f'\tcaps {part} = "{right}"\n' for part, right in rights.items())
    return f"[{who}]\n\tkey = {key}\n{caps}"
