"""What the machine does to us: logs that cannot be written, disks that are full, files and devices of other
sizes than expected; and what many requests at once do to a quota."""

import base64
import contextlib
import fcntl
import hashlib
import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
import urllib.parse
import uuid

import pytest

from bed import MIB, PROGRAM, Bed, Client, Process, noise, until
from servers import ports

GIB = 1 << 30


@contextlib.contextmanager
def mounted(place, kind, mebibytes):
    """A small file system of its own at `place`, with about so much room."""
    place.mkdir()
    if kind == "tmpfs":
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", place], check=True)
    else:
        image = place.with_suffix(".img")
        with open(image, "wb") as file:
            # It needs some for itself.
            file.truncate((mebibytes + 30) * MIB)
        # Without blocks that only root may use: the tests run as root.
        subprocess.run(["mkfs.ext4", "-q", "-b", "4096", "-m", "0", image], check=True)
        subprocess.run(["mount", "-o", "loop", image, place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=False)


def fill(path):
    """Makes a file that takes all the room its file system has."""
    with open(path, "wb", buffering=0) as file:
        for piece in (b"\1" * MIB, b"\1" * 4096):
            while True:
                try:
                    while file.write(piece) == len(piece):
                        pass
                except OSError:
                    # What was set aside for the writes before may have been more than they took.
                    free = os.statvfs(path).f_bavail
                    os.fsync(file.fileno())
                    if os.statvfs(path).f_bavail <= free:
                        break
    return path


def digest_of(path, length=None):
    """Of a file or device, of its first so many bytes."""
    digest, left = hashlib.blake2b(), length
    with open(path, "rb") as file:
        while piece := file.read(MIB if left is None else min(MIB, left)):
            digest.update(piece)
            left = left if left is None else left - len(piece)
    assert not left, f"{path} is {left} bytes too short"
    return digest.hexdigest()


def told(demo, admin, *subjects):
    """What a user and an administrator are told about these resources."""
    messages = [row["user_message"] for row in demo.ask("GET", "/messages")["messages"]
                if row.get("resource_uuid") in subjects]
    jobs = admin.ask("GET", "/embervault/jobs")["jobs"]
    return "\n".join(messages + [row["reason"] for row in jobs if row["subject"] in subjects and row["reason"]])


# Logs.


class Unheard(Process):
    """`serve`, with its standard error and output where a test wants them."""

    def __init__(self, bed, stderr, stdout=subprocess.DEVNULL):
        self.bed, self.role, self.log = bed, "serve", bed.dir / "unheard.log"
        self.log.touch()
        # What it prints is not read, so its port must be known before.
        address = f"127.0.0.1:{ports.free()}"
        self.base = f"http://{address}"
        self.child = subprocess.Popen(
            [*bed.prefix, PROGRAM, "serve", "--config", bed.config, "--listen", address],
            stdout=stdout, stderr=stderr, env=bed.environment(),
        )
        bed.processes.append(self)
        until("it serves", self._serves)

    def _serves(self):
        if not self.is_alive:
            raise RuntimeError(f"it ended with {self.child.returncode}")
        return Client(self.bed, self)


def everything_works(bed, process):
    demo = Client(bed, process)
    unknown = uuid.uuid4()
    for seed in range(2):
        volume = demo.create_volume()
        bed.write(volume, 0, noise(seed, 2 * MIB))
        backup = demo.back_up(volume)
        demo.wait("backups", backup, "available")
        demo.check(backup, bed.digest(volume))
        # A refusal is logged as well, and is an answer.
        for _ in range(20):
            status, _, answer = demo.request("GET", f"/v3/{demo.project}/backups/{unknown}")
            assert status == 404 and str(unknown) in answer["itemNotFound"]["message"]
        demo.delete("backups", backup)
    assert process.is_alive
    process.stop()


def broken_pipe():
    """The writing end of a pipe whose reading end is closed."""
    reader, writer = os.pipe()
    os.close(reader)
    return os.fdopen(writer, "wb", buffering=0)


def test_logs_stop_nothing_once_their_reader_is_gone(tmp_path):
    with Bed(tmp_path) as bed:
        reader, writer = os.pipe()
        with os.fdopen(reader), os.fdopen(writer):
            process = Unheard(bed, writer)
        everything_works(bed, process)


def test_logs_stop_nothing_while_their_reader_stalls(tmp_path):
    """The pipe is full, and stays so; with all that `trace` tells, any buffer before it is soon full too."""
    with Bed(tmp_path, log={"filter": "trace"}) as bed:
        reader, writer = os.pipe()
        with os.fdopen(reader), os.fdopen(writer):
            # Room for what is logged until it serves.
            fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, MIB)
            process = Unheard(bed, writer)
            # Opened anew, so that only our own writes give up on a full pipe.
            filler = os.open(f"/proc/self/fd/{writer}", os.O_WRONLY | os.O_NONBLOCK)
            for piece in (b"\n" * 4096, b"\n"):
                with contextlib.suppress(BlockingIOError):
                    while True:
                        os.write(filler, piece)
            os.close(filler)
            everything_works(bed, process)


