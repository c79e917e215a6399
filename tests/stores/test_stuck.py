"""Nothing stays stuck: a fault that lasts ends in the end, one that passes is got over, a strange object or
an odd record does not stop a vault, and after a crash the work goes on at once."""

import base64
import collections
import contextlib
import datetime
import json
import re
import sqlite3
import time
import uuid

import pytest

from bed import MIB, Bed, Client, held, noise, until
from servers.faulty import Fault, FaultyProxy
from test_processes import measured, slow
from test_recovery import full_and_child, put_back, settled

#: Tries of a job that fail for a passing reason, until it is given up.
TRIES = 6
SECOND = 1_000_000
#: What comes at once comes within this time, and long before a lease runs out.
SOON, LONG_LEASE = 40, "120s"

#: A row of `jobs`; times are microseconds.
Job = collections.namedtuple("Job", "state attempt failures run_at updated_at reason")


def job(query, subject):
    """The job of a backup that began last, as the database has it; `query` gives the rows of a statement."""
    row = query(f"SELECT {', '.join(Job._fields)} FROM jobs WHERE subject = '{subject}' ORDER BY created_at DESC")[0]
    state, *numbers, reason = row
    return Job(state, *map(int, numbers), reason or "")


def put_off(query, subject):
    """The job once it waits for another try. Each try that ended was counted; the lease is too long to be lost."""

    def look():
        now = job(query, subject)
        ended = now.attempt - (now.state == "running")
        assert now.failures == ended, f"{ended} tries have ended, {now.failures} are counted"
        return now if now.state == "available" and now.failures else None

    return until("it is put off", look)


def assert_waits(now):
    """It says why it waits, and does so for a while."""
    assert now.reason
    assert now.run_at - now.updated_at >= SECOND, now


def put_off_lines(process, subject):
    """The log says that it will be tried again. A line reaches the file some time after the row does."""

    def look():
        lines = process.log.read_text().splitlines()
        return [line for line in lines if "WARN" in line and "job will be tried again" in line and subject in line]

    return until("it is logged", look)


def test_a_forced_deletion_that_can_never_succeed_fails_as_others_do(tmp_path):
    """The backup's storage is no longer configured when its job is cancelled."""
    storage = slow({"url": f"fs:{tmp_path / 'store'}"}, 1)
    with Bed(tmp_path, storage) as bed:
        process = bed.start()
        demo = Client(bed, process)
        volume = demo.create_volume()
        bed.write(volume, 0, noise(1, 8 * MIB))
        backup = demo.back_up(volume)
        until("it writes", lambda: bed.objects("/p/"))
        process.kill()
        # What the process does first is cancel the job.
        with sqlite3.connect(bed.dir / "embervault.db") as connection:
            connection.execute("UPDATE jobs SET cancel_requested = 1")
            connection.execute("UPDATE backups SET status = 'deleting'")
        configured = bed.config.read_text()
        bed.config.write_text(re.sub(r"(?m)^storage.main.*$", f'storage.other = {{ url = "fs:{tmp_path / "other"}" }}', configured))
        process = bed.start()
        demo = Client(bed, process)
        until("it has failed", lambda: demo.show("backups", backup)["status"] == "error")
        assert "storage is no longer configured" in demo.show("backups", backup)["fail_reason"]
        assert job(bed.query, backup).state == "cancelled"
        assert demo.show("volumes", volume)["status"] == "available"
        process.stop()
        bed.config.write_text(configured)
        demo = Client(bed, bed.start())
        demo.delete("backups", backup)


