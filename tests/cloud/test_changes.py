"""What Ceph says has changed: incremental backups of volumes with a history (made from others, extended, reverted, moved), and
restores onto the volume itself, which read from the storage and write to Ceph only what differs."""

import signal
import sqlite3

import pytest
from bed import MIB, noise, until
from servers.cinder import POOL
from tenant import Tenant, digest_of

GIB = 1 << 30
#: A sample of what Ceph calls unchanged is read too.
SAMPLED = 8 * MIB


def read_bytes(bed, backup):
    ((read,),) = bed.query(f"SELECT read_bytes FROM backups WHERE id = '{backup['id']}'")
    return read


def check(bed, tenant, *backups):
    """Each backup comes back as what its volume was, bit for bit."""
    for backup, digest in backups:
        restored = tenant.restored(backup["id"])
        assert bed.digest(restored) == digest
        tenant.delete("volumes", restored)


def change(bed, volume, seed):
    """Overwrites some, makes a hole, and fills another."""
    bed.write(volume, 20 * MIB + 4096 * seed, noise(seed, 64 << 10))
    bed.discard(volume, 8 * MIB, 4 * MIB)
    bed.write(volume, 300 * MIB + 512, noise(seed + 1, 3 * 512))
    return bed.digest(volume)


def snapshot(tenant, volume):
    made = tenant.ask("POST", "/snapshots", {"snapshot": {"volume_id": volume, "force": True}})["snapshot"]["id"]
    tenant.wait("snapshots", made, "available")
    return made


@pytest.mark.parametrize("origin", ["snapshot", "volume"])
def test_a_volume_made_from_another(bed, tenant, origin):
    first = tenant.create_volume()
    bed.write(first, 0, noise(1, 32 * MIB))
    source = {"snapshot_id": snapshot(tenant, first)} if origin == "snapshot" else {"source_volid": first}
    volume = tenant.create_volume(**source)
    # Over what it shares with the other: written, and thrown away.
    bed.write(volume, 5 * MIB, noise(2, 4096))
    bed.discard(volume, 12 * MIB, 4 * MIB)
    before = bed.digest(volume)
    full = tenant.backed_up(volume)
    after = change(bed, volume, 3)
    incremental = tenant.backed_up(volume, incremental=True)
    assert read_bytes(bed, incremental) < SAMPLED
    check(bed, tenant, (full, before), (incremental, after))
    # In place, where a hole of the backup hides what the other has.
    bed.write(volume, 12 * MIB + 4096, noise(4, MIB))
    bed.discard(volume, 28 * MIB, 4 * MIB)
    tenant.restored(incremental["id"], volume)
    is_by_difference, _, written = bed.written()
    assert is_by_difference and written <= 6 * MIB
    assert bed.digest(volume) == after


def test_a_volume_that_grew(bed, tenant):
    volume = tenant.create_volume()
    bed.write(volume, 0, noise(5, 32 * MIB))
    before = bed.digest(volume)
    full = tenant.backed_up(volume)
    tenant.extend(volume, 2)
    bed.write(volume, GIB - MIB, noise(6, 2 * MIB))
    after = change(bed, volume, 7)
    incremental = tenant.backed_up(volume, incremental=True)
    assert incremental["size"] == 2
    assert read_bytes(bed, incremental) < SAMPLED + 2 * MIB
    check(bed, tenant, (full, before), (incremental, after))


@pytest.mark.parametrize("order", ["snapshot first", "backup first"])
def test_a_volume_that_was_reverted(bed, tenant, order):
    volume = tenant.create_volume()
    bed.write(volume, 0, noise(8, 32 * MIB))
    # The objects are clean in the snapshot that the volume goes back to.
    snapshot(tenant, volume)
    backups = []

    def back_up(**more):
        backups.append((tenant.backed_up(volume, **more), bed.digest(volume)))

    if order == "backup first":
        back_up()
    middle = snapshot(tenant, volume)
    change(bed, volume, 9)
    if order == "snapshot first":
        back_up()
    bed.write(volume, 24 * MIB, noise(10, 8192))
    tenant.ask("POST", f"/volumes/{volume}/action", {"revert": {"snapshot_id": middle}})
    tenant.wait("volumes", volume, "available")
    back_up(incremental=True)
    assert backups[0][1] != backups[1][1] or order == "backup first"
    # It may take long to tell, and must be right.
    check(bed, tenant, *backups)
    tenant.restored(backups[1][0]["id"], volume)
    assert bed.digest(volume) == backups[1][1]


