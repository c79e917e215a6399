"""The service as the catalogue's endpoint: all of block storage through it, used by the real client."""

import json
import urllib.parse

import pytest
from bed import MIB, noise, until
from client import OpenStack
from servers.keystone import http
from tenant import CloudBed


@pytest.fixture(scope="module")
def bed(cinder, tmp_path_factory):
    dir = tmp_path_factory.mktemp("gateway")
    with CloudBed(dir / "bed", cinder, {"gateway": True}) as bed:
        bed.start()
        yield bed


@pytest.fixture(scope="module")
def base(bed):
    return bed.processes[-1].base


@pytest.fixture(scope="module")
def member(cinder, base, tmp_path_factory):
    return OpenStack(tmp_path_factory.mktemp("member"), cinder, base)


@pytest.fixture(scope="module")
def admin(cinder, base, tmp_path_factory):
    return OpenStack(tmp_path_factory.mktemp("admin"), cinder, base, "admin")


@pytest.fixture(scope="module")
def full(bed, member):
    """A volume, its backup, and the digest of what is in it."""
    volume = member("volume", "create", "--size", "1", "first")["id"]
    member.wait("volume", volume)
    bed.write(volume, 0, noise(30, 4 * MIB))
    backup = member("volume", "backup", "create", "--name", "full", volume)["id"]
    member.wait("volume backup", backup)
    return volume, backup, bed.digest(volume)


class Asked:
    """Requests of a user, at the gateway and at Cinder itself."""

    def __init__(self, cinder, base, user="member", version="3.70"):
        self.cinder, self.base, self.version = cinder, base, version
        self.token = cinder.cloud.token(user)
        self.project = cinder.cloud.projects[cinder.cloud.USERS[user][0]]

    def at(self, place, method, path, body=None):
        headers = {"X_Auth_Token": self.token, "OpenStack_API_Version": f"volume {self.version}"}
        return http(method, f"{place}/{self.project}{path}", body, **headers)

    def gateway(self, method, path, body=None):
        return self.at(f"{self.base}/v3", method, path, body)

    def direct(self, method, path, body=None):
        return self.at(self.cinder.url, method, path, body)


@pytest.fixture
def asked(cinder, base):
    return Asked(cinder, base)


@pytest.fixture
def asked_as_admin(cinder, base):
    return Asked(cinder, base, "admin")


def test_volumes_are_made_listed_and_deleted(member):
    volume = member("volume", "create", "--size", "1", "--property", "a=b", "passing")["id"]
    member.wait("volume", volume)
    assert any(row["ID"] == volume for row in member("volume", "list"))
    assert member("volume", "show", volume)["properties"] == {"a": "b"}
    snapshot = member("volume", "snapshot", "create", "--volume", volume, "of-it")["id"]
    member.wait("volume snapshot", snapshot)
    member("volume", "snapshot", "delete", snapshot, is_shown=False)

    def is_deleted():
        return not any(row["ID"] == snapshot for row in member("volume", "snapshot", "list"))

    until("the snapshot is gone", is_deleted)
    member("volume", "delete", volume, is_shown=False)


def test_what_passes_is_as_cinder_gives_it(asked):
    for path in ("/volumes/detail?sort=name:asc", "/types", "/snapshots", "/volumes/nowhere", "/nothing/at/all"):
        (one, other) = (asked.gateway("GET", path), asked.direct("GET", path))
        assert one.status == other.status, path
        gateway, cinder = (urllib.parse.urlsplit(place).netloc for place in (asked.base, asked.cinder.url))
        assert json.dumps(one.body).replace(gateway, cinder) == json.dumps(other.body), path


def test_a_backup_is_restored_to_new_volumes_in_both_ways(bed, member, full):
    _, backup, expected = full
    restored = member("volume", "backup", "restore", backup, "restored")
    made = member("volume", "create", "--backup", backup, "--size", "2", "--description", "made", "from-backup")
    assert made["name"] == "from-backup" and made["size"] == 2
    member.wait("volume backup", backup)
    for volume in (restored.get("volume_id") or restored["id"], made["id"]):
        member.wait("volume", volume)
    assert bed.digest(restored.get("volume_id") or restored["id"]) == expected
    shown = member("volume", "show", made["id"])
    assert (shown["name"], shown["description"]) == ("from-backup", "made")


