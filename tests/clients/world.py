"""What a recorded exchange presupposes: projects, callers, volumes, snapshots, backups, quotas."""

import http.client
import json
import socket
import sqlite3
import time
import urllib.parse

ROLES = ("admin", "member", "reader")
PASSWORD = "secret"
NEWEST = {"OpenStack-API-Version": "volume 3.71"}


def configuration(projects):
    """Settings with one user for each role; all have it in all projects."""
    rows = [
        f'[[identity.users]]\nname = "{role}"\npassword = "{PASSWORD}"\nproject = "{project}"\nrole = "{role}"\n'
        for project in projects
        for role in ROLES
    ]
    return "\n".join(rows)


class Answer:
    """Status, headers and body, parsed if it is JSON."""

    def __init__(self, response):
        self.status, self.headers = response.status, response.headers
        text = response.read().decode()
        try:
            self.body = json.loads(text)
        except ValueError:
            self.body = text


def call(base, method, path, headers, body=None):
    """One request, exactly as it is given."""
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(base).netloc, timeout=60)
    try:
        connection.request(method, path, body=body, headers=headers)
        return Answer(connection.getresponse())
    finally:
        connection.close()


class DatabaseFile:
    """Writes into the running service's database: states that no client can bring about."""

    def __init__(self, data):
        self.path = data / "embervault.db"

    def set(self, table, key, value, columns):
        names = ", ".join(f"{name} = ?" for name in columns)
        connection = sqlite3.connect(self.path, timeout=60)
        with connection:
            done = connection.execute(f"UPDATE {table} SET {names} WHERE {key} = ?", [*columns.values(), value])
        connection.close()
        assert done.rowcount == 1, f"{table} has no {value}"

    def remove(self, table, key, value, other_key, other_value):
        connection = sqlite3.connect(self.path, timeout=60)
        with connection:
            where = f"{key} = ? AND {other_key} = ?"
            done = connection.execute(f"DELETE FROM {table} WHERE {where}", [value, other_value])
        connection.close()
        assert done.rowcount == 1, f"{table} has no {value} with {other_value}"


class Caller:
    """Somebody with a token for one project."""

    def __init__(self, service, role, project):
        self.service = service
        domain = {"id": "default"}
        login = {
            "auth": {
                "identity": {
                    "methods": ["password"],
                    "password": {"user": {"name": role, "password": PASSWORD, "domain": domain}},
                },
                "scope": {"project": {"name": project, "domain": domain}},
            }
        }
        headers = {"Content-Type": "application/json"}
        answer = call(service.base, "POST", "/identity/v3/auth/tokens", headers, json.dumps(login))
        assert answer.status == 201, answer.body
        self.token = answer.headers["X-Subject-Token"]
        self.user_id = answer.body["token"]["user"]["id"]
        self.project_id = answer.body["token"]["project"]["id"]

    def ask(self, method, path, body=None, status=(200, 202)):
        """A request that must succeed."""
        headers = {"X-Auth-Token": self.token, "Accept": "application/json", **NEWEST}
        if body is not None:
            headers["Content-Type"], body = "application/json", json.dumps(body)
        answer = call(self.service.base, method, f"/v3/{self.project_id}{path}", headers, body)
        assert answer.status in status, f"fixture: {method} {path} {body}: {answer.status} {answer.body}"
        return answer.body