def test_logs_stop_nothing_on_a_full_disk(tmp_path):
    with mounted(tmp_path / "full", "tmpfs", 1) as full, Bed(tmp_path / "bed") as bed:
        with open(full / "serve.log", "w") as log:
            fill(full / "filler")
            everything_works(bed, Unheard(bed, log))
        assert (full / "serve.log").stat().st_size == 0


def test_logs_and_greeting_stop_nothing_where_both_outputs_are_closed(tmp_path):
    with Bed(tmp_path, metrics={"listen": "127.0.0.1:0"}) as bed:
        with broken_pipe() as stderr, broken_pipe() as stdout:
            process = Unheard(bed, stderr, stdout)
        everything_works(bed, process)


# Full disks.


def bed_on(place, dir):
    """A bed with data directory, database and storage on one disk, as they are without any configuration.
    What it logs is elsewhere: a test can read it whatever happens."""
    bed = Bed(dir, {"url": f"fs:{place / 'store'}"}, f"sqlite:{place / 'embervault.db'}")
    bed.data, bed.store_dir = place / "data", place / "store"
    bed.write_config()
    return bed


def health(process):
    """What the health check answers; it is no JSON."""
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(process.base).netloc, timeout=120)
    with contextlib.closing(connection):
        connection.request("GET", "/healthcheck")
        return connection.getresponse().status


def several_backups(bed, demo, mebibytes, count):
    """A volume, and its backups with what they must come back as."""
    volume, digests = demo.create_volume(), {}
    bed.write(volume, 0, noise(1, mebibytes * MIB))
    for n in range(count):
        bed.write(volume, n * MIB, noise(10 + n, 4096))
        backup = demo.back_up(volume, incremental=n > 0)
        demo.wait("backups", backup, "available")
        digests[backup] = bed.digest(volume)
    return volume, digests


def started_anew(bed):
    """The service after a restart: its database has given back the room that its log had taken."""
    bed.processes[-1].stop()
    return bed.start()


each_file_system = pytest.mark.parametrize("kind", ["tmpfs", "ext4"])


@each_file_system
def test_a_restore_that_does_not_fit_locks_out_no_user(tmp_path, kind):
    # 56 MiB in the volume and 56 in the store leave no room for another 56.
    with mounted(tmp_path / "small", kind, 160) as small, bed_on(small, tmp_path / "bed") as bed:
        volume, digests = several_backups(bed, Client(bed, bed.start()), 56, 4)
        process = started_anew(bed)
        demo, admin = Client(bed, process), Client(bed, process, "admin")
        wanted, *others = digests
        # The second finds everything as the first did.
        for turn in range(2):
            target = demo.restore(wanted)
            demo.wait("volumes", target, "error_restoring")
            demo.wait("backups", wanted, "available")
            assert "no space left" in told(demo, admin, wanted, target).lower()
            raw = bed.volume_path(target)
            taken = raw.stat().st_blocks * 512 if raw.exists() else 0
            assert taken < MIB, f"the failed target keeps {taken} bytes"
            demo = Client(bed, process)
            demo.delete("backups", others.pop())
            new = demo.create_volume()
            bed.write(new, 0, noise(20 + turn, MIB))
            again = demo.back_up(new)
            demo.wait("backups", again, "available")
            demo.check(again, bed.digest(new))
            demo.delete("volumes", target)
        # What does not fit beside its source fits in its place.
        demo.delete("volumes", volume)
        for backup in (wanted, *others):
            demo.check(backup, digests[backup])
        process.stop()


