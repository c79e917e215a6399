"""Many tenants at once, for minutes: beside collections, beside kills, and with more and more workers.

`tests/run --soak` does each for longer."""

import os
import random
import threading
import time

from bed import MIB, Bed, Client, noise, until
from tenant import Tenant

SOAK = "EMBERVAULT_SOAK" in os.environ
SEED = int(os.environ.get("EMBERVAULT_SEED", "20261122"))
KILLS = int(os.environ.get("EMBERVAULT_KILLS", 300 if SOAK else 30))


class Keeper(threading.Thread):
    """Verifies and repairs by hand, again and again. What is killed meanwhile may end a command, and no more."""

    def __init__(self, bed, stop):
        super().__init__(daemon=True)
        self.bed, self.stop, self.turns = bed, stop, 0

    def run(self):
        while not self.stop.is_set():
            for command in ("verify", "repair"):
                self.bed.run("vault", command, status=None)
            self.turns += 1
            self.stop.wait(2)


def test_kills_at_random_lose_nothing(park, tmp_path):
    """API, workers, PostgreSQL and the gateway are killed at random moments, while tenants back up, and vaults
    are collected, verified and repaired; then everything that was available comes back, and nothing else is left."""
    chance = random.Random(SEED)
    ceph, postgres = park.server("ceph"), park.server("postgres")
    storage = {**park.storage("ceph-s3"), "timeout": "5s", "retry_for": "30s"}
    with Bed(tmp_path, storage, park.database(), maintenance={"collect_every": "3s", "verify_every": "5s"}) as bed:
        running = {name: bed.start(name.split("-")[0]) for name in ("api-1", "worker-1", "worker-2")}
        stop = threading.Event()
        tenants = [Tenant(bed, lambda: running["api-1"], SEED + n, stop) for n in range(3)]
        keeper = Keeper(bed, stop)
        for thread in [*tenants, keeper]:
            thread.start()
        killed = {}
        for _ in range(KILLS):
            time.sleep(chance.uniform(0.1, 2.0))
            victim = chance.choice([*running, "worker-1", "worker-2", "postgres", "gateway"])
            killed[victim] = killed.get(victim, 0) + 1
            if victim == "postgres":
                postgres.kill()
                time.sleep(chance.uniform(0, 1))
                postgres.start()
            elif victim == "gateway":
                ceph.kill_gateway()
                time.sleep(chance.uniform(0, 1))
                ceph.start_gateway()
            else:
                running[victim].kill()
                time.sleep(chance.uniform(0, 0.5))
                running[victim] = until("it starts", lambda: bed.start(victim.split("-")[0]))
        stop.set()
        for tenant in tenants:
            tenant.join(300)
            assert not tenant.is_alive() and tenant.problem is None, tenant.problem
        keeper.join(300)
        demo = Client(bed, running["api-1"])
        busy = ("creating", "restoring", "deleting")

        def all_settled():
            rows = demo.ask("GET", "/backups/detail")["backups"]
            return all(row["status"] not in busy for row in rows) and rows

        rows = until("nothing is under way", all_settled)
        states = {}
        for row in rows:
            states[row["status"]] = states.get(row["status"], 0) + 1
        lost = [row for row in rows if row["status"].startswith("error")]
        checked = 0
        for tenant in tenants:
            for backup, digest in tenant.digests.items():
                demo.check(backup, digest)
                checked += 1
        assert checked > 0 and not lost, lost
        # Nothing was taken for damaged because something was away.
        assert [row for row in rows if row["fail_reason"]] == []
        assert bed.json("vault", "verify", "--full")[0]["damaged"] == []
        for row in rows:
            demo.delete("backups", row["id"])
        bed.collect(2)
        done = bed.json("vault", "gc")[0]
        assert (done["kept"]["packs"], done["leftovers"], done["unknown"]) == (0, [], []), done
        print(f"seed {SEED}: {sum(killed.values())} kills {killed}, {sum(t.turns for t in tenants)} backups, "
              f"{checked} restored bit for bit, 0 bytes lost, {states}; verified and repaired {keeper.turns} times")


