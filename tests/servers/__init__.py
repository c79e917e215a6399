"""Real storage servers on loopback, for tests.

What a store really does when two writers meet, when it is killed, or when a name has an odd letter
in it, no stand-in of our own would tell us. So each module here starts a released server, keeps all
its state below one directory, and can kill it without warning and bring it up again as it was.

Only the standard library is needed. `python -m servers` starts one by hand.
"""

import atexit
import os
import shutil
import time
from pathlib import Path

from . import ports
from .process import Process, family, kill

PATH = os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin"
_running = set()


class ServerError(Exception):
    """A server that did not do what a test needs before the test can begin."""


def program(name):
    """The path of a program, also where only root's PATH looks; None if it is not installed."""
    return shutil.which(name, path=PATH)


class Server:
    """One server. A subclass says how it is made once and how it is run each time."""

    #: Each program it needs, and the Debian package that brings it.
    programs: dict = {}
    #: A free port is chosen for each name, and kept with the directory.
    port_names: tuple = ()
    #: Seconds until it must answer, also beside other tests.
    limit = 240

    def __init__(self, dir):
        self.dir = Path(dir).resolve()
        self.dir.mkdir(parents=True, exist_ok=True)
        self.ports = ports.keep(self.dir / "ports.json", self.port_names)
        self.processes = {}
        self.owner = os.getpid()

    # What a subclass says.

    def make(self):
        """Brings about, below `self.data`, what is there before the first start."""

    def run(self):
        """Starts the processes and waits until they answer."""
        raise NotImplementedError

    def version(self):
        """Name and version, as a report of a test run shows it."""
        raise NotImplementedError

    def storage(self, name, place):
        """Settings of a storage called `name` in a bucket, container or folder made if need be.

        `place` may have a prefix after a slash."""
        raise NotImplementedError

    # What all have.

    @classmethod
    def missing_packages(cls):
        """Debian packages to install before this can start."""
        return sorted({package for name, package in cls.programs.items() if not program(name)})

    @property
    def data(self):
        return self.dir / "data"

    def start(self):
        """Blocks until the server really answers; the same data and ports as before."""
        if self.processes and all(process.alive() for process in self.processes.values()):
            return self
        self.kill()
        if others := [f"{name} {port}" for name, port in self.ports.items() if ports.taken(port)]:
            raise ServerError(f"{type(self).__name__}: somebody else listens on the port of {', '.join(others)}")
        _running.add(self)
        try:
            made = self.dir / "made"
            if not made.exists():  # Also after a first start that was cut short.
                shutil.rmtree(self.data, ignore_errors=True)
                self.data.mkdir()
                self.make()
                made.touch()
            self.run()
        except BaseException:
            self.kill()
            raise
        return self

    def stop(self):
        """Asks each process to end, the last started first, and ends what does not."""
        members = self._family()
        for process in reversed(self.processes.values()):
            process.stop()
        self._kill(members)

    def kill(self):
        """All processes at once, with no chance to clean up: a crash of the machine, but for the page cache."""
        self._kill({})

    def pids(self):
        """All processes of the server, also those it started itself."""
        return sorted(self._family())

    def spawn(self, name, argv, **options):
        """Starts a process that lives no longer than we do, with its own log."""
        first, *rest = map(str, argv)
        found = program(first)
        if not found:
            raise ServerError(f"{first} is not installed; missing packages: {' '.join(self.missing_packages())}")
        self.processes[name] = Process(name, [found, *rest], self.dir / "log" / f"{name}.log", **options)

    def until(self, answered, what):
        """Polls until `answered()` is true, which a dead process never brings about."""
        deadline = time.monotonic() + self.limit
        while not answered():
            for process in self.processes.values():
                if not process.alive():
                    raise self.failure(f"{process.name} ended with status {process.status()}")
            if time.monotonic() > deadline:
                raise self.failure(f"{what}: not within {self.limit} s")
            time.sleep(0.05)

    def failure(self, why):
        """An error with the end of each log: what a person would look at first."""
        logs = sorted((self.dir / "log").glob("*.log"), key=lambda path: path.stat().st_mtime)
        ends = [f"--- {path}\n{tail(path)}" for path in logs[-3:]]
        return ServerError("\n".join([f"{type(self).__name__}: {why}", *ends]))

    def _family(self):
        return family(process.pid for process in self.processes.values() if process.alive())

    def _kill(self, others):
        kill(list(self.processes.values()), others)
        self.processes.clear()
        _running.discard(self)

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.stop()


def tail(path, size=2000):
    """The end of a log."""
    with open(path, "rb") as log:
        log.seek(max(0, path.stat().st_size - size))
        return log.read().decode(errors="replace")


@atexit.register
def _kill_the_rest():
    for server in list(_running):
        if server.owner == os.getpid():  # A fork of us has its copy of the list, not our servers.
            server.kill()
