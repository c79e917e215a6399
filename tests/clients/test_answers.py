"""Answers as Cinder gives them, beside those that are recorded: which of several mistakes is told, the words,
the headers, and what administrators reach."""

import base64
import socket

import pytest
from client import Client
from conftest import Service

HTML = "text/html; charset=UTF-8"
NOBODY = "00000000-0000-4000-8000-000000000000"
NO_ACTION = "There is no such action: None. Verify the request body and Content-Type header and try again."
STATES = ("('creating', 'available', 'deleting', 'error', 'error_deleting', 'error_managing', 'managing', 'attaching', "
          "'in-use', 'detaching', 'maintenance', 'restoring-backup', 'error_restoring', 'reserved', "
          "'awaiting-transfer', 'backing-up', 'error_backing-up', 'error_extending', 'downloading', 'uploading', "
          "'retyping', 'extending')")


@pytest.fixture(scope="module")
def callers(tmp_path_factory):
    """A member and an administrator of a service of this file's own."""
    service = Service(tmp_path_factory.mktemp("answers") / "data")
    yield [Client(service.base, service.user(name)) for name in ("demo", "admin")]
    service.stop()


def told(answer, status=400):
    assert answer.status_code == status, answer.text
    return next(iter(answer.json().values()))["message"]


def of(field, value, message):
    return f"Invalid input for field/attribute {field}. Value: {value}. {message}"


def record(text):
    return {"backup-record": {"backup_service": "s", "backup_url": base64.b64encode(text).decode()}}


def test_of_several_mistakes_in_a_body_the_first_is_told(callers):
    _, admin = callers
    volume = admin.make("volumes", size=1)
    on_volume = f"/volumes/{volume}/action"
    both = {"group_snapshot_id": NOBODY, "source_group_id": NOBODY}
    rows = [
        ("POST", "/backups", {"volume": None}, "'backup' is a required property"),
        ("POST", "/backups", [], "[] is not of type 'object'"),
        ("POST", "/backups", {"backup": None, "x": 1}, of("backup", None, "None is not of type 'object'")),
        ("POST", "/backups", {"backup": {"x": 1, "name": 5}, "y": 1},
         of("name", 5, "5 is not of type 'string', 'null'")),
        ("POST", "/backups", {"backup": {"x": 1}, "y": 1},
         of("backup", "{'x': 1}", "'volume_id' is a required property")),
        ("POST", "/backups", {"backup": {"volume_id": volume, "x": 1}, "y": 1},
         of("backup", f"{{'volume_id': '{volume}', 'x': 1}}",
            "Additional properties are not allowed ('x' was unexpected)")),
        ("POST", "/backups", {"backup": {"volume_id": volume}, "y": 1, "x": 1},
         "Additional properties are not allowed ('x', 'y' were unexpected)"),
        ("POST", on_volume, {"os-attach": {"x": 1}},
         of("os-attach", "{'x': 1}", "'mountpoint' is a required property")),
        ("POST", on_volume, {"os-attach": {"mountpoint": "/dev/vdb", "x": 1}},
         of("os-attach", "{'mountpoint': '/dev/vdb', 'x': 1}", "{'mountpoint': '/dev/vdb', 'x': 1} is not valid under "
            "any of the given schemas")),
        ("PUT", f"/snapshots/{NOBODY}", {"snapshot": {}},
         of("snapshot", "{}", "{} is not valid under any of the given schemas")),
        ("POST", "/groups/action", {"create-from-src": both},
         of("create-from-src", both, f"{both} is valid under each of {{'required': ['source_group_id']}}, "
            "{'required': ['group_snapshot_id']}")),
        ("PUT", "/os-services/enable", {"host": "h", "x": 1},
         "{'host': 'h', 'x': 1} is not valid under any of the given schemas"),
        ("PUT", f"/volumes/{volume}/metadata/k", {"meta": {"k": "", "l": ""}},
         of("meta", "{'k': '', 'l': ''}", "{'k': '', 'l': ''} has too many properties")),
        ("POST", "/volumes", {"volume": {"size": "x"}}, of("size", "x", "'x' does not match '^[0-9]+$'")),
        ("POST", "/volumes", {"volume": {"size": 1, "name": "n" * 256}},
         "Invalid input received: name has 256 characters, more than 255."),
        *[("POST", f"/{path}/action", None, NO_ACTION)
          for path in (f"volumes/{volume}", f"backups/{NOBODY}", f"snapshots/{NOBODY}", f"groups/{NOBODY}", "groups",
                       f"group_snapshots/{NOBODY}", f"types/{NOBODY}", f"attachments/{NOBODY}")],
        *[("POST", "/backups/import_record", record(text), "Invalid input received: Provided backup record is missing "
           + what) for text, what in [(b"[1]", "an id"), (b'"x"', "an id"), (b'["id"]', "size attribute")]],
    ]
    for method, path, body, message in rows:
        assert told(admin.send(method, path, body)) == message, f"{method} {path} {body}"