class World:
    """One project and its surroundings, in which recorded ids stand for our own."""

    def __init__(self, service, project, fixtures):
        self.service, self.project, self.fixtures = service, project, fixtures
        self.callers = {}
        self.database = DatabaseFile(service.data)
        self.ids = {}
        self.is_disabled = False

    def caller(self, role, project=None):
        key = (role, project or self.project)
        if key not in self.callers:
            self.callers[key] = Caller(self.service, *key)
        return self.callers[key]

    def caller_without_roles(self):
        """Somebody who had a role when they logged in."""
        caller = Caller(self.service, "reader", "left")
        self.database.remove("assignments", "user_id", caller.user_id, "project_id", caller.project_id)
        return caller

    def make(self, fixture):
        """Makes a fixture and notes the id it has here."""
        if fixture.get("id") in self.ids:
            return
        kind = fixture["is"]
        for _ in range(fixture.get("count", 1)):
            made = getattr(self, f"_{kind}")(fixture)
        if "row" in fixture:
            columns = {name: None if value is False else value for name, value in fixture["row"].items()}
            self.database.set(f"{kind}s", "id", made, columns)
        if "id" in fixture:
            self.ids[fixture["id"]] = made

    def _needed(self, recorded):
        if recorded not in self.ids:
            self.make(next(fixture for fixture in self.fixtures if fixture.get("id") == recorded))
        return self.ids[recorded]

    def _owner(self, fixture):
        return self.caller("member", "other" if fixture.get("other") else None)

    def _wait(self, owner, kind, made):
        deadline = time.monotonic() + 180
        while time.monotonic() < deadline:
            shown = owner.ask("GET", f"/{kind}s/{made}")[kind]
            if shown["status"] == "available":
                return made
            assert not shown["status"].startswith("error"), shown
            time.sleep(0.02)
        raise AssertionError(f"{kind} stays {shown['status']}")

    def _given(self, fixture, *keys):
        return {key: fixture[key] for key in keys if key in fixture}

    def _volume(self, fixture):
        owner = self._owner(fixture)
        body = {"size": 1, "name": "v", **self._given(fixture, "name", "description", "size", "metadata")}
        made = owner.ask("POST", "/volumes", {"volume": body})["volume"]["id"]
        self._wait(owner, "volume", made)
        match fixture.get("status"):
            case None:
                pass
            case "in-use":
                self._attach(owner, made)
            case status:
                action = {"os-reset_status": {"status": status}}
                self.caller("admin").ask("POST", f"/volumes/{made}/action", action)
        return made

    def _attach(self, owner, volume):
        wanted = {"volume_uuid": volume, "instance_uuid": volume, "connector": {"host": "node1"}}
        made = owner.ask("POST", "/attachments", {"attachment": wanted})["attachment"]["id"]
        owner.ask("POST", f"/attachments/{made}/action", {"os-complete": {}}, status=(204,))

    def _snapshot(self, fixture):
        owner = self._owner(fixture)
        body = {"volume_id": self._needed(fixture["of"]), **self._given(fixture, "name")}
        made = owner.ask("POST", "/snapshots", {"snapshot": body})["snapshot"]["id"]
        return self._wait(owner, "snapshot", made)

    def _backup(self, fixture):
        owner = self._owner(fixture)
        if "parent" in fixture:
            parent = self._needed(fixture["parent"])
            volume = owner.ask("GET", f"/backups/{parent}")["backup"]["volume_id"]
        else:
            volume = self._needed(fixture["of"]) if "of" in fixture else self._volume({"other": fixture.get("other")})
        body = {
            "volume_id": volume, "name": "bak", "container": "volumebackups", "incremental": "parent" in fixture,
            **self._given(fixture, "name", "description", "metadata"),
        }
        made = owner.ask("POST", "/backups", {"backup": body})["backup"]["id"]
        self._wait(owner, "backup", made)
        # How much an empty volume comes to is our affair; the recordings say 3.
        self.database.set("backups", "id", made, {"object_count": 3})
        return made

    def _type(self, _):
        return self.caller("member").ask("GET", "/types/default")["volume_type"]["id"]

    def _disabled(self, _):
        self._program("disable")
        self.is_disabled = True

    def _program(self, verb):
        program = {"binary": "cinder-backup", "host": socket.gethostname()}
        self.caller("admin").ask("PUT", f"/os-services/{verb}", program)

    def leave(self):
        """Undoes what would be in the way of others."""
        if self.is_disabled:
            self._program("enable")
            self.is_disabled = False

    def _quota(self, fixture):
        path = f"/os-quota-sets/{self.caller('member').project_id}"
        if fixture["limits"]:
            self.caller("admin").ask("PUT", path, {"quota_set": fixture["limits"]})
        else:
            self.caller("admin").ask("DELETE", path)
