"""What the service answers, exchange by exchange: a script against the running program, whose answers
are held against `api-ref/openapi.yaml` and against the samples in `api-ref/samples`.

Reads the address and the users as JSON from standard input. `UPDATE_SAMPLES=1` writes the samples
instead of comparing."""

import base64
import json
import os
import re
import sys

import jsonschema_rs
import yaml
from client import Client
from reference import REFERENCE

SAMPLES = REFERENCE / "samples"
SHOWN_HEADERS = [
    "Content-Type", "OpenStack-API-Version", "Vary", "Etag", "Retry-After", "Location", "WWW-Authenticate",
    "X-Subject-Token",
]
SHOWN_AS = {
    "X-Subject-Token": "(token)", "secret": "(secret)", "audit_ids": ["(id)"], "auth_key": "(key)",
    "total_capacity_gb": 250, "free_capacity_gb": 200, "driver_version": "(version)",
}
UNREADABLE = {"backup-record": {"backup_service": "s", "backup_url": "bm8="}}
NOBODY = "00000000-0000-4000-8000-000000000000"


class Document:
    """openapi.yaml, by method and path of a request."""

    def __init__(self):
        self.raw = yaml.safe_load((REFERENCE / "openapi.yaml").read_text())
        self.patterns = []
        for path, item in self.raw["paths"].items():
            self.patterns.append((re.compile(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(path))), path, item))
        # `/backups/detail` before `/backups/{id}`.
        self.patterns.sort(key=lambda row: row[1].count("{"))

    def at(self, part):
        """A part, or what it refers to."""
        if "$ref" not in part:
            return part
        _, kind, name = part["$ref"].removeprefix("#/").split("/")
        return self.raw["components"][kind][name]

    def operation(self, method, path):
        found = [item for pattern, _, item in self.patterns if pattern.fullmatch(path) and method.lower() in item]
        return found[0][method.lower()] if found else None

    def holds(self, what, schema, value):
        validator = jsonschema_rs.Draft202012Validator({**schema, "components": self.raw["components"]})
        errors = [f"{what}: {error.instance_path}: {error.message}" for error in validator.iter_errors(value)]
        assert not errors, "\n".join(errors)

    def check(self, name, operation, request, answer):
        """The answer is one the document tells of, and a request that was accepted is too."""
        response = self.at(operation["responses"].get(str(answer.status_code)) or {})
        assert response, f"{name}: {answer.status_code} is not documented: {answer.text}"
        for header, told in response["headers"].items():
            told = self.at(told)
            assert header in answer.headers or not told.get("required"), f"{name}: {header} is missing"
            if header in answer.headers:
                self.holds(f"{name}: {header}", told["schema"], answer.headers[header])
        content = response.get("content")
        if content:
            assert answer.headers["Content-Type"].split(";")[0] in content, name
            self.holds(name, content["application/json"]["schema"], answer.json())
        elif operation["operationId"] != "actOnVolume":
            assert not answer.content, f"{name}: {answer.text}"
        if answer.ok and request is not None:
            body = self.at(operation["requestBody"])
            self.holds(f"request of {name}", body["content"]["application/json"]["schema"], request)


