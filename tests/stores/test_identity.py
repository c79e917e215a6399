"""Who may do what, and until when: passwords, tokens, application credentials and the users of the configuration."""

import concurrent.futures
import http.client
import json
import math
import os
import pathlib
import re
import socket
import threading
import time
import urllib.parse

import pytest
from bed import MIB, Bed, Client, held, until

CORES = os.cpu_count()
#: Wrong log-ins that cost nothing but the wait after the last of them.
FREE = 6
DOMAIN = {"id": "default"}
#: Keystone's words.
MANAGING = ("You are not authorized to perform the requested action: Using method 'application_credential' is not "
            "allowed for managing additional application credentials..")


class Answer:
    def __init__(self, response):
        self.status, self.headers = response.status, response.headers
        text = response.read().decode()
        self.body = json.loads(text) if text else None
        self.text = self.headers["X-Subject-Token"]
        self.token = (self.body or {}).get("token")


class Somebody:
    """One request after the other, with whatever token is given."""

    def __init__(self, process):
        self.place = urllib.parse.urlsplit(process.base).netloc

    def ask(self, method, path, token=None, body=None, **headers):
        connection = http.client.HTTPConnection(self.place, timeout=120)
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        if token:
            headers["X-Auth-Token"] = token
        if body is not None:
            headers["Content-Type"] = "application/json"
        try:
            connection.request(method, path, json.dumps(body) if body is not None else None, headers)
            return Answer(connection.getresponse())
        finally:
            connection.close()

    def log_in(self, identity, project=None, status=201):
        """With a method and what belongs to it."""
        auth = {"identity": {"methods": list(identity), **identity}}
        if project:
            auth["scope"] = {"project": {"name": project, "domain": DOMAIN}}
        answer = self.ask("POST", "/identity/v3/auth/tokens", None, {"auth": auth})
        assert status in (None, answer.status), answer.body
        return answer

    def shown(self, token, subject=None):
        return self.ask("GET", "/identity/v3/auth/tokens", token, X_Subject_Token=subject or token)

    def is_good(self, token):
        """For identity and block storage alike."""
        shown = self.shown(token)
        volumes = self.ask("GET", "/v3/volumes", token).status
        assert (shown.status, volumes) in ((200, 200), (401, 401)), (shown.status, volumes)
        return shown.status == 200

    def credential(self, token, **fields):
        """A new application credential of whoever has the token."""
        user = self.shown(token).token["user"]["id"]
        fields.setdefault("name", f"credential-{time.monotonic_ns()}")
        made = self.ask("POST", f"/identity/v3/users/{user}/application_credentials", token,
                        {"application_credential": fields})
        assert made.status == 201, made.body
        return made.body["application_credential"]


def password(name, text="secret"):
    return {"password": {"user": {"name": name, "password": text, "domain": DOMAIN}}}


def by_token(token):
    return {"token": {"id": token}}


def by_credential(row):
    return {"application_credential": {"id": row["id"], "secret": row["secret"]}}


def database(park, kind):
    return park.database() if kind == "postgres" else None