def test_a_backup_that_cannot_be_written_is_tried_ever_more_seldom_and_then_fails(park, tmp_path):
    """The storage lists and reads, and takes no packs."""
    ceph = park.server("ceph")
    with FaultyProxy(ceph.endpoint) as proxy:
        storage = {**proxy.in_front(park.storage("ceph-s3")), "timeout": "10s", "retry_for": "2s"}
        with Bed(tmp_path, storage, jobs={"lease": LONG_LEASE}) as bed:
            process = bed.start()
            demo = Client(bed, process)
            volume = demo.create_volume()
            bed.write(volume, 0, noise(1, 4 * MIB))
            proxy.set([Fault("error", method="PUT", path="/[pm]/")])
            backup = demo.back_up(volume)
            first = put_off(bed.query, backup)
            assert_waits(first)
            lines = put_off_lines(process, backup)
            assert lines and all(re.search(r'reason="?\w', line) for line in lines), lines
            assert demo.show("backups", backup)["status"] == "creating"

            # How long each wait is, by the number of tries before it.
            waits = {first.failures: (first.run_at - first.updated_at) / SECOND}

            def ended():
                now = job(bed.query, backup)
                if now.state == "available":
                    waits[now.failures] = (now.run_at - now.updated_at) / SECOND
                return now if now.state not in ("available", "running") else None

            end = until("it is given up", ended, 400)
            assert (end.state, end.attempt) == ("discarded", TRIES)
            # Each wait is longer than the one before, so that a storage that is away is left alone.
            assert list(waits) == list(range(1, TRIES)), waits
            assert all(waits[n + 1] > waits[n] * 1.2 for n in range(1, TRIES - 1)) and sum(waits.values()) > 30, waits
            # What each try leaves behind is bounded.
            (packs,), = bed.query("SELECT COUNT(*) FROM packs")
            assert packs <= TRIES * 8
            row = demo.show("backups", backup)
            assert row["status"] == "error" and row["fail_reason"]
            assert demo.show("volumes", volume)["status"] == "available"
            proxy.clear()
            again = demo.back_up(volume)
            demo.wait("backups", again, "available")
            demo.check(again, bed.digest(volume))


def test_a_restore_that_cannot_read_a_pack_is_put_off_and_goes_on_once_it_can(park, tmp_path):
    ceph = park.server("ceph")
    with FaultyProxy(ceph.endpoint) as proxy:
        storage = {**proxy.in_front(park.storage("ceph-s3")), "timeout": "10s", "retry_for": "2s"}
        with Bed(tmp_path, storage, jobs={"lease": LONG_LEASE}) as bed:
            process = bed.start()
            demo = Client(bed, process)
            volume = demo.create_volume()
            bed.write(volume, 0, noise(2, 6 * MIB))
            backup = demo.back_up(volume)
            demo.wait("backups", backup, "available")
            bucket = storage["url"].removeprefix("s3://").split("/")[0]
            pack = next(key for key in ceph.s3.keys(bucket, "backups/v/") if "/p/" in key)
            proxy.set([Fault("error", method="GET", path=re.escape(pack))])
            target = demo.restore(backup)
            assert_waits(put_off(bed.query, backup))
            assert put_off_lines(process, backup)
            proxy.clear()
            demo.wait("volumes", target, "available")
            demo.wait("backups", backup, "available")
            assert bed.digest(target) == bed.digest(volume)
            assert job(bed.query, backup).attempt <= 4


def test_a_backup_that_waits_for_a_database_lock_in_vain_is_put_off_and_goes_on(park, tmp_path):
    url, server = park.database(), park.server("postgres")

    def query(sql):
        return [line.split("|", len(Job._fields) - 1) for line in server.query(sql, url.rsplit("/")[-1]).splitlines()]

    storage = slow({"url": f"fs:{tmp_path / 'store'}"}, 2)
    with Bed(tmp_path, storage, url, jobs={"lease": LONG_LEASE}) as bed:
        process = bed.start()
        demo = Client(bed, process)
        volume = demo.create_volume()
        bed.write(volume, 0, noise(3, 16 * MIB))
        backup = demo.back_up(volume)
        until("it writes", lambda: bed.objects("/p/"))
        with held(url, "LOCK TABLE packs IN ACCESS EXCLUSIVE MODE"):
            assert_waits(put_off(query, backup))
            assert put_off_lines(process, backup)
            until("it is tried again", lambda: job(query, backup).attempt >= 2)
        demo.wait("backups", backup, "available")
        demo.check(backup, bed.digest(volume))
        assert job(query, backup).attempt <= 4


# Records and roots.


