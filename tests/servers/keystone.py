"""A real Keystone: the released one, on SQLite and Fernet keys in a directory, under waitress.

Imported, this module makes one and fills it. Run by the interpreter that has Keystone, it serves."""

import base64
import collections
import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request

ADMIN_PASSWORD = "admin-password"
CONFIGURATION = """\
[DEFAULT]
log_file = {directory}/keystone.log
use_stderr = false
[database]
connection = sqlite:///{directory}/keystone.db
sqlite_synchronous = false
[fernet_tokens]
key_repository = {directory}/fernet
[fernet_receipts]
key_repository = {directory}/fernet
[cache]
enabled = true
backend = dogpile.cache.memory
[token]
caching = false
[revoke]
caching = false
[identity]
password_hash_rounds = 4
[oslo_messaging_notifications]
driver = noop
[oslo_policy]
policy_file = {directory}/policy.yaml
"""

Answer = collections.namedtuple("Answer", "status headers body")


def http(method, url, body=None, **headers):
    """One request. Header names are written with underscores; a body that is JSON is read."""
    headers = {"User-Agent": "test", **{name.replace("_", "-"): value for name, value in headers.items()}}
    data = None
    if body is not None:
        data = json.dumps(body).encode()
        headers["Content-Type"] = "application/json"
    request = urllib.request.Request(url, data, headers, method=method)
    try:
        response = urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as error:
        response = error
    with response:
        text = response.read()
        is_json = (response.headers.get("Content-Type") or "").startswith("application/json")
        return Answer(response.status, response.headers, json.loads(text) if is_json and text else text.decode())


class Keystone:
    """One serving Keystone. Several may serve the same directory; a token of one is good at all."""

    def __init__(self, python, directory, token_seconds=3600, port=None):
        self.python = python
        self.directory = directory
        self.token_seconds = token_seconds
        # Run as a program, this file has no package around it.
        from . import ports

        self.port = port or ports.free()
        self.url = f"http://127.0.0.1:{self.port}/v3"
        self.access_log = directory / f"access-{self.port}"
        self.process = None

    @classmethod
    def create(cls, python, directory):
        """A new one, which serves."""
        keystone = cls(python, directory)
        keystone.make()
        keystone.start()
        return keystone

    def make(self):
        """Makes the database, the keys and what bootstrap makes."""
        directory = self.directory
        (directory / "fernet").mkdir(mode=0o700)
        (directory / "fernet" / "0").write_bytes(base64.urlsafe_b64encode(os.urandom(32)))
        (directory / "policy.yaml").touch()
        (directory / "keystone.conf").write_text(CONFIGURATION.format(directory=directory))
        self.manage("db_sync")
        self.manage("bootstrap", "--bootstrap-password", ADMIN_PASSWORD, "--bootstrap-region-id", "RegionOne",
                    "--bootstrap-public-url", self.url, "--bootstrap-internal-url", self.url)

    def beside(self, token_seconds):
        """Another one on the same directory, whose tokens live otherwise long."""
        keystone = Keystone(self.python, self.directory, token_seconds)
        keystone.start()
        return keystone

    def manage(self, *arguments):
        command = [self.python.with_name("keystone-manage"), "--config-file", self.directory / "keystone.conf"]
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout + done.stderr

    @property
    def command(self):
        """What serves, given the variables below."""
        # -I keeps this directory off the module path, where this file would pass for Keystone's own package.
        return [self.python, "-I", __file__, str(self.port), self.access_log]

    @property
    def variables(self):
        return {"OS_KEYSTONE_CONFIG_DIR": str(self.directory), "OS_TOKEN__EXPIRATION": str(self.token_seconds)}

    def start(self):
        others = {name: value for name, value in os.environ.items() if not name.startswith("OS_")}
        with open(self.directory / "server.log", "a") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log, env={**others, **self.variables})
        until = time.monotonic() + 180
        while not self.answers():
            if self.process.poll() is not None or time.monotonic() > until:
                self.stop()
                raise AssertionError((self.directory / "server.log").read_text())
            time.sleep(0.05)

    def answers(self):
        try:
            return http("GET", self.url).status == 200
        except OSError:
            return False

    def stop(self):
        if self.process:
            self.process.terminate()
            self.process.wait(120)
            self.process = None

    def restart(self):
        self.stop()
        self.start()

    def requests(self, method, path):
        """The requests served so far that no test made itself, as `METHOD PATH?QUERY STATUS AGENT`."""
        wanted = re.compile(rf"{method} {re.escape(path)}(\?\S*)? \d+ (?!test$).*")
        return [line for line in self.access_log.read_text().splitlines() if wanted.fullmatch(line)]

    def authenticate(self, identity, scope=None):
        """A new token and what it stands for."""
        auth = {"identity": identity, **({"scope": scope} if scope else {})}
        answer = http("POST", f"{self.url}/auth/tokens", {"auth": auth})
        assert answer.status == 201, answer
        return answer.headers["X-Subject-Token"], answer.body["token"]

    def revoke(self, token):
        answer = http("DELETE", f"{self.url}/auth/tokens", X_Auth_Token=token, X_Subject_Token=token)
        assert answer.status == 204, answer