def restarted(bed, users):
    """The service, after its configuration was changed."""
    bed.stop()
    bed.users = users
    bed.write_config()
    return Somebody(bed.start())


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_what_the_configuration_takes_away_is_gone(park, tmp_path, kind):
    stays = ("admin", "secret", "alpha", "admin")
    before = [stays, ("alice", "secret", "alpha", "admin"), ("bob", "secret", "alpha", "member"),
              ("carol", "secret", "alpha", "member"), ("carol", "secret", "beta", "member"),
              ("dora", "secret", "alpha", "member")]
    after = [stays, ("alice", "secret", "alpha", "reader"), ("bob", "changed", "alpha", "member"),
             ("carol", "secret", "alpha", "member")]
    with Bed(tmp_path, database=database(park, kind), users=before) as bed:
        them = Somebody(bed.start())
        tokens = {(name, project): them.log_in(password(name), project).text for name, _, project, _ in before}
        admin, alice = tokens["admin", "alpha"], tokens["alice", "alpha"]
        credentials = {name: them.credential(tokens[name, "alpha"]) for name in ("bob", "dora")}
        # Users that an administrator makes are not the configuration's to take away.
        made = them.ask("POST", "/identity/v3/users", admin, {"user": {"name": "eve", "password": "secret"}})
        project = them.shown(admin).token["project"]["id"]
        roles = them.ask("GET", "/identity/v3/roles?name=member", admin).body["roles"]
        grant = f"/identity/v3/projects/{project}/users/{made.body['user']['id']}/roles/{roles[0]['id']}"
        assert them.ask("PUT", grant, admin).status == 204
        eve = them.log_in(password("eve"), "alpha").text

        them = restarted(bed, after)
        # A lower role is one for tokens that are there already.
        assert [role["name"] for role in them.shown(alice).token["roles"]] == ["reader"]
        assert them.ask("GET", "/v3/volumes", alice).status == 200
        assert them.ask("POST", "/v3/volumes", alice, {"volume": {"size": 1}}).status == 403
        assert them.ask("GET", "/identity/v3/users", alice).status == 403
        # Another password ends tokens, and not application credentials.
        assert not them.is_good(tokens["bob", "alpha"])
        them.log_in(password("bob"), "alpha", status=401)
        assert them.is_good(them.log_in(password("bob", "changed"), "alpha").text)
        assert them.is_good(them.log_in(by_credential(credentials["bob"])).text)
        # A project less.
        assert them.is_good(tokens["carol", "alpha"]) and not them.is_good(tokens["carol", "beta"])
        them.log_in(password("carol"), "beta", status=401)
        # A user less.
        assert not them.is_good(tokens["dora", "alpha"])
        for identity in (password("dora"), by_credential(credentials["dora"])):
            them.log_in(identity, status=401)
        [dora] = them.ask("GET", "/identity/v3/users?name=dora", admin).body["users"]
        for change in ({"enabled": True}, {"password": "other"}, {"enabled": True, "email": "x"}):
            refused = them.ask("PATCH", f"/identity/v3/users/{dora['id']}", admin, {"user": change})
            assert refused.status == 409 and "The configuration named this user" in refused.body["error"]["message"]
        # What does not let her in may be changed.
        changed = them.ask("PATCH", f"/identity/v3/users/{dora['id']}", admin, {"user": {"description": "gone"}})
        assert changed.status == 200 and changed.body["user"] == {**dora, "description": "gone"}
        assert dora["enabled"] is False
        assert them.is_good(eve) and them.is_good(them.log_in(password("eve"), "alpha").text)

        them = restarted(bed, [*after, before[-1]])
        # Who is named again may log in again; tokens of then stay what they are.
        assert them.is_good(them.log_in(password("dora"), "alpha").text)
        assert not them.is_good(tokens["dora", "alpha"])
        assert them.is_good(admin)


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_nothing_that_is_taken_away_comes_back_with_a_restart(park, tmp_path, kind):
    with Bed(tmp_path, database=database(park, kind)) as bed:
        them = Somebody(bed.start())
        admin = them.log_in(password("admin"), "alpha").text
        token = them.log_in(password("member"), "alpha").token
        user, alpha = token["user"]["id"], token["project"]["id"]
        roles = {row["name"]: row["id"] for row in them.ask("GET", "/identity/v3/roles", admin).body["roles"]}

        def sent(method, path, status):
            answer = them.ask(method, f"/identity/v3/{path}", admin)
            assert answer.status == status, (method, path, answer.body)
            return answer.body and answer.body["error"]["message"]

        # What the next start would undo is refused, and where it is to be changed is said.
        for method, path in (("DELETE", f"users/{user}"), ("DELETE", f"projects/{alpha}"),
                             ("DELETE", f"projects/{alpha}/users/{user}/roles/{roles['member']}"),
                             ("PUT", f"projects/{alpha}/users/{user}/roles/{roles['admin']}")):
            assert "The configuration gives this" in sent(method, path, 409)
        # What is so already is no change, and what is not there is not.
        sent("PUT", f"projects/{alpha}/users/{user}/roles/{roles['reader']}", 204)
        sent("DELETE", f"projects/{alpha}/users/{user}/roles/{roles['reader']}", 404)

        # An administrator's own are the administrator's to take away, and stay away.
        made = {"project": {"name": "passing"}}
        beta = them.ask("POST", "/identity/v3/projects", admin, made).body["project"]["id"]
        grant = f"projects/{beta}/users/{user}/roles/{roles['member']}"
        sent("PUT", grant, 204)
        first = them.log_in(password("member"), "passing").text
        second = them.log_in(by_token(first), "alpha").text
        sent("DELETE", grant, 204)
        assert not them.is_good(first) and not them.is_good(second)
        stays = them.log_in(password("member"), "alpha").text

        them = restarted(bed, bed.users)
        assert them.is_good(stays) and not them.is_good(first) and not them.is_good(second)
        sent("PUT", grant, 204)
        assert not them.is_good(first) and not them.is_good(second)
        them.log_in(password("member"), "passing")

        # A role that the configuration takes away and gives again: tokens of then have ended, too.
        them = restarted(bed, bed.users[:1])
        assert not them.is_good(stays)
        them = restarted(bed, [bed.users[0], ("member", "secret", "alpha", "member")])
        assert not them.is_good(stays) and them.is_good(them.log_in(password("member"), "alpha").text)


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_an_application_credential_goes_with_the_role_that_it_was_given_with(park, tmp_path, kind):
    with Bed(tmp_path, database=database(park, kind)) as bed:
        them = Somebody(bed.start())
        admin = them.log_in(password("admin"), "alpha").text
        roles = {row["name"]: row["id"] for row in them.ask("GET", "/identity/v3/roles", admin).body["roles"]}
        member = them.log_in(password("member"), "alpha")
        user, elsewhere = member.token["user"]["id"], them.credential(member.text)
        made = {"project": {"name": "passing"}}
        project = them.ask("POST", "/identity/v3/projects", admin, made).body["project"]["id"]
        grant = f"/identity/v3/projects/{project}/users/{user}/roles"
        assert them.ask("PUT", f"{grant}/{roles['admin']}", admin).status == 204
        credential = them.credential(them.log_in(password("member"), "passing").text)
        token = them.log_in(by_credential(credential)).text
        # A lower role is given, then the former one again: neither brings the credential back.
        assert them.ask("DELETE", f"{grant}/{roles['admin']}", admin).status == 204
        for role in ("member", "admin"):
            assert them.ask("PUT", f"{grant}/{roles[role]}", admin).status == 204
            assert not them.is_good(token)
            them.log_in(by_credential(credential), status=401)
        them.log_in(by_credential(elsewhere))

        # The configuration lowers a role, and raises it again; a role that it raises takes nothing away.
        before = bed.users
        low, high = ([*before[:1], ("member", "secret", "alpha", role)] for role in ("reader", "admin"))
        them = restarted(bed, high)
        kept = them.log_in(by_credential(elsewhere)).text
        them = restarted(bed, low)
        assert not them.is_good(kept)
        them = restarted(bed, high)
        assert not them.is_good(kept)
        them.log_in(by_credential(elsewhere), status=401)


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_another_person_of_a_dropped_name_gets_nothing_of_the_former_one(park, tmp_path, kind):
    with Bed(tmp_path, database=database(park, kind)) as bed:
        them = Somebody(bed.start())
        admin = them.log_in(password("admin"), "alpha").text
        role = them.ask("GET", "/identity/v3/roles?name=admin", admin).body["roles"][0]["id"]
        former = them.log_in(password("member"), "alpha")
        user, first = former.token["user"]["id"], them.credential(former.text)
        made = {"project": {"name": "given"}}
        project = them.ask("POST", "/identity/v3/projects", admin, made).body["project"]["id"]
        grant = f"/identity/v3/projects/{project}/users/{user}/roles/{role}"
        assert them.ask("PUT", grant, admin).status == 204
        given = them.log_in(password("member"), "given").text
        second = them.credential(given)
        users = bed.users

        def has_nothing(name, text):
            for row in (first, second):
                them.log_in(by_credential(row), status=401)
            assert not them.is_good(former.text) and not them.is_good(given)
            them.log_in(password(name, text), "given", status=401)

        them = restarted(bed, users[:1])
        has_nothing("member", "secret")
        assert them.ask("GET", f"/identity/v3/role_assignments?user.id={user}", admin).body["role_assignments"] == []
        # A role that is given meanwhile is the former one's, too.
        assert them.ask("PUT", grant, admin).status == 204
        them = restarted(bed, [*users[:1], ("member", "another", "beta", "reader")])
        has_nothing("member", "another")
        [now] = them.ask("GET", f"/identity/v3/role_assignments?user.id={user}", admin).body["role_assignments"]
        assert now["scope"]["project"]["id"] != project
        assert them.is_good(them.log_in(password("member", "another"), "beta").text)


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_a_project_with_data_stays_so_that_its_id_is_not_used_again(park, tmp_path, kind):
    users = [("admin", "secret", "alpha", "admin"), ("member", "secret", "beta", "member")]
    with Bed(tmp_path, database=database(park, kind), users=users) as bed:
        process = bed.start()
        member = Client(bed, process, "member", "beta")
        volume = member.create_volume()
        snapshot = member.ask("POST", "/snapshots", {"snapshot": {"volume_id": volume}})["snapshot"]["id"]
        member.wait("snapshots", snapshot, "available")
        backup = member.back_up(volume)
        member.wait("backups", backup, "available")
        place = f"/identity/v3/projects/{member.project}"

        them = restarted(bed, users[:1])
        admin = them.log_in(password("admin"), "alpha").text
        for kind, row in (("snapshots", snapshot), ("volumes", volume), ("backups", backup)):
            refused = them.ask("DELETE", place, admin)
            assert refused.status == 409 and "delete them first" in refused.body["error"]["message"]
            # Nothing has changed.
            assert them.ask("GET", place, admin).body["project"]["enabled"] is True
            path = f"/v3/{kind}/{row}"
            assert them.ask("DELETE", path, admin).status == 202
            until("it is gone", lambda: them.ask("GET", path, admin).status == 404)
        assert them.ask("DELETE", place, admin).status == 204
        assert them.ask("GET", place, admin).status == 404