def test_a_backup_is_of_the_moment_at_which_its_source_was_fixed(tmp_path):
    """Accepted and not begun when the service is killed: what is in use is written to until it is copied."""
    storage = {"url": f"fs:{tmp_path / 'store'}", "upload_limit": "1 MiB"}
    with Bed(tmp_path, storage, jobs={"backups": 1}) as bed:
        process = bed.start()
        demo = Client(bed, process)
        first, idle, used = (demo.create_volume() for _ in range(3))
        bed.write(first, 0, noise(1, 12 * MIB))
        bed.write(idle, 0, noise(2, MIB))
        instance = {"volume_uuid": used, "instance_uuid": str(uuid.uuid4()), "connector": {"host": "here"}}
        attachment = demo.ask("POST", "/attachments", {"attachment": instance})["attachment"]["id"]
        demo.ask("POST", f"/attachments/{attachment}/action", {"os-complete": {}})
        # It has the only place.
        demo.back_up(first)
        until("it writes", lambda: bed.objects("/p/"))
        of_idle, of_used = demo.back_up(idle), demo.back_up(used, force=True)
        process.kill()
        bed.write(used, 0, noise(3, MIB))
        written = datetime.datetime.now(datetime.UTC).replace(tzinfo=None)
        digest = bed.digest(used)
        del bed.storage["upload_limit"]
        bed.write_config()
        demo = Client(bed, bed.start())
        row = demo.wait("backups", of_used, "available")
        assert datetime.datetime.fromisoformat(row["data_timestamp"]) >= written, row
        demo.check(of_used, digest)
        # What was held since it was accepted is of that moment.
        row = demo.wait("backups", of_idle, "available")
        assert row["data_timestamp"] == row["created_at"]


def record_of(admin, backup):
    return admin.ask("GET", f"/backups/{backup}/export_record")["backup-record"]


def fields_of(record):
    return json.loads(base64.b64decode(record["backup_url"]))


def renamed(record, id):
    """The record of the same data under another id."""
    fields = {**fields_of(record), "id": id}
    return {**record, "backup_url": base64.b64encode(json.dumps(fields).encode()).decode()}


def take_in(admin, record):
    """Imports a record; whether that is refused is not the point."""
    status, _, answer = admin.request("POST", f"/v3/{admin.project}/backups/import_record", {"backup-record": record})
    assert status in (201, 400), answer
    if status == 201:
        backup = answer["backup"]["id"]
        until("the import ends", lambda: admin.show("backups", backup)["status"] in ("available", "error"))


def check_all(demo, admin, digests):
    """Every available backup comes back as the data that its record names. Gives the names of those data."""
    roots = set()
    for row in demo.ask("GET", "/backups/detail")["backups"]:
        if row["status"] == "available":
            root = fields_of(record_of(admin, row["id"]))["service_metadata"].split(":")[-1]
            demo.check(row["id"], digests[root])
            roots.add(root)
    return roots


@pytest.mark.parametrize("what_went", ["backup", "row"])
def test_records_of_edited_ids_and_a_deletion_do_not_stop_a_vault(tmp_path, what_went):
    """An id comes to stand for the data of another backup, while data of that id's own are stored."""
    with Bed(tmp_path) as bed:
        process = bed.start()
        demo, admin = Client(bed, process), Client(bed, process, "admin")
        volume, digests = full_and_child(bed, demo)
        first, second = digests
        records = {backup: record_of(admin, backup) for backup in digests}
        alias = str(uuid.uuid4())
        if what_went == "backup":
            take_in(admin, renamed(records[second], alias))
            # Its data stay: the other id needs them.
            demo.delete("backups", second)
            take_in(admin, renamed(records[first], second))
            demo.delete("backups", alias)
        else:
            process.stop()
            with contextlib.closing(sqlite3.connect(tmp_path / "embervault.db")) as connection, connection:
                connection.execute(f"DELETE FROM backups WHERE id = '{second}'")
            process = bed.start()
            demo, admin = Client(bed, process), Client(bed, process, "admin")
            take_in(admin, renamed(records[first], second))
            take_in(admin, renamed(records[first], alias))
            demo.delete("backups", alias)
        for incremental in (False, True):
            bed.write(volume, 4 * MIB, noise(20 + incremental, MIB))
            backup = demo.back_up(volume, incremental=incremental)
            demo.wait("backups", backup, "available")
            digests[backup] = bed.digest(volume)
        collected = bed.run("vault", "gc", status=None)
        if collected.returncode:
            assert "embervault vault rebuild" in collected.stderr
            bed.run("vault", "rebuild", "--storage", "main")
        bed.collect(3)
        found = check_all(demo, admin, digests)
        assert found >= digests.keys() - {second}
        if what_went == "row":
            # Its row was lost; it was not deleted.
            assert second in found
        assert bed.json("vault", "verify", "--full")[0]["damaged"] == []


