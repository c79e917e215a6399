"""The servers that tests share: each is started once, when the first test wants it."""

import os
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from servers.azurite import Azurite
from servers.ceph import Ceph
from servers.gcs import Gcs
from servers.postgres import Postgres
from servers.sftp import Sftp
from servers.swift import Swift, SwiftKeystone
from servers.webdav import WebDav

TOOLS = ROOT / "target" / "tools"
os.environ.setdefault("WEBDAV_PYTHON", str(TOOLS / "servers" / "webdav" / "bin" / "python"))
os.environ.setdefault("GCS_PYTHON", str(TOOLS / "servers" / "gcs" / "bin" / "python"))
os.environ.setdefault("KEYSTONE_PYTHON", str(TOOLS / "keystone" / "bin" / "python"))
os.environ.setdefault("AZURITE_PREFIX", str(TOOLS / "azurite"))


def pytest_configure(config):
    config.addinivalue_line("markers", "calm: measures time, or keeps the disk busy; `tests/run` runs it last, alone")


class Park:
    """Servers by name, started on demand."""

    classes = {"ceph": Ceph, "swift": Swift, "swift-keystone": SwiftKeystone, "sftp": Sftp, "webdav": WebDav,
               "azurite": Azurite, "gcs": Gcs, "postgres": Postgres}

    def __init__(self, dir):
        self.dir, self.running, self.places = dir, {}, 0

    def server(self, name):
        if name not in self.running:
            self.running[name] = self.classes[name](self.dir / name).start()
        return self.running[name]

    def storage(self, driver):
        """A storage section of its own for each call."""
        self.places += 1
        place = f"embervault-{self.places}/backups"
        match driver:
            case "directory":
                return {"url": f"fs:{self.dir / place}"}
            case "ceph-s3":
                return self.server("ceph").storage_s3(driver, place)
            case "ceph-swift":
                return self.server("ceph").storage_swift(driver, place)
            case _:
                return self.server(driver).storage(driver, place)

    def version(self, driver):
        if driver == "directory":
            return f"Linux {os.uname().release}"
        return self.server("ceph" if driver.startswith("ceph-") else driver).version()

    def database(self):
        """A new PostgreSQL database."""
        self.places += 1
        return self.server("postgres").url(f"embervault_{self.places}")

    def stop(self):
        for server in self.running.values():
            server.stop()


@pytest.fixture(scope="session")
def park(tmp_path_factory):
    park = Park(tmp_path_factory.mktemp("park"))
    yield park
    park.stop()