def test_a_worker_whose_configuration_names_nobody_takes_nothing_away(park, tmp_path):
    with Bed(tmp_path, park.storage("directory"), park.database()) as bed:
        them = Somebody(bed.start("api"))
        token = them.log_in(password("admin"), "alpha").text
        named = bed.config.read_text()
        bed.config.write_text(named[:named.index("[[identity.users]]")])
        bed.start("worker")
        users = them.ask("GET", "/identity/v3/users", token).body["users"]
        assert sorted(user["name"] for user in users) == ["admin", "member"]
        them.log_in(password("admin"), "alpha")


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_a_token_got_with_a_token_ends_with_it(park, tmp_path, kind):
    with Bed(tmp_path, database=database(park, kind)) as bed:
        them = Somebody(bed.start())

        def derived(parent, project="alpha"):
            return them.log_in(by_token(parent.text), project)

        first = them.log_in(password("member"))
        child, sibling = derived(first), derived(first)
        grandchild = derived(child)
        other = them.log_in(password("member"), "alpha")
        # None lives longer than the first, and each says where it comes from.
        for token in (child, grandchild):
            assert token.token["expires_at"] == first.token["expires_at"]
            assert token.token["audit_ids"][1:] == first.token["audit_ids"] == first.token["audit_ids"][:1]
            assert them.shown(token.text).token["audit_ids"] == token.token["audit_ids"]
            # All methods that led to it.
            assert sorted(token.token["methods"]) == ["password", "token"]
            assert them.shown(token.text).token["methods"] == token.token["methods"]

        def revoke(token):
            answer = them.ask("DELETE", "/identity/v3/auth/tokens", other.text, X_Subject_Token=token.text)
            assert answer.status == 204, answer.body

        def good(*tokens):
            return [them.is_good(token.text) for token in tokens]

        revoke(child)
        assert good(child, grandchild, sibling, other) == [False, False, True, True]
        them.log_in(by_token(child.text), "alpha", status=401)
        # A token in the middle goes with its project, whether that is deleted or disabled; so do those got with it.
        admin = them.log_in(password("admin"), "alpha").text
        member = them.shown(admin, other.text).token["user"]["id"]
        role = them.ask("GET", "/identity/v3/roles?name=member", admin).body["roles"][0]["id"]
        for number, (method, body) in enumerate((("DELETE", None), ("PATCH", {"project": {"enabled": False}}))):
            made = {"project": {"name": f"passing-{number}"}}
            place = "/identity/v3/projects/"
            place += them.ask("POST", "/identity/v3/projects", admin, made).body["project"]["id"]
            assert them.ask("PUT", f"{place}/users/{member}/roles/{role}", admin).status == 204
            middle = derived(first, f"passing-{number}")
            last = derived(derived(middle))
            assert good(middle, last) == [True, True]
            assert them.ask(method, place, admin, body).status in (200, 204)
            assert good(middle, last, sibling) == [False, False, True]
            them.log_in(by_token(middle.text), "alpha", status=401)

        revoke(first)
        assert good(sibling, other) == [False, True]
        them.log_in(by_token(first.text), "alpha", status=401)


