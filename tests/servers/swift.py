"""OpenStack Swift on one disk: proxy, account, container and object server, memcached, and TempAuth or Keystone."""

import getpass
import http.client
import os
import re
import subprocess
from pathlib import Path

from . import Server, ServerError, ports
from .account import Account
from .keystone import Cloud, Keystone, password, project

USER, PASSWORD = "test:tester", "testing"
PYTHON = ("/usr/bin/python3", "-I", "-c")  # Debian's own, which sees Debian's Swift, and not this file beside it.
STORES = ("account", "container", "object")

# Its hash settings and policies are read from /etc unless it is told otherwise before all else is
# loaded, which its own start scripts have no option for. This one touches nothing outside.
LAUNCH = """\
import sys
from swift.common import utils
utils.set_swift_dir(sys.argv[1])
from swift.common.wsgi import run_wsgi
sys.exit(run_wsgi(f"{sys.argv[1]}/{sys.argv[2]}.conf", f"{sys.argv[2]}-server", verbose=True))
"""

# The tool for this knows one step at a time, and takes as long to load for each of the nine.
MAKE_RINGS = """\
import sys
from swift.common.ring import RingBuilder
for argument in sys.argv[2:]:
    name, port = argument.split(":")
    builder = RingBuilder(part_power=6, replicas=1, min_part_hours=0)
    builder.add_dev({"region": 1, "zone": 1, "ip": "127.0.0.1", "port": int(port), "device": "disk", "weight": 1})
    builder.rebalance()
    builder.get_ring().save(f"{sys.argv[1]}/{name}.ring.gz")
"""

COMMON = """\
[swift-hash]
swift_hash_path_prefix = embervault
swift_hash_path_suffix = embervault
[storage-policy:0]
name = one
default = yes
"""

# A container server too busy to answer in time would have its listing updated later, by a daemon
# that is not here: so there is time.
STORE = """\
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
workers = 0
user = {user}
swift_dir = {conf}
devices = {data}/devices
mount_check = false
fallocate_reserve = 0
container_update_timeout = 60
log_level = WARNING
[pipeline:main]
pipeline = {name}-server
[app:{name}-server]
use = egg:swift#{name}
conn_timeout = 30
node_timeout = 60
"""

PROXY = """\
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
workers = 0
user = {user}
swift_dir = {conf}
log_level = WARNING
[pipeline:main]
pipeline = catch_errors gatekeeper healthcheck cache listing_formats bulk {auth} copy slo dlo proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
conn_timeout = 30
node_timeout = 60
[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:{memcached}
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:gatekeeper]
use = egg:swift#gatekeeper
[filter:healthcheck]
use = egg:swift#healthcheck
[filter:listing_formats]
use = egg:swift#listing_formats
[filter:bulk]
use = egg:swift#bulk
[filter:copy]
use = egg:swift#copy
[filter:slo]
use = egg:swift#slo
[filter:dlo]
use = egg:swift#dlo
"""

TEMPAUTH = """\
[filter:tempauth]
use = egg:swift#tempauth
user_{login} = {password} .admin
"""

# Left to itself it takes a token for another five minutes after it was revoked.
KEYSTONE = """\
[filter:authtoken]
paste.filter_factory = keystonemiddleware.auth_token:filter_factory
www_authenticate_uri = {url}
auth_url = {url}
auth_type = password
username = embervault
password = embervault-password
user_domain_id = default
project_name = service
project_domain_id = default
delay_auth_decision = true
include_service_catalog = false
cache = swift.cache
token_cache_time = {remembered}
[filter:keystoneauth]
use = egg:swift#keystoneauth
operator_roles = member
"""
#: Seconds for which Swift takes a token for good without asking Keystone.
REMEMBERED = 1


