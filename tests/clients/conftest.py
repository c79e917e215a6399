"""Starts the program once, as the README does, for all tests with real clients."""

import os
import pathlib
import re
import signal
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
TOOLS = ROOT / "target" / "tools"
sys.path.insert(0, str(ROOT / "tests"))


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: takes minutes; `tests/run --quick` leaves it out")


class Service:
    """The running program and the environment its clients need."""

    def __init__(self, data, extra=None, config=None):
        self.data = data
        self.options = ["--config", config] if config else []
        self.environment = {
            # What a developer or `tests/run` has set is not this service's.
            **{k: v for k, v in os.environ.items() if not k.startswith(("OS_", "EMBERVAULT_"))},
            "OS_CLIENT_CONFIG_FILE": str(data / "clouds.yaml"),
            "OS_CLOUD": "embervault",
            "EMBERVAULT_QUOTA__VOLUMES": "100",
            "EMBERVAULT_QUOTA__BACKUPS": "100",
            **(extra or {}),
        }
        self.start()

    def start(self):
        log = open(self.data.parent / "log", "a")
        self.process = subprocess.Popen(
            [TARGET / "debug" / "embervault", "serve", "--data-dir", self.data, "--listen", "127.0.0.1:0",
             *self.options],
            stdout=subprocess.PIPE, stderr=log, text=True, env=self.environment,
        )
        first = self.process.stdout.readline()
        self.base = re.search(r"http://\S+", first).group()

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(120) == 0

    def run(self, *command, **more):
        environment = {**self.environment, **more.pop("environment", {})}
        more = {"timeout": 600, **more}
        return subprocess.run([str(part) for part in command], env=environment, capture_output=True, text=True, **more)

    def user(self, name):
        """Name, password and project of a user that the first start made."""
        text = (self.data / "keys" / "users.toml").read_text()
        rows = [dict(re.findall(r'(\w+) = "(.*)"', part)) for part in text.split("[[users]]")[1:]]
        return next(row for row in rows if row["name"] == name)

    def openstack(self, *arguments, cloud="embervault"):
        done = self.run(TOOLS / "sdk-new/bin/openstack", *arguments, environment={"OS_CLOUD": cloud})
        assert done.returncode == 0, f"openstack {' '.join(arguments)}: {done.stdout}{done.stderr}"
        return done.stdout

    def conformance(self, *arguments, **more):
        return self.run(TARGET / "debug" / "embervault-conformance", *arguments, **more)


@pytest.fixture(scope="session")
def service(tmp_path_factory):
    service = Service(tmp_path_factory.mktemp("service") / "data")
    yield service
    service.stop()


@pytest.fixture
def own_service(tmp_path):
    """A service of a test's own."""
    service = Service(tmp_path / "data")
    yield service
    service.stop()