class Recorder:
    """Takes the steps of the script, and keeps what came back in a form that is the same every time."""

    def __init__(self, base, data, host, document):
        self.host, self.document, self.samples = host, document, {}
        # Texts that differ from run to run, and what is shown instead.
        self.names = {base: "http://127.0.0.1:8776", data: "/var/lib/embervault"}

    def __call__(self, name, client, request, body=None, version="3.71", headers=None, shown_body=None):
        """One exchange. Gives the body of the answer."""
        method, path = request.split(" ", 1)
        operation = self.document.operation(method, client.whole(path).split("?")[0])
        answer = client.send(method, path, body, version, headers)
        if operation:
            self.document.check(name, operation, body, answer)
        self.keep(name, client, method, path, version, headers, shown_body or body, answer)
        try:
            return answer.json()
        except ValueError:
            return None

    def keep(self, name, client, method, path, version, headers, body, answer):
        sent = {"OpenStack-API-Version": f"volume {version}" if version else "", **(headers or {})}
        request = {"as": client.user["name"], "method": method, "path": client.whole(path),
                   "headers": {key: value for key, value in sent.items() if value}, "body": body}
        came = {"status": answer.status_code,
                "headers": {key: answer.headers[key] for key in SHOWN_HEADERS if key in answer.headers},
                "body": answer.json() if answer.content else None}
        sample = {"request": request, "answer": came}
        assert name not in self.samples, name
        self.samples[name] = json.dumps(self.stable(sample), indent=2, ensure_ascii=False) + "\n"

    def stable(self, value, key=None):
        """The value with all that differs from run to run made the same."""
        if key in SHOWN_AS:
            return SHOWN_AS[key]
        if isinstance(value, list):
            return [self.stable(item) for item in value]
        if isinstance(value, dict):
            return {self.stable(name): self.stable(inner, name) for name, inner in value.items()}
        if not isinstance(value, str):
            return value
        if key == "backup_url":
            return self.record(value)
        for text, shown in self.names.items():
            value = value.replace(text, shown)
        value = re.sub(rf"^{re.escape(self.host)}(?=$|[@#])", "node1", value)
        value = re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", "2026-01-02T03:04:05", value)
        value = re.sub(r"(?<=T03:04:05)\.\d{6}", ".678901", value)
        value = re.sub(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", self.uuid, value)
        return re.sub(r"\b[0-9a-f]{32}\b", self.keystone_id, value)

    def record(self, url):
        """The record of a backup has ids and times inside."""
        try:
            inside = json.loads(base64.b64decode(url))
        except ValueError:
            return url
        return base64.b64encode(json.dumps(self.stable(inside)).encode()).decode()

    def uuid(self, match):
        """Ids are numbered as they appear."""
        if match[0] == NOBODY or match[0] in self.names.values():
            return match[0]
        number = sum(len(shown) == 36 for shown in self.names.values()) + 1
        return self.names.setdefault(match[0], f"{number:08x}-1111-4222-8333-444444444444")

    def keystone_id(self, match):
        if match[0] in self.names.values():
            return match[0]
        number = sum(len(shown) == 32 for shown in self.names.values()) + 1
        return self.names.setdefault(match[0], f"{number:032x}")


def volumes(take, member):
    body = {"volume": {"size": 1, "name": "first", "description": "a volume", "metadata": {"env": "test"}}}
    made = take("volume-create", member, "POST /volumes", body)["volume"]["id"]
    member.wait("volumes", made)
    take("volume-show-3.0", member, f"GET /volumes/{made}", version="3.0")
    take("volume-show", member, f"GET /volumes/{made}")
    take("volume-update", member, f"PUT /volumes/{made}", {"volume": {"description": None}})
    take("volume-metadata", member, f"POST /volumes/{made}/metadata", {"metadata": {"tier": "gold"}})
    take("volume-metadata-key", member, f"PUT /volumes/{made}/metadata/tier", {"meta": {"tier": "silver"}})
    return made


def backups(take, member, volume):
    body = {"backup": {"volume_id": volume, "name": "full"}}
    full = take("backup-create", member, "POST /backups", body, version="3.0")["backup"]["id"]
    member.wait("backups", full)
    body = {"backup": {"volume_id": volume, "name": "incremental", "incremental": True,
                       "metadata": {"env": "test"}, "availability_zone": "nova"}}
    incremental = take("backup-create-3.51", member, "POST /backups", body, version="3.51")["backup"]["id"]
    member.wait("backups", incremental)
    body = {"snapshot": {"volume_id": volume, "name": "before"}}
    snapshot = take("snapshot-create", member, "POST /snapshots", body)["snapshot"]["id"]
    member.wait("snapshots", snapshot)
    body = {"backup": {"volume_id": volume, "snapshot_id": snapshot, "name": "of a snapshot"}}
    of_snapshot = take("backup-create-of-snapshot", member, "POST /backups", body)["backup"]["id"]
    member.wait("backups", of_snapshot)
    return full, incremental, snapshot


def shows(take, member, admin, full, incremental):
    for version in ("3.0", "3.43", "3.71"):
        take(f"backup-show-{version}", member, f"GET /backups/{incremental}", version=version)
    for version in ("3.18", "3.56"):
        take(f"backup-show-admin-{version}", admin, f"GET /backups/{incremental}", version=version)
    take("backups-list", member, "GET /backups", version="3.0")
    take("backups-list-page", member, "GET /backups?limit=2&sort=created_at:asc")
    take("backups-list-count-3.45", member, "GET /backups?limit=1&with_count=true&status=available", version="3.45")
    take("backups-detail-3.0", member, "GET /backups/detail?name=full", version="3.0")
    take("backups-detail-3.43", member, "GET /backups/detail?name=incremental", version="3.43")
    take("backups-detail-admin", admin, "GET /backups/detail?all_tenants=1&name=full")
    for version, changes in [("3.9", {"name": "renamed", "description": "d"}), ("3.43", {"metadata": {"k": "v"}})]:
        take(f"backup-update-{version}", member, f"PUT /backups/{full}", {"backup": changes}, version=version)


def restores(take, member, backup, volume):
    new = take("backup-restore-new", member, f"POST /backups/{backup}/restore", {"restore": {"name": "restored"}})
    new = new["restore"]["volume_id"]
    member.wait("volumes", new)
    member.wait("backups", backup)
    take("volume-show-restored", member, f"GET /volumes/{new}")
    take("backup-restore-existing", member, f"POST /backups/{backup}/restore", {"restore": {"volume_id": volume}})
    member.wait("volumes", volume)
    member.wait("backups", backup)
    take("volume-delete", member, f"DELETE /volumes/{new}?cascade=false")
    member.wait("volumes", new, "gone")


def administration(take, member, admin, backup):
    record = take("backup-export", admin, f"GET /backups/{backup}/export_record")["backup-record"]
    inside = json.loads(base64.b64decode(record["backup_url"]))
    inside["id"] = "0badc0de-1111-4222-8333-444444444444"
    changed = {"backup-record": {**record, "backup_url": base64.b64encode(json.dumps(inside).encode()).decode()}}
    imported = take("backup-import", admin, "POST /backups/import_record", changed)["backup"]["id"]
    admin.wait("backups", imported)
    take("backup-show-imported", admin, f"GET /backups/{imported}")
    take("error-400-import-again", admin, "POST /backups/import_record", changed)
    take("error-400-import", admin, "POST /backups/import_record", UNREADABLE)
    take("backup-force-delete", admin, f"POST /backups/{imported}/action", {"os-force_delete": {}})
    admin.wait("backups", imported, "gone")
    take("backup-reset", admin, f"POST /backups/{backup}/action", {"os-reset_status": {"status": "error"}})
    take("error-400-reset", admin, f"POST /backups/{backup}/action", {"os-reset_status": {"status": "creating"}})
    take("services", admin, "GET /os-services")
    take("quotas-update", admin, f"PUT /os-quota-sets/{admin.project}", {"quota_set": {"backups": 20}})


def errors(take, member, admin, backup, volume):
    def body(**fields):
        return {"backup": {"volume_id": volume, **fields}}

    nothing = body(volume_id=NOBODY)
    take("error-400-schema", member, "POST /backups", body(color="red"))
    take("error-400-version", member, "POST /backups", body(metadata={}), version="3.42")
    small = {"restore": {"volume_id": member.make("volumes", size=1, name="small")}}
    take("error-400-restore-too-small", member, f"POST /backups/{backup}/restore", small)
    take("error-400-project", member, f"GET /v3/{'f' * 32}/backups")
    take("error-400-filter", member, "GET /backups?color=red")
    take("error-401", member, "GET /backups", headers={"X-Auth-Token": "rubbish"})
    take("error-403", member, "GET /os-services")
    take("error-404-backup", member, f"GET /backups/{NOBODY}")
    take("error-404-volume", member, "POST /backups", nothing)
    take("error-404-version", member, f"PUT /backups/{backup}", {"backup": {}}, version="3.8")
    take("error-404-unrouted", member, "GET /nothing")
    take("error-406", member, "GET /backups", version="3.99")
    long, shown = body(description="…" * 60_000), body(description="………")
    take("error-413-body", member, "POST /backups", long, shown_body=shown)
    take("error-413-quota", member, "POST /backups", body())
    take("error-415", member, "POST /backups", nothing, headers={"Content-Type": "text/plain"})


def around(take, member, admin, volume, snapshot):
    take("volumes-list", member, "GET /volumes?name=first")
    take("volumes-detail", member, "GET /volumes/detail?name=first")
    take("volume-extend", member, f"POST /volumes/{volume}/action", {"os-extend": {"new_size": 2}})
    member.wait("volumes", volume)
    take("snapshot-show", member, f"GET /snapshots/{snapshot}")
    take("snapshots-list", member, "GET /snapshots")
    take("snapshots-detail", member, "GET /snapshots/detail", version="3.0")
    body = {"attachment": {"volume_uuid": volume, "connector": {"host": "node1"}}}
    attachment = take("attachment-create", member, "POST /attachments", body)["attachment"]["id"]
    take("attachment-complete", member, f"POST /attachments/{attachment}/action", {"os-complete": {}})
    take("attachment-show", member, f"GET /attachments/{attachment}")
    take("error-400-in-use", member, "POST /backups", {"backup": {"volume_id": volume}})
    take("attachment-delete", member, f"DELETE /attachments/{attachment}")
    take("snapshot-delete", member, f"DELETE /snapshots/{snapshot}")
    for name, path in [("types", "/types"), ("type-default", "/types/default"), ("zones", "/os-availability-zone"),
                       ("limits", "/limits"), ("quotas", f"/os-quota-sets/{member.project}"),
                       ("quotas-usage", f"/os-quota-sets/{member.project}?usage=true"),
                       ("resource-filters", "/resource_filters?resource=backup")]:
        take(name, member, f"GET {path}")
    take("pools", admin, "GET /scheduler-stats/get_pools?detail=true")
    take("hosts", admin, "GET /os-hosts")


def failure(take, member, admin, host, volume):
    """A backup that fails after it was accepted, and what its owner reads."""
    program = {"host": host, "binary": "cinder-backup", "disabled_reason": "new disks"}
    shown = {**program, "host": "node1"}
    take("service-disable", admin, "PUT /os-services/disable-log-reason", program, shown_body=shown)
    failed = member.made("backups", volume_id=volume)
    member.wait("backups", failed, "error")
    take("backup-show-failed", member, f"GET /backups/{failed}")
    take("messages", member, "GET /messages")
    take("error-404-disabled", member, f"DELETE /backups/{failed}")
    take("error-503-import", admin, "POST /backups/import_record", UNREADABLE)
    enabled = admin.send("PUT", "/os-services/enable", {"host": host, "binary": "cinder-backup"})
    assert enabled.ok, enabled.text


def identity(take, member):
    take("versions", member, "GET /", version="")
    take("health", member, "GET /healthcheck", version="")
    take("identity-version", member, "GET /identity/v3", version="")
    asked, rubbish = {"X-Subject-Token": member.token}, {"X-Auth-Token": "rubbish"}
    take("token-show", member, "GET /identity/v3/auth/tokens", version="", headers=asked)
    body = {"application_credential": {"name": "ci", "roles": [{"name": "reader"}]}}
    path = f"/identity/v3/users/{member.id}/application_credentials"
    take("application-credential-create", member, f"POST {path}", body, version="")
    take("error-401-identity", member, "GET /identity/v3/auth/projects", version="", headers=rubbish)


def main():
    given = json.load(sys.stdin)
    member, admin = (Client(given["base"], given["users"][name]) for name in ("demo", "admin"))
    take = Recorder(given["base"], given["data"], given["host"], Document())
    volume = volumes(take, member)
    full, incremental, snapshot = backups(take, member, volume)
    shows(take, member, admin, full, incremental)
    restores(take, member, incremental, volume)
    larger = member.make("volumes", size=2, name="larger")
    of_larger = member.make("backups", volume_id=larger)
    errors(take, member, admin, of_larger, volume)
    take("backup-delete", member, f"DELETE /backups/{full}")
    member.wait("backups", full, "gone")
    take("error-404-deleted", member, f"GET /backups/{full}")
    take("backup-show-after-parent", member, f"GET /backups/{incremental}")
    administration(take, member, admin, of_larger)
    around(take, member, admin, volume, snapshot)
    identity(take, member)
    failure(take, member, admin, given["host"], volume)
    finish(take.samples)


def finish(samples):
    if os.environ.get("UPDATE_SAMPLES") == "1":
        SAMPLES.mkdir(exist_ok=True)
        for old in SAMPLES.glob("*.json"):
            old.unlink()
        for name, text in samples.items():
            (SAMPLES / f"{name}.json").write_text(text)
    kept = {path.stem: path.read_text() for path in SAMPLES.glob("*.json")}
    differing = sorted(name for name in {*kept, *samples} if kept.get(name) != samples.get(name))
    for name in differing:
        print(f"{name}: kept {kept.get(name)}\nanswered {samples.get(name)}", file=sys.stderr)
    print(f"{len(samples)} samples, {len(differing)} differ")
    sys.exit(bool(differing))


if __name__ == "__main__":
    main()
