"""Starts one server by hand: `python -m servers ceph DIR`. Or says what to install: `python -m servers missing`."""

import argparse
import json
import signal
import sys

from .azurite import Azurite
from .ceph import Ceph
from .cinder import Cinder
from .gcs import Gcs
from .postgres import Postgres
from .sftp import Sftp
from .swift import Swift, SwiftKeystone
from .webdav import WebDav

SERVERS = {
    "azurite": Azurite, "ceph": Ceph, "cinder": Cinder, "gcs": Gcs, "postgres": Postgres, "sftp": Sftp, "swift": Swift,
    "swift-keystone": SwiftKeystone, "webdav": WebDav,
}


def sections(name, server, place):
    """What the server has to offer, as settings."""
    if isinstance(server, Postgres):
        return {name: {"url": server.url(place)}}
    if isinstance(server, Cinder):
        return {name: {"url": server.url, "keystone": server.keystone.url, "ceph": str(server.ceph.client_conf)}}
    if isinstance(server, Ceph):
        return {"ceph-s3": server.storage_s3("ceph-s3", place), "ceph-swift": server.storage_swift("ceph-swift", place)}
    return {name: server.storage(name, place)}


def main():
    parser = argparse.ArgumentParser(prog="python -m servers", description=__doc__)
    parser.add_argument("server", choices=[*SERVERS, "missing"])
    parser.add_argument("dir", nargs="?", help="where it keeps its state; started there again, it has the same")
    parser.add_argument("--place", default="backups", help="bucket, container, folder or database (%(default)s)")
    wanted = parser.parse_args()
    if wanted.server == "missing":
        packages = sorted({package for server in SERVERS.values() for package in server.missing_packages()})
        print("".join(f"{package}\n" for package in packages), end="")
        return
    if not wanted.dir:
        parser.error("a directory is needed")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    with SERVERS[wanted.server](wanted.dir) as server:
        print(server.version(), "runs until Ctrl-C", file=sys.stderr)
        print(json.dumps(sections(wanted.server, server, wanted.place), indent=2), flush=True)
        try:
            signal.pause()
        except KeyboardInterrupt:
            pass


main()