class Swift(Server):
    """Needs a file system with extended attributes below `dir`.

    Tokens are kept in memcached, so none is valid after a restart."""

    programs = {
        "swift-proxy-server": "swift-proxy", "swift-account-server": "swift-account",
        "swift-container-server": "swift-container", "swift-object-server": "swift-object", "memcached": "memcached",
    }
    port_names = ("proxy", *STORES, "memcached")

    def __init__(self, dir):
        super().__init__(dir)
        self.endpoint = f"http://127.0.0.1:{self.ports['proxy']}"
        self.login = {"auth_url": f"{self.endpoint}/auth/v1.0", "username": USER, "password": PASSWORD}
        self.account = Account(**self.login)

    def make(self):
        conf = self._conf
        conf.mkdir()
        (self.data / "devices" / "disk").mkdir(parents=True)
        settings = {"conf": conf, "data": self.data, "user": getpass.getuser(), "memcached": self.ports["memcached"]}
        (conf / "swift.conf").write_text(COMMON)
        for name in STORES:
            (conf / f"{name}.conf").write_text(STORE.format(name=name, port=self.ports[name], **settings))
        filters = self.filters()
        auth = " ".join(re.findall(r"^\[filter:(.+)]", filters, re.MULTILINE))
        (conf / "proxy.conf").write_text(PROXY.format(port=self.ports["proxy"], auth=auth, **settings) + filters)
        rings = [f"{name}:{self.ports[name]}" for name in STORES]
        subprocess.run([*PYTHON, MAKE_RINGS, conf, *rings], check=True)

    def run(self):
        listen = ["-l", "127.0.0.1", "-p", self.ports["memcached"], "-U", 0, "-m", 32]
        self.spawn("memcached", ["memcached", "-u", getpass.getuser(), *listen])
        for name in (*STORES, "proxy"):
            self.spawn(name, [*PYTHON, LAUNCH, self._conf, name])
        for name in self.port_names:
            self.until(lambda name=name: ports.open_at(self.ports[name]), f"{name} accepts connections")
        self.until(self._works, "the proxy gives out tokens and finds the account")

    def version(self):
        command = [*PYTHON, "import swift; print(swift.__version__)"]
        return "Swift " + subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    def storage(self, name, place):
        """A container, made if need be."""
        if not self.account.make_container(place.partition("/")[0]):
            raise self.failure(f"storage {name}: cannot make the container of {place}")
        return {"url": f"swift://{place}", "swift": dict(self.login)}

    def filters(self):
        """Sections of the filters that find out who asks, in the order in which they are asked."""
        return TEMPAUTH.format(login=USER.replace(":", "_"), password=PASSWORD)

    @property
    def _conf(self):
        return self.data / "conf"

    def _works(self):
        try:
            return self.account.request("HEAD", "").status in (200, 204)
        except (OSError, http.client.HTTPException):
            return False


class SwiftKeystone(Swift):
    """Tokens come from a Keystone of its own, in an interpreter that has it: KEYSTONE_PYTHON, or `python`.

    They stay valid over a restart."""

    port_names = (*Swift.port_names, "keystone")

    def __init__(self, dir, python=None):
        super().__init__(dir)
        python = python or os.environ.get("KEYSTONE_PYTHON")
        if not python:
            raise ServerError("an interpreter with keystone is needed: KEYSTONE_PYTHON")
        self.keystone = Keystone(Path(python), self.data / "keystone", port=self.ports["keystone"])
        self.login = {
            "auth_url": self.keystone.url, "username": "member", "password": "member-password", "project": "demo",
        }
        self.account = DemoAccount(self.keystone)

    @classmethod
    def missing_packages(cls):
        has_filter = subprocess.run([*PYTHON, "import keystonemiddleware"], capture_output=True).returncode == 0
        return [*super().missing_packages(), *([] if has_filter else ["python3-keystonemiddleware"])]

    def make(self):
        super().make()
        self.keystone.directory.mkdir()
        self.keystone.make()

    def run(self):
        self.spawn("keystone", self.keystone.command, env=self.keystone.variables)
        self.until(self.keystone.answers, "Keystone answers")
        self.cloud = Cloud(self.keystone)
        self.cloud.offer("swift", "object-store", f"{self.endpoint}/v1/AUTH_%(project_id)s")
        super().run()

    def version(self):
        wanted = "from importlib.metadata import version; print(version('keystone'))"
        printed = subprocess.run([self.keystone.python, "-I", "-c", wanted], capture_output=True, text=True, check=True)
        return f"{super().version()}, Keystone {printed.stdout.strip()}"

    def filters(self):
        return KEYSTONE.format(url=self.keystone.url, remembered=REMEMBERED)


class DemoAccount(Account):
    """That of the project `demo`, as its member."""

    def __init__(self, keystone):
        self.keystone = keystone
        self.url = self.token = None

    def _log_in(self):
        self.token, granted = self.keystone.authenticate(password("member"), project("demo"))
        offered = next(service for service in granted["catalog"] if service["type"] == "object-store")
        self.url = offered["endpoints"][0]["url"]