def test_an_application_credential_keeps_within_its_bounds(tmp_path):
    with Bed(tmp_path) as bed:
        them = Somebody(bed.start())
        own = them.log_in(password("member"), "alpha").text
        user = them.shown(own).token["user"]["id"]
        place = f"/identity/v3/users/{user}/application_credentials"
        end = time.strftime("%Y-%m-%dT%H:%M:%S.000000Z", time.gmtime(time.time() + 3600))
        short = them.credential(own, expires_at=end, roles=[{"name": "member"}])
        spare = them.credential(own)
        # A role brings those that it implies.
        assert {role["name"] for role in short["roles"]} == {"member", "reader"}
        logged_in = them.log_in(by_credential(short))
        token = logged_in.text
        assert logged_in.token["expires_at"] == end and them.is_good(token)

        for method, path in (("POST", ""), ("DELETE", f"/{spare['id']}"), ("DELETE", f"/{short['id']}")):
            body = {"application_credential": {"name": "for-ever"}} if method == "POST" else None
            refused = them.ask(method, place + path, token, body)
            assert (refused.status, refused.body["error"]["message"]) == (403, MANAGING)
        listed = them.ask("GET", place, token).body["application_credentials"]
        assert {row["id"] for row in listed} == {short["id"], spare["id"]}
        refused = them.log_in(by_token(token), "alpha", status=403)
        assert "Using a delegated token to create another token" in refused.body["error"]["message"]
        # It ends its own tokens, and not those of its user.
        for other in (own, them.log_in(by_credential(spare)).text):
            assert them.ask("DELETE", "/identity/v3/auth/tokens", token, X_Subject_Token=other).status == 403
            assert them.is_good(other)
        second = them.log_in(by_credential(short)).text
        assert them.ask("DELETE", "/identity/v3/auth/tokens", token, X_Subject_Token=second).status == 204
        assert not them.is_good(second) and them.is_good(token)

        late = {"application_credential": {"name": "late", "expires_at": "2020-01-01T00:00:00Z"}}
        late = them.ask("POST", place, own, late)
        assert late.status == 400 and "must not be before now" in late.body["error"]["message"]
        # Its end, moved to the past, is the end of its tokens; so is its deletion.
        bed.query(f"UPDATE application_credentials SET expires_at = 1 WHERE id = '{short['id']}'")
        assert not them.is_good(token)
        them.log_in(by_credential(short), status=401)
        token = them.log_in(by_credential(spare)).text
        assert them.ask("DELETE", f"{place}/{spare['id']}", own).status == 204
        assert not them.is_good(token) and them.is_good(own)
        them.log_in(by_credential(spare), status=401)
        # A user may have many, but not any number.
        bed.query(f"""
            WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 999)
            INSERT INTO application_credentials (id, name, user_id, project_id, roles, secret_hash, created_at)
            SELECT 'c' || n, 'c' || n, user_id, project_id, roles, secret_hash, created_at
            FROM application_credentials, numbers WHERE id = '{short['id']}'""")
        one_more = {"application_credential": {"name": "one more"}}
        refused = them.ask("POST", place, own, one_more)
        assert (refused.status, refused.body["error"]["title"]) == (403, "Forbidden")
        assert "maximum of 1000 already exceeded for user" in refused.body["error"]["message"]
        assert them.ask("DELETE", f"{place}/{short['id']}", own).status == 204
        assert them.ask("POST", place, own, one_more).status == 201


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_what_an_administrator_sets_of_users_and_projects_is_kept(park, tmp_path, kind):
    with Bed(tmp_path, database=database(park, kind)) as bed:
        them = Somebody(bed.start())
        admin = them.log_in(password("admin"), "alpha").text
        member_role = them.ask("GET", "/identity/v3/roles?name=member", admin).body["roles"][0]["id"]

        def made(what, **fields):
            answer = them.ask("POST", f"/identity/v3/{what}s", admin, {what: fields})
            assert answer.status == 201, answer.body
            return answer.body[what]

        def changed(what, row, status=200, token=admin, **fields):
            answer = them.ask("PATCH", f"/identity/v3/{what}s/{row['id']}", token, {what: fields})
            assert answer.status == status, answer.body
            return answer.body.get(what)

        def listed(what, row):
            rows = them.ask("GET", f"/identity/v3/{what}s?name={row['name']}", admin).body[f"{what}s"]
            return rows[0]

        project = made("project", name="p", description="the first", tags=["a", "b"], enabled=False)
        assert (project["description"], project["tags"], project["enabled"]) == ("the first", ["a", "b"], False)
        assert listed("project", project) == project
        for query, is_there in (("enabled=False", True), ("enabled=True", False), ("domain_id=other", False)):
            rows = them.ask("GET", f"/identity/v3/projects?{query}", admin).body["projects"]
            assert (project in rows) is is_there, query
        about = {"email": "eve@example.org", "description": "somebody", "default_project_id": project["id"]}
        eve = made("user", name="eve", password="secret", enabled=False, **about)
        assert about.items() <= eve.items() and eve["enabled"] is False
        assert listed("user", eve) == eve
        grant = f"/identity/v3/projects/{project['id']}/users/{eve['id']}/roles/{member_role}"
        assert them.ask("PUT", grant, admin).status == 204
        # With an empty password anybody could log in.
        changed("user", eve, status=400, password="")
        none = them.ask("POST", "/identity/v3/users", admin, {"user": {"name": "frank", "password": ""}})
        assert none.status == 400 and "should be non-empty" in none.body["error"]["message"], none.body

        # Disabled is who cannot log in, and where nobody can.
        unscoped = {"auth": {"identity": {"methods": ["password"], **password("eve")}, "scope": "unscoped"}}
        assert them.ask("POST", "/identity/v3/auth/tokens", None, unscoped).status == 401
        assert changed("user", eve, enabled=True)["enabled"] is True
        first = them.ask("POST", "/identity/v3/auth/tokens", None, unscoped).text
        them.log_in(password("eve"), "p", status=401)
        assert changed("project", project, enabled=True, tags=[])["tags"] == []
        token = them.log_in(password("eve"), "p").text
        # What is disabled ends tokens for good, and only those.
        changed("project", project, enabled=False)
        changed("project", project, enabled=True)
        assert [them.shown(one).status for one in (first, token)] == [200, 401]
        token = them.log_in(password("eve"), "p").text
        credential = them.credential(token)
        changed("user", eve, enabled=False)
        assert not them.is_good(token)
        for identity in (password("eve"), by_credential(credential)):
            them.log_in(identity, status=401)
        # Her application credentials are gone for good, as with Keystone.
        changed("user", eve, enabled=True)
        assert not them.is_good(token)
        them.log_in(by_credential(credential), status=401)

        # Who names no project is in the default one, unless that is not to be.
        first = them.log_in(password("eve"))
        assert first.token["project"]["id"] == project["id"] and them.is_good(first.text)
        for words in ("unscoped", {"unscoped": {}}):
            unscoped["auth"]["scope"] = words
            assert "project" not in them.ask("POST", "/identity/v3/auth/tokens", None, unscoped).token
        changed("project", project, enabled=False)
        assert "project" not in them.log_in(password("eve")).token
        changed("project", project, enabled=True)

        # Another password and name; null takes away what may be missing.
        token = them.log_in(password("eve"), "p").text
        changed("user", eve, password="other", name="evelyn", email=None)
        assert "email" not in listed("user", {"name": "evelyn"}) and not them.is_good(token)
        them.log_in(password("evelyn"), "p", status=401)
        token = them.log_in(password("evelyn", "other"), "p").text
        # Nobody but an administrator changes anything, names are unique, values are looked at.
        changed("user", eve, 403, token, enabled=False)
        changed("project", project, 403, token, tags=["mine"])
        changed("user", eve, 409, name="admin")
        changed("project", project, 409, name="alpha")
        changed("user", {"id": "nobody"}, 404, enabled=False)
        changed("user", eve, 400, enabled="no")
        for tags in ("a", ["a/b"], ["a", "a"], [""], [str(number) for number in range(81)]):
            changed("project", project, 400, tags=tags)
        # What the configuration says is changed there; whoever it names can be disabled.
        member, alpha = listed("user", {"name": "member"}), listed("project", {"name": "alpha"})
        changed("user", member, 409, password="other")
        changed("user", member, 409, name="other")
        changed("project", alpha, 409, name="other")
        changed("user", member, enabled=False)
        bed.stop()
        them = Somebody(bed.start())
        them.log_in(password("member"), "alpha", status=401)
        changed("user", member, enabled=True)
        them.log_in(password("member"), "alpha")