@each_file_system
def test_a_full_disk_is_told_by_the_health_check_and_can_be_made_empty(tmp_path, kind):
    with mounted(tmp_path / "small", kind, 100) as small, bed_on(small, tmp_path / "bed") as bed:
        volume, digests = several_backups(bed, Client(bed, bed.start()), 8, 5)
        process, backups = started_anew(bed), list(digests)

        def delete_by_force(backup):
            admin = Client(bed, process, "admin")
            admin.ask("POST", f"/backups/{backup}/action", {"os-force_delete": {}})
            admin.wait_gone("backups", backup)

        assert health(process) == 200
        filler = fill(small / "filler")
        until("it is told", lambda: health(process) == 503)
        # Who wants to make room can do so.
        demo = Client(bed, process)
        demo.delete("backups", backups.pop())
        delete_by_force(backups.pop())
        process.stop()
        # Also after a start on the full disk.
        process = bed.start()
        demo = Client(bed, process)
        until("it is told", lambda: health(process) == 503)
        demo.delete("backups", backups.pop())
        delete_by_force(backups.pop())
        assert [row["id"] for row in demo.ask("GET", "/backups")["backups"]] == backups
        filler.unlink()
        until("it is healthy", lambda: health(process) == 200)
        backup = demo.back_up(volume)
        demo.wait("backups", backup, "available")
        demo.check(backup, bed.digest(volume))
        demo.check(backups[0], digests[backups[0]])
        process.stop()


# Raw files of another length than their volume.


def spread(path, seed):
    """Noise at the beginning, somewhere, across an odd boundary, and at the end of the first GiB."""
    with open(path, "r+b") as file:
        for n, (offset, length) in enumerate([(0, 2 * MIB), (300 * MIB + 77, 5000), (GIB - MIB, MIB)]):
            file.seek(offset)
            file.write(noise(seed + n, length))


def comes_back(bed, demo, backup, digest, *onto):
    """Restores to a new volume and onto others, and compares a GiB of each."""
    for target in (None, *onto):
        target = demo.restore(backup, target)
        demo.wait("volumes", target, "available")
        demo.wait("backups", backup, "available")
        assert digest_of(bed.volume_path(target), GIB) == digest
        if not onto or target not in onto:
            assert bed.volume_path(target).stat().st_size == GIB


@pytest.mark.parametrize("source", ["volume", "volume in use", "snapshot"])
def test_zeros_behind_a_volume_are_no_part_of_it(tmp_path, source):
    with Bed(tmp_path) as bed:
        demo = Client(bed, bed.start())
        volume, other = demo.create_volume(), demo.create_volume()
        spread(bed.volume_path(volume), 1)
        spread(bed.volume_path(other), 7)
        digest = digest_of(bed.volume_path(volume), GIB)
        os.truncate(bed.volume_path(volume), GIB + 512)
        more = {}
        if source == "snapshot":
            more["snapshot_id"] = demo.ask("POST", "/snapshots", {"snapshot": {"volume_id": volume}})["snapshot"]["id"]
            demo.wait("snapshots", more["snapshot_id"], "available")
        elif source == "volume in use":
            instance = {"volume_uuid": volume, "instance_uuid": str(uuid.uuid4()), "connector": {"host": "here"}}
            attachment = demo.ask("POST", "/attachments", {"attachment": instance})["attachment"]["id"]
            demo.ask("POST", f"/attachments/{attachment}/action", {"os-complete": {}})
            more["force"] = True
        backup = demo.back_up(volume, **more)
        assert demo.wait("backups", backup, "available")["size"] == 1
        comes_back(bed, demo, backup, digest, other)
        # The next one begins with what this one has noted.
        bed.write(volume, 5 * MIB, noise(30, MIB))
        digest = digest_of(bed.volume_path(volume), GIB)
        child = demo.back_up(volume, incremental=True, force=True)
        assert demo.wait("backups", child, "available")["size"] == 1
        comes_back(bed, demo, child, digest, other)
        assert bed.json("vault", "verify", "--full")[0]["damaged"] == []


