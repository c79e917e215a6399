"""A restore onto the volume that was backed up: only what differs is read from the storage and written to Ceph."""

import signal

from bed import MIB, noise, until
from tenant import Tenant, digest_of

GIB = 1 << 30


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
