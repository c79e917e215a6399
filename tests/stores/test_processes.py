"""Many processes on one PostgreSQL and one storage: killed, halted, cut off, and with clocks that jump."""

import os
import pathlib
import random
import signal
import threading
import time

import pytest

from bed import LEASE, MIB, Bed, Client, noise, until

SOAK = "EMBERVAULT_SOAK" in os.environ
SEED = int(os.environ.get("EMBERVAULT_SEED", "20261122"))
KILLS = 120 if SOAK else 30


def jobs(client):
    return client.ask("GET", "/embervault/jobs")["jobs"]


def slow(storage, mebibytes):
    """The same storage; uploads take their time, so that there is some in which things can happen."""
    return {**storage, "upload_limit": f"{mebibytes} MiB"}


def test_workers_share_the_work_and_are_seen(park, tmp_path):
    with Bed(tmp_path, slow(park.storage("ceph-s3"), 4), park.database(), jobs={"backups": 1}) as bed:
        apis = [bed.start("api") for _ in range(2)]
        workers = [bed.start("worker") for _ in range(3)]
        clients = [Client(bed, api) for api in apis]
        admin = Client(bed, apis[0], "admin")
        names = {worker.greeting.split()[-1] for worker in workers}
        assert len(names) == 3

        def seen():
            rows = admin.ask("GET", "/os-services?binary=cinder-backup")["services"]
            return {row["host"]: row["state"] for row in rows}

        until("all workers are up", lambda: seen() == dict.fromkeys(names, "up"))
        volumes = [clients[n % 2].create_volume() for n in range(6)]
        digests = {}
        for n, volume in enumerate(volumes):
            bed.write(volume, 0, noise(n, 3 * MIB))
            digests[volume] = bed.digest(volume)
        backups = {clients[n % 2].back_up(volume): volume for n, volume in enumerate(volumes)}
        busy = set()

        def all_done():
            rows = [row for row in jobs(admin) if row["kind"] == "create_backup"]
            running = [row["worker"] for row in rows if row["state"] == "running"]
            # One backup at once for each worker, and all of them at work on one vault.
            assert len(set(running)) == len(running), running
            busy.update(running)
            return all(row["state"] == "completed" for row in rows)

        until("all backups are made", all_done)
        assert busy == names
        # Each was begun once.
        assert all(row["attempt"] == 1 for row in jobs(admin) if row["kind"] == "create_backup")
        workers[0].kill()
        for backup, volume in backups.items():
            clients[1].check(backup, digests[volume])
        # A worker that is asked to stop gives back what it has, and goes.
        volume = volumes[0]
        bed.write(volume, 0, noise(99, 16 * MIB))
        digest = bed.digest(volume)
        backup = clients[0].back_up(volume)
        until("it runs", lambda: any(row["subject"] == backup and row["state"] == "running" for row in jobs(admin)))
        held = next(row["worker"] for row in jobs(admin) if row["subject"] == backup)
        holder = next(worker for worker in workers if worker.greeting.split()[-1] == held)
        holder.stop()
        clients[0].wait("backups", backup, "available")
        clients[0].check(backup, digest)
        down = workers[0].greeting.split()[-1]
        until("the killed worker is down", lambda: seen()[down] == "down")


@pytest.mark.parametrize("what", ["backup", "restore"])
def test_a_worker_that_is_halted_beyond_its_lease_harms_nothing(park, tmp_path, what):
    storage = slow(park.storage("ceph-s3"), 2)
    if what == "restore":
        storage = {**park.storage("ceph-s3"), "download_limit": "2 MiB"}
    with Bed(tmp_path, storage, park.database(), metrics={"listen": "127.0.0.1:0"}) as bed:
        api, first = bed.start("api"), bed.start("worker")
        demo, admin = Client(bed, api), Client(bed, api, "admin")
        volume = demo.create_volume()
        bed.write(volume, 0, noise(3, 10 * MIB))
        digest = bed.digest(volume)
        backup = demo.back_up(volume)
        target = None
        if what == "restore":
            demo.wait("backups", backup, "available")
            target = demo.restore(backup)
        kind = {"backup": "create_backup", "restore": "restore_backup"}[what]

        def running():
            rows = [row for row in jobs(admin) if row["kind"] == kind and row["state"] == "running"]
            return rows and rows[0]["progress_done"] is not None

        until("it runs", running)
        time.sleep(1.5)
        first.signal(signal.SIGSTOP)
        second = bed.start("worker")
        demo.wait("backups", backup, "available")
        if target:
            demo.wait("volumes", target, "available")
            assert bed.digest(target) == digest
            # Its owner uses it by now.
            bed.write(target, 0, noise(4, 10 * MIB))
            used = bed.digest(target)
        first.signal(signal.SIGCONT)
        time.sleep(3 * LEASE)
        if target:
            assert bed.digest(target) == used, "a worker that was overtaken has written"
        demo.check(backup, digest)
        assert [row["attempt"] for row in jobs(admin) if row["kind"] == kind and row["subject"] == backup][-1] >= 2
        # It works again, alone.
        second.stop()
        again = demo.back_up(volume)
        demo.wait("backups", again, "available")
        demo.check(again, digest)
        for row in demo.ask("GET", "/backups")["backups"]:
            demo.delete("backups", row["id"])
        bed.collect(2)
        done = bed.json("vault", "gc")[0]
        assert (done["kept"]["packs"], done["strays"], done["unknown"]) == (0, [], [])


