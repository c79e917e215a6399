"""Many processes on one PostgreSQL and one storage: killed, halted, cut off, and with clocks that jump."""

import pathlib
import re
import signal
import time
import urllib.request

import pytest

from bed import LEASE, MIB, Bed, Client, noise, until

#: For who must not lose it, however long a disk takes.
PATIENT_LEASE = "15s"


def jobs(client):
    return client.ask("GET", "/embervault/jobs")["jobs"]


def slow(storage, mebibytes):
    """The same storage; uploads take their time, so that there is some in which things can happen."""
    return {**storage, "upload_limit": f"{mebibytes} MiB"}


def test_workers_share_the_work_and_are_seen(park, tmp_path):
    # Each worker has time to get one, and none loses its lease on a machine that is busy elsewhere.
    settings = {"backups": 1, "reserve": False, "lease": PATIENT_LEASE}
    with Bed(tmp_path, slow(park.storage("ceph-s3"), 1), park.database(), jobs=settings) as bed:
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
        bed.write(volume, 0, noise(99, 8 * MIB))
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
        bed.write(volume, 0, noise(3, 20 * MIB))
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
            bed.write(target, 0, noise(4, 20 * MIB))
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
        assert (done["kept"]["packs"], done["leftovers"], done["unknown"]) == (0, [], [])


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
            demo.wait("backups", backup, "available")
        for backup, digest in digests.items():
            demo.check(backup, digest)


def measured(process):
    """What a process counts, by the line's name and labels."""
    place = until("it tells where", lambda: [line for line in process.lines if line.startswith("Metrics are at")])
    with urllib.request.urlopen(place[0].split()[-1], timeout=120) as answer:
        assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
        text = answer.read().decode()
    assert text.endswith("# EOF\n")
    samples = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, value in samples}


def test_metrics_tell_what_was_done(park, tmp_path):
    settings = {"jobs": {"lease": PATIENT_LEASE}, "metrics": {"listen": "127.0.0.1:0"}}
    with Bed(tmp_path, park.storage("ceph-s3"), park.database(), **settings) as bed:
        api, worker = bed.start("api"), bed.start("worker")
        demo = Client(bed, api)
        volume = demo.create_volume()
        bed.write(volume, 0, noise(1, 6 * MIB))
        digest = bed.digest(volume)
        backup = demo.back_up(volume)
        demo.wait("backups", backup, "available")
        stored = measured(worker)
        demo.wait("backups", demo.back_up(volume), "available")
        demo.check(backup, digest)
        found = measured(worker)

        def value(name, samples=found, **labels):
            wanted = [f'{key}="{label}"' for key, label in labels.items()]
            hits = [number for line, number in samples.items()
                    if re.match(rf"embervault_{name}(\{{|$)", line) and all(label in line for label in wanted)]
            assert len(hits) == 1, (name, labels, sorted(samples))
            return hits[0]

        assert value("jobs_ended_total", kind="create_backup", outcome="done") == 2
        assert value("job_wait_seconds_count", kind="create_backup") == 2
        assert value("job_run_seconds_sum", kind="restore_backup") > 0
        assert value("moved_bytes_total", stored, what="stored") >= 6 * MIB
        # The second one finds all of it, and the restore reads it.
        assert value("moved_bytes_total", what="stored") < value("moved_bytes_total", stored, what="stored") + MIB
        assert value("moved_bytes_total", what="deduplicated") >= 6 * MIB
        assert value("moved_bytes_total", what="read") >= 18 * MIB
        packs = value("store_calls_total", stored, storage="main", verb="put", outcome="ok")
        assert packs == value("store_call_seconds_count", stored, storage="main", verb="put") >= 6
        assert value("leases_lost_total") == 0
        # The storage goes, and that is told too.
        park.server("ceph").kill_gateway()
        try:
            again = demo.back_up(volume)
            until("it fails", lambda: any('outcome="passing"' in line for line in measured(worker)))
            # Jobs are in the database: every process can tell of them.
            waiting = measured(api)
            assert value("jobs", waiting, kind="create_backup") == 1
            assert value("job_age_seconds", waiting, kind="create_backup") > 0
        finally:
            park.server("ceph").start_gateway()
        demo.wait("backups", again, "available")
