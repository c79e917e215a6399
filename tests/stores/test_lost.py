"""What the service might take for lost and is still there: it is neither removed nor locked away unasked."""

import concurrent.futures
import shutil
import sqlite3

import pytest

from bed import MIB, Bed, Client, held, noise, until
from test_recovery import full_and_child, put_back, settled, spoil


def backed_up(bed, demo, seed=1):
    """One backup, and what it must come back as."""
    volume = demo.create_volume()
    bed.write(volume, 0, noise(seed, 5 * MIB))
    backup = demo.back_up(volume)
    demo.wait("backups", backup, "available")
    return backup, bed.digest(volume)


def lose_database(bed):
    """From now on the bed has an empty database."""
    bed.count += 1
    bed.database = f"sqlite:{bed.dir / f'empty-{bed.count}.db'}"
    bed.write_config()


def gc(bed):
    """What a collection prints, whether it goes through or refuses."""
    done = bed.run("vault", "gc", "--json", status=None)
    return done.stdout + done.stderr


def records(bed):
    """The vaults' records as they are stored."""
    return {path: path.read_bytes() for path in bed.objects("vault.json")}


def kept_keys(bed):
    """The earlier master keys by the names of their files."""
    return {path.name: path.read_text().strip() for path in (bed.data / "keys").glob("master.previous*")}


# What was deleted, and what never came in.


def test_deleting_a_failed_import_does_not_remove_the_root_that_comes_back_later(tmp_path):
    """A bucket that was copied in part lacks the root when its record is imported. The failed row says nothing
    of the data: what arrives afterwards is a backup that the database does not know, not the rest of a deletion."""
    with Bed(tmp_path) as bed:
        process = bed.start()
        demo, admin = Client(bed, process), Client(bed, process, "admin")
        digests = dict(backed_up(bed, demo, seed) for seed in (1, 2))
        exported = {backup: admin.ask("GET", f"/backups/{backup}/export_record")["backup-record"] for backup in digests}
        process.stop()
        late, there = digests
        root = next(root for root in bed.objects("/b/") if root.name == late)
        root.rename(tmp_path / "away")
        lose_database(bed)

        process = bed.start()
        demo, admin = Client(bed, process), Client(bed, process, "admin")
        # With the other backup the database takes the vault over, so that it is collected.
        admin.ask("POST", "/backups/import_record", {"backup-record": exported[there]})
        admin.wait("backups", there, "available")
        admin.ask("POST", "/backups/import_record", {"backup-record": exported[late]})
        admin.wait("backups", late, "error")
        admin.delete("backups", late)
        (tmp_path / "away").rename(root)
        stored = set(bed.objects("v/"))
        for _ in range(3):
            told = gc(bed)
            assert root.exists(), f"the collection removed the root: {told}"
            assert stored <= set(bed.objects("v/")), f"the collection removed something: {told}"
        bed.run("vault", "rebuild", "--storage", "main")
        assert demo.show("backups", late)["status"] == "available"
        for backup, digest in digests.items():
            demo.check(backup, digest)


@pytest.mark.parametrize("collections", [0, 3], ids=["at-once", "after-its-packs-are-gone"])
def test_a_deleted_backup_that_is_put_back_is_left_alone_told_of_and_taken_in_again(tmp_path, collections):
    """An operator who puts a deleted backup back wants it: its root is not the rest of a deletion."""
    with Bed(tmp_path) as bed:
        demo = Client(bed, bed.start())
        backup, digest = backed_up(bed, demo)
        copy = tmp_path / "copy"
        shutil.copytree(bed.store_dir, copy)
        needed = [path for part in ("/b/", "/p/", "/m/") for path in bed.objects(part)]
        assert len(needed) > 2
        demo.delete("backups", backup)
        if collections:
            bed.collect(collections)
            assert [path for path in needed if path.exists()] == []
        for path in needed:
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(copy / path.relative_to(bed.store_dir), path)
        for _ in range(3):
            told = gc(bed)
            assert [path for path in needed if not path.exists()] == [], f"a collection removed what came back: {told}"
            assert backup in told, f"a collection does not name the root: {told}"
        bed.run("vault", "rebuild", "--storage", "main")
        assert demo.show("backups", backup)["status"] == "available"
        demo.check(backup, digest)
        # It is a backup like any other again: it stays as long as it is wanted, and goes without a rest.
        bed.collect(3)
        demo.check(backup, digest)
        assert bed.json("vault", "verify", "--full")[0]["damaged"] == []
        demo.delete("backups", backup)
        bed.collect(3)
        assert [path for part in ("/b/", "/p/", "/m/") for path in bed.objects(part)] == []