def contents(bed):
    """Every stored object, and which file it is: one that was replaced is another, whatever is in it."""
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns, path.read_bytes()) for path in bed.objects()}


def refuse_to_collect(bed):
    """However often it is told to, a collection removes nothing and says what to do."""
    before = contents(bed)
    for _ in range(2):
        assert "embervault vault rebuild" in bed.run("vault", "gc", status=1).stderr
    assert contents(bed) == before


@pytest.mark.parametrize("what", ["copy", "garbage"])
def test_a_strange_root_stops_what_would_destroy_it_and_nothing_else(tmp_path, what):
    with Bed(tmp_path) as bed:
        demo = Client(bed, bed.start())
        volume, digests = full_and_child(bed, demo)
        # Something that the next collection would remove.
        other = demo.create_volume()
        bed.write(other, 0, noise(30, 2 * MIB))
        gone = demo.back_up(other)
        demo.wait("backups", gone, "available")
        demo.delete("backups", gone)
        assert bed.collect(1)[0]["condemned"]["packs"] > 0
        root = bed.objects("/b/")[0]
        strange = root.with_name(str(uuid.uuid4()))
        strange.write_bytes(root.read_bytes() if what == "copy" else noise(31, 700))
        for incremental in (False, True):
            bed.write(volume, 3 * MIB, noise(32 + incremental, MIB))
            backup = demo.back_up(volume, incremental=incremental)
            demo.wait("backups", backup, "available")
            digests[backup] = bed.digest(volume)
        refuse_to_collect(bed)
        for backup, digest in digests.items():
            demo.check(backup, digest)
        # Once it is known, its owner decides.
        bed.run("vault", "rebuild", "--storage", "main", status=1)
        demo.delete("backups", strange.name)
        bed.collect(2)
        assert {root.name for root in bed.objects("/b/")} == set(digests)
        for backup, digest in digests.items():
            demo.check(backup, digest)


@pytest.mark.parametrize("since", ["made", "deleted"])
def test_an_old_database_takes_backups_and_replaces_nothing(tmp_path, since):
    """It is older than some backups, and than the deletion of one, after which packs were removed and written
    again."""
    with Bed(tmp_path) as bed:
        process = bed.start()
        demo = Client(bed, process)
        volume, digests = full_and_child(bed, demo)
        process.stop()
        old = settled(tmp_path / "embervault.db")
        process = bed.start()
        demo = Client(bed, process)
        bed.write(volume, 0, noise(40, 3 * MIB))
        newer = demo.back_up(volume, incremental=True)
        demo.wait("backups", newer, "available")
        digests[newer] = bed.digest(volume)
        if since == "deleted":
            for gone in list(digests)[:2]:
                demo.delete("backups", gone)
                del digests[gone]
            before = set(bed.objects("/p/"))
            bed.collect(3)
            assert before - set(bed.objects("/p/"))
        process.stop()
        put_back(tmp_path / "embervault.db", old)

        before = contents(bed)
        demo = Client(bed, bed.start())
        for incremental in (False, True):
            bed.write(volume, 3 * MIB, noise(41 + incremental, MIB))
            backup = demo.back_up(volume, incremental=incremental)
            demo.wait("backups", backup, "available")
            digests[backup] = bed.digest(volume)
            demo.check(backup, digests[backup])
        after = contents(bed)
        assert {path: after.get(path) for path in before} == before
        refuse_to_collect(bed)

        bed.run("vault", "rebuild", "--storage", "main")
        for backup, digest in digests.items():
            demo.check(backup, digest)
        # What was deleted since is known again, and not there.
        lost = [row for row in demo.ask("GET", "/backups/detail")["backups"] if row["id"] not in digests]
        assert len(lost) == (2 if since == "deleted" else 0)
        for row in lost:
            assert (row["status"], row["fail_reason"]) == ("error", "Its data is not in the storage.")
            demo.delete("backups", row["id"])
        bed.collect(3)
        for backup, digest in digests.items():
            demo.check(backup, digest)
        assert bed.json("vault", "verify", "--full")[0]["damaged"] == []