def test_bytes_behind_a_volume_are_not_left_out_in_silence(tmp_path):
    with Bed(tmp_path) as bed:
        demo = Client(bed, bed.start())
        volume = demo.create_volume()
        spread(bed.volume_path(volume), 1)
        # What a user may have made of it: a raw image that is longer than whole GiB.
        bed.write(volume, GIB, bytes(500) + noise(2, 12))
        assert bed.volume_path(volume).stat().st_size == GIB + 512
        backup = demo.back_up(volume)
        reason = demo.wait("backups", backup, "error")["fail_reason"]
        assert "more than" in reason and re.search(rf"\b({GIB}|{GIB + 512})\b", reason), reason
        assert demo.show("volumes", volume)["status"] == "available"
        # With the volume put right, the next one is made.
        os.truncate(bed.volume_path(volume), GIB)
        backup = demo.back_up(volume)
        demo.wait("backups", backup, "available")
        demo.check(backup, bed.digest(volume))


def test_what_a_short_raw_file_lacks_is_restored_as_zeros(tmp_path):
    with Bed(tmp_path) as bed:
        demo = Client(bed, bed.start())
        volume, other = demo.create_volume(), demo.create_volume()
        spread(bed.volume_path(volume), 1)
        spread(bed.volume_path(other), 7)
        os.truncate(bed.volume_path(volume), GIB - 4096)
        backup = demo.back_up(volume)
        assert demo.wait("backups", backup, "available")["size"] == 1
        whole = tmp_path / "whole"
        subprocess.run(["cp", "--sparse=always", bed.volume_path(volume), whole], check=True)
        os.truncate(whole, GIB)
        comes_back(bed, demo, backup, digest_of(whole), other)


# Quotas.


each_database = pytest.mark.parametrize("database", ["SQLite", "PostgreSQL"])
ASKING = 10
#: What is moved takes its time: who asks meanwhile, on however slow a machine, must find it under way.
MOVED_MIB, PER_SECOND = 8, "1 MiB"


