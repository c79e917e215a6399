"""Processes that do not outlive the test run, however it ends."""

import collections
import os
import queue
import signal
import subprocess
import threading
import time

PATIENCE = 20
_orders = queue.SimpleQueue()

#: `ties` are its parent, group and session.
Stat = collections.namedtuple("Stat", "pid state ties born")


class Process:
    """A child in a session of its own. It dies with us: the kernel sees to it."""

    def __init__(self, name, argv, log, *, user=None, env=None, cwd=None, stop_signal=signal.SIGTERM):
        self.name = name
        self.stop_signal = stop_signal
        log.parent.mkdir(exist_ok=True)
        with open(log, "ab") as out:
            self._child = _from_lasting_thread(
                lambda: subprocess.Popen(
                    ["setpriv", *privileges(user), "--pdeathsig", "KILL", "--", *argv],
                    stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
                    env={**os.environ, **(env or {})}, cwd=cwd,
                )
            )
        self.pid = self._child.pid

    def alive(self):
        return self._child.poll() is None

    def status(self):
        return self._child.poll()

    def stop(self):
        """Asks it to end and waits for a while."""
        if self.alive():
            self._child.send_signal(self.stop_signal)
            try:
                self._child.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                pass


def privileges(user):
    """Options of setpriv for a user and group by number; none to stay who we are.

    The user keeps root's way past closed directories: those that tests get are often closed to all others."""
    if user is None:
        return []
    keep = ["--inh-caps", "+dac_override", "--ambient-caps", "+dac_override"]
    return ["--reuid", str(user[0]), "--regid", str(user[1]), "--clear-groups", *keep]


def kill(processes, others=()):
    """Freezes whole families first, so that none of them forks away or cleans up, then kills them.

    `others` are processes seen earlier, which may have lost the parent that would lead to them."""
    roots = [process.pid for process in processes if process.alive()]
    frozen = {}
    while fresh := {**family(roots), **dict(others)}.items() - frozen.items():
        for pid, born in fresh:
            _signal(pid, born, signal.SIGSTOP)
        frozen.update(fresh)
    for pid, born in frozen.items():
        _signal(pid, born, signal.SIGKILL)
    for process in processes:
        process._child.wait()
    deadline = time.monotonic() + PATIENCE
    while any(_lives(pid, born) for pid, born in frozen.items()) and time.monotonic() < deadline:
        time.sleep(0.01)


def family(roots):
    """The processes, their descendants, and all in sessions they began.

    With when each was born: a number alone may be another process by the time it is used."""
    table = [row for row in map(_stat, filter(str.isdigit, os.listdir("/proc"))) if row]
    members, fresh = set(), set(roots)
    while fresh:
        members |= fresh
        fresh = {row.pid for row in table if members.intersection(row.ties)} - members
    return {row.pid: row.born for row in table if row.pid in members}


def _stat(pid):
    """What the kernel says of a process; None if it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return Stat(int(pid), fields[0], tuple(map(int, fields[1:4])), int(fields[19]))


def _lives(pid, born):
    stat = _stat(pid)
    return stat is not None and stat.born == born and stat.state not in (b"Z", b"X")


def _signal(pid, born, number):
    if _lives(pid, born):
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass


def _from_lasting_thread(start):
    """Has a thread do it that ends only with the program.

    The kernel takes the end of the thread that started a child for the end of the parent. A test that
    starts a server in a worker thread must not lose it when that thread is done."""
    answer = queue.SimpleQueue()
    _ensure_lasting_thread(os.getpid())
    _orders.put((start, answer))
    child, error = answer.get()
    if error:
        raise error
    return child


def _serve():
    while True:
        start, answer = _orders.get()
        try:
            answer.put((start(), None))
        except OSError as error:
            answer.put((None, error))


_thread_of = {}
_lock = threading.Lock()


def _ensure_lasting_thread(pid):
    with _lock:  # By process: a fork of us has none of our threads.
        if pid not in _thread_of:
            _thread_of[pid] = threading.Thread(target=_serve, name="servers", daemon=True)
            _thread_of[pid].start()
