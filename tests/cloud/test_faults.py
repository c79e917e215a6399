"""The parts of the cloud halted, and volumes deleted and extended, while a backup and a restore run."""

import contextlib
import json
import signal
import time

import pytest
from bed import MIB, noise, until
from servers.cinder import POOL
from tenant import CloudBed

#: Longer than the service waits for an answer.
PAUSE = 8


@pytest.fixture(scope="module")
def bed(cinder, tmp_path_factory):
    rbd = {"conf": cinder.ceph.client_conf, "user": "embervault", "pool": POOL, "timeout": "5s"}
    settings = {"timeout": "5s", "rbd": {"ceph": rbd}}
    with CloudBed(tmp_path_factory.mktemp("bed"), cinder, settings, engine={"paranoid": False}) as bed:
        bed.start()
        yield bed


@contextlib.contextmanager
def frozen(process):
    """The service does nothing meanwhile."""
    process.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.signal(signal.SIGCONT)


@contextlib.contextmanager
def pausing(send):
    send(signal.SIGSTOP)
    try:
        yield
    finally:
        send(signal.SIGCONT)


def pause(cinder, part):
    if part == "keystone":
        return pausing(cinder.keystone.process.send_signal)
    process = cinder.processes["cinder"] if part == "cinder" else cinder.ceph.processes["osd"]
    return pausing(process._child.send_signal)


@pytest.mark.parametrize("part", ["ceph", "cinder", "keystone"])
def test_a_part_that_is_away_for_a_while(bed, tenant, cinder, part):
    source, target = tenant.create_volume(), tenant.create_volume()
    bed.write(target, 0, noise(1, 64 * MIB))
    wanted = bed.digest(target)
    backup = tenant.backed_up(target)["id"]
    bed.write(target, 0, noise(2, 64 * MIB))
    bed.write(source, 0, noise(3, 128 * MIB))
    expected = bed.digest(source)
    bed.image("keep", target, "before")
    made = tenant.back_up(source)
    tenant.restore(backup, target)
    until("both have begun", lambda: bed.kept(source) and int(bed.image("changed", target, "before")))
    with pause(cinder, part):
        time.sleep(PAUSE)
    tenant.log_in()
    for kind, id in (("backups", made), ("backups", backup), ("volumes", target), ("volumes", source)):
        tenant.wait(kind, id, "available")
    assert bed.digest(target) == wanted
    assert bed.digest(tenant.restored(made)) == expected
    assert bed.leftovers() == []


def test_a_volume_that_is_deleted_while_it_is_read(bed, tenant):
    volume = tenant.create_volume()
    bed.write(volume, 0, noise(4, 200 * MIB))
    backup = tenant.back_up(volume)
    until("a snapshot is there", lambda: bed.kept(volume))
    with frozen(bed.processes[-1]):
        tenant.delete("volumes", volume)
    # What is deleted reads as zeros, which must not pass for the volume's.
    row = until("it has ended", lambda: (row := tenant.show("backups", backup))["status"] != "creating" and row)
    assert row["status"] == "error"
    assert "the volume was deleted" in row["fail_reason"] or "does not exist" in row["fail_reason"]
    assert bed.leftovers() == []


def test_a_volume_that_is_extended_while_it_is_read(bed, tenant):
    volume = tenant.create_volume()
    bed.write(volume, 0, noise(5, 64 * MIB))
    expected = bed.digest(volume)
    backup = tenant.back_up(volume)
    until("a snapshot is there", lambda: bed.kept(volume))
    with frozen(bed.processes[-1]):
        tenant.extend(volume, 2)
    assert tenant.wait("backups", backup, "available")["size"] == 1
    assert bed.digest(tenant.restored(backup)) == expected


def test_a_client_that_ceph_has_shut_out(bed, tenant, cinder):
    volume = tenant.create_volume()
    bed.write(volume, 0, noise(6, 64 * MIB))
    expected = bed.digest(volume)
    backup = tenant.backed_up(volume)["id"]
    bed.write(volume, 0, noise(7, 64 * MIB))
    bed.image("keep", volume, "before")
    tenant.restore(backup, volume)
    until("it writes", lambda: int(bed.image("changed", volume, "before")) > 0)
    with frozen(bed.processes[-1]):
        # As one is whose image another has opened, and who was taken for dead.
        status = json.loads(cinder.ceph.call("rbd", "status", f"{POOL}/volume-{volume}", "--format", "json"))
        for watcher in status["watchers"]:
            cinder.ceph.call("ceph", "osd", "blocklist", "add", watcher["address"], "3600")
    tenant.wait("volumes", volume, "available")
    tenant.wait("backups", backup, "available")
    assert status["watchers"]
    assert bed.digest(volume) == expected
    # Nor does the connection stay of no use.
    assert tenant.backed_up(volume, incremental=True)["status"] == "available"
    assert bed.leftovers() == []