def at_once(*requests):
    """The statuses and bodies of requests that are sent at the same time."""
    barrier, answers = threading.Barrier(len(requests)), [None] * len(requests)

    def ask(n, client, path, body):
        barrier.wait()
        status, _, answer = client.request("POST", f"/v3/{client.project}{path}", body)
        answers[n] = (status, answer)

    threads = [threading.Thread(target=ask, args=(n, *request)) for n, request in enumerate(requests)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def one_of(answers):
    """The body of the one request that was accepted; the others were refused for what they ask, not for a quota."""
    statuses = sorted(answer[0] for answer in answers)
    assert statuses == [202] + [400] * (len(answers) - 1), statuses
    return next(body for status, body in answers if status == 202)


@pytest.fixture
def bed_with_quota(park, tmp_path):
    """Makes beds with a quota on either database, and a storage that is slow."""
    with contextlib.ExitStack() as stack:
        def make(database, **quota):
            storage = {"url": f"fs:{tmp_path / 'store'}", "upload_limit": PER_SECOND, "download_limit": PER_SECOND}
            url = park.database() if database == "PostgreSQL" else None
            return stack.enter_context(Bed(tmp_path, storage, url, quota=quota))

        yield make


@each_database
def test_backups_that_must_fail_take_no_quota_from_others(bed_with_quota, database):
    bed = bed_with_quota(database, backups=2)
    demo = Client(bed, bed.start())
    wanted, other = demo.create_volume(), demo.create_volume()
    for turn in range(2):
        bed.write(wanted, 0, noise(turn, MOVED_MIB * MIB))
        ask = [(demo, "/backups", {"backup": {"volume_id": wanted}})] * ASKING
        ask.insert(turn * 3, (demo, "/backups", {"backup": {"volume_id": other}}))
        answers = at_once(*ask)
        status, body = answers.pop(turn * 3)
        assert status == 202, f"turn {turn}: the backup of the other volume: {status} {body}; {answers}"
        for made in (body, one_of(answers)):
            demo.wait("backups", made["backup"]["id"], "available")
            demo.delete("backups", made["backup"]["id"])


@each_database
def test_backups_that_must_fail_take_no_quota_from_an_import(bed_with_quota, database):
    bed = bed_with_quota(database, backups=3)
    process = bed.start()
    demo, admin = Client(bed, process), Client(bed, process, "admin")
    wanted, other = demo.create_volume(), demo.create_volume()
    kept = demo.back_up(other)
    demo.wait("backups", kept, "available")
    record = admin.ask("GET", f"/backups/{kept}/export_record")["backup-record"]
    for turn in range(2):
        bed.write(wanted, 0, noise(turn, MOVED_MIB * MIB))
        # The same data under a name of its own.
        fields = {**json.loads(base64.b64decode(record["backup_url"])), "id": str(uuid.uuid4())}
        copy = {**record, "backup_url": base64.b64encode(json.dumps(fields).encode()).decode()}
        ask = [(demo, "/backups", {"backup": {"volume_id": wanted}})] * ASKING
        ask.insert(turn * 3, (admin, "/backups/import_record", {"backup-record": copy}))
        answers = at_once(*ask)
        status, body = answers.pop(turn * 3)
        assert status == 201, f"turn {turn}: the import: {status} {body}; {answers}"
        for made in (body, one_of(answers)):
            demo.wait("backups", made["backup"]["id"], "available")
            demo.delete("backups", made["backup"]["id"])


@each_database
def test_imports_of_what_is_there_are_no_matter_of_quotas(bed_with_quota, database):
    bed = bed_with_quota(database, backups=2)
    process = bed.start()
    demo, admin = Client(bed, process), Client(bed, process, "admin")
    volume = demo.create_volume()
    kept = demo.back_up(volume)
    demo.wait("backups", kept, "available")
    record = {"backup-record": admin.ask("GET", f"/backups/{kept}/export_record")["backup-record"]}
    for turn in range(2):
        ask = [(admin, "/backups/import_record", record)] * ASKING
        ask.insert(turn * 3, (demo, "/backups", {"backup": {"volume_id": volume}}))
        answers = at_once(*ask)
        status, body = answers.pop(turn * 3)
        assert status == 202, f"turn {turn}: the backup: {status} {body}; {answers}"
        assert [answer[0] for answer in answers] == [400] * ASKING
        demo.wait("backups", body["backup"]["id"], "available")
        # With the quota used up, too.
        answers = at_once(*[(admin, "/backups/import_record", record)] * ASKING)
        assert [answer[0] for answer in answers] == [400] * ASKING
        demo.delete("backups", body["backup"]["id"])


@each_database
def test_restores_that_must_fail_take_no_quota_from_others(bed_with_quota, database):
    bed = bed_with_quota(database, volumes=3)
    demo = Client(bed, bed.start())
    source = demo.create_volume()
    bed.write(source, 0, noise(1, MOVED_MIB * MIB))
    backup = demo.back_up(source)
    demo.wait("backups", backup, "available")
    for turn in range(2):
        ask = [(demo, f"/backups/{backup}/restore", {"restore": {}})] * ASKING
        ask.insert(turn * 3, (demo, "/volumes", {"volume": {"size": 1}}))
        answers = at_once(*ask)
        status, body = answers.pop(turn * 3)
        assert status == 202, f"turn {turn}: the new volume: {status} {body}; {answers}"
        restored = one_of(answers)["restore"]["volume_id"]
        for volume in (body["volume"]["id"], restored):
            demo.wait("volumes", volume, "available")
            demo.delete("volumes", volume)
        demo.wait("backups", backup, "available")


# Import and export.


@contextlib.contextmanager
def loop_device(file):
    """A block device over a file; what was written to it is in the file afterwards."""
    done = subprocess.run(["losetup", "--find", "--show", file], check=True, capture_output=True, text=True)
    try:
        yield done.stdout.strip()
    finally:
        subprocess.run(["losetup", "--detach", done.stdout.strip()], check=True)


def stale(path, length):
    """A file of which some was written before: at the beginning, within, and at the end."""
    with open(path, "wb") as file:
        for offset in (0, 40 * MIB, 200 * MIB, 900 * MIB, length - 2 * MIB):
            if offset + 2 * MIB <= length:
                file.seek(offset)
                file.write(b"\xaa" * (2 * MIB))
        file.truncate(length)
    return path


def command(bed, verb, volume, file):
    return [*bed.prefix, PROGRAM, "volume", verb, "--config", bed.config, "--volume", volume, file]


@pytest.fixture
def moved(tmp_path):
    """A bed, its user, and a volume that holds something."""
    with Bed(tmp_path / "bed") as bed:
        demo = Client(bed, bed.start())
        volume = demo.create_volume()
        spread(bed.volume_path(volume), 1)
        yield bed, demo, volume
        assert demo.show("volumes", volume)["status"] == "available"


def read_all(source):
    """Digest and number of the bytes that come out of a pipe or file, given open or by its path."""
    digest, length = hashlib.blake2b(), 0
    with source if hasattr(source, "read") else open(source, "rb") as file:
        while piece := file.read(MIB):
            digest.update(piece)
            length += len(piece)
    return digest.hexdigest(), length


@pytest.mark.parametrize("name", ["-", "/dev/stdout"])
def test_a_volume_is_exported_through_a_pipe(moved, name):
    bed, _, volume = moved
    child = subprocess.Popen(command(bed, "export", volume, name), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                             env=bed.environment())
    with child:
        found = read_all(child.stdout)
        told = child.stderr.read().decode()
    assert child.returncode == 0, told
    assert found == (bed.digest(volume), GIB)


def test_a_volume_is_exported_to_a_named_pipe(moved, tmp_path):
    bed, _, volume = moved
    pipe, found = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: found.append(read_all(pipe)), daemon=True)
    reader.start()
    bed.run("volume", "export", "--volume", volume, pipe)
    reader.join(180)
    assert found == [(bed.digest(volume), GIB)]


