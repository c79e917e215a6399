"""The service is killed at any moment, again and again: all ends well, and leaves nothing behind."""

import http.client
import os
import random
import time

import pytest
from bed import MIB, noise, until
from tenant import Tenant

SEEDS = int(os.environ.get("EMBERVAULT_SEEDS", "3"))


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
