"""A real Cinder in front of a real Ceph, with a real Keystone: a small cloud's block storage."""

import os
import pathlib
import subprocess

from . import Server, ports
from .ceph import Ceph
from .keystone import ADMIN_PASSWORD, Cloud, Keystone, http

POOL = "volumes"
CONFIGURATION = """\
[DEFAULT]
my_ip = 127.0.0.1
host = cloud
osapi_volume_listen = 127.0.0.1
osapi_volume_listen_port = {api}
osapi_volume_workers = 1
auth_strategy = keystone
transport_url = fake://
state_path = {data}/state
api_paste_config = {etc}/api-paste.ini
resource_query_filters_file = {etc}/resource_filters.json
rootwrap_config = {data}/rootwrap.conf
enabled_backends = ceph,other,nfs
default_volume_type = ceph
use_stderr = false
log_file = {log}/cinder-app.log
# One process does everything, so it may be late with its signs of life.
service_down_time = 600
scheduler_driver_init_wait_time = 1
scheduler_default_filters = CapabilitiesFilter
quota_gigabytes = 10000
quota_volumes = 1000
quota_snapshots = 1000
[ceph]
volume_driver = cinder.volume.drivers.rbd.RBDDriver
volume_backend_name = ceph
rbd_pool = {pool}
rbd_user = cinder
rbd_ceph_conf = {ceph}
rbd_secret_uuid = 457eb676-33da-42ec-9a8c-9293d545c337
rbd_flatten_volume_from_snapshot = false
rbd_exclusive_cinder_pool = true
[other]
volume_driver = cinder.volume.drivers.rbd.RBDDriver
volume_backend_name = other
rbd_pool = other
rbd_user = cinder
rbd_ceph_conf = {ceph}
rbd_exclusive_cinder_pool = true
[nfs]
volume_driver = cinder.volume.drivers.nfs.NfsDriver
volume_backend_name = nfs
nfs_shares_config = {data}/shares
nfs_mount_point_base = {data}/mounts
nfs_snapshot_support = true
nas_secure_file_operations = false
nas_secure_file_permissions = true
[database]
connection = sqlite:///{data}/cinder.db
[keystone_authtoken]
www_authenticate_uri = {keystone}
auth_url = {keystone}
auth_type = password
project_domain_id = default
user_domain_id = default
project_name = service
username = cinder
password = cinder-password
service_token_roles = service
service_token_roles_required = true
[oslo_concurrency]
lock_path = {data}/lock
[coordination]
backend_url = file://{data}/state
[key_manager]
backend = cinder.keymgr.conf_key_mgr.ConfKeyManager
fixed_key = 0000000000000000000000000000000000000000000000000000000000000000
"""
#: No kernel here need have NFS, nor a test the rights to mount: what is mounted is a link to the share.
MOUNT = """\
#!/bin/sh
for last; do share=$place place=$last; done
[ -L "$place" ] || { rmdir "$place" && ln -s "${share#*:}" "$place"; }
"""
#: `sudo cinder-rootwrap CONF COMMAND...`, where no command needs rights.
SUDO = '#!/bin/sh\nshift 2\nexec "$@"\n'
# Cinder's own backups, for comparisons with them.
BACKUPS = """\
[DEFAULT]
backup_driver = cinder.backup.drivers.posix.PosixBackupDriver
backup_compression_algorithm = zstd
backup_posix_path = {data}/backups
backup_workers = 1
quota_backups = 1000
quota_backup_gigabytes = 100000
"""


