"""One project does not hold up another, whatever it asks for and however long that takes."""

import os
import signal
import time

import pytest

from bed import LEASE, MIB, Bed, Client, noise, until
from test_processes import slow

USERS = [("bob", "secret", "greedy", "member"), ("alice", "secret", "modest", "member")]
#: Nothing that another project holds up for long ends within it: a backup of hers takes eight seconds, one of his 64.
SOON, LONG = 40, 64 * MIB
#: Uploads of a process take turns, and each backup has one in the queue.
ONE_UPLOAD = {"uploads": 1}


@pytest.mark.parametrize("kind", ["one process", "two workers with one place each"])
def test_backups_of_one_project_leave_a_place_to_others(park, tmp_path, kind):
    storage = slow({"url": f"fs:{tmp_path / 'store'}"}, 1)
    is_one = kind == "one process"
    database = None if is_one else park.database()
    settings = {"jobs": {"backups": 2 if is_one else 1}, "engine": ONE_UPLOAD}
    with Bed(tmp_path, storage, database, users=USERS, **settings) as bed:
        process = bed.start("serve" if is_one else "api")
        workers = [] if is_one else [bed.start("worker") for _ in range(2)]
        bob, alice = Client(bed, process, "bob", "greedy"), Client(bed, process, "alice", "modest")
        large = [bob.create_volume() for _ in range(3)]
        for seed, volume in enumerate(large):
            bed.write(volume, 0, noise(seed, LONG))
        small = alice.create_volume()
        bed.write(small, 0, noise(9, 4096))
        # As many as there are places, and one more.
        waiting = [bob.back_up(volume) for volume in large]
        until("the first one writes", lambda: bed.objects("/p/"))
        backup = alice.back_up(small)
        alice.wait("backups", backup, "available", SOON)
        assert {bob.show("backups", id)["status"] for id in waiting[1:]} == {"creating"}
        target = alice.restore(backup)
        alice.wait("volumes", target, "available", SOON)
        assert bed.digest(target) == bed.digest(small)
        for worker in workers:
            assert worker.is_alive


@pytest.mark.parametrize("fate", ["killed", "halted"])
def test_places_of_a_worker_that_is_gone_are_not_given_away(park, tmp_path, fate):
    storage = slow({"url": f"fs:{tmp_path / 'store'}"}, 1)
    settings = {"jobs": {"backups": 2}, "engine": ONE_UPLOAD}
    with Bed(tmp_path, storage, park.database(), users=USERS, **settings) as bed:
        api = bed.start("api")
        workers = [bed.start("worker") for _ in range(2)]
        bob, alice = Client(bed, api, "bob", "greedy"), Client(bed, api, "alice", "modest")
        large = [bob.create_volume() for _ in range(3)]
        for seed, volume in enumerate(large):
            bed.write(volume, 0, noise(seed, LONG))
        small = alice.create_volume()
        bed.write(small, 0, noise(9, 4096))
        workers[1].signal(signal.SIGKILL if fate == "killed" else signal.SIGSTOP)
        # It counts until its heartbeat was missed for a lease, by a worker that may be slow to look.
        time.sleep(LEASE * 2)
        waiting = [bob.back_up(volume) for volume in large]
        until("the first one writes", lambda: bed.objects("/p/"))
        # Of the two places that are left, one is kept for her.
        alice.wait("backups", alice.back_up(small), "available", SOON)
        assert {bob.show("backups", id)["status"] for id in waiting[1:]} == {"creating"}


def test_slow_copies_of_volumes_hold_up_nothing_else(tmp_path):
    with Bed(tmp_path, users=USERS) as bed:
        process = bed.start()
        bob, alice = Client(bed, process, "bob", "greedy"), Client(bed, process, "alice", "modest")
        source = bob.create_volume()
        # Whoever opens it waits for somebody who writes to it.
        bed.volume_path(source).unlink()
        os.mkfifo(bed.volume_path(source))
        copies = [bob.ask("POST", "/volumes", {"volume": {"size": 1, "source_volid": source}}) for _ in range(5)]
        until("they are under way", lambda: bed.query("SELECT 1 FROM jobs WHERE state = 'running'"))
        # Volumes, backups, copies and deletions of somebody else, and of the same project what is no copy.
        volume = alice.ask("POST", "/volumes", {"volume": {"size": 1}})["volume"]["id"]
        alice.wait("volumes", volume, "available", SOON)
        bed.write(volume, 0, noise(1, MIB))
        backup = alice.back_up(volume)
        alice.wait("backups", backup, "available", SOON)
        copy = alice.ask("POST", "/volumes", {"volume": {"size": 1, "source_volid": volume}})["volume"]["id"]
        alice.wait("volumes", copy, "available", SOON)
        assert bed.digest(copy) == bed.digest(volume)
        alice.delete("backups", backup)
        other = bob.create_volume()
        bob.wait("backups", bob.back_up(other), "available", SOON)
        assert {bob.show("volumes", row["volume"]["id"])["status"] for row in copies} == {"creating"}