def test_an_exported_image_holds_nothing_of_what_the_file_held(moved, tmp_path):
    bed, _, volume = moved
    image = stale(tmp_path / "image", GIB + 3 * MIB)
    bed.run("volume", "export", "--force", "--volume", volume, image)
    assert read_all(image) == (bed.digest(volume), GIB)


def test_an_export_that_is_killed_leaves_no_file_that_looks_whole(moved, tmp_path):
    bed, _, volume = moved
    fresh, held = tmp_path / "fresh", tmp_path / "held"
    held.write_bytes(b"kept")
    held.chmod(0o640)
    bed.write(volume, 0, os.urandom(256 * MIB))
    for image, force in [(fresh, []), (held, ["--force"])]:
        child = subprocess.Popen([*command(bed, "export", volume, image), *force], env=bed.environment())
        part = image.with_name(f"{image.name}.part")
        until("it writes", lambda part=part: part.exists() and part.stat().st_blocks)
        child.kill()
        assert child.wait() == -signal.SIGKILL, "it was too fast for this test"
    assert not fresh.exists() and held.read_bytes() == b"kept"
    # The next one is not held up by what is left.
    for image, force in [(fresh, []), (held, ["--force"])]:
        bed.run("volume", "export", *force, "--volume", volume, image)
        assert read_all(image) == (bed.digest(volume), GIB)
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix == ".part") == []
    assert held.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("more", [0, 4 * MIB])
def test_a_volume_is_exported_to_a_device_with_its_zeros(moved, tmp_path, more):
    bed, _, volume = moved
    image = stale(tmp_path / "image", GIB + more)
    with loop_device(image) as device:
        bed.run("volume", "export", "--force", "--volume", volume, device)
    assert digest_of(image, GIB) == bed.digest(volume)
    assert image.stat().st_size == GIB + more


def test_a_device_that_is_too_small_is_refused_before_it_is_written_to(moved, tmp_path):
    bed, _, volume = moved
    image = stale(tmp_path / "image", 64 * MIB)
    before = digest_of(image)
    with loop_device(image) as device:
        refused = bed.run("volume", "export", "--force", "--volume", volume, device, status=1).stderr
    assert digest_of(image) == before, f"it was written to, and then: {refused}"
    assert str(GIB) in refused and str(64 * MIB) in refused, refused


def image_of(path, seed, length=GIB):
    with open(path, "wb") as file:
        file.truncate(GIB)
    spread(path, seed)
    os.truncate(path, length)
    return path


def feed(image, pipe):
    with open(image, "rb") as source, open(pipe, "wb") as target:
        shutil.copyfileobj(source, target, MIB)


