"""A tenant of the cloud, who asks Cinder for volumes and the service for backups; and the bytes in Ceph themselves."""

import hashlib
import json
import re
import subprocess
import urllib.parse

from bed import PATIENCE, Bed, Client, until
from servers.cinder import POOL

#: The interpreter of the system has Ceph's own bindings.
PYTHON = "/usr/bin/python3"

#: Reads or writes an image as a program of its own, so that nothing of ours is asked what is in it.
IMAGE = """
import sys, json, hashlib, rados, rbd
conf, keyring, pool, name, snapshot, work = sys.argv[1:7]
with rados.Rados(conffile=conf, name="client.admin", conf={"keyring": keyring}) as cluster:
    with cluster.open_ioctx(pool) as pool:
        at = snapshot if work == "digest" else ""
        with rbd.Image(pool, name, snapshot=at or None, read_only=work not in ("write", "keep", "drop")) as image:
            def changes():
                found = []
                image.diff_iterate(0, image.size(), snapshot, lambda *found_one: found.append(found_one[:2]))
                return found
            if work == "write":
                for line in sys.stdin:
                    piece = json.loads(line)
                    if "data" in piece:
                        image.write(bytes.fromhex(piece["data"]), piece["offset"])
                    else:
                        image.discard(piece["offset"], piece["length"])
            elif work == "digest":
                step, size = 4 << 20, image.size()
                digest, zeros = hashlib.blake2b(b"%d" % size), bytes(step)
                for at in range(0, size, step):
                    piece = image.read(at, step)
                    if piece != zeros:
                        digest.update(b"%d" % at)
                        digest.update(piece)
                print(digest.hexdigest())
            elif work == "keep":
                image.create_snap(snapshot)
            elif work == "drop":
                image.remove_snap(snapshot)
            elif work == "changed":
                print(sum(length for _, length in changes()))
            elif work == "missed":
                # Blocks that differ from the snapshot, and that Ceph does not call changed.
                told, missed, block = bytearray(image.size() // 4096), 0, 4096
                for at, length in changes():
                    told[at // block:-(-(at + length) // block)] = b"\1" * (-(-(at + length) // block) - at // block)
                with rbd.Image(pool, name, snapshot=snapshot, read_only=True) as before:
                    step = 4 << 20
                    for at in range(0, before.size(), step):
                        old, new = before.read(at, step), image.read(at, step)
                        if old != new:
                            missed += sum(old[i:i + block] != new[i:i + block] and not told[(at + i) // block]
                                          for i in range(0, step, block))
                print(missed)
            else:
                print(json.dumps([row["name"] for row in image.list_snaps()]))
"""


