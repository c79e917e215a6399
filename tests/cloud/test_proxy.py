"""The proxies of the README: one address for Cinder and for backups, used by the real client."""

import contextlib
import http.client
import http.server
import json
import re
import threading
import tomllib
import urllib.parse
import urllib.request

import pytest
from bed import MIB, ROOT, noise
from client import OpenStack
from servers import Server, ports
from tenant import CloudBed

README = (ROOT / "README.md").read_text()
NGINX = """\
daemon off;
pid {data}/nginx.pid;
error_log {data}/error.log;
events {{ }}
http {{
    access_log {data}/access.log;
    client_body_temp_path {data}/body;
    proxy_temp_path {data}/proxy;
    fastcgi_temp_path {data}/fastcgi;
    uwsgi_temp_path {data}/uwsgi;
    scgi_temp_path {data}/scgi;
    server {{
        listen 127.0.0.1:{port};
{sample}
    }}
}}
"""
HAPROXY = """\
defaults
    mode http
    timeout connect 10s
    timeout client 60s
    timeout server 60s
{sample}
"""


def sample(language):
    """What the README shows of a proxy's configuration."""
    (found,) = re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)
    return found


def settings_of_readme():
    """Of the sample for a cloud; all of them must be those that the test replaces."""
    samples = [tomllib.loads(text) for text in re.findall(r"```toml\n(.*?)```", README, re.DOTALL)]
    (sample,) = [sample for sample in samples if sample.get("volumes", {}).get("mode") == "cinder"]
    assert list(sample["api"]) == ["public_endpoint"]
    return sample


class Proxy(Server):
    """With the lines that the README has, the places in them replaced by those of the test."""

    port_names = ("http",)

    def __init__(self, dir):
        super().__init__(dir)
        self.base = f"http://127.0.0.1:{self.ports['http']}"
        self.sample = sample(self.name)

    def forward(self, cinder, backups):
        places = {"controller:8776": cinder, "embervault:8776": backups, ":8776": f"127.0.0.1:{self.ports['http']}"}
        for place, own in places.items():
            self.sample = re.sub(rf"(?<![\w.]){place}", own, self.sample)
        return self

    def run(self):
        conf = self.data / f"{self.name}.conf"
        conf.write_text(self.configuration.format(data=self.data, port=self.ports["http"], sample=self.sample))
        self.spawn(self.name, [word.format(data=self.data, conf=conf) for word in self.command])
        self.until(lambda: ports.open_at(self.ports["http"]), "it answers")


class Nginx(Proxy):
    name, programs, configuration = "nginx", {"nginx": "nginx-light"}, NGINX
    command = ["nginx", "-p", "{data}", "-c", "{conf}"]


class Haproxy(Proxy):
    name, programs, configuration = "haproxy", {"haproxy": "haproxy"}, HAPROXY
    command = ["haproxy", "-db", "-f", "{conf}"]


@pytest.fixture(params=[Nginx, Haproxy], ids=["nginx", "haproxy"])
def openstack(cinder, tmp_path, request):
    with CloudBed(tmp_path / "bed", cinder) as bed:
        proxy = request.param(tmp_path / "proxy")
        # As the README has it, but for the name of the proxy.
        bed.settings["api"] = {**settings_of_readme()["api"], "public_endpoint": proxy.base}
        bed.write_config()
        places = [urllib.parse.urlsplit(url).netloc for url in (cinder.url, bed.start().base)]
        with proxy.forward(*places):
            client = OpenStack(tmp_path, cinder, proxy.base)
            client.bed, client.proxy = bed, proxy.base
            yield client