def test_refusals_have_cinders_words(callers):
    _, admin = callers
    for offset, why in [("-1", ">= 0"), ("x", "an integer"), ("2147483648", "<= 2147483647")]:
        assert told(admin.send("GET", f"/backups?offset={offset}")) == f"offset must be {why}"
    volume = admin.make("volumes", size=1)
    snapshot = admin.make("snapshots", volume_id=volume)

    def reset(kind, id, **states):
        return admin.send("POST", f"/{kind}/{id}/action", {"os-reset_status": states})

    assert reset("snapshots", snapshot, status="creating").ok
    refused = "Invalid snapshot: Snapshot status must be available or error and must not be part of a group."
    assert told(admin.send("DELETE", f"/snapshots/{snapshot}")) == refused
    for key, what, valid in [
        ("status", "Volume", STATES), ("attach_status", "Volume attach", "['attached', 'detached']"),
        ("migration_status", "Volume migration",
         "('migrating', 'error', 'success', 'completing', 'none', 'starting')"),
    ]:
        refused = f"{what} status: bogus is invalid, valid statuses are: {valid}."
        assert told(reset("volumes", volume, **{key: "bogus"})) == refused
    for state in ("error_managing", "error"):
        assert reset("volumes", volume, status=state).ok
    assert "in-use" not in told(reset("snapshots", snapshot, status="bogus"))
    used = admin.send("GET", f"/os-quota-sets/{admin.project}?usage=true").json()["quota_set"]["volumes"]["in_use"]
    refused = ("Quota volumes limit must be equal or greater than existing resources. "
               f"Current usage is {used} and the requested limit is 0.")
    assert told(admin.send("PUT", f"/os-quota-sets/{admin.project}", {"quota_set": {"volumes": 0}})) == refused
    refused = "Invalid input received: Bad key(s) in quota class set: x"
    assert told(admin.send("PUT", "/os-quota-class-sets/c", {"quota_class_set": {"x": 0}})) == refused


def test_what_cinder_answers_without_its_frame_is_so_here(callers):
    member, admin = callers
    volume = member.make("volumes", size=1, metadata={"k": "v"})
    snapshot = member.make("snapshots", volume_id=volume, metadata={"k": "v"})
    volume_type = admin.made("types", "volume_type", name="bare")
    group_type = admin.made("group_types", name="bare")
    bare = [
        (member, "DELETE", f"/volumes/{volume}/metadata/k", 200),
        (member, "DELETE", f"/snapshots/{snapshot}/metadata/k", 200),
        (member, "DELETE", f"/snapshots/{snapshot}", 202),
        (admin, "DELETE", f"/types/{volume_type}", 202),
        (admin, "DELETE", f"/group_types/{group_type}", 202),
    ]
    for caller, method, path, status in bare:
        answer = caller.send(method, path)
        shown = (answer.status_code, answer.headers.get("Content-Type"), answer.content)
        assert shown == (status, HTML, b""), path
        assert "x-compute-request-id" not in answer.headers and "OpenStack-API-Version" in answer.headers, path
    for path in ("/backups", "/nothing", f"/volumes/{volume}"):
        answer = member.send("HEAD", path)
        assert (answer.status_code, answer.headers.get("Content-Type")) == (404, HTML), path
        assert not {"x-compute-request-id", "OpenStack-API-Version"} & set(answer.headers), path
    full = member.send("GET", f"/volumes/{volume}")
    assert full.headers["Content-Type"] == "application/json" and "x-compute-request-id" in full.headers


