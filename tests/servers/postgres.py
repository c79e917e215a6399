"""PostgreSQL, with every guarantee on: it is there to be killed."""

import os
import re
import signal
import subprocess
from pathlib import Path

from . import Server, program
from .process import privileges

USER = "embervault"
NOBODY = (65534, 65534)


class Postgres(Server):
    """Listens on loopback and trusts everybody there. As root it runs as `nobody`: it refuses root."""

    programs = {"initdb": "postgresql", "postgres": "postgresql", "pg_isready": "postgresql", "psql": "postgresql"}
    port_names = ("postgres",)

    @classmethod
    def missing_packages(cls):
        return sorted({package for name, package in cls.programs.items() if not tool(name)})

    def make(self):
        owner = self._owner()
        if owner:
            os.chown(self.data, *owner)
        command = [tool("initdb"), "-D", self.data, "-U", USER, "--auth=trust", "--encoding=UTF8", "--no-sync"]
        done = subprocess.run(
            ["setpriv", *privileges(owner), "--", *map(str, command)], capture_output=True, text=True, cwd=self.data
        )
        if done.returncode:
            raise self.failure(f"initdb: {done.stderr}")

    def run(self):
        settings = {
            "listen_addresses": "127.0.0.1", "port": self.ports["postgres"], "unix_socket_directories": "",
            "fsync": "on", "full_page_writes": "on", "synchronous_commit": "on", "max_connections": 200,
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        # Without SIGINT it would wait until all its clients have gone.
        self.spawn(
            "postgres", [tool("postgres"), "-D", self.data, *options],
            user=self._owner(), cwd=self.data, stop_signal=signal.SIGINT,
        )
        asked = [tool("pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.ports["postgres"])]
        self.until(lambda: subprocess.run(asked).returncode == 0, "PostgreSQL accepts connections")

    def version(self):
        printed = subprocess.run([tool("postgres"), "--version"], capture_output=True, text=True, check=True).stdout
        return "PostgreSQL " + re.search(r"\d+(\.\d+)+", printed)[0]

    def url(self, database="postgres"):
        """Where a database is, made if need be."""
        if not self.query(f"SELECT 1 FROM pg_database WHERE datname = '{database}'"):
            self.query(f'CREATE DATABASE "{database}"')
        return self._url(database)

    def query(self, statement, database="postgres"):
        """What psql prints for one statement: rows by line, columns by `|`."""
        asked = subprocess.run(
            [tool("psql"), "-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-c", statement, self._url(database)],
            capture_output=True, text=True,
        )
        if asked.returncode:
            raise self.failure(f"{statement}: {asked.stderr}")
        return asked.stdout.strip()

    def _url(self, database):
        return f"postgresql://{USER}@127.0.0.1:{self.ports['postgres']}/{database}"

    def _owner(self):
        return NOBODY if os.geteuid() == 0 else None


def tool(name):
    """A program of the newest PostgreSQL here; Debian keeps them out of the PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[4]))
    return str(found[-1]) if found else program(name)
