"""The documented API is the real one: examples by the thousand from openapi.yaml, and samples."""

import base64
import json
import os
import pathlib
import re
import socket
import subprocess
import time
import uuid

import pytest
import yaml
from client import Client
from conftest import TOOLS, Service
from reference import REFERENCE, listed_routes, short

HERE = pathlib.Path(__file__).parent
ST = TOOLS / "schemathesis" / "bin"
EXAMPLES_MIN = 5000
SECONDS_MAX = 1500


@pytest.fixture
def fresh(tmp_path_factory):
    """Starts services with little in the way of quotas, and stops them."""
    started = []

    def start(**quotas):
        extra = {f"EMBERVAULT_QUOTA__{name.upper()}": str(value) for name, value in quotas.items()}
        service = Service(tmp_path_factory.mktemp("service") / "data", extra)
        started.append(service)
        return service

    yield start
    for service in started:
        service.stop()


def documented_routes(document):
    return {
        (method.upper(), short(path)): operation["x-since"]
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if method != "parameters"
    }


def document():
    return yaml.safe_load((REFERENCE / "openapi.yaml").read_text())


def test_the_document_is_valid():
    done = subprocess.run([ST / "openapi-spec-validator", REFERENCE / "openapi.yaml"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_document_and_the_reference_name_the_same_routes():
    documented, listed = documented_routes(document()), listed_routes()
    assert sorted(listed.items() - documented.items()) == [], "routes without a description"
    assert sorted(documented.items() - listed.items()) == [], "descriptions of routes that do not exist"


def test_the_reference_shows_every_sample():
    linked = set(re.findall(r"\(samples/([\w.-]+\.json)\)", (REFERENCE / "README.md").read_text()))
    assert linked == {path.name for path in (REFERENCE / "samples").iterdir()}


def narrowed(path):
    """Writes the document without routes that the reference does not list."""
    whole, listed = document(), listed_routes()
    for template, item in whole["paths"].items():
        methods = [method for method in item if method != "parameters"]
        for method in [method for method in methods if (method.upper(), short(template)) not in listed]:
            del item[method]
    whole["paths"] = {template: item for template, item in whole["paths"].items() if set(item) - {"parameters"}}
    path.write_text(json.dumps(whole))
    return path


def records(admin, backup):
    """What an administrator could import: a record under ids that are not taken."""
    record = admin.send("GET", f"/backups/{backup}/export_record").json()["backup-record"]
    inside = json.loads(base64.b64decode(record["backup_url"]))
    changed = [{**inside, "id": str(uuid.UUID(int=number, version=4))} for number in range(20)]
    return [base64.b64encode(json.dumps(row).encode()).decode() for row in changed]


def failed_backups(client, admin, volumes):
    """Has a backup of each volume fail, and gives the messages that tell the user why."""
    program = {"binary": "cinder-backup", "host": socket.gethostname()}
    assert admin.send("PUT", "/os-services/disable", program).ok
    for failed in [client.made("backups", volume_id=volume) for volume in volumes]:
        client.wait("backups", failed, "error")
    assert admin.send("PUT", "/os-services/enable", program).ok
    return [row["id"] for row in client.send("GET", "/messages").json()["messages"]]


def seeds(service, name, path):
    """Something of every kind for examples to reach."""
    client, admin = Client(service.base, service.user(name)), Client(service.base, service.user("admin"))
    volumes = [client.make("volumes", size=1, name=f"v{number}", metadata={"env": "test"}) for number in range(8)]
    snapshots = {client.make("snapshots", volume_id=volume, metadata={"env": "test"}): volume for volume in volumes[:2]}
    backups = [client.make("backups", volume_id=volume, name="b") for volume in volumes[:3]]
    group_type = admin.made("group_types", name="t", group_specs={"env": "test"})
    types = [row["id"] for row in client.send("GET", "/types").json()["volume_types"]]
    private = {"name": "private", "extra_specs": {"env": "test"}, "os-volume-type-access:is_public": False}
    group = client.make("groups", group_type=group_type, volume_types=types)
    assert client.send("PUT", f"/groups/{group}", {"group": {"add_volumes": volumes[3]}}).ok
    client.wait("groups", group)
    messages = failed_backups(client, admin, volumes[:3])
    host = socket.gethostname()
    path.write_text(json.dumps({
        "is_admin": name == "admin", "token": client.token, "spare_tokens": [client.log_in() for _ in range(40)],
        "identities": [{"methods": ["token"], "token": {"id": client.token}}, client.identity],
        "projects": [client.project], "users": [client.id], "volumes": volumes, "snapshots": list(snapshots),
        "snapshots_of": snapshots, "backups": backups, "records": records(admin, backups[0]),
        "attachments": [client.make("attachments", volume_uuid=volume) for volume in volumes[5:]],
        "messages": messages[:1], "spare": {"messages": messages[1:]}, "group_types": [group_type], "groups": [group],
        "group_snapshots": [client.made("group_snapshots", group_id=group)],
        "types": [*types, admin.made("types", "volume_type", **private)],
        "qos-specs": [admin.made("qos-specs", "qos_specs", name="q", env="test")],
        "transfers": [client.made("os-volume-transfer", "transfer", volume_id=volumes[4])],
        **{what: [row["id"] for row in admin.send("GET", f"/identity/v3/{what}").json()[what]]
           for what in ("roles", "services", "endpoints")},
        "hosts": [host, f"{host}@standalone"], "binaries": ["cinder-backup", "cinder-volume"], "keys": ["env"],
    }))
    return client.token


def examples(service, name, folder):
    """Schemathesis at work as one user; its report is in `folder`."""
    token = seeds(service, name, folder / "seeds.json")
    command = [
        ST / "st", "--config-file", HERE / "schemathesis.toml", "run", narrowed(folder / "openapi.json"),
        "--url", service.base, "-H", f"X-Auth-Token: {token}", "--no-color",
        "--report", "json", "--report-json-path", folder / "report.json",
    ]
    environment = {**os.environ, "EMBERVAULT_SEEDS": str(folder / "seeds.json"), "PYTHONHASHSEED": "0",
                   "SCHEMATHESIS_HOOKS": str(HERE / "schemathesis_hooks.py")}
    with open(folder / "output", "w") as output:
        parts = [str(part) for part in command]
        return subprocess.Popen(parts, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT)


@pytest.mark.slow
def test_the_service_answers_thousands_of_examples_as_documented(fresh, tmp_path):
    running = {}
    for name in ("demo", "admin"):
        folder = tmp_path / name
        folder.mkdir()
        running[folder] = examples(fresh(volumes=100, snapshots=100, backups=100), name, folder)
    started, took = time.monotonic(), {}
    try:
        while len(took) < len(running):
            time.sleep(0.5)
            seconds = time.monotonic() - started
            for folder, process in running.items():
                if process.poll() is not None:
                    took.setdefault(folder, seconds)
            assert seconds < SECONDS_MAX, "\n".join((folder / "output").read_text()[-2000:] for folder in running)
    finally:
        for process in running.values():
            process.kill()
    ran = failures = 0
    for folder, process in running.items():
        report = json.loads((folder / "report.json").read_text())
        cases, operations = report["test_cases"], report["operations"]
        found = cases["with_failures"] + cases["errored"] + operations["errored"]
        print(f"{folder.name}: {cases['generated']} examples of {operations['tested']} operations "
              f"in {took[folder]:.0f} s, {found} failures")
        is_whole = report["complete"] and operations["tested"] == operations["total"] and process.returncode == 0
        if found or not is_whole:
            print((folder / "output").read_text())
        ran, failures = ran + cases["generated"], failures + (found or not is_whole)
    print(f"{ran} examples, {failures} failures")
    assert ran >= EXAMPLES_MIN and failures == 0


def test_the_samples_are_what_the_service_answers(fresh):
    service = fresh(backups=4)
    given = {"base": service.base, "data": str(service.data), "host": socket.gethostname(),
             "users": {name: service.user(name) for name in ("demo", "admin")}}
    done = service.run(ST / "python", HERE / "samples.py", input=json.dumps(given),
                       environment={"UPDATE_SAMPLES": os.environ.get("UPDATE_SAMPLES", "")})
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
