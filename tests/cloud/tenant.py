"""A tenant of the cloud, who asks Cinder for volumes and the service for backups; and the bytes in Ceph themselves."""

import hashlib
import json
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
        with rbd.Image(pool, name, snapshot=snapshot or None, read_only=work != "write") as image:
            if work == "write":
                for line in sys.stdin:
                    piece = json.loads(line)
                    if "data" in piece:
                        image.write(bytes.fromhex(piece["data"]), piece["offset"])
                    else:
                        image.discard(piece["offset"], piece["length"])
            elif work == "digest":
                digest, at, size = hashlib.blake2b(), 0, image.size()
                while at < size:
                    digest.update(image.read(at, min(4 << 20, size - at)))
                    at += 4 << 20
                print(digest.hexdigest())
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


class CinderProcess:
    """Cinder, where a client looks for a process of ours."""

    def __init__(self, url):
        place = urllib.parse.urlsplit(url)
        self.base = f"{place.scheme}://{place.netloc}"


def digest_of(data, size):
    """Of a volume that holds this, and zeros behind it."""
    digest = hashlib.blake2b(data)
    left = size - len(data)
    while left > 0:
        piece = min(left, 4 << 20)
        digest.update(bytes(piece))
        left -= piece
    return digest.hexdigest()


__all__ = ["CloudBed", "Tenant", "digest_of", "until"]