# The master key.


def test_the_master_key_changes_twice_while_the_database_is_lost_and_everything_comes_back(tmp_path):
    """The empty database knows no vault, but the storage does: its vaults must not stay behind with a lost key."""
    with Bed(tmp_path) as bed:
        process = bed.start()
        backup, digest = backed_up(bed, Client(bed, process))
        process.stop()
        lose_database(bed)
        key = bed.data / "keys" / "master.key"
        keys = [key.read_text()]
        for _ in range(2):
            bed.run("key", "rotate")
            keys.append(key.read_text())
        assert len(set(keys)) == 3
        bed.run("vault", "rebuild", "--storage", "main")
        demo = Client(bed, bed.start())
        demo.check(backup, digest)


def test_each_earlier_master_key_is_kept_under_a_number_of_its_own(tmp_path):
    with Bed(tmp_path) as bed:
        process = bed.start()
        backup, digest = backed_up(bed, Client(bed, process))
        process.stop()
        key = bed.data / "keys" / "master.key"
        earlier = {}
        for number in (1, 2):
            earlier[f"master.previous-{number}"] = key.read_text().strip()
            bed.run("key", "rotate")
            assert kept_keys(bed) == earlier
            assert {(bed.data / "keys" / name).stat().st_mode & 0o777 for name in earlier} == {0o600}
            assert key.read_text().strip() not in earlier.values() and key.stat().st_mode & 0o777 == 0o600
        lose_database(bed)
        bed.run("vault", "rebuild", "--storage", "main")
        Client(bed, bed.start()).check(backup, digest)
        assert kept_keys(bed) == earlier


def test_a_vault_that_no_key_opens_stops_a_rotation_before_it_begins(tmp_path):
    """A rotation that passed over it would leave a vault behind that no key in force opens."""
    with Bed(tmp_path / "here") as bed, Bed(tmp_path / "elsewhere") as elsewhere:
        process = bed.start()
        backup, digest = backed_up(bed, Client(bed, process), 1)
        process.stop()
        # Another installation with a key of its own has used the same storage.
        elsewhere.store_dir.mkdir()
        shutil.copy(bed.store_dir / "format.json", elsewhere.store_dir)
        process = elsewhere.start()
        foreign, foreign_digest = backed_up(elsewhere, Client(elsewhere, process), 2)
        process.stop()
        record, = elsewhere.objects("vault.json")
        record = record.relative_to(elsewhere.store_dir)
        shutil.copytree(elsewhere.store_dir / "v", bed.store_dir / "v", dirs_exist_ok=True)
        stored = records(bed)
        assert len(stored) == 2

        key, foreign_key = (one.data / "keys" / "master.key" for one in (bed, elsewhere))
        before = key.read_bytes()
        refused = bed.run("key", "rotate", status=1)
        assert str(record) in refused.stderr
        assert key.read_bytes() == before and records(bed) == stored
        process = bed.start()
        Client(bed, process).check(backup, digest)
        process.stop()

        # With the other key among the kept ones all vaults open.
        kept = bed.data / "keys" / "master.previous-1"
        shutil.copy(foreign_key, kept)
        kept.chmod(0o600)
        bed.run("key", "rotate")
        assert key.read_bytes() != before
        others = {kept.name: foreign_key.read_text().strip(), "master.previous-2": before.decode().strip()}
        assert kept_keys(bed) == others
        now = records(bed)
        assert now.keys() == stored.keys() and all(now[path] != stored[path] for path in now)
        lose_database(bed)
        bed.run("vault", "rebuild", "--storage", "main")
        demo = Client(bed, bed.start())
        demo.check(backup, digest)
        demo.check(foreign, foreign_digest)


def test_a_record_from_before_a_rotation_opens_with_a_kept_key_and_it_is_told(tmp_path):
    with Bed(tmp_path) as bed:
        process = bed.start()
        backup, digest = backed_up(bed, Client(bed, process))
        process.stop()
        old = records(bed)
        bed.run("key", "rotate")
        assert all(path.read_bytes() != content for path, content in old.items())
        for path, content in old.items():
            path.write_bytes(content)
        lose_database(bed)
        assert "previous" in bed.run("vault", "rebuild", "--storage", "main").stderr
        Client(bed, bed.start()).check(backup, digest)


