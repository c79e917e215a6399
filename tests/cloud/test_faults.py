"""The parts of the cloud stopped, killed, full or closed while a backup and a restore run; and the service itself killed at
any moment, again and again."""

import contextlib
import http.client
import json
import os
import random
import signal
import time

import pytest
from bed import MIB, noise, until
from servers.cinder import POOL
from servers.process import kill
from tenant import CloudBed, Tenant

#: Longer than the service waits for an answer.
PAUSE = 8
SEEDS = int(os.environ.get("EMBERVAULT_SEEDS", "3"))


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


def crash(cinder, part):
    """Kills it, and brings it up again after a while."""
    if part == "keystone":
        cinder.keystone.process.kill()
        cinder.keystone.process.wait()
        time.sleep(PAUSE)
        cinder.keystone.start()
    elif part == "cinder":
        kill([cinder.processes["cinder"]])
        time.sleep(PAUSE)
        cinder._start_cinder()
    else:
        cinder.ceph.kill()
        time.sleep(PAUSE)
        cinder.ceph.start()


@pytest.mark.parametrize("way", ["stopped", "killed"])
@pytest.mark.parametrize("part", ["ceph", "cinder", "keystone"])
def test_a_part_that_is_away_for_a_while(bed, tenant, cinder, part, way):
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
    if way == "stopped":
        with pause(cinder, part):
            time.sleep(PAUSE)
    else:
        crash(cinder, part)
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


def test_a_pool_without_room(bed, tenant, cinder):
    volume = tenant.create_volume()
    bed.write(volume, 0, noise(7, 16 * MIB))
    backup = tenant.backed_up(volume)["id"]
    bed.write(volume, 0, noise(8, 16 * MIB))
    call = cinder.ceph.call
    ratios = (("full", "0.00001"), ("backfillfull", "0.00001"), ("nearfull", "0.00001"))
    try:
        for name, ratio in reversed(ratios):
            call("ceph", "osd", f"set-{name}-ratio", ratio)
        until("the store is full", lambda: "full" in call("ceph", "osd", "dump").split("flags")[-1] or
              "full" in call("ceph", "health", "detail"))
        # Cinder may be slow to answer then.
        failed = until("it is asked for", lambda: tenant.back_up(volume))
        until("it is asked for", lambda: tenant.restore(backup, volume))
        row = until("it has ended", lambda: (row := tenant.show("backups", failed))["status"] == "error" and row)
        assert "No space left" in row["fail_reason"], row["fail_reason"]
        tenant.wait("volumes", volume, "error_restoring")
    finally:
        for name, ratio in (("full", "0.95"), ("backfillfull", "0.9"), ("nearfull", "0.85")):
            call("ceph", "osd", f"set-{name}-ratio", ratio)
    tenant.wait("backups", backup, "available")
    assert bed.leftovers() == []


def test_a_cephx_user_without_rights(cinder, tmp_path):
    cinder.ceph.make_user("weak", mon="profile rbd", osd=f"profile rbd-read-only pool={POOL}")
    rbd = {"conf": cinder.ceph.client_conf, "user": "weak", "pool": POOL, "timeout": "5s"}
    with CloudBed(tmp_path, cinder, {"rbd": {"ceph": rbd}}) as bed:
        tenant = Tenant(bed, bed.start())
        volume = tenant.create_volume()
        backup = tenant.back_up(volume)
        row = until("it has ended", lambda: (row := tenant.show("backups", backup))["status"] == "error" and row)
        assert "profile rbd pool=volumes" in row["fail_reason"], row["fail_reason"]
        assert tenant.show("volumes", volume)["status"] == "available"
        assert bed.leftovers() == []


@pytest.mark.parametrize("seed", range(SEEDS))
def test_nothing_is_left_behind(bed, seed):
    chance = random.Random(seed)
    tenant = Tenant(bed, bed.processes[-1])
    volumes = [tenant.create_volume(name=f"{seed}-{number}") for number in range(2)]
    digests = {}
    for volume in volumes:
        bed.write(volume, 0, noise(seed, 24 * MIB))
        digests[tenant.backed_up(volume)["id"]] = bed.digest(volume)
    first, second = digests
    bed.write(volumes[0], 0, noise(seed + 1000, 20 * MIB))
    bed.write(volumes[1], 4 * MIB, noise(seed + 2000, 8 * MIB))
    # The longest of the three takes about that long.
    moment = time.monotonic() + chance.random() * 3
    made = {volumes[1]: bed.digest(volumes[1])}
    asked = [
        lambda: tenant.back_up(volumes[1], incremental=True, name=f"made-{seed}"),
        lambda: tenant.restore(first, volumes[0]),
        lambda: tenant.restore(second),
    ]
    chance.shuffle(asked)
    for ask in asked:
        if time.monotonic() < moment:
            ask()
    time.sleep(max(0, moment - time.monotonic()))
    bed.processes[-1].kill()
    if chance.random() < 0.5:
        process = bed.start()
        time.sleep(chance.random() * 2)
        process.kill()
    tenant = Tenant(bed, bed.start())
    until("all is settled", lambda: bed.leftovers() == [])
    for backup, digest in digests.items():
        tenant.wait("backups", backup, "available")
        tenant.check(backup, digest)
    restored = bed.query(f"SELECT count(*) FROM jobs WHERE kind = 'restore_backup' AND args LIKE '%{volumes[0]}%'")
    if restored[0][0]:
        assert bed.digest(volumes[0]) == digests[first]
    for (backup,) in bed.query(f"SELECT id FROM backups WHERE name = 'made-{seed}'"):
        tenant.wait("backups", backup, "available")
        tenant.check(backup, made[volumes[1]])
    for volume in volumes:
        assert len(bed.kept(volume)) <= 1
        tenant.delete("volumes", volume)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_request_that_is_cut_off_leaves_no_volume(bed, seed):
    chance = random.Random(seed)
    tenant = Tenant(bed, bed.processes[-1])
    volume = tenant.create_volume()
    bed.write(volume, 0, noise(seed, MIB))
    backup = tenant.backed_up(volume)["id"]
    before = volumes(bed)
    process = bed.processes[-1]
    place = process.base.removeprefix("http://").rstrip("/")
    connection = http.client.HTTPConnection(place, timeout=120)
    headers = {"X-Auth-Token": tenant.token, "Content-Type": "application/json"}
    connection.request("POST", f"/v3/{tenant.project}/backups/{backup}/restore", '{"restore": {}}', headers)
    time.sleep(chance.random() * 2)
    process.kill()
    connection.close()
    tenant = Tenant(bed, bed.start())
    until("cinder has made what it was asked for", lambda: "creating" not in volumes(bed).values())
    # A request is given minutes before it is taken for dead.
    bed.query("UPDATE volumes_in_making SET begun_at = 0")
    until("all is settled", lambda: bed.leftovers() == [])
    tenant.wait("backups", backup, "available")
    accepted = bed.query(f"SELECT count(*) FROM jobs WHERE kind = 'restore_backup' AND args LIKE '%{backup}%'")
    assert len(volumes(bed)) == len(before) + accepted[0][0]


def volumes(bed):
    """The status of each."""
    listed = bed.cinder.call("GET", "/volumes/detail?all_tenants=1").body["volumes"]
    return {row["id"]: row["status"] for row in listed}