def test_the_client_backs_up_and_restores_through_one_address(openstack):
    bed = openstack.bed
    volume = openstack("volume", "create", "--size", "1", "first")["id"]
    openstack.wait("volume", volume)
    bed.write(volume, 0, noise(20, 4 * MIB))
    expected = bed.digest(volume)
    backup = openstack("volume", "backup", "create", "--name", "full", volume)["id"]
    openstack.wait("volume backup", backup)
    # The cloud is shared with the test of the other proxy.
    restored = openstack("volume", "backup", "restore", backup, f"restored-{backup}")
    openstack.wait("volume backup", backup)
    volume_id = restored.get("volume_id") or restored["id"]
    openstack.wait("volume", volume_id)
    assert bed.digest(volume_id) == expected
    assert any(row["Name"] == "full" for row in openstack("volume", "backup", "list"))
    # The links of a list lead back through the proxy.
    another = openstack("volume", "backup", "create", "--name", "another", volume)["id"]
    openstack.wait("volume backup", another)
    token = openstack("token", "issue")["id"]
    place, found = f"{openstack.proxy}/v3/{openstack.project}/backups?limit=1", []
    while place:
        assert place.startswith(f"{openstack.proxy}/v3/"), place
        asked = urllib.request.Request(place, headers={"X-Auth-Token": token})
        with urllib.request.urlopen(asked, timeout=60) as answer:
            page = json.load(answer)
        found += [row["name"] for row in page["backups"]]
        place = next((link["href"] for link in page.get("backups_links", []) if link["rel"] == "next"), None)
    assert sorted(found) == ["another", "full"]


class Named(http.server.BaseHTTPRequestHandler):
    """Answers with its own name."""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.name)))
        self.end_headers()
        self.wfile.write(self.name.encode())

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def named(name):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type(name, (Named,), {"name": name}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("kind", [Nginx, Haproxy], ids=["nginx", "haproxy"])
def test_no_spelling_of_our_paths_leads_to_cinder(tmp_path, kind):
    ours = ["backups", "backups/detail", "backups.json", "backups.xml", "%62ackups", "backup%73/x", "backups;x",
            "backups%0A", "backups%2fx", "backups?limit=1", "embervault/jobs", "embervault%2fjobs"]
    cinders = ["volumes", "volumes/backups", "backups-x", "backups_x", "backups2", "types?name=backups", "group_backups"]
    with named("cinder") as cinder, named("embervault") as backups:
        with kind(tmp_path / "proxy").forward(cinder, backups) as proxy:
            def answers(path):
                asked = http.client.HTTPConnection("127.0.0.1", proxy.ports["http"], timeout=60)
                asked.request("GET", path)
                return asked.getresponse().read().decode()

            for project in ("", "0f3c/"):
                for path in ours:
                    assert answers(f"/v3/{project}{path}") == "embervault", path
            for path in cinders:
                assert answers(f"/v3/0f3c/{path}") == "cinder", path


def test_what_a_cloud_needs_is_gone_through(cinder, tmp_path):
    with CloudBed(tmp_path / "bed", cinder) as bed:
        bed.start()
        openstack = OpenStack(tmp_path, cinder, cinder.url.removesuffix("/v3"))
        volume = openstack("volume", "create", "--size", "1", "rehearsed")["id"]
        openstack.wait("volume", volume)
        steps = bed.json("cloud", "check", "--volume", volume)
        assert {step["verdict"] for step in steps} == {"passed", "absent"}
        assert [step["name"] for step in steps if step["verdict"] == "absent"] == ["backend other"]
        assert bed.snapshots(volume) == []
        bed.settings["cinder"]["rbd"]["ceph"]["pool"] = "nowhere"
        bed.settings["identity"]["keystone"]["username"] = "member"
        bed.settings["identity"]["keystone"]["password"] = "member-password"
        bed.settings["identity"]["keystone"]["project_name"] = "demo"
        bed.write_config()
        steps = bed.json("cloud", "check", status=1)
        failed = {step["name"]: step["detail"] for step in steps if step["verdict"] == "failed"}
        assert "needs the role admin" in failed["ask Cinder as its administrator"]
        assert "ceph auth get-or-create" in failed["open the pool of cinder.rbd.ceph"]