def test_administrators_reach_logs_cleanup_and_clusters(callers):
    member, admin = callers
    host = socket.gethostname()
    everything = [("PUT", "/os-services/get-log", 32, {}), ("PUT", "/os-services/set-log", 32, {"level": "info"}),
                  ("POST", "/workers/cleanup", 24, {}), ("GET", "/clusters", 7, None),
                  ("GET", "/clusters/detail", 7, None)]
    for method, path, since, body in everything:
        assert admin.send(method, path, body, version=f"3.{since - 1}").status_code == 404, path
        assert admin.send(method, path, body, version=f"3.{since}").ok, path
        assert member.send(method, path, body).status_code == 403, path

    def levels(**of):
        found = admin.send("PUT", "/os-services/get-log", of).json()["log_levels"]
        return {(row["binary"], row["host"]): row["levels"] for row in found}

    here = {("cinder-api", host), ("cinder-scheduler", host), ("cinder-backup", host)}
    assert set(levels()) == here | {("cinder-volume", f"{host}@standalone")} == set(levels(binary="*", server=host))
    assert set(levels(binary="cinder-backup")) == {("cinder-backup", host)} and levels(server="elsewhere") == {}
    assert levels(prefix="cinder.")["cinder-api", host] == {}
    changed = {"prefix": "embervault::engine", "level": "debug"}
    answer = admin.send("PUT", "/os-services/set-log", changed)
    assert (answer.status_code, answer.headers["Content-Type"]) == (202, HTML)
    shown = levels()["cinder-api", host]
    assert (shown["embervault::engine"], shown["embervault::api"]) == ("DEBUG", "INFO")
    # Nobody is meant, so nothing is changed.
    assert admin.send("PUT", "/os-services/set-log", {"server": "elsewhere", "level": "error"}).status_code == 202
    assert levels()["cinder-api", host] == shown
    loud = admin.send("PUT", "/os-services/set-log", {"level": "loud"})
    assert told(loud) == "Invalid input received: loud is not a valid log level."
    assert "'cinder-nova' is not one of [" in told(admin.send("PUT", "/os-services/get-log", {"binary": "cinder-nova"}))

    def cleaned(**of):
        answer = admin.send("POST", "/workers/cleanup", of)
        assert answer.status_code == 202 and answer.json()["unavailable"] == []
        return [(row["binary"], row["host"], row["cluster_name"]) for row in answer.json()["cleaning"]]

    both = [("cinder-scheduler", host, None), ("cinder-volume", f"{host}@standalone", None)]
    assert cleaned() == [] and cleaned(is_up=True, host=host) == both
    assert cleaned(is_up="yes", binary="cinder-volume") == both[1:] == cleaned(is_up=True, service_id="2")
    assert cleaned(is_up=True, cluster_name="c") == [] == cleaned(is_up=True, disabled=True)
    for body, why in [({"resource_id": NOBODY}, f"There is no resource with UUID {NOBODY} pending cleanup."),
                      ({"resource_type": "server"}, "Resource type Server not valid, must be Snapshot or Volume")]:
        assert told(admin.send("POST", "/workers/cleanup", body)) == f"Invalid input received: {why}"
    refused = told(admin.send("GET", "/clusters/detail?color=red"))
    assert refused == "Invalid input received: Invalid filter keys: color"
    assert admin.send("GET", "/clusters?frozen=true").json() == {"clusters": []}


def test_types_of_groups_and_encryption_are_those_of_every_installation(callers):
    member, admin = callers
    reserved = [row for row in member.send("GET", "/group_types").json()["group_types"]
                if row["name"] == "default_cgsnapshot_type"]
    assert len(reserved) == 1 and reserved[0]["is_public"] and "group_specs" not in reserved[0]
    shown = admin.send("GET", f"/group_types/{reserved[0]['id']}").json()["group_type"]
    assert shown["group_specs"] == {"consistent_group_snapshot_enabled": "<is> True"}
    group = {"group": {"group_type": reserved[0]["id"], "volume_types": ["__DEFAULT__"]}}
    assert told(member.send("POST", "/groups", group)).startswith(f"Group_type {reserved[0]['id']} is reserved for ")
    encrypted = admin.made("types", "volume_type", name="encrypted")
    wanted = {"encryption": {"provider": "", "control_location": "front-end"}}
    made = admin.send("POST", f"/types/{encrypted}/encryption", wanted)
    assert made.ok and made.json()["encryption"]["provider"] == ""


def test_messages_know_of_pages_since_their_version(callers):
    member, admin = callers
    program = {"binary": "cinder-backup", "host": socket.gethostname()}
    assert admin.send("PUT", "/os-services/disable", program).json()["service"] == ""
    try:
        for _ in range(2):
            failed = member.made("backups", volume_id=member.make("volumes", size=1))
            member.wait("backups", failed, "error")
    finally:
        assert admin.send("PUT", "/os-services/enable", program).ok
    ids = {}
    for version in ("3.4", "3.5"):
        answer = member.send("GET", "/messages?limit=1&sort=created_at:asc", version=version).json()
        ids[version] = [row["id"] for row in answer["messages"]]
        assert ("messages_links" in answer) == (version == "3.5")
    assert len(ids["3.4"]) == 2 and ids["3.5"] == ids["3.4"][1:], ids
    assert len(member.send("GET", "/messages?limit=x&offset=-1", version="3.3").json()["messages"]) == 2
