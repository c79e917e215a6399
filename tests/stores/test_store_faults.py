"""A store that fails as stores and networks do, between the real program and a real gateway: whatever
it does, what was available comes back bit for bit, and nothing hangs, lies or leaks afterwards."""

import concurrent.futures

import pytest

from bed import MIB, Bed, Client, noise, until
from servers.faulty import Fault, FaultyProxy

#: What strikes, and whether the work under way must succeed all the same.
FAULTS = {
    "error": ([Fault("error", probability=0.3)], True),
    "slow_down": ([Fault("slow_down", probability=0.3)], True),
    "reset": ([Fault("reset", probability=0.3)], True),
    "reset_midway": ([Fault("reset_midway", probability=0.3)], True),
    "stall": ([Fault("stall", probability=0.2, times=4, seconds=30)], True),
    "truncate": ([Fault("truncate", probability=0.3)], True),
    # An object that seems whole and is not is damage, unless it is right the second time.
    "shorten": ([Fault("shorten", path="/[pm]/", times=1)], True),
    "flip": ([Fault("flip", path="/[pm]/", times=1)], True),
    "lose_answer": ([Fault("lose_answer", method="PUT", probability=0.5, times=6)], True),
    "lose_write": ([Fault("lose_write", path="/p/", times=1)], True),
    "lose_root": ([Fault("lose_write", path="/b/", times=1)], True),
    "stale_list": ([Fault("stale_list", probability=0.7)], True),
    "away": ([Fault("reset")], False),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_store_that_fails(park, tmp_path, name):
    ceph = park.server("ceph")
    plan, must_succeed = FAULTS[name]
    with FaultyProxy(ceph.endpoint, seed=7) as proxy:
        storage = {**proxy.in_front(park.storage("ceph-s3")), "timeout": "3s", "retry_for": "15s"}
        with Bed(tmp_path, storage) as bed:
            demo = Client(bed, bed.start())
            volume = demo.create_volume()
            bed.write(volume, 0, noise(1, 4 * MIB))
            first = demo.back_up(volume)
            demo.wait("backups", first, "available")
            before = bed.digest(volume)
            # Lists that may be wanted again when they are old.
            bed.collect(1)

            proxy.set(plan)
            bed.write(volume, MIB, noise(2, 3 * MIB))
            after = bed.digest(volume)
            second = demo.back_up(volume, incremental=True)
            restored = demo.restore(first)
            if must_succeed:
                demo.wait("backups", second, "available")
                demo.wait("volumes", restored, "available")
            else:
                until("the fault is met", lambda: proxy.struck)
            # A collection beside a store that fails may fail, but not harm.
            bed.run("vault", "gc", status=None)
            proxy.clear()

            demo.wait("backups", second, "available")
            demo.wait("volumes", restored, "available")
            assert bed.digest(restored) == before
            demo.check(first, before)
            demo.check(second, after)
            assert bed.json("vault", "verify", "--full")[0]["damaged"] == []
            demo.delete("backups", first)
            demo.delete("backups", second)
            bed.collect(2)
            left = ceph.s3.keys(storage["url"].removeprefix("s3://").split("/")[0], "backups/v/")
            assert [key for key in left if not key.endswith("vault.json")] == []
            struck = {kind for kind in proxy.struck}
            assert struck == {fault.kind for fault in plan}, struck
            print(f"{name}: struck {proxy.struck}, nothing lost")


def test_a_list_has_as_long_as_its_pages_need_and_goes_on_behind_the_last_one(park, tmp_path):
    """Each page takes half the time that one call may take, and one fails: together they take longer."""
    ceph = park.server("ceph")
    with FaultyProxy(ceph.endpoint) as proxy:
        storage = {**proxy.in_front(park.storage("ceph-s3")), "timeout": "6s", "retry_for": "18s"}
        with Bed(tmp_path, storage) as bed:
            demo = Client(bed, bed.start())
            volume = demo.create_volume()
            bed.write(volume, 0, noise(1, MIB))
            backup = demo.back_up(volume)
            demo.wait("backups", backup, "available")
            (vault,), = bed.query("SELECT id FROM vaults")
            # Names that are no root's, three pages of them, in the folder of the roots.
            bucket, prefix = storage["url"].removeprefix("s3://").split("/", 1)
            with concurrent.futures.ThreadPoolExecutor(8) as pool:
                put = lambda n: ceph.s3.request("PUT", f"/{bucket}/{prefix}/v/{vault}/b/other-{n}").status
                assert set(pool.map(put, range(2200))) == {200}
            roots = f"prefix=[^&]*{vault}(%2F|/)b"
            proxy.set([Fault("error", "GET", roots, times=1, skip=1), Fault("stall", "GET", roots, seconds=3)])
            bed.collect(1)
            assert proxy.struck["error"] == 1 and proxy.struck["stall"] >= 3, proxy.struck
            proxy.clear()
            demo.check(backup, bed.digest(volume))