@pytest.mark.parametrize("without", [["fast-diff"], ["fast-diff", "object-map"]])
def test_an_image_without_an_object_map(bed, tenant, without):
    volume = tenant.create_volume()
    bed.cinder.ceph.call("rbd", "feature", "disable", f"{POOL}/volume-{volume}", *without)
    bed.write(volume, 0, noise(11, 32 * MIB))
    before = bed.digest(volume)
    full = tenant.backed_up(volume)
    after = change(bed, volume, 12)
    incremental = tenant.backed_up(volume, incremental=True)
    assert read_bytes(bed, incremental) < SAMPLED
    check(bed, tenant, (full, before), (incremental, after))
    bed.write(volume, 0, noise(13, MIB))
    tenant.restored(incremental["id"], volume)
    assert bed.written()[0] is True
    assert bed.digest(volume) == after


def test_a_volume_that_was_moved_to_another_pool_and_back(bed, tenant):
    volume = tenant.create_volume()
    bed.write(volume, 0, noise(14, 16 * MIB))
    before = bed.digest(volume)
    full = tenant.backed_up(volume)
    for kind in ("other", "ceph"):
        body = {"os-retype": {"new_type": kind, "migration_policy": "on-demand"}}
        tenant.ask("POST", f"/volumes/{volume}/action", body)
        tenant.wait("volumes", volume, "available")
        assert tenant.show("volumes", volume)["volume_type"] == kind
    assert bed.digest(volume) == before
    bed.write(volume, MIB, noise(15, 4096))
    after = bed.digest(volume)
    # It is another image, of which Ceph cannot say what changed.
    incremental = tenant.backed_up(volume, incremental=True)
    assert read_bytes(bed, incremental) >= 16 * MIB
    check(bed, tenant, (full, before), (incremental, after))
    bed.write(volume, MIB, noise(16, 4096))
    after = bed.digest(volume)
    incremental = tenant.backed_up(volume, incremental=True)
    assert read_bytes(bed, incremental) < SAMPLED
    check(bed, tenant, (incremental, after))


def test_a_volume_whose_image_has_another_name(bed, tenant):
    volume, other = tenant.create_volume(), "0f0f0f0f-0000-4000-8000-000000000001"
    bed.write(volume, 0, noise(17, 16 * MIB))
    full = tenant.backed_up(volume)
    # As a migration leaves it that could not give the image its old name.
    bed.cinder.ceph.call("rbd", "rename", f"{POOL}/volume-{volume}", f"{POOL}/volume-{other}")
    with sqlite3.connect(bed.cinder.data / "cinder.db", timeout=60) as cinder:
        cinder.execute("UPDATE volumes SET _name_id = ? WHERE id = ?", (other, volume))
    after = change(bed, other, 18)
    incremental = tenant.backed_up(volume, incremental=True)
    assert read_bytes(bed, incremental) < SAMPLED
    check(bed, tenant, (incremental, after))
    bed.write(other, 0, noise(19, MIB))
    tenant.restored(incremental["id"], volume)
    assert bed.written()[0] is True
    assert bed.digest(other) == after
    assert full["id"] != incremental["id"]


