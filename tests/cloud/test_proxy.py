"""The proxies of the README: one address for Cinder and for backups, used by the real client."""

import re
import urllib.parse

import pytest
from bed import MIB, ROOT, noise
from client import OpenStack
from servers import Server, ports
from tenant import CloudBed

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
    readme = (ROOT / "README.md").read_text()
    (found,) = re.findall(rf"```{language}\n(.*?)```", readme, re.DOTALL)
    return found


class Proxy(Server):
    """With the lines that the README has, the places in them replaced by those of the test."""

    port_names = ("http",)

    def __init__(self, dir, cinder, backups):
        super().__init__(dir)
        self.base = f"http://127.0.0.1:{self.ports['http']}"
        places = {"controller:8776": cinder, "embervault:8776": backups, ":8776": f"127.0.0.1:{self.ports['http']}"}
        self.sample = sample(self.name)
        for place, own in places.items():
            self.sample = re.sub(rf"(?<![\w.]){place}", own, self.sample)

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
        places = [urllib.parse.urlsplit(url).netloc for url in (cinder.url, bed.start().base)]
        with request.param(tmp_path / "proxy", *places) as proxy:
            client = OpenStack(tmp_path, cinder, proxy.base)
            client.bed = bed
            yield client


def test_the_client_backs_up_and_restores_through_one_address(openstack):
    bed = openstack.bed
    volume = openstack("volume", "create", "--size", "1", "first")["id"]
    openstack.wait("volume", volume)
    bed.write(volume, 0, noise(20, 4 * MIB))
    expected = bed.digest(volume)
    backup = openstack("volume", "backup", "create", "--name", "full", volume)["id"]
    openstack.wait("volume backup", backup)
    restored = openstack("volume", "backup", "restore", backup, "restored")
    openstack.wait("volume backup", backup)
    volume_id = restored.get("volume_id") or restored["id"]
    openstack.wait("volume", volume_id)
    assert bed.digest(volume_id) == expected
    assert any(row["Name"] == "full" for row in openstack("volume", "backup", "list"))


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
