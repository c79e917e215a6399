"""OpenStack Swift on one disk: proxy, account, container and object server, memcached, and TempAuth."""

import getpass
import http.client
import subprocess

from . import Server, ports
from .account import Account

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
pipeline = catch_errors gatekeeper healthcheck cache listing_formats bulk tempauth copy slo dlo proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
conn_timeout = 30
node_timeout = 60
[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:{memcached}
[filter:tempauth]
use = egg:swift#tempauth
user_{login} = {password} .admin
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
        self.auth_url = f"{self.endpoint}/auth/v1.0"
        self.account = Account(self.auth_url, USER, PASSWORD)

    def make(self):
        conf = self._conf
        conf.mkdir()
        (self.data / "devices" / "disk").mkdir(parents=True)
        settings = {"conf": conf, "data": self.data, "user": getpass.getuser(), "memcached": self.ports["memcached"]}
        (conf / "swift.conf").write_text(COMMON)
        for name in STORES:
            (conf / f"{name}.conf").write_text(STORE.format(name=name, port=self.ports[name], **settings))
        login = USER.replace(":", "_")
        (conf / "proxy.conf").write_text(
            PROXY.format(port=self.ports["proxy"], login=login, password=PASSWORD, **settings)
        )
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
        return {
            "url": f"swift://{place}",
            "swift": {"auth_url": self.auth_url, "username": USER, "password": PASSWORD},
        }

    @property
    def _conf(self):
        return self.data / "conf"

    def _works(self):
        try:
            return self.account.request("HEAD", "").status in (200, 204)
        except (OSError, http.client.HTTPException):
            return False
