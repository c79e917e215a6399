"""What the process holds in memory: no more than it was told, whatever the disk and the number of jobs; and what
it needed for a while goes back to the machine."""

import contextlib
import hashlib
import json
import random
import subprocess
import time

import pytest
from bed import MIB, PROGRAM, Bed, Client, noise, until

BLOCK = 4096
#: The least that is taken for so many jobs with packs of this size.
JOBS, PACK, MEMORY = 3, 8, 250
#: Of each volume, so that each job has more spans than may lie in memory at once.
DATA = 3 * 32 * MIB


@contextlib.contextmanager
def disk(place):
    """A file system of its own."""
    place.mkdir(parents=True)
    image = place.with_suffix(".img")
    with open(image, "wb") as file:
        file.truncate(4 << 30)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, place], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", place], check=False)
        image.unlink()


def resident(process, key="VmRSS"):
    """MiB, as the kernel counts them."""
    with open(f"/proc/{process.child.pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(f"{key}:")) / 1024


def start_of(path):
    """A digest of where its data is."""
    with open(path, "rb") as file:
        return hashlib.blake2b(file.read(DATA)).hexdigest()


def all_available(demo, backups):
    for backup in backups:
        demo.wait("backups", backup, "available")


# The disk is as slow for all that run beside it.
@pytest.mark.calm
def test_restores_to_a_slow_disk_keep_to_the_memory_and_give_it_back(tmp_path):
    settings = {
        "engine": {"memory": f"{MEMORY} MiB", "pack_bytes": f"{PACK} MiB", "paranoid": False},
        # One project has all of them.
        "jobs": {"backups": JOBS, "reserve": False},
    }
    with disk(tmp_path / "data" / "volumes"), Bed(tmp_path, **settings) as bed:
        process = bed.start()
        demo = Client(bed, process)
        volumes = [demo.create_volume() for _ in range(JOBS)]
        chance = random.Random(1)
        # A quarter of it is noise, so that there is not much to store.
        piece = noise(1, MIB // 4) + b"z" * (MIB // 4 * 3)
        for seed, volume in enumerate(volumes):
            with open(bed.volume_path(volume), "r+b") as file:
                for at in range(DATA // MIB):
                    file.write(noise(seed << 16 | at, 4096) + piece[4096:])
        all_available(demo, [demo.back_up(volume) for volume in volumes])
        # One block of ten, so that spans are in many short pieces.
        for volume in volumes:
            with open(bed.volume_path(volume), "r+b") as file:
                for block in chance.sample(range(DATA // BLOCK), DATA // BLOCK // 10):
                    file.seek(block * BLOCK)
                    file.write(chance.randbytes(64) + bytes(BLOCK - 64))
        backups = [demo.back_up(volume, incremental=True) for volume in volumes]
        all_available(demo, backups)
        # From here on each write waits for the disk.
        subprocess.run(["mount", "-o", "remount,sync", bed.data / "volumes"], check=True)
        restored = [demo.restore(backup) for backup in backups]
        all_available(demo, backups)
        for pair in zip(volumes, restored):
            assert len({start_of(bed.volume_path(volume)) for volume in pair}) == 1
        # Clients and passwords, which have their own parts of it, take next to nothing here.
        assert resident(process, "VmHWM") <= MEMORY - 30
        # What lies freed between pieces in use goes back every 20 seconds.
        until("the memory is given back", lambda: resident(process) <= MEMORY / 2, 60)


def test_the_benchmark_tells_the_peak_of_a_service_that_has_run_for_a_while(tmp_path):
    with Bed(tmp_path) as bed:
        command = [PROGRAM, "bench", "--only", "service", "--size", "2 GiB", "--data", "64 MiB", "--json", "--dir", tmp_path]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=bed.environment())
        assert done.returncode == 0, done.stderr
        (row,) = json.loads(done.stdout)
        # As long as nothing else is said, memory is 256 MiB.
        assert row["case"] == "service" and row["wall_s"] > 0
        assert 16 * MIB < row["left_memory_bytes"] <= row["peak_memory_bytes"] <= 256 * MIB, row


def test_a_verification_keeps_to_the_download_limit(tmp_path):
    per_second = 4 * MIB
    with Bed(tmp_path, {"url": f"fs:{tmp_path / 'store'}", "download_limit": "4 MiB"}) as bed:
        demo = Client(bed, bed.start())
        volume = demo.create_volume()
        bed.write(volume, 0, noise(3, 8 * MIB))
        demo.wait("backups", demo.back_up(volume), "available")
        started = time.monotonic()
        (report,) = bed.json("vault", "verify", "--full")
        assert report["read_bytes"] > 8 * MIB and not report["damaged"]
        # Nobody waits for what comes last.
        assert time.monotonic() - started > 7 * MIB / per_second