class Cinder(Server):
    """The API answers when Cinder's services are up. `ceph`, `keystone` and `cloud` are its neighbours."""

    programs = {**Ceph.programs, "rbd": "ceph-common", "nginx": "nginx-light", "haproxy": "haproxy",
                "qemu-img": "qemu-utils"}
    port_names = ("api", "keystone")
    limit = 180

    def __init__(self, dir, with_backups=False, ceph_size=16 << 30):
        """`with_backups`: with Cinder's own backup service, which stores them in a directory."""
        super().__init__(dir)
        self.with_backups = with_backups
        self.python = pathlib.Path(os.environ["CINDER_PYTHON"])
        self.ceph = Ceph(self.dir / "ceph", size=ceph_size, with_gateway=False)
        self.url = f"http://127.0.0.1:{self.ports['api']}/v3"
        #: What is shared by NFS, and programs that come first in the path of who mounts it.
        self.share, self.programs_dir = self.data / "share", self.data / "programs"
        self.path = f"{self.programs_dir}:{self.python.parent}:{os.environ['PATH']}:/usr/sbin:/sbin"
        self.keystone = None
        self.cloud = None

    def make(self):
        for part in ("state", "lock", "share", "mounts"):
            (self.data / part).mkdir()
        (self.data / "shares").write_text(f"127.0.0.1:{self.share}\n")
        self.programs_dir.mkdir()
        for name, text in (("mount", MOUNT), ("mount.nfs", "#!/bin/sh\n"), ("sudo", SUDO)):
            (self.programs_dir / name).write_text(text)
            (self.programs_dir / name).chmod(0o755)
        (self.data / "rootwrap.conf").write_text("[DEFAULT]\nfilters_path=\nexec_dirs=/usr/bin,/bin,/usr/sbin,/sbin\n")

    def run(self):
        self.ceph.start()
        for pool in (POOL, "other"):
            self.ceph.make_pool(pool)
        self.ceph.make_user("cinder", mon="profile rbd", osd=f"profile rbd pool={POOL}, profile rbd pool=other")
        self.ceph.make_user("embervault", mon="profile rbd", osd=f"profile rbd pool={POOL}")
        self._start_keystone()
        self._start_cinder()

    def version(self):
        wanted = "import importlib.metadata as m; print(m.version('cinder'))"
        done = subprocess.run([self.python, "-c", wanted], capture_output=True, text=True, check=True)
        return f"Cinder {done.stdout.strip()}"

    def stop(self):
        super().stop()
        if self.keystone:
            self.keystone.stop()
        self.ceph.stop()

    def kill(self):
        super().kill()
        if self.keystone:
            self.keystone.stop()
        self.ceph.kill()

    def _start_keystone(self):
        directory = self.dir / "keystone"
        is_new = not directory.exists()
        directory.mkdir(exist_ok=True)
        python = pathlib.Path(os.environ["KEYSTONE_PYTHON"])
        self.keystone = Keystone(python, directory, port=self.ports["keystone"])
        if is_new:
            self.keystone.make()
        self.keystone.start()
        self.cloud = Cloud(self.keystone)
        for user in ("cinder", "embervault"):
            self._make_administrator(user)
        self.cloud.offer("cinder", "block-storage", f"{self.url}/$(project_id)s")
        self.cloud.offer("cinderv3", "volumev3", f"{self.url}/$(project_id)s")

    def _make_administrator(self, user):
        cloud = self.cloud
        user_id = cloud.ensure("user", user, password=f"{user}-password")
        for role in ("admin", "service", "member"):
            role_id = cloud.ensure("role", role)
            cloud.put(f"/projects/{cloud.projects['service']}/users/{user_id}/roles/{role_id}")

    def _start_cinder(self):
        conf = self.data / "cinder.conf"
        etc = self.python.parents[1] / "etc" / "cinder"
        template = CONFIGURATION + (BACKUPS if self.with_backups else "")
        conf.write_text(template.format(
            api=self.ports["api"], data=self.data, etc=etc, log=self.dir / "log", pool=POOL,
            ceph=self.ceph.client_conf, keystone=self.keystone.url,
        ))
        (self.dir / "log").mkdir(exist_ok=True)
        if not (self.data / "cinder.db").exists():
            manage = [self.python.with_name("cinder-manage"), "--config-file", conf, "db", "sync"]
            done = subprocess.run(list(map(str, manage)), capture_output=True, text=True, timeout=self.limit)
            if done.returncode:
                raise self.failure(f"cinder-manage db sync: {done.stderr[-2000:]}")
        script = pathlib.Path(__file__).with_name("cinder_process.py")
        # -I keeps this directory off the module path, where a file of it would pass for Cinder's own package.
        more = ["--with-backups"] if self.with_backups else []
        self.spawn("cinder", [self.python, "-I", script, *more, "--config-file", conf],
                   env={"PATH": self.path})
        self.until(lambda: ports.open_at(self.ports["api"]), "the API answers")
        self.until(self._services_are_up, "the services are up")
        for name in ("ceph", "other", "nfs"):
            self.ensure_type(name)

    def _services_are_up(self):
        answer = self.call("GET", "/os-services")
        up = [row for row in answer.body.get("services", []) if row["state"] == "up"]
        return answer.status == 200 and len(up) >= 3 + self.with_backups

    def ensure_type(self, name):
        listed = self.call("GET", "/types?is_public=None").body["volume_types"]
        if not any(row["name"] == name for row in listed):
            body = {"volume_type": {"name": name, "extra_specs": {"volume_backend_name": name}}}
            answer = self.call("POST", "/types", body)
            assert answer.status == 200, answer

    def call(self, method, path, body=None, user="admin", project_name=None):
        """A request to Cinder itself; its administrator's, if no user is named."""
        project_name = project_name or Cloud.USERS[user][0]
        token = self.cloud.token(user, project_name)
        url = f"{self.url}/{self.cloud.projects[project_name]}{path}"
        headers = {"X_Auth_Token": token, "OpenStack_API_Version": "volume 3.70"}
        return http(method, url, body, **headers)