def test_clocks_that_jump_stop_nothing(park, tmp_path):
    """A day forwards and back, of the workers and of the API, while backups run. In a directory: S3 itself
    refuses requests that were signed at another time."""
    library = next(pathlib.Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    clock = tmp_path / "clock"
    clock.write_text("+0")
    with Bed(tmp_path, slow(park.storage("directory"), 2), park.database()) as bed:
        bed.extra = {
            "LD_PRELOAD": str(library), "FAKETIME_TIMESTAMP_FILE": str(clock), "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        api = bed.start("api")
        workers = [bed.start("worker") for _ in range(2)]
        volume = Client(bed, api).create_volume()
        digests = {}
        for turn, jump in enumerate(["+1d", "+0", "-1d", "+0"]):
            # A token is worth nothing a day later.
            demo = Client(bed, api)
            bed.write(volume, turn * MIB, noise(turn, 4 * MIB))
            digest = bed.digest(volume)
            backup = demo.back_up(volume, incremental=bool(digests))
            digests[backup] = digest
            time.sleep(1)
            clock.write_text(jump)
            if turn == 1:
                # And one dies at that: its job waits for a lease, not for a day.
                workers[0].kill()
            demo = Client(bed, api)
            demo.wait("backups", backup, "available", 40)
        for backup, digest in digests.items():
            demo.check(backup, digest)


class Tenant(threading.Thread):
    """Uses a volume of its own, and remembers what its backups must come back as."""

    def __init__(self, bed, api, seed, stop):
        super().__init__(daemon=True)
        self.bed, self.api, self.stop = bed, api, stop
        self.random = random.Random(seed)
        self.digests, self.problem, self.turns = {}, None, 0

    def run(self):
        try:
            self.demo = self.patiently(lambda: Client(self.bed, self.api()))
            self.volume = self.patiently(lambda: self.demo.ask("POST", "/volumes", {"volume": {"size": 1}}))["volume"]["id"]
            self.settled("volumes", self.volume)
            while not self.stop.is_set():
                self.turn()
                self.turns += 1
        except Exception as problem:  # It is looked at by who started us.
            self.problem = problem

    def patiently(self, work):
        """Until it works: who is killed comes back."""
        def attempt():
            if hasattr(self, "demo"):
                self.demo.process = self.api()
            return work()

        return until("the service answers", attempt, 120)

    def settled(self, kind, id):
        return self.patiently(lambda: (row := self.demo.show(kind, id))["status"] in
                              ("available", "error", "error_restoring") and row)

    def turn(self):
        offset = self.random.randrange(0, 20 * MIB, 4096)
        self.bed.write(self.volume, offset, self.random.randbytes(self.random.randrange(4096, 2 * MIB)))
        digest = self.bed.digest(self.volume)
        name = f"turn-{self.turns}"
        body = {"backup": {"volume_id": self.volume, "name": name, "incremental": bool(self.digests), "force": True}}

        def find():
            rows = self.demo.ask("GET", f"/backups/detail?volume_id={self.volume}&name={name}")["backups"]
            return rows[0]["id"] if rows else None

        # Who asks and hears nothing looks first whether it was done.
        backup = self.patiently(lambda: find() or self.demo.ask("POST", "/backups", body)["backup"]["id"])
        if self.settled("backups", backup)["status"] == "available":
            self.digests[backup] = digest
        if len(self.digests) > 3 and self.random.random() < 0.5:
            gone = self.random.choice(list(self.digests))
            del self.digests[gone]
            self.patiently(lambda: self.demo.request("DELETE", f"/v3/{self.demo.project}/backups/{gone}")[0] in
                           (202, 404))


def test_kills_at_random_lose_nothing(park, tmp_path):
    """API, workers, PostgreSQL and the gateway are killed at random moments, while tenants back up, and a
    collector runs; then everything that was available comes back, and nothing else is left."""
    chance = random.Random(SEED)
    ceph, postgres = park.server("ceph"), park.server("postgres")
    storage = {**park.storage("ceph-s3"), "timeout": "5s", "retry_for": "10s"}
    with Bed(tmp_path, storage, park.database(), maintenance={"collect_every": "3s", "verify_every": "0s"}) as bed:
        running = {name: bed.start(name.split("-")[0]) for name in ("api-1", "worker-1", "worker-2")}
        stop = threading.Event()
        tenants = [Tenant(bed, lambda: running["api-1"], SEED + n, stop) for n in range(3)]
        for tenant in tenants:
            tenant.start()
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
                running[victim] = until("it starts", lambda: bed.start(victim.split("-")[0]), 60)
        stop.set()
        for tenant in tenants:
            tenant.join(180)
            assert not tenant.is_alive() and tenant.problem is None, tenant.problem
        demo = Client(bed, running["api-1"])
        busy = ("creating", "restoring", "deleting")

        def all_settled():
            rows = demo.ask("GET", "/backups/detail")["backups"]
            return all(row["status"] not in busy for row in rows) and rows

        rows = until("nothing is under way", all_settled, 30 + 2 * LEASE)
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
        for row in rows:
            demo.delete("backups", row["id"])
        bed.collect(2)
        done = bed.json("vault", "gc")[0]
        assert (done["kept"]["packs"], done["strays"], done["unknown"]) == (0, [], []), done
        print(f"seed {SEED}: {sum(killed.values())} kills {killed}, {sum(t.turns for t in tenants)} backups, "
              f"{checked} restored bit for bit, 0 bytes lost, {states}")
