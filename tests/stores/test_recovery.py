"""The bad day: damage, a lost or old database, a lost key, and rows that somebody has removed."""

import json
import random
import shutil
import sqlite3
import subprocess
import time
import uuid

import pytest

from bed import LEASE, MIB, PROGRAM, Bed, Client, held, noise, until


def full_and_child(bed, demo):
    """Two backups of one volume, and what they must come back as."""
    volume = demo.create_volume()
    bed.write(volume, 0, noise(1, 6 * MIB))
    full = demo.back_up(volume)
    demo.wait("backups", full, "available")
    first = bed.digest(volume)
    bed.write(volume, 2 * MIB, noise(2, MIB))
    child = demo.back_up(volume, incremental=True)
    demo.wait("backups", child, "available")
    return volume, {full: first, child: bed.digest(volume)}


def settled(database):
    """The content of the file once all that SQLite still keeps in its log is in it."""
    connection = sqlite3.connect(database, timeout=60)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    return database.read_bytes()


def put_back(database, content):
    """A copy of a database in the place of the one there is, which nobody has open."""
    for leftover in database.parent.glob(f"{database.name}*"):
        leftover.unlink()
    database.write_bytes(content)


def spoil(path, how):
    content = path.read_bytes()
    match how:
        case "missing":
            path.unlink()
        case "truncated":
            path.write_bytes(content[: len(content) // 2])
        case "flipped":
            content = bytearray(content)
            content[len(content) // 3] ^= 4
            path.write_bytes(content)
        case "garbage":
            path.write_bytes(noise(9, len(content)))


@pytest.mark.parametrize("how", ["flipped", "truncated", "missing", "garbage"])
def test_a_damaged_data_pack_is_found_told_of_and_repaired_from_the_volume(tmp_path, how):
    with Bed(tmp_path) as bed:
        demo = Client(bed, bed.start())
        volume, digests = full_and_child(bed, demo)
        assert bed.json("vault", "verify", "--full")[0]["damaged"] == []
        victim = bed.objects("/p/")[0]
        spoil(victim, how)
        report = bed.json("vault", "verify", "--full", status=1)[0]
        assert [row["object"] for row in report["damaged"]] == [str(victim.relative_to(bed.store_dir))]
        damaged = report["backups"]
        assert damaged
        for backup in damaged:
            row = demo.show("backups", backup)
            assert row["status"] == "available" and row["fail_reason"].startswith("The backup is damaged")
        # It is never restored wrong: either it comes back as it was, or it says why not.
        target = demo.restore(damaged[0])
        until("the restore ends", lambda: demo.show("volumes", target)["status"] in ("available", "error_restoring"))
        if demo.show("volumes", target)["status"] == "available":
            assert bed.digest(target) == digests[damaged[0]]
        # What is backed up now does not rely on it.
        later = demo.back_up(volume, incremental=True)
        demo.wait("backups", later, "available")
        demo.check(later, bed.digest(volume))
        repaired = bed.json("vault", "repair", status=None)
        assert sum(row["restored"] for row in repaired) > 0
        lost = sum(row["lost"] for row in repaired)
        if lost == 0:
            assert bed.json("vault", "verify", "--full")[0]["damaged"] == []
            for backup, digest in digests.items():
                demo.check(backup, digest)
                assert demo.show("backups", backup)["fail_reason"] is None
        # The child's content is still there in full, so that the child at least must be whole again.
        demo.check(list(digests)[1], digests[list(digests)[1]])


@pytest.mark.parametrize("part", ["/p/", "/m/", "/b/", "vault.json", "format.json"])
@pytest.mark.parametrize("how", ["flipped", "truncated", "missing", "garbage"])
def test_damage_of_any_object_is_told_and_nothing_wrong_comes_back(tmp_path, part, how):
    with Bed(tmp_path) as bed:
        demo = Client(bed, bed.start())
        volume, digests = full_and_child(bed, demo)
        for victim in bed.objects(part):
            spoil(victim, how)
        told = bed.run("vault", "verify", "--full", status=None)
        # The database has copies of the record of a vault and of which storage it is.
        heals = part == "vault.json" or (part == "format.json" and how == "missing")
        # One flipped bit in JSON may lie where nothing is said.
        if not heals and not (part.endswith("json") and how == "flipped"):
            assert told.returncode == 1 and part.strip("/") in told.stdout + told.stderr, told
        for backup, digest in digests.items():
            target = demo.restore(backup)
            until("the restore ends", lambda: demo.show("volumes", target)["status"] in ("available", "error_restoring"))
            if demo.show("volumes", target)["status"] == "available":
                assert bed.digest(target) == digest
            demo.wait("backups", backup, "available")
        # And the service goes on: the volume can be backed up again, or it is said why not.
        again = demo.back_up(volume)
        until("it ends", lambda: demo.show("backups", again)["status"] in ("available", "error"))
        row = demo.show("backups", again)
        if row["status"] == "available":
            demo.check(again, bed.digest(volume))
        else:
            assert row["fail_reason"]


def test_an_old_database_reclaims_nothing_until_it_is_reconciled(tmp_path):
    with Bed(tmp_path) as bed:
        process = bed.start()
        demo = Client(bed, process)
        volume, digests = full_and_child(bed, demo)
        process.stop()
        old = settled(tmp_path / "embervault.db")
        process = bed.start()
        demo = Client(bed, process)
        bed.write(volume, 0, noise(5, 2 * MIB))
        newer = demo.back_up(volume, incremental=True)
        demo.wait("backups", newer, "available")
        digests[newer] = bed.digest(volume)
        gone = list(digests)[0]
        demo.delete("backups", gone)
        del digests[gone]
        process.stop()
        put_back(tmp_path / "embervault.db", old)

        demo = Client(bed, bed.start())
        stored = bed.objects("v/")
        assert "run `embervault vault rebuild`" in bed.run("vault", "gc", status=1).stderr
        assert bed.objects("v/") == stored

        bed.run("vault", "rebuild", "--storage", "main")
        for backup, digest in digests.items():
            demo.check(backup, digest)
        # What was deleted since is known again, and not there.
        row = demo.show("backups", gone)
        assert (row["status"], row["fail_reason"]) == ("error", "Its data is not in the storage.")
        again = demo.back_up(volume)
        demo.wait("backups", again, "available")
        for row in demo.ask("GET", "/backups")["backups"]:
            demo.delete("backups", row["id"])
        bed.collect(2)
        assert bed.objects("/p/") + bed.objects("/m/") + bed.objects("/b/") == []


def test_the_master_key_changes_and_everything_comes_back(tmp_path):
    with Bed(tmp_path) as bed:
        process = bed.start()
        _, digests = full_and_child(bed, Client(bed, process))
        assert "another embervault is running" in bed.run("key", "rotate", status=1).stderr
        process.stop()
        key = bed.data / "keys" / "master.key"
        before = key.read_text()
        wrapped = bed.objects("vault.json")[0].read_text()
        bed.run("key", "rotate")
        assert key.read_text() != before and key.stat().st_mode & 0o777 == 0o600
        assert bed.objects("vault.json")[0].read_text() != wrapped
        demo = Client(bed, bed.start())
        for backup, digest in digests.items():
            demo.check(backup, digest)
        bed.stop()
        # The old key opens nothing any more.
        key.write_text(before)
        done = subprocess.run([*bed.prefix, PROGRAM, "serve", "--config", bed.config],
                              capture_output=True, text=True, timeout=600)
        assert done.returncode == 1 and "it is not the one that storage" in done.stderr


def who_holds(bed, text):
    """The files of the service and its storage in which a piece of this stands."""
    pieces = [text[at:at + 16].encode() for at in range(len(text) - 15)]
    files = [*bed.dir.glob("embervault.db*"), *bed.data.rglob("*"), *bed.store_dir.rglob("*")]
    # Volumes are the tenants' own, and long.
    contents = ((file, file.read_bytes()) for file in files if file.is_file() and file.suffix != ".raw")
    return [file for file, content in contents if any(piece in content for piece in pieces)]


@pytest.mark.parametrize("step", range(4))
def test_a_rotation_that_was_cut_off_goes_on(tmp_path, step):
    """Cut off after the new key was made, between two vaults, before and after the storages are told."""
    users = [("member", "secret", "alpha", "member"), ("admin", "secret", "beta", "admin")]
    with Bed(tmp_path, users=users) as bed:
        process = bed.start()
        demo = Client(bed, process)
        volume, digests = full_and_child(bed, demo)
        process.stop()
        database, store = tmp_path / "embervault.db", bed.objects("vault.json")[0]
        old_database = settled(database)
        key, next_key = bed.data / "keys" / "master.key", bed.data / "keys" / "master.next"
        old_record, old_key = store.read_text(), key.read_text()
        bed.run("key", "rotate")
        assert who_holds(bed, json.loads(old_record)["wrapped_key"]) == []
        settled(database)
        # As it was at some moment on the way.
        next_key.write_text(key.read_text())
        next_key.chmod(0o600)
        key.write_text(old_key)
        if step < 3:
            for leftover in tmp_path.glob("embervault.db-*"):
                leftover.unlink()
            if step < 2:
                database.write_bytes(old_database)
            else:
                with sqlite3.connect(database) as connection:
                    connection.execute("UPDATE storages SET master_key_check = (SELECT master_key_check FROM storages)")
        if step < 1:
            store.write_text(old_record)
        # The service works with both keys, and says how the change is brought to its end.
        process = bed.start()
        demo = Client(bed, process)
        child = list(digests)[1]
        demo.check(child, digests[child])
        more = demo.back_up(volume, incremental=True)
        demo.wait("backups", more, "available")
        digests[more] = digests.pop(child)
        # A vault that gets its key meanwhile.
        admin = Client(bed, process, "admin", project="beta")
        young = admin.back_up(admin.create_volume())
        admin.wait("backups", young, "available")
        process.stop()
        assert "stop all processes and run `embervault key rotate`" in process.log.read_text()
        bed.run("key", "rotate")
        assert not next_key.exists()
        process = bed.start()
        demo = Client(bed, process)
        for backup, digest in digests.items():
            demo.check(backup, digest)
        admin = Client(bed, process, "admin", project="beta")
        admin.wait("volumes", admin.restore(young), "available")
        process.stop()
        assert "key rotate" not in process.log.read_text()


def test_a_start_tells_of_keys_that_are_missing_or_left_over(tmp_path):
    with Bed(tmp_path) as bed:
        process = bed.start()
        _, digests = full_and_child(bed, Client(bed, process))
        process.stop()
        keys, partial = bed.data / "keys", bed.data / "keys" / "master.partial"
        old_key = (keys / "master.key").read_text()
        [(old_check,)] = bed.query("SELECT master_key_check FROM storages")
        # Killed while it made a key.
        partial.write_text("0" * 64)
        partial.chmod(0o600)
        process = bed.start()
        process.stop()
        assert f"{partial}" in process.log.read_text() and "killed while it created this key" in process.log.read_text()
        bed.run("key", "rotate")
        assert not partial.exists()
        # A host that has none of the new keys while the change goes on elsewhere, which was cut off there.
        new_key = (keys / "master.key").read_text()
        (keys / "master.key").write_text(old_key)
        (keys / "master.previous-1").unlink()
        with sqlite3.connect(tmp_path / "embervault.db") as connection:
            connection.execute("UPDATE storages SET master_key_check = ?", [old_check])
        process = bed.start()
        process.stop()
        log = process.log.read_text()
        assert "no master key on this host opens this vault" in log and "`embervault key rotate` there" in log
        # With the keys of that host, all is as it was.
        next_key = keys / "master.next"
        next_key.write_text(new_key)
        next_key.chmod(0o600)
        process = bed.start()
        demo = Client(bed, process)
        for backup, digest in digests.items():
            demo.check(backup, digest)
        process.stop()
        assert "no master key on this host opens" not in process.log.read_text()


def test_a_rotation_that_the_database_holds_up_ends_and_says_what_is_done(park, tmp_path):
    storage, database = {"url": f"fs:{tmp_path / 'store'}"}, park.database()
    with Bed(tmp_path, storage, database) as bed:
        process = bed.start()
        _, digests = full_and_child(bed, Client(bed, process))
        process.stop()
        key, next_key = bed.data / "keys" / "master.key", bed.data / "keys" / "master.next"
        before = key.read_text()
        started = time.monotonic()
        # Nothing can be written.
        with held(database, "LOCK TABLE vaults IN EXCLUSIVE MODE"):
            told = bed.run("key", "rotate", status=1).stderr
        assert "the change of the master key is not finished" in told and "lock timeout" in told, told
        assert next_key.exists() and key.read_text() == before
        # Somebody reads for long: all is changed, but what was there before cannot be erased.
        with held(database, "SELECT count(*) FROM vaults"):
            told = bed.run("key", "rotate").stdout
        assert "wrapped with the new master key" in told and "Everything else succeeded" in told, told
        assert "VACUUM FULL vaults" in told and "lock timeout" in told
        assert not next_key.exists() and key.read_text() != before
        assert time.monotonic() - started < 180
        demo = Client(bed, bed.start())
        for backup, digest in digests.items():
            demo.check(backup, digest)


def test_a_shredded_project_can_be_read_by_nobody(tmp_path):
    # Another vault, so that the database goes on changing the same pages.
    users = [("member", "secret", "alpha", "member"), ("admin", "secret", "beta", "admin")]
    with Bed(tmp_path, users=users) as bed:
        process = bed.start()
        demo = Client(bed, process)
        _, digests = full_and_child(bed, demo)
        admin = Client(bed, process, "admin", project="beta")
        other = admin.back_up(admin.create_volume())
        admin.wait("backups", other, "available")
        copy = tmp_path / "copy"
        shutil.copytree(bed.store_dir, copy)
        (vault,), = bed.query(f"SELECT id FROM vaults WHERE project_id = '{demo.project}'")
        record, = (record for record in bed.objects("vault.json") if vault in str(record))
        wrapped = json.loads(record.read_text())["wrapped_key"]
        assert who_holds(bed, wrapped)
        refused = bed.run("vault", "shred", demo.project, status=1)
        assert "--yes" in refused.stderr and len(bed.objects("/p/")) > 0
        bed.run("vault", "shred", demo.project, "--yes")
        process.stop()
        assert who_holds(bed, wrapped) == []
        process = bed.start()
        demo = Client(bed, process)
        assert [object for object in bed.objects("v/") if vault in str(object)] == []
        assert demo.ask("GET", "/backups")["backups"] == []
        # A copy of the packs, put back, with the right master key: nothing leads into it.
        for record in copy.rglob("vault.json"):
            record.unlink()
        shutil.copytree(copy, bed.store_dir, dirs_exist_ok=True)
        assert len(bed.objects("/p/")) > 0
        bed.run("vault", "rebuild", "--storage", "main")
        assert demo.ask("GET", "/backups")["backups"] == []
        # The project goes on with a key of its own.
        shutil.rmtree(bed.store_dir / "v")
        volume = demo.create_volume()
        bed.write(volume, 0, noise(8, MIB))
        backup = demo.back_up(volume)
        demo.wait("backups", backup, "available")
        demo.check(backup, bed.digest(volume))


def test_a_database_from_before_a_deletion_relies_on_nothing_that_is_gone(tmp_path):
    """No root is unknown to it; but what it believes to be stored is not there any more."""
    with Bed(tmp_path) as bed:
        process = bed.start()
        volume, digests = full_and_child(bed, Client(bed, process))
        process.stop()
        old = settled(tmp_path / "embervault.db")
        process = bed.start()
        for backup in digests:
            Client(bed, process).delete("backups", backup)
        bed.collect(3)
        assert bed.objects("/p/") == []
        process.stop()
        put_back(tmp_path / "embervault.db", old)

        demo = Client(bed, bed.start())
        for more in ({}, {"incremental": True}):
            backup = demo.back_up(volume, **more)
            demo.wait("backups", backup, "available")
            demo.check(backup, bed.digest(volume))
        for gone in digests:
            assert demo.show("backups", gone)["fail_reason"] == "Its data is not in the storage."
        report = bed.json("vault", "verify", "--full", status=None)[0]
        assert report["backups"] == []


@pytest.mark.parametrize("is_mended", [True, False])
def test_a_root_that_cannot_be_read_does_not_stand_in_the_way_for_ever(tmp_path, is_mended):
    with Bed(tmp_path) as bed:
        process = bed.start()
        demo = Client(bed, process)
        volume, digests = full_and_child(bed, demo)
        process.stop()
        damaged, sound = digests
        root = next(root for root in bed.objects("/b/") if root.name == damaged)
        content = root.read_bytes()
        spoil(root, "garbage")
        bed.database = f"sqlite:{tmp_path / 'rebuilt.db'}"
        bed.write_config()
        assert damaged in bed.run("vault", "rebuild", "--storage", "main", status=1).stderr
        demo = Client(bed, bed.start())
        row = demo.show("backups", damaged)
        assert row["status"] == "error" and "corrupt" in row["fail_reason"]
        demo.check(sound, digests[sound])
        volume = demo.restore(sound)
        demo.wait("volumes", volume, "available")
        again = demo.back_up(volume)
        demo.wait("backups", again, "available")
        # It may need anything that is there.
        assert "Nothing is reclaimed" in bed.run("vault", "gc", status=1).stderr
        if is_mended:
            root.write_bytes(content)
            assert "Nothing is reclaimed" in bed.run("vault", "gc", status=1).stderr
            bed.run("vault", "rebuild", "--storage", "main")
            demo.check(damaged, digests[damaged])
        else:
            demo.delete("backups", damaged)
        bed.collect(3)
        left = {again: digests[sound], sound: digests[sound], **({damaged: digests[damaged]} if is_mended else {})}
        for backup, digest in left.items():
            demo.check(backup, digest)
        assert {root.name for root in bed.objects("/b/")} == set(left)
        assert bed.json("vault", "verify", "--full")[0]["damaged"] == []


def test_an_import_goes_on_where_an_earlier_one_was_cut_off(tmp_path):
    """It had taken the vault over, and did not come to take note of its packs."""
    with Bed(tmp_path) as bed:
        process = bed.start()
        _, digests = full_and_child(bed, Client(bed, process))
        admin = Client(bed, process, "admin")
        records = {backup: admin.ask("GET", f"/backups/{backup}/export_record")["backup-record"] for backup in digests}
        process.stop()
        with sqlite3.connect(tmp_path / "embervault.db") as connection:
            for table in ("backups", "packs", "chunks"):
                connection.execute(f"DELETE FROM {table}")
        process = bed.start()
        admin = Client(bed, process, "admin")
        for record in records.values():
            admin.ask("POST", "/backups/import_record", {"backup-record": record})
        for backup, digest in digests.items():
            admin.wait("backups", backup, "available")
            admin.check(backup, digest)


def test_a_lost_record_of_a_storage_is_written_again_and_an_empty_storage_is_refused(tmp_path):
    with Bed(tmp_path) as bed:
        process = bed.start()
        _, digests = full_and_child(bed, Client(bed, process))
        process.stop()
        record, = bed.objects("format.json")
        before = record.read_bytes()
        record.unlink()
        process = bed.start()
        for backup, digest in digests.items():
            Client(bed, process).check(backup, digest)
        assert record.read_bytes() == before
        process.stop()
        bed.store_dir.rename(tmp_path / "elsewhere")
        assert "is empty, but this database knows vaults" in bed.run("vault", "verify", status=1).stderr


def test_the_master_key_is_not_changed_beside_a_worker_elsewhere(park, tmp_path):
    database = park.database()
    with Bed(tmp_path / "here", park.storage("directory"), database) as bed:
        process = bed.start()
        _, digests = full_and_child(bed, Client(bed, process))
        process.stop()
        with Bed(tmp_path / "elsewhere", bed.storage, database) as elsewhere:
            shutil.copytree(bed.data / "keys", elsewhere.data / "keys")
            worker = elsewhere.start("worker")
            refused = bed.run("key", "rotate", status=1).stderr
            assert worker.greeting.split()[-1] in refused and "stop all processes first" in refused
            worker.stop()
            bed.run("key", "rotate")
        demo = Client(bed, bed.start())
        for backup, digest in digests.items():
            demo.check(backup, digest)


def test_a_project_is_shredded_wherever_that_can_be_done_and_the_rest_is_told(tmp_path):
    with Bed(tmp_path) as bed:
        second = tmp_path / "store" / "second"
        one = bed.config.read_text()
        line = next(line for line in one.splitlines() if line.startswith("storage.main"))
        other = f'storage.second = {{ url = "fs:{second}", default = true }}'
        for lines in (line, f"{line}\n{other}"):
            bed.config.write_text(one.replace(line, lines))
            process = bed.start()
            demo = Client(bed, process)
            demo.wait("backups", demo.back_up(demo.create_volume()), "available")
            process.stop()
        records = bed.objects("vault.json")
        keys = {"second" if second in record.parents else "main": json.loads(record.read_text())["wrapped_key"]
                for record in records}
        assert len(keys) == 2
        # The first one is not configured any more.
        bed.config.write_text(one.replace(line, other))
        first, = (record for record in records if second not in record.parents)
        for _ in range(2):
            done = bed.run("vault", "shred", demo.project, "--yes", status=1)
            assert 'storage "main" is not configured' in done.stdout and f"v/{first.parent.name}" in done.stdout
            assert "run this command again" in done.stderr
            # The database and the other storage have nothing more of it.
            assert who_holds(bed, keys["second"]) == [] and who_holds(bed, keys["main"]) == [first]
            assert [file for file in second.rglob("*") if file.is_file()] == [second / "format.json"]
        # With the storage, the rest goes.
        bed.config.write_text(one.replace(line, f"{line}\n{other}"))
        bed.run("vault", "shred", demo.project, "--yes")
        assert who_holds(bed, keys["main"]) == [] and bed.query("SELECT * FROM vaults") == []
        done = bed.run("vault", "shred", demo.project, "--yes", status=1)
        assert "has no vault" in done.stderr


def test_a_shredding_that_was_cut_off_in_the_database_is_brought_to_its_end(park, tmp_path):
    database, server = park.database(), park.server("postgres")
    with Bed(tmp_path, database=database) as bed:
        process = bed.start()
        demo = Client(bed, process)
        demo.wait("backups", demo.back_up(demo.create_volume()), "available")
        process.stop()
        # A reader is open, so that what was there cannot be erased yet; then it is killed.
        with held(database, "SELECT count(*) FROM vaults"):
            command = [PROGRAM, "vault", "shred", demo.project, "--yes", "--config", bed.config]
            child = subprocess.Popen(command, env=bed.environment(), stdout=subprocess.DEVNULL)
            until("the objects are gone", lambda: not bed.objects("v/"))
            waiting = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'VACUUM FULL%' AND wait_event_type = 'Lock'"
            until("it waits", lambda: server.query(waiting) != "0")
            child.kill()
            child.wait()
        told = bed.run("vault", "shred", demo.project, "--yes").stdout
        assert "its key is destroyed" in told and "write-ahead log" in told
        assert server.query("SELECT count(*) FROM vaults", database.rsplit("/")[-1]) == "0"


def test_no_wrapped_key_is_left_under_a_temporary_name(tmp_path):
    users = [("member", "secret", "alpha", "member"), ("admin", "secret", "beta", "admin")]
    with Bed(tmp_path, users=users) as bed:
        process = bed.start()
        clients = [Client(bed, process), Client(bed, process, "admin", project="beta")]
        for client in clients:
            client.wait("backups", client.back_up(client.create_volume()), "available")
        temporary = bed.store_dir / "tmp"

        def leave(content):
            """What a process leaves that is killed before it gives an object its name."""
            path = temporary / str(uuid.uuid4())
            path.write_bytes(content)
            return path

        def record(client):
            (vault,), = bed.query(f"SELECT id FROM vaults WHERE project_id = '{client.project}'")
            path, = (path for path in bed.objects("vault.json") if vault in str(path))
            return path.read_bytes()

        alpha, beta = map(record, clients)
        cut = alpha[:alpha.index(b'"mac"')]
        gone, stays = [leave(alpha), leave(cut)], [leave(beta), leave(noise(1, MIB)), leave(b"half a pa")]
        # Beside the service, which may be writing for others.
        bed.run("vault", "shred", clients[0].project, "--yes")
        process.stop()
        assert who_holds(bed, json.loads(alpha)["wrapped_key"]) == []
        assert not any(path.exists() for path in gone) and all(path.exists() for path in stays)
        bed.run("key", "rotate")
        assert who_holds(bed, json.loads(beta)["wrapped_key"]) == []
        assert [path.exists() for path in stays] == [False, True, True]


def test_a_project_that_is_shredded_while_it_is_backed_up_leaves_nothing(tmp_path):
    storage = {"url": f"fs:{tmp_path / 'store'}", "upload_limit": "2 MiB"}
    with Bed(tmp_path, storage) as bed:
        demo = Client(bed, bed.start())
        volume = demo.create_volume()
        bed.write(volume, 0, noise(13, 12 * MIB))
        backup = demo.back_up(volume)
        until("it writes", lambda: bed.objects("/p/"))
        bed.run("vault", "shred", demo.project, "--yes")
        until("it ends", lambda: not bed.query("SELECT 1 FROM jobs WHERE state IN ('running', 'available')"))
        assert demo.request("GET", f"/v3/{demo.project}/backups/{backup}")[0] == 404
        assert bed.objects("v/") == []
        until("the volume is free", lambda: demo.show("volumes", volume)["status"] == "available")
        # What the project does next is nobody else's, and whole.
        bed.write(volume, 0, noise(14, MIB))
        again = demo.back_up(volume)
        demo.wait("backups", again, "available")
        demo.check(again, bed.digest(volume))
        assert bed.json("vault", "verify", "--full")[0]["damaged"] == []


@pytest.mark.parametrize("table", ["jobs", "sessions", "packs", "session_packs", "backups", "chunks"])
def test_a_row_of_a_running_backup_that_is_deleted_leaves_nothing_stuck(tmp_path, table):
    storage = {"url": f"fs:{tmp_path / 'store'}", "upload_limit": "2 MiB"}
    with Bed(tmp_path, storage) as bed:
        demo = Client(bed, bed.start())
        volume, digests = full_and_child(bed, demo)
        bed.write(volume, 0, noise(11, 12 * MIB))
        digest = bed.digest(volume)
        backup = demo.back_up(volume, incremental=True)
        until("it writes", lambda: bed.query("SELECT 1 FROM packs WHERE session IS NOT NULL"))
        with sqlite3.connect(tmp_path / "embervault.db", timeout=60) as connection:
            where = {
                "jobs": f"subject = '{backup}'", "backups": f"id = '{backup}'", "packs": "session IS NOT NULL",
                "chunks": "pack IN (SELECT number FROM packs WHERE session IS NOT NULL)",
            }.get(table, "1")
            connection.execute(f"DELETE FROM {table} WHERE {where}")

        def settled():
            rows = bed.query("SELECT status FROM backups") + bed.query("SELECT status FROM volumes")
            return all(status in ("available", "error", "error_restoring") for status, in rows)

        until("nothing is under way", settled)
        time.sleep(2 * LEASE)
        status, _, answer = demo.request("GET", f"/v3/{demo.project}/backups/{backup}")
        if status == 200 and answer["backup"]["status"] == "available":
            demo.check(backup, digest)
        for known, wanted in digests.items():
            demo.check(known, wanted)
        assert demo.show("volumes", volume)["status"] == "available"
        for row in demo.ask("GET", "/backups")["backups"]:
            demo.delete("backups", row["id"])
        until("nothing is held", lambda: not bed.query("SELECT 1 FROM packs WHERE session IS NOT NULL"))
        bed.collect(3)
        assert bed.objects("/p/") + bed.objects("/m/") + bed.objects("/b/") == []


@pytest.mark.parametrize("where", ["store", "database", "target"])
def test_a_full_disk_is_told_and_everything_goes_on_when_there_is_room(tmp_path, where):
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", small], check=True)
    try:
        storage = {"url": f"fs:{small / 'store'}"} if where == "store" else None
        database = f"sqlite:{small / 'embervault.db'}" if where == "database" else None
        settings = {"volumes": {"dir": str(tmp_path / "volumes")}}
        with Bed(tmp_path / "bed", storage, database, **settings) as bed:
            bed.volume_path = lambda volume: tmp_path / "volumes" / f"volume-{volume}.raw"
            demo = Client(bed, bed.start())
            volume, digests = full_and_child(bed, demo)
            filler = small / "filler"

            def fill():
                with open(filler, "wb") as file:
                    try:
                        while True:
                            file.write(b"\0" * 65536)
                            file.flush()
                    except OSError:
                        pass

            bed.write(volume, 0, noise(12, 12 * MIB))
            digest = bed.digest(volume)
            if where == "target":
                # The volumes lie on a disk that is nearly full.
                target = demo.create_volume()
                path = bed.volume_path(target)
                path.unlink()
                subprocess.run(["truncate", "-s", "1G", small / "target.raw"], check=True)
                path.symlink_to(small / "target.raw")
                fill()
                demo.restore(list(digests)[0], target)
                until("it fails", lambda: demo.show("volumes", target)["status"] == "error_restoring")
                filler.unlink()
                demo.wait("backups", list(digests)[0], "available")
            else:
                fill()
                status, _, answer = demo.request("POST", f"/v3/{demo.project}/backups",
                                                 {"backup": {"volume_id": volume, "incremental": True}})
                if status == 202:
                    backup = answer["backup"]["id"]
                    time.sleep(3)
                filler.unlink()
                if status == 202:
                    until("it ends", lambda: demo.show("backups", backup)["status"] in ("available", "error"))
                    row = demo.show("backups", backup)
                    if row["status"] == "available":
                        demo.check(backup, digest)
                    else:
                        assert "no space left" in row["fail_reason"].lower() or "full" in row["fail_reason"].lower(), row
            again = demo.back_up(volume, incremental=True)
            demo.wait("backups", again, "available")
            demo.check(again, digest)
            for backup, wanted in digests.items():
                demo.check(backup, wanted)
    finally:
        subprocess.run(["umount", "-l", small], check=False)


def test_a_thousand_small_backups_are_rebuilt(park, tmp_path):
    count = 1000
    with Bed(tmp_path, park.storage("ceph-s3"), jobs={"backups": 4, "reserve": False},
             engine={"memory": "320 MiB"}) as bed:
        demo = Client(bed, bed.start())
        volumes = [demo.create_volume() for _ in range(4)]
        chance = random.Random(4)
        made = []
        for n in range(count // 4):
            round_of = []
            for volume in volumes:
                bed.write(volume, n * 4096, chance.randbytes(4096))
                round_of.append(demo.back_up(volume, incremental=n > 0))
            for backup in round_of:
                demo.wait("backups", backup, "available")
            made += round_of
        digests = dict(zip(made[-4:], map(bed.digest, volumes)))
        bed.stop()
        bed.database = f"sqlite:{tmp_path / 'rebuilt.db'}"
        bed.write_config()
        started = time.monotonic()
        bed.run("vault", "rebuild", "--storage", "main")
        print(f"{count} backups rebuilt in {time.monotonic() - started:.1f} s")
        demo = Client(bed, bed.start())
        found, marker = [], ""
        while rows := demo.ask("GET", f"/backups?limit=400{marker}")["backups"]:
            found += [row["id"] for row in rows]
            marker = f"&marker={found[-1]}"
        assert sorted(found) == sorted(made)
        for backup, digest in digests.items():
            demo.check(backup, digest)