class CloudBed(Bed):
    """The service in front of a cloud."""

    def __init__(self, dir, cinder, cloud_settings=None, **settings):
        self.cinder = cinder
        keystone = {
            "auth_url": cinder.keystone.url, "username": "embervault", "password": "embervault-password",
            "project_name": "service", "user_domain_name": "Default", "project_domain_name": "Default",
        }
        rbd = {"conf": cinder.ceph.client_conf, "user": "embervault", "pool": POOL, "timeout": "10s"}
        cloud = {"url": cinder.url, "timeout": "10s", "rbd": {"ceph": rbd}, **(cloud_settings or {})}
        super().__init__(
            dir, identity={"mode": "keystone", "keystone": keystone}, volumes={"mode": "cinder"}, cinder=cloud, **settings)

    def image(self, work, volume, snapshot="", pool=POOL, lines=()):
        ceph = self.cinder.ceph
        words = [ceph.client_conf, ceph.data / "keyring", pool, f"volume-{volume}", snapshot, work]
        done = subprocess.run(
            [PYTHON, "-I", "-c", IMAGE, *map(str, words)], input="\n".join(map(json.dumps, lines)),
            capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def write(self, volume, offset, data):
        step = 1 << 20
        pieces = [{"offset": offset + at, "data": data[at:at + step].hex()} for at in range(0, len(data), step)]
        self.image("write", volume, lines=pieces)

    def discard(self, volume, offset, length):
        self.image("write", volume, lines=[{"offset": offset, "length": length}])

    def digest(self, volume, snapshot=""):
        return self.image("digest", volume, snapshot)

    def snapshots(self, volume):
        return json.loads(self.image("snapshots", volume))

    def kept(self, volume):
        """Snapshots of ours."""
        return [name for name in self.snapshots(volume) if re.fullmatch(r"backup\.[0-9a-f-]+\.snap\..+", name)]

    def leftovers(self):
        """What is held, half made, or in a state that only a job of ours ends."""
        left = self.query("SELECT 'hold', job, volume FROM volume_holds WHERE released_at IS NULL")
        left += self.query("SELECT 'making', marker, volume FROM volumes_in_making")
        left += self.query("SELECT 'job', id, state FROM jobs WHERE state IN ('available', 'running')")
        volumes = self.cinder.call("GET", "/volumes/detail?all_tenants=1").body["volumes"]
        for volume in volumes:
            if volume["status"] in ("restoring-backup", "backing-up", "creating", "deleting", "error_deleting"):
                left.append(("volume", volume["id"], volume["status"]))
            if "embervault_restore" in volume["metadata"]:
                left.append(("marker", volume["id"], volume["status"]))
        left += [("attachment", row["id"], row["status"])
                 for row in self.cinder.call("GET", "/attachments?all_tenants=1").body["attachments"]]
        return left

    def written(self):
        """What the last restore says it has done."""
        lines = [line for process in self.processes for line in process.log.read_text().splitlines()
                 if "the volume is written" in line]
        found = dict(re.findall(r"(is_by_difference|read_bytes|written_bytes)\W+(\w+)", lines[-1]))
        return found["is_by_difference"] == "true", int(found["read_bytes"]), int(found["written_bytes"])


class Tenant(Client):
    """A user of the cloud with the token of its Keystone. Volumes are Cinder's, and backups ours."""

    def __init__(self, bed, process, user="member"):
        self.cinder, self.user = bed.cinder, user
        super().__init__(bed, process, role=user)

    def log_in(self):
        self.place = self.cinder.cloud.USERS[self.user][0]
        self.project = self.cinder.cloud.projects[self.place]
        self.token = self.cinder.cloud.token(self.user)

    def request(self, method, path, body=None):
        if "/backups" in path or "/messages" in path:
            return super().request(method, path, body)
        ours, self.process = self.process, CinderProcess(self.cinder.url)
        try:
            return super().request(method, path, body)
        finally:
            self.process = ours

    def create_volume(self, size=1, **more):
        volume = self.ask("POST", "/volumes", {"volume": {"size": size, **more}})["volume"]["id"]
        self.wait("volumes", volume, "available")
        return volume

    def backed_up(self, volume, **more):
        """A backup that is there."""
        return self.wait("backups", self.back_up(volume, **more), "available")

    def restored(self, backup, volume=None):
        """The volume that a restore has filled."""
        volume = self.restore(backup, volume)
        self.wait("volumes", volume, "available")
        self.wait("backups", backup, "available")
        return volume

    def extend(self, volume, size):
        self.ask("POST", f"/volumes/{volume}/action", {"os-extend": {"new_size": size}})
        until("the volume is larger", lambda: self.show("volumes", volume)["size"] == size)
        self.wait("volumes", volume, "available")


class CinderProcess:
    """Cinder, where a client looks for a process of ours."""

    def __init__(self, url):
        place = urllib.parse.urlsplit(url)
        self.base = f"{place.scheme}://{place.netloc}"


def digest_of(data, size):
    """Of a volume that holds this, and zeros behind it."""
    step = 4 << 20
    digest = hashlib.blake2b(b"%d" % size)
    for at in range(0, len(data), step):
        piece = data[at:at + step].ljust(step, b"\0")
        if piece != bytes(step):
            digest.update(b"%d" % at)
            digest.update(piece)
    return digest.hexdigest()


__all__ = ["CloudBed", "Tenant", "digest_of", "until"]