# A repair, and the database lost after it.


@pytest.mark.parametrize("how", ["flipped", "truncated"])
def test_a_repaired_pack_outlives_the_damaged_one_that_is_still_beside_it(tmp_path, how):
    """The deletion of the damaged object was cut off, and the database that knew which is the sound one is lost."""
    with Bed(tmp_path) as bed:
        process = bed.start()
        backup, digest = backed_up(bed, Client(bed, process))
        damaged = bed.objects("/p/")[0]
        number, rewrite = damaged.name.split(".")
        assert rewrite == "0"
        content = bytearray(damaged.read_bytes())
        match how:
            case "flipped":
                # Within a frame: the pack's trailer still reads well.
                content[len(content) // 3] ^= 4
            case "truncated":
                del content[-100:]
        damaged.write_bytes(content)
        report = bed.json("vault", "verify", "--full", status=1)[0]
        assert [row["object"] for row in report["damaged"]] == [str(damaged.relative_to(bed.store_dir))]
        repaired, = bed.json("vault", "repair")
        assert repaired["restored"] > 0 and repaired["lost"] == 0
        sound = damaged.with_name(f"{number}.1")
        assert sound.exists() and not damaged.exists()
        process.stop()
        damaged.write_bytes(content)
        lose_database(bed)

        bed.run("vault", "rebuild", "--storage", "main", status=None)
        for _ in range(3):
            told = gc(bed)
            assert sound.exists(), f"the collection removed the object that can be read: {told}"
        Client(bed, bed.start()).check(backup, digest)


def test_a_copy_of_the_database_from_before_a_rotation_goes_on_with_the_new_key(tmp_path):
    """A record that is damaged in the storage does not stop the rotation, as the database has a sound copy."""
    with Bed(tmp_path) as bed:
        process = bed.start()
        _, digests = full_and_child(bed, Client(bed, process))
        process.stop()
        database = tmp_path / "embervault.db"
        old = settled(database)
        record, = bed.objects("vault.json")
        spoil(record, "garbage")
        bed.run("key", "rotate")
        key = (bed.data / "keys" / "master.key").read_text()
        put_back(database, old)
        demo = Client(bed, bed.start())
        for backup, digest in digests.items():
            demo.check(backup, digest)
        bed.stop()
        # And it can be changed again.
        bed.run("key", "rotate")
        assert (bed.data / "keys" / "master.previous-2").read_text() == key
        demo = Client(bed, bed.start())
        for backup, digest in digests.items():
            demo.check(backup, digest)


# What is there in part.


def compacted_after_a_deletion(bed, demo):
    """A backup that was deleted, and another one that shares packs with it, which were compacted since; with copies
    of all objects from before the deletion."""
    volume = demo.create_volume()
    bed.write(volume, 0, noise(1, 6 * MIB))
    gone = demo.back_up(volume)
    demo.wait("backups", gone, "available")
    digests = {gone: bed.digest(volume)}
    # Every pack loses a frame, and keeps one.
    for at in range(0, 6 * MIB, 1200 << 10):
        bed.write(volume, at, noise(at + 2, 700 << 10))
    kept = demo.back_up(volume, incremental=True)
    demo.wait("backups", kept, "available")
    digests[kept] = bed.digest(volume)
    record = Client(bed, demo.process, "admin").ask("GET", f"/backups/{gone}/export_record")["backup-record"]
    copies = {path: path.read_bytes() for path in bed.objects("v/")}
    demo.delete("backups", gone)
    bed.collect(3)
    assert any(path.name.endswith(".1") for path in bed.objects("/p/")), "nothing was compacted"
    return gone, kept, digests, copies, record


def put_back_copies(copies, part=""):
    for path, content in copies.items():
        if part in str(path) and not path.exists():
            path.write_bytes(content)


def test_a_backup_that_is_put_back_beside_compacted_packs_comes_back(tmp_path):
    with Bed(tmp_path, maintenance={"compact_percent": 5}) as bed:
        demo = Client(bed, bed.start())
        gone, kept, digests, copies, _ = compacted_after_a_deletion(bed, demo)
        put_back_copies(copies)
        for _ in range(3):
            gc(bed)
        bed.run("vault", "rebuild", "--storage", "main")
        demo.check(gone, digests[gone])
        demo.check(kept, digests[kept])
        bed.collect(2)
        demo.check(gone, digests[gone])
        demo.check(kept, digests[kept])


@pytest.mark.parametrize("way", ["rebuild", "import", "reset"])
def test_a_backup_of_which_a_part_is_missing_is_not_called_available_until_it_is_there(tmp_path, way):
    with Bed(tmp_path, maintenance={"compact_percent": 5}) as bed:
        process = bed.start()
        demo, admin = Client(bed, process), Client(bed, process, "admin")
        gone, kept, digests, copies, record = compacted_after_a_deletion(bed, demo)
        put_back_copies(copies, "/b/")
        if way == "import":
            admin.ask("POST", "/backups/import_record", {"backup-record": record})
            admin.wait("backups", gone, "error")
            demo.delete("backups", gone)
            put_back_copies(copies, "/b/")
        assert gone in bed.run("vault", "rebuild", "--storage", "main", status=1).stderr
        if way == "reset":
            admin.ask("POST", f"/backups/{gone}/action", {"os-reset_status": {"status": "available"}})
            until("it is looked at", lambda: not bed.query("SELECT 1 FROM jobs WHERE state IN ('running', 'available')"))
        assert demo.show("backups", gone)["status"] == "error"
        demo.check(kept, digests[kept])
        if way == "rebuild":
            put_back_copies(copies)
            bed.run("vault", "rebuild", "--storage", "main")
            row = demo.show("backups", gone)
            assert (row["status"], row["fail_reason"]) == ("available", None)
            demo.check(gone, digests[gone])
            demo.check(kept, digests[kept])


def test_a_database_from_before_a_backup_that_is_gone_again_takes_new_ones(tmp_path):
    """No root is unknown to it, and none is lost; but packs of the later backup are still there."""
    with Bed(tmp_path) as bed:
        process = bed.start()
        volume, digests = full_and_child(bed, Client(bed, process))
        process.stop()
        database = tmp_path / "embervault.db"
        old = settled(database)
        process = bed.start()
        demo = Client(bed, process)
        bed.write(volume, 0, noise(7, 3 * MIB))
        later = demo.back_up(volume)
        demo.wait("backups", later, "available")
        demo.delete("backups", later)
        process.stop()
        put_back(database, old)
        demo = Client(bed, bed.start())
        bed.write(volume, 0, noise(8, 3 * MIB))
        again = demo.back_up(volume)
        demo.wait("backups", again, "available")
        digests[again] = bed.digest(volume)
        for backup, digest in digests.items():
            demo.check(backup, digest)


def test_two_rebuilds_at_once_add_a_backup_once(park, tmp_path):
    url, server = park.database(), park.server("postgres")
    database = url.rsplit("/")[-1]

    def waiting():
        where = f"datname = '{database}' AND wait_event_type = 'Lock'"
        return int(server.query(f"SELECT count(*) FROM pg_stat_activity WHERE {where}"))

    with Bed(tmp_path, database=url) as bed, concurrent.futures.ThreadPoolExecutor(2) as pool:
        process = bed.start()
        backup, _ = backed_up(bed, Client(bed, process))
        process.stop()
        server.query("DELETE FROM backups", database)
        rebuild = ("vault", "rebuild", "--storage", "main")
        # Both have seen that there is no such backup when the first one may add it.
        with held(url, "LOCK TABLE backups IN EXCLUSIVE MODE"):
            both = [pool.submit(bed.run, *rebuild) for _ in range(2)]
            until("they wait", lambda: waiting() == 2)
        for one in both:
            one.result()
        assert server.query("SELECT id FROM backups", database) == backup


def test_a_root_that_was_stored_too_late_is_no_backup(tmp_path):
    """Its backup was deleted while a run that had been overtaken still worked on it."""
    with Bed(tmp_path) as bed:
        process = bed.start()
        backup, digest = backed_up(bed, Client(bed, process))
        process.stop()

        def rebuilt(was_available):
            with sqlite3.connect(bed.dir / "embervault.db") as connection:
                connection.execute("DELETE FROM backups")
                connection.execute("DELETE FROM removed_roots")
                vault = connection.execute("SELECT number FROM vaults").fetchone()[0]
                connection.execute("INSERT INTO removed_roots VALUES (?, ?, ?)", (vault, backup, was_available))
            bed.run("vault", "rebuild", "--storage", "main")
            return bed.query("SELECT id FROM backups")

        assert rebuilt(was_available=False) == []
        # Of a backup that was complete, the root was put back.
        assert rebuilt(was_available=True) == [(backup,)]
        Client(bed, bed.start()).check(backup, digest)
