"""One suite for all drivers, each against a real server: proof, backups, deletion, damage, recovery."""

import contextlib
import time

import pytest

from bed import MIB, Bed, Client, noise
from servers.swift import REMEMBERED

DRIVERS = ["directory", "ceph-s3", "ceph-swift", "swift", "swift-keystone", "sftp", "webdav", "gcs", "azurite"]
#: Those that say that they refuse to replace an object, and do.
CONDITIONAL = {"directory", "ceph-s3", "gcs", "azurite"}

each_driver = pytest.mark.parametrize("driver", DRIVERS)


@each_driver
def test_storage_is_proven(park, tmp_path, driver):
    with Bed(tmp_path, park.storage(driver)) as bed:
        steps = {step["name"]: step for step in bed.json("storage", "check", "main")}
        print(park.version(driver), steps["write and read 32 MiB"]["detail"], steps["latency"]["detail"])
        conditional = steps.pop("conditional create")
        assert all(step["verdict"] == "passed" for step in steps.values()), steps
        assert conditional["verdict"] == ("passed" if driver in CONDITIONAL else "absent"), conditional


@each_driver
def test_backups_come_back_and_space_too(park, tmp_path, driver):
    with Bed(tmp_path, park.storage(driver)) as bed:
        demo = Client(bed, bed.start())
        volume = demo.create_volume()
        bed.write(volume, 0, noise(1, 6 * MIB))
        full = demo.back_up(volume)
        demo.wait("backups", full, "available")
        first = bed.digest(volume)
        bed.write(volume, 3 * MIB, noise(2, 5 * MIB // 2))
        bed.write(volume, 500 * MIB, b"far away")
        incremental = demo.back_up(volume, incremental=True)
        demo.wait("backups", incremental, "available")
        second = bed.digest(volume)
        demo.check(full, first)
        demo.check(incremental, second)
        assert bed.json("vault", "verify", "--full")[0]["damaged"] == []
        demo.delete("backups", full)
        done = bed.collect(3)[0]
        assert (done["condemned"]["packs"], done["unknown"], done["leftovers"]) == (0, [], [])
        demo.check(incremental, second)
        # The database is lost: what is left is the storage and the master key.
        bed.stop()
        bed.database = f"sqlite:{tmp_path / 'rebuilt.db'}"
        bed.write_config()
        bed.run("vault", "rebuild", "--storage", "main")
        demo = Client(bed, bed.start())
        assert [row["id"] for row in demo.ask("GET", "/backups")["backups"]] == [incremental]
        demo.check(incremental, second)
        # And it goes on: what is stored is found again, also by the index.
        volume = demo.restore(incremental)
        demo.wait("volumes", volume, "available")
        again = demo.back_up(volume)
        demo.wait("backups", again, "available")
        usage = {row["backup"]: row for row in bed.json("vault", "usage")}
        # The incremental's chunks end at one of the full's, behind what was written. From there this backup's cuts
        # may be others to the end: at most 0.5 MiB, the chunk before it (0.25), and the manifest.
        assert usage[again]["new_bytes"] < MIB < usage[again]["logical_bytes"]
        demo.check(again, second)
        demo.delete("backups", incremental)
        demo.delete("backups", again)
        bed.collect(2)
        assert bed.json("vault", "gc")[0]["kept"]["packs"] == 0


@each_driver
def test_wrong_credentials_are_refused_by_name(park, tmp_path, driver):
    storage = park.storage(driver)
    secrets = {"s3": "secret_access_key", "swift": "password", "webdav": "password", "azblob": "account_key"}
    found = [(section, key) for section, key in secrets.items() if section in storage]
    if driver == "sftp":
        other = tmp_path / "other"
        other.write_text("no key at all")
        other.chmod(0o600)
        storage["sftp"]["key_file"] = str(other)
    elif found:
        (section, key), = found
        storage[section][key] = "bm90LXRoZS1zZWNyZXQ=" if section == "azblob" else "not-the-secret"
    else:
        # A directory has no credentials; the emulator takes all of them.
        storage["url"] = {"directory": "fs:/proc/nowhere", "gcs": "gcs://no-such-bucket"}[driver]
    storage["retry_for"] = "2s"
    with Bed(tmp_path / "bed", storage) as bed:
        done = bed.run("storage", "check", "main", status=1)
        assert "not-the-secret" not in done.stdout + done.stderr
        assert "main" in done.stderr


def test_an_application_credential_of_keystone_is_enough(park, tmp_path):
    storage, cloud = park.storage("swift-keystone"), park.server("swift-keystone").cloud
    made = cloud.application_credential()
    storage["swift"] = {
        "auth_url": cloud.keystone.url,
        "application_credential_id": made["id"], "application_credential_secret": made["secret"],
    }
    with Bed(tmp_path, storage) as bed:
        demo = Client(bed, bed.start())
        backup, digest = back_up(bed, demo, demo.create_volume(), seed=1)
        demo.check(backup, digest)


@pytest.fixture
def keystone_beside(park):
    """Starts another Keystone in front of the same Swift: it is asked by the program alone, and counts that."""
    with contextlib.ExitStack() as running:

        def start(token_seconds):
            keystone = park.server("swift-keystone").keystone.beside(token_seconds)
            running.callback(keystone.stop)
            storage = park.storage("swift-keystone")
            storage["swift"]["auth_url"] = keystone.url
            return storage, lambda: len(keystone.requests("POST", "/v3/auth/tokens"))

        yield start


def test_a_backup_outlasts_its_keystone_token(park, tmp_path, keystone_beside):
    storage, log_ins = keystone_beside(token_seconds=8)
    # A pack every eleven seconds, so each is refused with all of its body under way.
    # A root is stored within the lease or put off, so that is long enough for a log-in too.
    settings = {"engine": {"pack_bytes": "32 MiB", "memory": "512 MiB"}, "jobs": {"lease": "60s"}}
    with Bed(tmp_path, {**storage, "timeout": "60s", "upload_limit": "3 MiB"}, **settings) as bed:
        demo = Client(bed, bed.start())
        volume = demo.create_volume()
        before = log_ins()
        backup, digest = back_up(bed, demo, volume, seed=1, length=96 * MIB)
        assert log_ins() - before >= 2
        demo.check(backup, digest)
        demo.process.stop()
        assert "will be tried again" not in demo.process.log.read_text()


def test_a_revoked_keystone_token_is_renewed_once(park, tmp_path, keystone_beside):
    storage, log_ins = keystone_beside(token_seconds=3600)
    with Bed(tmp_path, storage, jobs={"lease": "60s"}) as bed:
        demo = Client(bed, bed.start())
        volume = demo.create_volume()
        full, first = back_up(bed, demo, volume, seed=1)
        assert log_ins() == 1
        park.server("swift-keystone").cloud.forget_tokens("member")
        time.sleep(1 + REMEMBERED)  # memcached counts whole seconds too
        incremental, second = back_up(bed, demo, volume, seed=2, length=8 * MIB, incremental=True)
        assert log_ins() == 2
        demo.check(full, first)
        demo.check(incremental, second)
        demo.process.stop()
        assert "will be tried again" not in demo.process.log.read_text()


def back_up(bed, demo, volume, seed, length=2 * MIB, **more):
    """Writes to the volume and backs it up; the backup, and what must come back."""
    bed.write(volume, 0, noise(seed, length))
    backup = demo.back_up(volume, **more)
    demo.wait("backups", backup, "available")
    return backup, bed.digest(volume)