@pytest.mark.parametrize("kind, length", [
    ("file", 8 * MIB), ("device", GIB), ("named pipe", 8 * MIB), ("-", GIB), ("/dev/stdin", 8 * MIB),
])
def test_an_image_is_imported_from_whatever_holds_it(moved, tmp_path, kind, length):
    """All of it; and what it does not reach becomes zeros, whatever was there."""
    bed, _, volume = moved
    image = image_of(tmp_path / "image", 50, length)
    with contextlib.ExitStack() as stack:
        source, how = image, {}
        if kind == "device":
            source = stack.enter_context(loop_device(image))
        elif kind == "named pipe":
            source = tmp_path / "pipe"
            os.mkfifo(source)
            threading.Thread(target=feed, args=(image, source), daemon=True).start()
        elif kind != "file":
            feeder = stack.enter_context(subprocess.Popen(["cat", image], stdout=subprocess.PIPE))
            source, how = kind, {"stdin": feeder.stdout}
        done = subprocess.run(command(bed, "import", volume, source), capture_output=True, text=True, timeout=600,
                              env=bed.environment(), **how)
    assert done.returncode == 0, done.stderr
    os.truncate(image, GIB)
    assert bed.digest(volume) == digest_of(image)


@pytest.mark.parametrize("kind", ["file", "device", "-", "/dev/stdin"])
def test_an_image_that_is_too_large_is_refused_before_the_volume_is_touched(moved, tmp_path, kind):
    """Wherever a size can be told: also where the shell has opened the file."""
    bed, _, volume = moved
    before = bed.digest(volume)
    image = image_of(tmp_path / "image", 50, GIB + 512)
    with contextlib.ExitStack() as stack:
        source, how = image, {}
        if kind == "device":
            source = stack.enter_context(loop_device(image))
        elif kind != "file":
            source, how = kind, {"stdin": stack.enter_context(open(image, "rb"))}
        done = subprocess.run(command(bed, "import", volume, source), capture_output=True, text=True, timeout=600,
                              env=bed.environment(), **how)
    assert done.returncode == 1 and "larger than the volume" in done.stderr, done.stderr
    assert bed.digest(volume) == before


def is_caught(pid, number):
    """Whether the process does something of its own about a signal."""
    with open(f"/proc/{pid}/status") as status:
        caught = next(line for line in status if line.startswith("SigCgt:"))
    return int(caught.split()[1], 16) >> (number - 1) & 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_import_gives_the_volume_back(moved, tmp_path, number):
    bed, demo, volume = moved
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    child = subprocess.Popen(command(bed, "import", volume, pipe), stderr=subprocess.PIPE, env=bed.environment())
    with child, open(pipe, "wb", buffering=0) as source:
        source.write(noise(3, MIB))
        until("it has the volume", lambda: demo.show("volumes", volume)["status"] == "in-use")
        until("it listens", lambda: is_caught(child.pid, number))
        # It waits for more by the time it is told; what comes after that is its last piece.
        time.sleep(0.5)
        child.send_signal(number)

        def ended():
            with contextlib.suppress(BrokenPipeError):
                source.write(noise(4, MIB // 4))
            return child.poll() is not None

        until("it ends", ended)
        assert child.returncode == 130, "it was stopped, it did not fail"
        assert "interrupted" in child.stderr.read().decode()
    assert demo.show("volumes", volume)["status"] == "available"


# Volumes that no file can be.


def test_a_volume_that_its_file_system_cannot_hold_says_so(tmp_path):
    """A file of ext4 ends before 16 TiB."""
    with mounted(tmp_path / "small", "ext4", 64) as small:
        with Bed(tmp_path / "bed", volumes={"dir": str(small / "volumes")}) as bed:
            process = bed.start()
            demo, admin = Client(bed, process), Client(bed, process, "admin")
            volume = demo.ask("POST", "/volumes", {"volume": {"size": 17000}})["volume"]["id"]
            demo.wait("volumes", volume, "error")
            messages = [row for row in demo.ask("GET", "/messages")["messages"] if row.get("resource_uuid") == volume]
            assert messages, "the user is told nothing"
            assert messages[0]["message_level"] == "ERROR"
            job, = [row for row in admin.ask("GET", "/embervault/jobs")["jobs"] if row["subject"] == volume]
            assert "too large" in job["reason"], job
            demo.delete("volumes", volume)
            # Smaller ones are made as before.
            demo.create_volume()