class Cloud:
    """Projects, users and a catalogue in a Keystone."""

    # Project and role of each user. The service needs no more than to see whether a token is good.
    USERS = {
        "member": ("demo", "member"),
        "reader": ("demo", "reader"),
        "stranger": ("demo", "stranger"),
        "neighbour": ("other", "member"),
        "embervault": ("service", "service"),
        "admin": ("demo", "admin"),
    }

    def __init__(self, keystone):
        self.keystone = keystone
        self.admin_token, _ = keystone.authenticate(password("admin"), project("admin"))
        self.projects = {name: self.ensure("project", name) for name in ("admin", "demo", "other", "service")}
        self.users = {}
        for name, (project_name, role) in self.USERS.items():
            self.users[name] = self.ensure("user", name, password=f"{name}-password")
            role = self.ensure("role", role)
            self.put(f"/projects/{self.projects[project_name]}/users/{self.users[name]}/roles/{role}")
        # Nobody gets a token of a domain without a role in it.
        self.put(f"/domains/default/users/{self.users['member']}/roles/{self.ensure('role', 'member')}")

    def call(self, method, path, body=None, token=None):
        answer = http(method, self.keystone.url + path, body, X_Auth_Token=token or self.admin_token)
        assert answer.status in (200, 201, 204), (method, path, answer)
        return answer.body

    def put(self, path):
        self.call("PUT", path)

    def ensure(self, kind, name, **more):
        """The id of what has this name, made if need be."""
        found = self.call("GET", f"/{kind}s?name={name}")[f"{kind}s"]
        row = found[0] if found else self.call("POST", f"/{kind}s", {kind: {"name": name, **more}})[kind]
        return row["id"]

    def publish(self, base):
        """Puts a block storage service into the catalogue."""
        for kind in ("block-storage", "volumev3"):
            self.offer("embervault", kind, f"{base}/v3/$(project_id)s")

    def offer(self, name, kind, url):
        """Puts a service into the catalogue, unless there is one of the kind."""
        if self.call("GET", f"/services?type={kind}")["services"]:
            return
        service = self.call("POST", "/services", {"service": {"name": name, "type": kind}})["service"]["id"]
        for interface in ("public", "internal"):
            self.call("POST", "/endpoints", {"endpoint": {
                "service_id": service, "interface": interface, "region_id": "RegionOne", "url": url,
            }})

    def token(self, user="member", project_name=None, keystone=None):
        """A new token of a user, in the user's project if no other is named."""
        scope = project(project_name or self.USERS[user][0])
        token, _ = (keystone or self.keystone).authenticate(password(user), scope)
        return token

    def application_credential(self, user="member", **more):
        """Makes one; its `id` and `secret` are in the answer."""
        wanted = {"name": os.urandom(8).hex(), **more}
        path = f"/users/{self.users[user]}/application_credentials"
        made = self.call("POST", path, {"application_credential": wanted}, token=self.token(user))
        return made["application_credential"]

    def forget_tokens(self, user):
        """Makes Keystone refuse all tokens that a user has: setting a password does, even the same."""
        path = f"/users/{self.users[user]}"
        self.call("PATCH", path, {"user": {"password": f"{user}-password"}})
        time.sleep(1.1)  # it keeps whole seconds, so tokens of this very second would be refused too

    def clouds_yaml(self):
        """Clouds `embervault` (the member) and `embervault-NAME` of the other users; JSON is YAML."""
        clouds = {}
        for name, (project_name, _) in self.USERS.items():
            clouds["embervault" if name == "member" else f"embervault-{name}"] = {
                "auth": {
                    "auth_url": self.keystone.url, "username": name, "password": f"{name}-password",
                    "project_name": project_name, "user_domain_name": "Default", "project_domain_name": "Default",
                },
                "region_name": "RegionOne",
            }
        return json.dumps({"clouds": clouds})


def password(user):
    named = {"name": user, "domain": {"id": "default"}, "password": f"{user}-password"}
    return {"methods": ["password"], "password": {"user": named}}


def credential(made):
    return {
        "methods": ["application_credential"],
        "application_credential": {"id": made["id"], "secret": made["secret"]},
    }


def project(name):
    return {"project": {"name": name, "domain": {"id": "default"}}}


def serve(port, access_log):
    """Serves the Keystone that the environment names, and notes every request before it is answered."""
    import waitress
    from keystone.wsgi.api import application

    log = open(access_log, "a", buffering=1)

    def noting(environ, start_response):
        def start(status, *rest):
            query = environ["QUERY_STRING"]
            target = environ["PATH_INFO"] + ("?" + query if query else "")
            agent = environ.get("HTTP_USER_AGENT", "-")
            log.write(f"{environ['REQUEST_METHOD']} {target} {status.split()[0]} {agent}\n")
            return start_response(status, *rest)

        return application(environ, start)

    waitress.serve(noting, host="127.0.0.1", port=port, threads=4, _quiet=True)


if __name__ == "__main__":
    arguments = [sys.argv.pop(1) for _ in sys.argv[1:]]  # Keystone would take them for its own
    serve(int(arguments[0]), arguments[1])