def test_an_administrator_sees_users_roles_and_the_catalogue(tmp_path):
    with Bed(tmp_path) as bed:
        process = bed.start()
        them = Somebody(process)
        logged_in = {name: them.log_in(password(name), "alpha") for name in ("admin", "member")}
        admin, member = logged_in["admin"].text, logged_in["member"].text
        me, them_id = (logged_in[name].token["user"]["id"] for name in ("admin", "member"))
        alpha = logged_in["admin"].token["project"]["id"]
        identity = f"{process.base}/identity/v3"

        def get(path, token=admin, status=200):
            answer = them.ask("GET", f"/identity/v3/{path}", token)
            assert answer.status == status, (path, answer.body)
            return answer.body

        def listed(path):
            name = path.split("?")[0].split("/")[-1]
            body = get(path)
            assert body["links"] == {"self": f"{identity}/{path}", "next": None, "previous": None}
            return body[name]

        # Of others.
        assert get(f"users/{them_id}")["user"]["name"] == "member"
        assert [row["id"] for row in listed(f"users/{them_id}/projects")] == [alpha]
        credential = them.credential(member)
        credentials = f"users/{them_id}/application_credentials"
        assert [row["id"] for row in listed(credentials)] == [credential["id"]]
        assert get(f"{credentials}/{credential['id']}")["application_credential"]["name"] == credential["name"]
        body = {"application_credential": {"name": "for another"}}
        assert them.ask("POST", f"/identity/v3/{credentials}", admin, body).status == 403

        # Roles: as they were given, or with those that they imply.
        roles = {row["name"]: row for row in listed("roles")}
        assert get(f"roles/{roles['admin']['id']}")["role"] == roles["admin"]
        assert set(roles["admin"]) == {"id", "name", "domain_id", "description", "options", "links"}
        assert listed(f"projects/{alpha}/users/{them_id}/roles") == [roles["member"]]
        one = f"role_assignments?user.id={them_id}&scope.project.id={alpha}"
        link = f"{identity}/projects/{alpha}/users/{them_id}/roles/{roles['member']['id']}"
        plain = {"role": {"id": roles["member"]["id"]}, "user": {"id": them_id}, "scope": {"project": {"id": alpha}},
                 "links": {"assignment": link}}
        assert listed(one) == [plain] == listed(f"role_assignments?role.id={roles['member']['id']}")
        domain = {"id": "default", "name": "Default"}
        named = listed(f"{one}&include_names")[0]
        assert named["user"] == {"id": them_id, "name": "member", "domain": domain}
        assert named["scope"] == {"project": {"id": alpha, "name": "alpha", "domain": domain}}
        assert named["role"] == {"id": roles["member"]["id"], "name": "member"}
        effective = listed(f"role_assignments?user.id={me}&scope.project.id={alpha}&effective=True&include_names=1")
        assert {row["role"]["name"] for row in effective} == {"admin", "member", "reader"}
        assert len(listed(f"role_assignments?user.id={me}&scope.project.id={alpha}&effective=0")) == 1
        assert {row["user"]["id"] for row in listed("role_assignments")} == {me, them_id}
        # One of them, looked at and taken away: tokens have it no longer, and do not get it back with the role.
        eve = them.ask("POST", "/identity/v3/users", admin, {"user": {"name": "eve", "password": "secret"}})
        grant = f"/identity/v3/projects/{alpha}/users/{eve.body['user']['id']}/roles/"
        assert them.ask("PUT", grant + roles["member"]["id"], admin).status == 204
        for method in ("GET", "HEAD", "DELETE"):
            assert them.ask(method, grant + roles["member"]["id"], member).status == 403
        for method in ("GET", "HEAD"):
            asked = them.ask(method, grant + roles["member"]["id"], admin)
            assert (asked.status, asked.body) == (204, None)
        for method in ("GET", "HEAD", "DELETE"):
            for role in (roles["admin"]["id"], roles["reader"]["id"], "nothing"):
                assert them.ask(method, grant + role, admin).status == 404, (method, role)
        unscoped, other = them.log_in(password("eve")).text, them.log_in(password("eve"), "alpha").text
        derived = them.log_in(by_token(other), "alpha").text
        assert them.ask("DELETE", grant + roles["member"]["id"], admin).status == 204
        for method in ("GET", "HEAD", "DELETE"):
            assert them.ask(method, grant + roles["member"]["id"], admin).status == 404
        assert not them.is_good(other) and listed(grant[len("/identity/v3/"):-1]) == []
        them.log_in(password("eve"), "alpha", status=401)
        assert them.ask("PUT", grant + roles["member"]["id"], admin).status == 204
        assert not them.is_good(other) and not them.is_good(derived)
        assert them.shown(unscoped).status == 200 and them.is_good(them.log_in(by_token(unscoped), "alpha").text)
        assert them.ask("DELETE", f"/identity/v3/users/{eve.body['user']['id']}", admin).status == 204
        for nobody in ("user.id=nobody", "scope.project.id=nowhere", "group.id=x", "scope.system=all"):
            assert listed(f"role_assignments?{nobody}") == []

        # The catalogue, as it is in tokens.
        catalog = logged_in["admin"].token["catalog"]
        services, endpoints = listed("services"), listed("endpoints")
        for entry in catalog:
            service = next(row for row in services if row["id"] == entry["id"])
            assert (service["type"], service["name"], service["enabled"]) == (entry["type"], entry["name"], True)
            assert get(f"services/{entry['id']}")["service"] == service
            assert listed(f"services?type={entry['type']}") == [service]
            own = listed(f"endpoints?service_id={entry['id']}")
            own = [(row["id"], row["url"].replace("$(project_id)s", alpha)) for row in own]
            assert own == [(row["id"], row["url"]) for row in entry["endpoints"]]
        assert len(services) == len(catalog) and len(listed("endpoints?interface=public")) == len(catalog)
        assert get(f"endpoints/{endpoints[0]['id']}")["endpoint"] == endpoints[0]

        # Nothing of it for members, and nothing that is not there.
        for path in (f"users/{me}", f"users/{me}/projects", f"users/{me}/application_credentials", "users/nobody",
                     f"projects/{alpha}/users/{them_id}/roles", "roles", f"roles/{roles['admin']['id']}", "services",
                     "role_assignments", "endpoints", f"services/{services[0]['id']}", "endpoints/nothing"):
            get(path, member, 403)
        for path in ("users/nobody", "users/nobody/projects", f"projects/{alpha}/users/nobody/roles", "roles/nothing",
                     f"projects/nowhere/users/{me}/roles", "services/nothing", "endpoints/nothing"):
            get(path, status=404)
        assert get(f"users/{them_id}", member)["user"]["id"] == them_id