# Work that no user asks for, and crashes.


def test_a_collection_that_failed_is_tried_again_soon(tmp_path):
    with Bed(tmp_path, metrics={"listen": "127.0.0.1:0"}) as bed:
        process = bed.start()
        demo = Client(bed, process)
        volume = demo.create_volume()
        bed.write(volume, 0, noise(50, MIB))
        demo.wait("backups", demo.back_up(volume), "available")
        process.stop()
        root, = bed.objects("/b/")
        strange = root.with_name(str(uuid.uuid4()))
        strange.write_bytes(noise(51, 700))
        # The schedule is looked through as often as its shortest time wants.
        bed.settings["maintenance"].update(collect_every="1day", verify_every="1s")
        bed.write_config()
        process = bed.start()

        def tries():
            return bed.query("SELECT state, created_at, reason FROM jobs WHERE kind = 'collect_vault' "
                             "ORDER BY created_at")

        def failures():
            return measured(process).get('embervault_maintenance_failures{kind="collect"}')

        until("it fails", lambda: [state for state, *_ in tries()] == ["discarded"])
        assert "embervault vault rebuild" in tries()[0][-1]
        until("it is told", lambda: failures() == 1)
        strange.unlink()
        until("it is tried again", lambda: [state for state, *_ in tries()] == ["discarded", "completed"])
        (_, failed_at, _), (_, again_at, _) = tries()
        assert again_at - failed_at > 30 * SECOND
        until("it is told", lambda: failures() == 0)


def test_a_process_that_crashed_takes_up_its_own_job_at_once(tmp_path):
    """No other process could have it, so that it need not wait for the lease to run out."""
    storage = slow({"url": f"fs:{tmp_path / 'store'}"}, 1)
    with Bed(tmp_path, storage, jobs={"lease": LONG_LEASE}) as bed:
        process = bed.start()
        demo = Client(bed, process)
        volume = demo.create_volume()
        bed.write(volume, 0, noise(60, 8 * MIB))
        backup = demo.back_up(volume)
        until("it writes", lambda: bed.objects("/p/"))
        process.kill()
        process = bed.start()
        until("it goes on", lambda: job(bed.query, backup)[:2] == ("running", 2), SOON)
        demo = Client(bed, process)
        demo.wait("backups", backup, "available")
        demo.check(backup, bed.digest(volume))


def test_a_process_that_crashes_every_two_seconds_finishes_its_backup(tmp_path):
    storage = slow({"url": f"fs:{tmp_path / 'store'}"}, 2)
    with Bed(tmp_path, storage, jobs={"lease": LONG_LEASE}) as bed:
        process = bed.start()
        demo = Client(bed, process)
        volume = demo.create_volume()
        # More than all the runs that are cut off can upload.
        bed.write(volume, 0, noise(61, 96 * MIB))
        backup = demo.back_up(volume)
        for turn in range(1, 9):
            until(f"run {turn} begins", lambda: job(bed.query, backup)[:2] == ("running", turn), SOON)
            time.sleep(1)
            process.kill()
            process = bed.start()
        process.kill()
        del bed.storage["upload_limit"]
        bed.write_config()
        demo = Client(bed, bed.start())
        demo.wait("backups", backup, "available")
        demo.check(backup, bed.digest(volume))