def test_only_what_differs_is_read_and_written(bed, tenant):
    volume = tenant.create_volume()
    bed.write(volume, 0, noise(1, 48 * MIB))
    expected = bed.digest(volume)
    backup = tenant.backed_up(volume)
    # Over data, over a hole, data that is gone, and behind the end that the volume had.
    bed.write(volume, 20 * MIB + 4096, noise(2, 64 << 10))
    bed.write(volume, 500 * MIB, noise(3, 12 << 10))
    bed.discard(volume, 8 * MIB, 4 * MIB)
    tenant.extend(volume, 2)
    bed.write(volume, GIB, noise(4, MIB))
    bed.image("keep", volume, "before")
    tenant.restored(backup["id"], volume)
    is_by_difference, read, written = bed.written()
    assert is_by_difference
    assert (4 << 20) + (64 << 10) <= written <= (4 << 20) + (192 << 10)
    assert read == written
    # Ceph itself says the same, with the zeros.
    assert int(bed.image("changed", volume, "before")) <= 6 * MIB
    bed.image("drop", volume, "before")
    assert expected == digest_of(noise(1, 48 * MIB), GIB)
    assert bed.digest(volume) == digest_of(noise(1, 48 * MIB), 2 * GIB)
    # What was written back is a change like any other to the next backup.
    bed.write(volume, 30 * MIB, noise(5, 8192))
    later = bed.digest(volume)
    incremental = tenant.backed_up(volume, incremental=True)
    assert bed.digest(tenant.restored(incremental["id"])) == later


def test_a_volume_that_has_not_changed_is_left_alone(bed, tenant):
    volume = tenant.create_volume()
    bed.write(volume, 0, noise(6, 16 * MIB))
    expected = bed.digest(volume)
    backup = tenant.backed_up(volume)
    tenant.restored(backup["id"], volume)
    assert bed.written() == (True, 0, 0)
    assert bed.digest(volume) == expected


def test_all_is_written_where_the_snapshot_is_gone(bed, tenant):
    volume = tenant.create_volume()
    bed.write(volume, 0, noise(7, 16 * MIB))
    expected = bed.digest(volume)
    older = tenant.backed_up(volume)
    bed.write(volume, 0, noise(8, MIB))
    newest = bed.digest(volume)
    backup = tenant.backed_up(volume, incremental=True)
    bed.write(volume, 4 * MIB, noise(9, MIB))
    # Its snapshot made room for that of the newest.
    tenant.restored(older["id"], volume)
    assert bed.written()[0] is False
    assert bed.digest(volume) == expected
    (kept,) = bed.kept(volume)
    bed.image("drop", volume, kept)
    tenant.restored(backup["id"], volume)
    assert bed.written()[0] is False
    assert bed.digest(volume) == newest


def test_all_is_written_where_the_snapshot_goes_meanwhile(bed, tenant):
    volume = tenant.create_volume()
    bed.write(volume, 0, noise(10, 64 * MIB))
    expected = bed.digest(volume)
    backup = tenant.backed_up(volume)
    bed.write(volume, 0, noise(11, 64 * MIB))
    (kept,) = bed.kept(volume)
    bed.image("keep", volume, "before")
    tenant.restore(backup["id"], volume)
    until("it writes", lambda: int(bed.image("changed", volume, "before")) > 0)
    bed.processes[-1].signal(signal.SIGSTOP)
    bed.image("drop", volume, kept)
    # As an administrator may do by mistake: of the same name, and of another moment.
    bed.image("keep", volume, kept)
    bed.processes[-1].signal(signal.SIGCONT)
    tenant.wait("volumes", volume, "available")
    tenant.wait("backups", backup["id"], "available")
    assert bed.digest(volume) == expected
    assert bed.written()[0] is False


def test_the_difference_stays_whole_after_a_kill(bed):
    tenant = Tenant(bed, bed.processes[-1])
    volume = tenant.create_volume()
    bed.write(volume, 0, noise(12, 64 * MIB))
    expected = bed.digest(volume)
    backup = tenant.backed_up(volume)
    bed.write(volume, 0, noise(13, 64 * MIB))
    bed.discard(volume, 4 * MIB, 4 * MIB)
    (kept,) = bed.kept(volume)
    bed.image("keep", volume, "before")
    tenant.restore(backup["id"], volume)
    until("it writes", lambda: int(bed.image("changed", volume, "before")) > 0)
    bed.processes[-1].kill()
    partly = bed.digest(volume)
    assert partly != expected
    assert bed.image("missed", volume, kept) == "0"
    tenant = Tenant(bed, bed.start())
    tenant.wait("volumes", volume, "available")
    tenant.wait("backups", backup["id"], "available")
    assert bed.written()[0] is True
    assert bed.digest(volume) == expected
