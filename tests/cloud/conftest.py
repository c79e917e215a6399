"""One small cloud for all tests here: a real Ceph, Keystone and Cinder, and the service in front of them."""

import os
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests" / part) for part in ("cloud", ".", "stores")]

from servers.cinder import Cinder  # noqa: E402 - found by the line above
from tenant import CloudBed, Tenant  # noqa: E402 - as above

TOOLS = ROOT / "target" / "tools"
os.environ.setdefault("KEYSTONE_PYTHON", str(TOOLS / "keystone" / "bin" / "python"))
os.environ.setdefault("CINDER_PYTHON", str(TOOLS / "cinder" / "bin" / "python"))


@pytest.fixture(scope="session")
def cinder(tmp_path_factory):
    with Cinder(tmp_path_factory.mktemp("cloud")) as cinder:
        yield cinder


@pytest.fixture(scope="module")
def bed(cinder, tmp_path_factory):
    # Of what Ceph calls unchanged only samples are read, as it is by default.
    with CloudBed(tmp_path_factory.mktemp("bed"), cinder, engine={"paranoid": False}) as bed:
        bed.start()
        yield bed


@pytest.fixture
def tenant(bed):
    return Tenant(bed, bed.processes[-1])