def test_nothing_is_written_over_that_others_write_at_the_same_time(park, tmp_path):
    url, server = park.database(), park.server("postgres")
    database = url.rsplit("/")[-1]

    def waiting():
        where = f"datname = '{database}' AND wait_event_type = 'Lock'"
        return int(server.query(f"SELECT count(*) FROM pg_stat_activity WHERE {where}"))

    with Bed(tmp_path, database=url) as bed, concurrent.futures.ThreadPoolExecutor(2) as pool:
        process = bed.start()
        them, member = Somebody(process), Client(bed, process)
        admin = them.log_in(password("admin"), "alpha").text
        user = them.shown(member.token).token["user"]["id"]
        volume = member.create_volume()

        def together(held_statement, *asks):
            """All of them at work when the other transaction ends."""
            with held(url, held_statement):
                working = [pool.submit(*ask) for ask in asks]
                until("they wait", lambda: waiting() == len(asks))
            return [one.result() for one in working]

        # A start that brings a new password in, and an administrator who changes something else.
        change = {"user": {"description": "somebody"}}
        start = f"UPDATE users SET password_hash = 'new' WHERE id = '{user}'"
        [changed] = together(start, (them.ask, "PATCH", f"/identity/v3/users/{user}", admin, change))
        assert changed.status == 200 and changed.body["user"]["description"] == "somebody"
        assert server.query(f"SELECT password_hash FROM users WHERE id = '{user}'", database) == "new"

        # Metadata is changed by what is there.
        wanted = {"snapshot": {"volume_id": volume}}
        snapshot = member.ask("POST", "/snapshots", wanted)["snapshot"]["id"]
        member.wait("snapshots", snapshot, "available")
        for table, row, path, body, shown in (
            ("volumes", volume, f"/volumes/{volume}/metadata", lambda given: given, "metadata"),
            ("snapshots", snapshot, f"/snapshots/{snapshot}/metadata", lambda given: given, "metadata"),
            ("volumes", volume, f"/volumes/{volume}/action", lambda given: {"os-set_image_metadata": given},
             "volume_image_metadata"),
        ):
            asks = [(member.ask, "POST", path, body({"metadata": {key: "x"}})) for key in ("a", "b")]
            together(f"UPDATE {table} SET name = name WHERE id = '{row}'", *asks)
            assert member.show(table, row)[shown] == {"a": "x", "b": "x"}, (table, shown)


def memory(process, what):
    """Of the process in bytes: VmRSS now, VmHWM at its highest."""
    status = pathlib.Path(f"/proc/{process.child.pid}/status").read_text()
    return int(re.search(rf"^{what}:\s+(\d+) kB", status, re.M)[1]) << 10


def wrong_until_refused(log_in, seconds=1):
    """Logs in wrongly until that is refused for so many seconds; the refusal. Who waited may try once more, and then
    waits twice as long. A slow machine waits by itself, so that it may see more answers of 401, but no earlier ones."""
    failures, failed = 0, None
    while True:
        asked, answer = time.monotonic(), log_in()
        if answer.status == 401:
            if failures >= FREE:
                assert time.monotonic() - failed >= min(2 ** (failures - FREE), 30) - 0.05, failures
            failures, failed = failures + 1, asked
            continue
        assert answer.status == 429 and failures >= FREE, (answer.status, failures)
        if int(answer.headers["Retry-After"]) >= seconds:
            return answer
        time.sleep(int(answer.headers["Retry-After"]))


@pytest.mark.calm
def test_wrong_log_ins_take_little_and_tell_nothing(tmp_path):
    with Bed(tmp_path) as bed:
        process = bed.start()
        them = Somebody(process)
        token = them.log_in(password("member"), "alpha").text

        def took(name):
            started = time.monotonic()
            them.log_in(password(name, "wrong"), status=401)
            return time.monotonic() - started

        # Names that are there and names that are not, in turn; the fastest, as the machine is busy.
        times = [(took("admin"), took(f"nobody-{number}")) for number in range(5)]
        known, unknown = map(min, zip(*times))
        assert known / 2 < unknown < known * 2, times

        before = memory(process, "VmRSS")
        pathlib.Path(f"/proc/{process.child.pid}/clear_refs").write_text("5")
        crowd = 60 + 4 * CORES
        with concurrent.futures.ThreadPoolExecutor(crowd) as pool:
            storm = [pool.submit(them.log_in, password(f"someone-{number}", "wrong"), status=None)
                     for number in range(crowd)]
            # Others notice nothing: neither tokens nor users who were here before.
            started = time.monotonic()
            assert them.is_good(token)
            them.log_in(password("member"), "alpha")
            answers = [one.result() for one in storm]
        assert time.monotonic() - started < 30
        assert memory(process, "VmHWM") < before + (CORES + 4) * 20 * MIB
        assert {answer.status for answer in answers} == {401, 429}
        refused = next(answer for answer in answers if answer.status == 429)
        assert int(refused.headers["Retry-After"]) >= 1 and refused.body["error"]["title"] == "Too Many Requests"
        # From there nobody who was not here before tries on for now, whatever the name; who was is let in.
        names = (password(f"somebody-{number}") for number in range(10))
        refused = next(answer for name in names if (answer := them.log_in(name, status=None)).status != 401)
        assert refused.status == 429 and 1 <= int(refused.headers["Retry-After"]) <= 10
        them.log_in(password("member"), "alpha")
        # At once, and not only when the process looks for what lies freed, which it does every 20 seconds.
        until("the memory is given back", lambda: memory(process, "VmRSS") < before + 24 * MIB, patience=15)

        # A user's own mistakes cost a second, then two and so on; the right password is none of them.
        refused = wrong_until_refused(lambda: them.log_in(password("member", "wrong"), status=None), seconds=4)
        them.log_in(password("member"), "alpha", status=429)
        time.sleep(int(refused.headers["Retry-After"]))
        them.log_in(password("member"), "alpha")
        them.log_in(password("member", "wrong"), status=401)