def test_collections_beside_backups_harm_nothing(park, tmp_path):
    """Tenants back up, restore and delete while vaults are collected and compacted as fast as it goes."""
    seconds = 660 if SOAK else 40
    settings = {"collect_every": "500ms", "compact_percent": 5, "verify_every": "2s"}
    with Bed(tmp_path, park.storage("ceph-s3"), park.database(), maintenance=settings) as bed:
        api, _ = bed.start("api"), [bed.start("worker") for _ in range(2)]
        stop = threading.Event()
        tenants = [Tenant(bed, lambda: api, SEED + n, stop) for n in range(3)]
        for tenant in tenants:
            tenant.start()
        deadline = time.monotonic() + seconds
        demo, checked = Client(bed, api), 0
        while time.monotonic() < deadline:
            for tenant in tenants:
                for backup, digest in list(tenant.digests.items())[-1:]:
                    try:
                        demo.check(backup, digest)
                        checked += 1
                    except (AssertionError, RuntimeError):
                        # It may have been deleted while it was looked at; nothing else excuses it.
                        assert backup not in tenant.digests, backup
            bed.collect(1)
        stop.set()
        for tenant in tenants:
            tenant.join(300)
            assert not tenant.is_alive() and tenant.problem is None, tenant.problem
            for backup, digest in tenant.digests.items():
                demo.check(backup, digest)
                checked += 1
        assert bed.json("vault", "verify", "--full")[0]["damaged"] == []
        generation = bed.json("vault", "gc")[0]["generation"]
        print(f"{seconds} s, {sum(t.turns for t in tenants)} backups, {generation} collections, "
              f"{checked} restores compared, 0 wrong")


def test_more_workers_do_more(park, tmp_path):
    """How fast eight volumes are backed up and restored by 1, 2 and 4 workers."""
    volumes_mib = 128 if SOAK else 16
    times = {}
    for count in (1, 2, 4):
        settings = {"engine": {"pack_bytes": "8 MiB", "paranoid": False},
                    "jobs": {"backups": 1, "reserve": False, "lease": "15s"}}
        with Bed(tmp_path / str(count), park.storage("ceph-s3"), park.database(), **settings) as bed:
            api = bed.start("api")
            workers = [bed.start("worker") for _ in range(count)]
            demo = Client(bed, api)
            volumes = [demo.create_volume() for _ in range(8)]
            for n, volume in enumerate(volumes):
                bed.write(volume, 0, noise(n, volumes_mib * MIB))
            started = time.monotonic()
            backups = [demo.back_up(volume) for volume in volumes]
            for backup in backups:
                demo.wait("backups", backup, "available", 300)
            backed_up = time.monotonic() - started
            started = time.monotonic()
            targets = [demo.restore(backup) for backup in backups]
            for target in targets:
                demo.wait("volumes", target, "available", 300)
            times[count] = (backed_up, time.monotonic() - started)
            assert [bed.digest(target) for target in targets] == [bed.digest(volume) for volume in volumes]
            assert len(workers) == count
    for count, (backup, restore) in times.items():
        rate = 8 * volumes_mib * MIB / 1e6
        print(f"{count} workers: backup {rate / backup:.0f} MB/s ({times[1][0] / backup:.2f} of one), "
              f"restore {rate / restore:.0f} MB/s ({times[1][1] / restore:.2f} of one)")


def test_upkeep_keeps_pace_with_many_vaults(tmp_path):
    """The scheduler looks only four times in a period: one vault at each look would take six periods, not three."""
    period, count = 60, 24
    users = [("member", "secret", f"p{number}", "member") for number in range(count)]
    with Bed(tmp_path, users=users) as bed:
        process = bed.start()
        for *_, project, _ in users:
            client = Client(bed, process, project=project)
            volume = client.create_volume()
            bed.write(volume, 0, noise(1, 4096))
            client.wait("backups", client.back_up(volume), "available")
        process.stop()
        bed.settings["maintenance"] = {"collect_every": "0s", "verify_every": f"{period}s"}
        bed.write_config()
        bed.start()
        verified = "SELECT count(*) FROM vaults WHERE verified_at IS NOT NULL"
        until("all are verified", lambda: bed.query(verified) == [(count,)], 3 * period)
