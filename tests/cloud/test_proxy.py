"""The proxy of the README: one address for Cinder and for backups, used by the real client."""

import json
import os
import re
import subprocess
import tomllib
import urllib.parse
import urllib.request

import pytest
from bed import MIB, ROOT, noise, until
from servers import Server, ports
from tenant import CloudBed

README = (ROOT / "README.md").read_text()
CONFIGURATION = """\
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
{locations}
    }}
}}
"""
CLOUDS = """\
clouds:
  tenant:
    auth:
      auth_url: {keystone}
      username: member
      password: member-password
      project_name: demo
      user_domain_name: Default
      project_domain_name: Default
    region_name: RegionOne
    block_storage_endpoint_override: {proxy}/v3/{project}
"""


class Nginx(Server):
    """With the locations that the README has."""

    programs = {"nginx": "nginx-light"}
    port_names = ("http",)

    def __init__(self, dir):
        super().__init__(dir)
        self.base = f"http://127.0.0.1:{self.ports['http']}"

    def forward(self, cinder, backups):
        (sample,) = re.findall(r"```nginx\n(.*?)```", README, re.DOTALL)
        self.locations = sample.replace("http://controller:8776", cinder).replace("http://embervault:8776", backups)
        return self

    def run(self):
        conf = self.data / "nginx.conf"
        conf.write_text(CONFIGURATION.format(data=self.data, port=self.ports["http"], locations=self.locations))
        self.spawn("nginx", ["nginx", "-p", self.data, "-c", conf])
        self.until(lambda: ports.open_at(self.ports["http"]), "it answers")


def settings_of_readme():
    """Of the sample for a cloud; all of them must be those that the test replaces."""
    samples = [tomllib.loads(text) for text in re.findall(r"```toml\n(.*?)```", README, re.DOTALL)]
    (sample,) = [sample for sample in samples if sample.get("volumes", {}).get("mode") == "cinder"]
    assert list(sample["api"]) == ["public_endpoint"]
    return sample


@pytest.fixture
def openstack(cinder, tmp_path):
    with CloudBed(tmp_path / "bed", cinder) as bed:
        place = urllib.parse.urlsplit(cinder.url)
        nginx = Nginx(tmp_path / "nginx")
        # As the README has it, but for the name of the proxy.
        bed.settings["api"] = {**settings_of_readme()["api"], "public_endpoint": nginx.base}
        bed.write_config()
        with nginx.forward(f"http://{place.netloc}", bed.start().base):
            clouds = tmp_path / "clouds.yaml"
            project = cinder.cloud.projects["demo"]
            clouds.write_text(CLOUDS.format(keystone=cinder.keystone.url, proxy=nginx.base, project=project))
            variables = {**os.environ, "OS_CLOUD": "tenant", "OS_CLIENT_CONFIG_FILE": str(clouds)}

            def run(*words):
                command = [ROOT / "target/tools/sdk-new/bin/openstack", *words, "-f", "json"]
                done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=variables)
                assert done.returncode == 0, f"{words}: {done.stderr}"
                return json.loads(done.stdout) if done.stdout.strip() else None

            run.bed, run.proxy, run.project = bed, nginx.base, project
            yield run


def test_the_client_backs_up_and_restores_through_one_address(openstack):
    bed = openstack.bed
    volume = openstack("volume", "create", "--size", "1", "first")["id"]
    wait(openstack, "volume", volume)
    bed.write(volume, 0, noise(20, 4 * MIB))
    expected = bed.digest(volume)
    backup = openstack("volume", "backup", "create", "--name", "full", volume)["id"]
    wait(openstack, "volume backup", backup)
    restored = openstack("volume", "backup", "restore", backup, "restored")
    wait(openstack, "volume backup", backup)
    volume_id = restored.get("volume_id") or restored["id"]
    wait(openstack, "volume", volume_id)
    assert bed.digest(volume_id) == expected
    assert any(row["Name"] == "full" for row in openstack("volume", "backup", "list"))
    # The links of a list lead back through the proxy.
    another = openstack("volume", "backup", "create", "--name", "another", volume)["id"]
    wait(openstack, "volume backup", another)
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


def test_what_a_cloud_needs_is_gone_through(openstack):
    bed = openstack.bed
    volume = openstack("volume", "create", "--size", "1", "rehearsed")["id"]
    wait(openstack, "volume", volume)
    steps = bed.json("cloud", "check", "--volume", volume)
    assert {step["verdict"] for step in steps} == {"passed", "absent"}
    assert [step["name"] for step in steps if step["verdict"] == "absent"] == ["backend other"]
    assert bed.snapshots(volume) == []
    bed.settings["cinder"]["rbd"]["ceph"]["pool"] = "nowhere"
    bed.settings["identity"]["keystone"]["username"] = "member"
    bed.settings["identity"]["keystone"]["password"] = "member-password"
    bed.settings["identity"]["keystone"]["project_name"] = "demo"
    bed.write_config()
    failed = {step["name"]: step["detail"] for step in bed.json("cloud", "check", status=1) if step["verdict"] == "failed"}
    assert "needs the role admin" in failed["ask Cinder as its administrator"]
    assert "ceph auth get-or-create" in failed["open the pool of cinder.rbd.ceph"]


def wait(openstack, kind, id):
    def look():
        status = openstack(*kind.split(), "show", id)["status"]
        assert status not in ("error", "error_restoring"), f"{kind} {id} is {status}"
        return status == "available"

    until(f"{kind} {id} is available", look)