@pytest.mark.calm
def test_answers_to_wrong_log_ins_do_not_tell_who_exists(tmp_path):
    with Bed(tmp_path) as bed:
        process = bed.start()

        class From(Somebody):
            """From an address of its own, so that only names count."""

            def __init__(self, number):
                super().__init__(process)
                self.number = number

            def log_in(self, identity, project=None, status=None):
                place = urllib.parse.urlsplit(process.base)
                source = (f"127.0.1.{self.number}", 0)
                connection = http.client.HTTPConnection(place.netloc, timeout=120, source_address=source)
                body = json.dumps({"auth": {"identity": {"methods": list(identity), **identity}}})
                connection.request("POST", "/identity/v3/auth/tokens", body, {"Content-Type": "application/json"})
                answer = Answer(connection.getresponse())
                connection.close()
                return answer

        def user_id(text):
            return {"password": {"user": {"id": text, "password": "wrong"}}}

        def credential(**named):
            return {"application_credential": {"secret": "wrong", **named}}

        owner = Somebody(process)
        token = owner.log_in(password("member"), "alpha")
        made = owner.credential(token.text, name="deploy")
        member = {"name": "member", "domain": DOMAIN}
        # Each is guessed under one form until it has to wait, and then asked for under another. Who exists and who
        # does not cannot be told apart.
        forms = [
            (lambda name: user_id(name), ["admin", "nobody-1"]),
            (lambda name: credential(id=name), ["admin", "nobody-2"]),
            (lambda name: credential(name=name, user=member), ["deploy", "nobody-3"]),
            (lambda name: credential(id=name), [made["id"], "f" * 32]),
        ]
        number = 10
        for form, names in forms:
            seen = []
            for name in names:
                number += 1
                them = From(number)
                # So long that the next two answers come meanwhile.
                wrong_until_refused(lambda: them.log_in(form(name)), seconds=2)
                seen.append([them.log_in(other).status for other in (password(name, "wrong"), user_id(name))])
            assert seen[0] == seen[1], seen

        # A hundred at once get no more guesses than one after the other.
        them = From(9)
        started = time.monotonic()
        with concurrent.futures.ThreadPoolExecutor(25) as pool:
            answers = list(pool.map(lambda _: them.log_in(password("crowd", "wrong")).status, range(100)))
        # One more for each wait that was over meanwhile: a second, then two and so on.
        most = FREE + int(math.log2(1 + time.monotonic() - started))
        assert FREE <= answers.count(401) <= most and set(answers) == {401, 429}, answers
        # Those who are right take nothing away from each other.
        them = From(8)
        with concurrent.futures.ThreadPoolExecutor(20) as pool:
            answers = list(pool.map(lambda _: them.log_in(password("member")).status, range(20)))
        assert answers == [201] * 20


def test_a_secret_that_a_user_chooses_is_kept_as_a_password_is(tmp_path):
    with Bed(tmp_path) as bed:
        them = Somebody(bed.start())
        token = them.log_in(password("member"), "alpha").text
        chosen, random = them.credential(token, secret="s"), them.credential(token)
        for row in (chosen, random):
            assert them.is_good(them.log_in(by_credential(row)).text)
            them.log_in(by_credential({**row, "secret": "t"}), status=401)
        kept = dict(bed.query("SELECT id, secret_hash FROM application_credentials"))
        assert kept[chosen["id"]].startswith(b"$argon2id$") and len(kept[random["id"]]) == 32