def test_quotas_and_limits_of_backups_are_ours_and_the_others_cinders(asked, asked_as_admin, full):
    project = asked.project
    path = f"/os-quota-sets/{project}"
    before = asked_as_admin.direct("GET", path).body["quota_set"]
    wanted = {"quota_set": {"backups": 77, "backup_gigabytes": 770, "snapshots": 123}}
    answer = asked_as_admin.gateway("PUT", path, wanted)
    assert answer.status == 200, answer
    assert {key: answer.body["quota_set"][key] for key in wanted["quota_set"]} == wanted["quota_set"]
    after = asked_as_admin.direct("GET", path).body["quota_set"]
    assert after == {**before, "snapshots": 123}, "Cinder has got its own row alone"
    # Rows of ours alone need no change of Cinder's.
    answer = asked_as_admin.gateway("PUT", path, {"quota_set": {"backups": 78}})
    assert (answer.status, answer.body["quota_set"]["backups"]) == (200, 78), answer
    assert answer.body["quota_set"]["snapshots"] == 123
    refused = asked_as_admin.gateway("PUT", path, {"quota_set": {"backups": 0, "snapshots": 5}})
    assert refused.status == 400, refused
    assert asked_as_admin.direct("GET", path).body["quota_set"]["snapshots"] == 123
    shown = asked_as_admin.gateway("GET", f"{path}?usage=true").body["quota_set"]
    assert shown["backups"]["limit"] == 78 and shown["backups"]["in_use"] >= 1
    assert shown["snapshots"]["limit"] == 123
    limits = asked.gateway("GET", "/limits").body["limits"]["absolute"]
    assert limits["maxTotalBackups"] == 78 and limits["totalBackupsUsed"] >= 1
    cinders = asked.direct("GET", "/limits").body["limits"]["absolute"]
    assert limits["totalVolumesUsed"] == cinders["totalVolumesUsed"] and cinders["totalBackupsUsed"] == 0
    answer = asked_as_admin.gateway("DELETE", path)
    assert answer.status < 300, answer
    assert asked_as_admin.gateway("GET", path).body["quota_set"]["backups"] == 10000


def test_services_are_cinders_and_our_workers(admin, asked_as_admin, bed):
    rows = admin("volume", "service", "list")
    assert {row["Binary"] for row in rows} == {"cinder-scheduler", "cinder-volume", "cinder-backup"}
    ours = [row for row in rows if row["Binary"] == "cinder-backup"]
    assert [row["State"] for row in ours] == ["up"]
    host = ours[0]["Host"]
    answer = asked_as_admin.gateway("PUT", "/os-services/disable", {"binary": "cinder-backup", "host": host})
    assert answer.status == 200, answer
    answer = asked_as_admin.gateway("PUT", "/os-services/enable", {"binary": "cinder-backup", "host": host})
    assert answer.status == 200, answer


def test_messages_of_cinder_are_listed_in_pages_shown_and_deleted(asked, asked_as_admin):
    # Cinder's: volumes that no backend can take.
    spec = {"volume_type": {"name": "nowhere", "extra_specs": {"volume_backend_name": "nowhere"}}}
    assert asked_as_admin.gateway("POST", "/types", spec).status == 200
    body = {"volume": {"size": 1, "name": "misplaced", "volume_type": "nowhere"}}
    asked.gateway("POST", "/volumes", body)
    volume = asked.gateway("POST", "/volumes", body).body["volume"]["id"]

    def is_there():
        return any(row.get("resource_uuid") == volume for row in asked.gateway("GET", "/messages").body["messages"])

    until("Cinder says why", is_there)
    listed = asked.gateway("GET", "/messages").body["messages"]
    times = [row["created_at"] for row in listed]
    assert times == sorted(times, reverse=True)
    seen, path = [], "/messages?limit=1"
    while path:
        page = asked.gateway("GET", path).body
        seen += [row["id"] for row in page["messages"]]
        link = next((row["href"] for row in page.get("messages_links", [])), None)
        path = link and link.split(asked.project)[1]
    assert seen == [row["id"] for row in listed]
    for row in listed:
        assert asked.gateway("GET", f"/messages/{row['id']}").status == 200
    assert asked.gateway("DELETE", f"/messages/{listed[0]['id']}").status == 204
    assert asked.gateway("GET", f"/messages/{listed[0]['id']}").status == 404


def test_the_versions_are_cinders_and_the_links_lead_here(asked):
    root = http("GET", f"{asked.base}/")
    cinders = http("GET", f"{asked.cinder.url.removesuffix('/v3')}/")
    assert root.status == cinders.status == 300
    (one,), (other,) = root.body["versions"], [row for row in cinders.body["versions"] if row["id"] == "v3.0"]
    assert (one["version"], one["min_version"]) == (other["version"], other["min_version"])
    assert f"{asked.base}/v3/" in [row["href"] for row in one["links"]]


def test_backups_are_listed_while_cinder_is_away(bed, cinder, full, tmp_path):
    bed.processes[-1].stop()
    bed.settings["cinder"]["url"] = "http://127.0.0.1:9/v3"
    bed.write_config()
    process = bed.start()
    member = OpenStack(tmp_path, cinder, process.base)
    assert any(row["ID"] == full[1] for row in member("volume", "backup", "list"))
    answer = Asked(cinder, process.base).gateway("GET", "/volumes")
    assert answer.status == 503, answer
    assert answer.body["serviceUnavailable"]["message"].startswith("Cinder cannot be reached.")