def test_what_is_secret_is_neither_answered_nor_logged(tmp_path):
    hidden, number = "hunter2", 918273645
    with Bed(tmp_path) as bed:
        process = bed.start()
        them = Somebody(process)
        admin, member = (them.log_in(password(name), "alpha").text for name in ("admin", "member"))
        user = them.shown(member).token["user"]["id"]
        eve = them.ask("POST", "/identity/v3/users", admin, {"user": {"name": "eve"}}).body["user"]["id"]
        for token, method, path, body in [
            (admin, "POST", "/identity/v3/users", {"user": {"password": hidden}}),
            (admin, "POST", "/identity/v3/users", {"user": {"name": "x", "password": number}}),
            (admin, "POST", "/identity/v3/users", {"user": {"name": "x", "password": hidden * 50}}),
            (admin, "POST", "/identity/v3/users", [{"user": {"name": "x", "password": hidden}}]),
            (admin, "PATCH", f"/identity/v3/users/{eve}", {"user": {"password": [hidden]}}),
            (member, "POST", f"/identity/v3/users/{user}/application_credentials",
             {"application_credential": {"secret": hidden}}),
            (None, "POST", "/identity/v3/auth/tokens", {"auth": {
                "identity": {"methods": ["password"], **password("member", hidden)}, "scope": [{"secret": hidden}]}}),
            (member, "POST", f"/v3/volume-transfers/{user}/accept", {"accept": {"auth_key": hidden, "x": 1}}),
            (member, "POST", f"/v3/volume-transfers/{user}/accept", {"accept": {"auth_key": [hidden]}}),
            (member, "POST", "/v3/volumes", {"volume": {"size": 1, "metadata": {"password": [hidden]}}}),
        ]:
            answer = them.ask(method, path, token, body, OpenStack_API_Version="volume 3.71")
            assert answer.status == 400, (path, body, answer.body)
            assert hidden not in json.dumps(answer.body) and str(number) not in json.dumps(answer.body), answer.body
        process.stop()
        log = process.log.read_text()
        assert log.count("request refused") >= 10 and "***" in log, log
        assert hidden not in log and str(number) not in log, log


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_a_request_may_do_what_its_caller_may_when_it_is_done(park, tmp_path, kind):
    with Bed(tmp_path, database=database(park, kind)) as bed:
        process = bed.start()
        them = Somebody(process)
        admin = them.log_in(password("admin"), "alpha").text
        project = them.shown(admin).token["project"]["id"]
        roles = {row["name"]: row["id"] for row in them.ask("GET", "/identity/v3/roles", admin).body["roles"]}
        made = them.ask("POST", "/identity/v3/users", admin, {"user": {"name": "eve", "password": "secret"}})
        eve = f"/identity/v3/users/{made.body['user']['id']}"
        place = f"/identity/v3/projects/{project}/users/{made.body['user']['id']}/roles"

        def finished(path, body, meanwhile):
            """The status of a request whose last byte comes after something else."""
            text = json.dumps(body)
            host, port = them.place.split(":")
            with socket.create_connection((host, int(port)), timeout=30) as line:
                line.sendall((f"POST {path} HTTP/1.1\r\nHost: x\r\nX-Auth-Token: {token}\r\nContent-Length: {len(text)}"
                              f"\r\nContent-Type: application/json\r\n\r\n{text[:-1]}").encode())
                # The service has looked at the token by now.
                time.sleep(0.5)
                meanwhile()
                line.sendall(text[-1:].encode())
                return int(line.recv(4096).split()[1])

        def sent(method, path, body=None, status=204):
            def now():
                answer = them.ask(method, path, admin, body)
                assert answer.status == status, answer.body
            return now

        volume, user = {"volume": {"size": 1}}, {"user": {"name": "frank"}}
        for role, path, body, meanwhile, status in [
            ("member", "/v3/volumes", volume, lambda: None, 202),
            ("member", "/v3/volumes", volume,
             lambda: them.ask("DELETE", "/identity/v3/auth/tokens", token, X_Subject_Token=token), 401),
            ("member", "/v3/volumes", volume, sent("DELETE", f"{place}/{roles['member']}"), 401),
            ("admin", "/identity/v3/users", user, lambda: None, 201),
            ("admin", "/identity/v3/users", user, sent("DELETE", f"{place}/{roles['admin']}"), 401),
            ("member", "/v3/volumes", volume, sent("PATCH", eve, {"user": {"enabled": False}}, 200), 401),
        ]:
            sent("PUT", f"{place}/{roles[role]}")()
            token = them.log_in(password("eve"), "alpha").text
            assert finished(path, body, meanwhile) == status, (role, path, status)


@pytest.mark.calm
def test_one_member_does_not_take_the_time_of_all_who_log_in(tmp_path):
    with Bed(tmp_path) as bed:
        them = Somebody(bed.start())
        token = them.log_in(password("member"), "alpha").text
        path = f"/identity/v3/users/{them.shown(token).token['user']['id']}/application_credentials"
        taken = {"name": them.credential(token)["name"], "secret": "chosen"}
        over = threading.Event()

        def ask(number):
            """Hashes without end, each for a credential of its own."""
            statuses = set()
            while not over.is_set():
                body = {"application_credential": {"name": f"c-{number}-{time.monotonic_ns()}", "secret": "chosen"}}
                statuses.add(them.ask("POST", path, token, body).status)
            return statuses

        # As many as hash at once, and more than may wait.
        askers = 40 + CORES
        with concurrent.futures.ThreadPoolExecutor(askers) as pool:
            storm = [pool.submit(ask, number) for number in range(askers)]
            try:
                time.sleep(1)
                # She has not been here before, so her password is looked at.
                started = time.monotonic()
                them.log_in(password("admin"), "alpha")
                took = time.monotonic() - started
                # What is refused whatever its hash waits for none.
                refused = [them.ask("POST", path, token, {"application_credential": taken}).status for _ in range(5)]
            finally:
                over.set()
            statuses = set().union(*(one.result() for one in storm))
            # A fast machine makes as many as one user may have; then that is the refusal.
            assert {201, 429} <= statuses <= {201, 429, 403}, statuses
        full = {403} & statuses
        assert took < 5 and set(refused) <= {409} | full, (took, refused)


def test_behind_a_proxy_each_client_is_counted_for_itself(tmp_path):
    endpoint = "https://backup.example.org"
    with Bed(tmp_path / "proxy", api={"public_endpoint": endpoint, "proxy_headers": True}) as bed:
        process = bed.start()
        them = Somebody(process)

        def log_in(address, text="secret"):
            auth = {"identity": {"methods": ["password"], **password("member", text)}}
            return them.ask("POST", "/identity/v3/auth/tokens", None, {"auth": auth}, X_Forwarded_For=address)

        def status(address):
            return log_in(address).status

        assert status("192.0.2.2") == 201
        wrong_until_refused(lambda: log_in("192.0.2.1", "wrong"), seconds=4)
        assert (status("192.0.2.1"), status("192.0.2.2")) == (429, 201)
        assert "api.proxy_headers" not in process.log.read_text()
    with Bed(tmp_path / "none", api={"public_endpoint": endpoint}) as bed:
        process = bed.start()
        until("it is said", lambda: "api.proxy_headers is not" in process.log.read_text())


def test_one_log_in_gives_a_thousand_tokens_at_most(tmp_path):
    with Bed(tmp_path) as bed:
        them = Somebody(bed.start())
        token = them.log_in(password("member"), "alpha").text
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            statuses = list(pool.map(lambda _: them.log_in(by_token(token), "alpha", status=None).status, range(1010)))
        # Of those that come at once a few more may.
        assert statuses[-1] == 429 and 999 <= statuses.count(201) <= 1003, statuses.count(201)
        # The whole line ends at once, and its user may log in anew.
        assert them.ask("DELETE", "/identity/v3/auth/tokens", token, X_Subject_Token=token).status == 204
        assert bed.query("SELECT count(*) FROM tokens") == [(0,)]
        them.log_in(password("member"), "alpha")
