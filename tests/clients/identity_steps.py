"""What the embedded identity and a real Keystone are both asked, one request after the other, and where they may
differ. All else in their answers is the same but for ids, times and what is random."""

import re
import typing

from servers.keystone import http

DOMAIN = {"id": "default"}
NOBODY = "0" * 32
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z?")
ID = re.compile(r"[0-9a-f]{32}")
#: Keystone's link to an application credential leaves its user out, and leads nowhere.
CREDENTIAL = re.compile(r"BASE/users/[^/]+(/application_credentials/[^/]+)")
#: What is random and has no form of its own.
RANDOM = {"audit_ids", "secret"}


class Step(typing.NamedTuple):
    """One request. `kept` names what is kept of the answer: a place in the body, or `token`."""

    name: str
    caller: str | None
    method: str
    path: str
    body: dict | None = None
    kept: dict = {}
    subject: str | None = None


class Side:
    """One of the two: where it is, and what it calls what the requests name."""

    def __init__(self, base, log_in):
        self.base = base
        self.names = {"nonsense": "nonsense"}
        self.take(Step("log in", None, "POST", "/auth/tokens", log_in, {
            "admin": "token", "administrator": "token.user.id", "home": "token.project.id"}))

    def fill(self, value):
        """Puts ids and tokens in the place of their names, as in `{eve}`."""
        match value:
            case dict():
                return {key: self.fill(inner) for key, inner in value.items()}
            case list():
                return [self.fill(inner) for inner in value]
            case str():
                return re.sub(r"\{(\w+)\}", lambda found: self.names[found[1]], value)
        return value

    def plain(self, value, key=None):
        """Without what must differ: addresses, ids, times, what is random, and the catalogue of another cloud."""
        match value:
            case list() if key == "catalog":
                return bool(value)
            case list() if key in RANDOM:
                return len(value)
            case dict():
                return {name: self.plain(inner, name) for name, inner in value.items() if name not in EVERYWHERE}
            case list():
                return sorted((self.plain(inner) for inner in value), key=str)
            case str() if key in RANDOM:
                return "RANDOM"
            case str():
                value = value.replace(self.base, "BASE")
                for name, known in self.names.items():
                    value = value.replace(known, f"{{{name}}}")
                value = CREDENTIAL.sub(r"BASE\1", value)
                # Keystone goes on to print its schema.
                return ID.sub("ID", TIME.sub("TIME", value)).split("\n\nFailed validating")[0]
        return value

    def take(self, step):
        """The status and the plain body of the answer."""
        headers = {"X_Auth_Token": self.names[step.caller]} if step.caller else {}
        if step.subject:
            headers["X_Subject_Token"] = self.names[step.subject]
        answer = http(step.method, self.base + self.fill(step.path), self.fill(step.body), **headers)
        for name, place in step.kept.items():
            assert answer.status < 300, (step, answer)
            found = answer.headers["X-Subject-Token"] if place == "token" else answer.body
            for part in [] if place == "token" else place.split("."):
                found = found[int(part)] if part.isdigit() else found[part]
            self.names[name] = found
        return answer.status, self.plain(answer.body)


def by_password(user, text, **scope):
    named = {"name": user, "domain": DOMAIN, "password": text}
    auth = {"identity": {"methods": ["password"], "password": {"user": named}}, **scope}
    return {"auth": auth}


def by_token(token, **scope):
    return {"auth": {"identity": {"methods": ["token"], "token": {"id": token}}, **scope}}


def by_credential(**named):
    return {"auth": {"identity": {"methods": ["application_credential"], "application_credential": named}}}


def within(name):
    return {"scope": {"project": {"name": name, "domain": DOMAIN}}}


STEPS = [Step(*step) for step in [
    # Projects.
    ("no token", None, "GET", "/projects"),
    ("bad token", "nonsense", "GET", "/projects"),
    ("project", "admin", "POST", "/projects", {"project": {
        "name": "p", "description": "the first", "tags": ["a", "b"], "enabled": True}}, {"p": "project.id"}),
    ("project, plain", "admin", "POST", "/projects", {"project": {"name": "q"}}, {"q": "project.id"}),
    ("project, disabled", "admin", "POST", "/projects", {"project": {"name": "off", "enabled": False}},
     {"off": "project.id"}),
    ("project, taken", "admin", "POST", "/projects", {"project": {"name": "p"}}),
    ("project, no name", "admin", "POST", "/projects", {"project": {}}),
    ("project, no project", "admin", "POST", "/projects", {}),
    ("project, name empty", "admin", "POST", "/projects", {"project": {"name": ""}}),
    ("project, name blank", "admin", "POST", "/projects", {"project": {"name": "  "}}),
    ("project, name 65", "admin", "POST", "/projects", {"project": {"name": "n" * 65}}),
    ("project, name 5", "admin", "POST", "/projects", {"project": {"name": 5}}),
    ("project, enabled yes", "admin", "POST", "/projects", {"project": {"name": "r", "enabled": "yes"}}),
    ("project, enabled null", "admin", "POST", "/projects", {"project": {"name": "r", "enabled": None}}),
    ("project, description 5", "admin", "POST", "/projects", {"project": {"name": "r", "description": 5}}),
    ("project, tags a", "admin", "POST", "/projects", {"project": {"name": "r", "tags": "a"}}),
    ("project, tags a/b", "admin", "POST", "/projects", {"project": {"name": "r", "tags": ["a/b"]}}),
    ("project, tags a a", "admin", "POST", "/projects", {"project": {"name": "r", "tags": ["a", "a"]}}),
    ("project, unknown domain", "admin", "POST", "/projects", {"project": {"name": "r", "domain_id": NOBODY}}),
    ("project, unknown parent", "admin", "POST", "/projects", {"project": {"name": "r", "parent_id": NOBODY}}),
    ("project, of the domain", "admin", "POST", "/projects", {"project": {
        "name": "s", "domain_id": "default", "parent_id": "default", "is_domain": False, "options": {}}},
     {"s": "project.id"}),
    ("project, description null", "admin", "POST", "/projects", {"project": {"name": "t", "description": None}},
     {"t": "project.id"}),
    ("project shown", "admin", "GET", "/projects/{p}"),
    ("project, nothing shown", "admin", "GET", f"/projects/{NOBODY}"),
    ("projects by name", "admin", "GET", "/projects?name=p"),
    ("projects by enabled", "admin", "GET", "/projects?enabled=false"),
    ("projects by domain", "admin", "GET", "/projects?name=p&domain_id=default"),
    ("projects by nothing", "admin", "GET", "/projects?name=nothing"),
    ("project changed", "admin", "PATCH", "/projects/{p}", {"project": {"description": "still", "tags": []}}),
    ("project, name changed", "admin", "PATCH", "/projects/{q}", {"project": {"name": "q2"}}),
    ("project, name taken", "admin", "PATCH", "/projects/{q}", {"project": {"name": "p"}}),
    ("project, name null", "admin", "PATCH", "/projects/{q}", {"project": {"name": None}}),
    ("project, nothing changed", "admin", "PATCH", "/projects/{q}", {"project": {}}),
    ("project, enabled no", "admin", "PATCH", "/projects/{q}", {"project": {"enabled": "no"}}),
    ("project, other domain", "admin", "PATCH", "/projects/{q}", {"project": {"domain_id": NOBODY}}),
    ("project, other parent", "admin", "PATCH", "/projects/{q}", {"project": {"parent_id": "{p}"}}),
    ("project, no one changed", "admin", "PATCH", f"/projects/{NOBODY}", {"project": {"description": "x"}}),
    # Users.
    ("user", "admin", "POST", "/users", {"user": {
        "name": "eve", "password": "eve-password", "email": "eve@example.org", "description": "somebody",
        "enabled": True, "default_project_id": "{p}"}}, {"eve": "user.id"}),
    ("user, plain", "admin", "POST", "/users", {"user": {"name": "bob", "password": "bob-password"}},
     {"bob": "user.id"}),
    ("user, disabled", "admin", "POST", "/users", {"user": {
        "name": "off", "password": "off-password", "enabled": False}}, {"sleeper": "user.id"}),
    ("user, taken", "admin", "POST", "/users", {"user": {"name": "eve", "password": "other-password"}}),
    ("user, no name", "admin", "POST", "/users", {"user": {"password": "no-name-password"}}),
    ("user, no user", "admin", "POST", "/users", {"eve": {}}),
    ("user, name empty", "admin", "POST", "/users", {"user": {"name": "", "password": "secret"}}),
    ("user, no password", "admin", "POST", "/users", {"user": {"name": "mute"}}, {"mute": "user.id"}),
    ("user, password 5", "admin", "POST", "/users", {"user": {"name": "x", "password": 5}}),
    ("user, enabled yes", "admin", "POST", "/users", {"user": {"name": "x", "password": "y", "enabled": "yes"}}),
    ("user, email 5", "admin", "POST", "/users", {"user": {"name": "x1", "password": "y", "email": 5}}),
    ("user, description 5", "admin", "POST", "/users", {"user": {"name": "x", "password": "y", "description": 5}}),
    ("user, project 5", "admin", "POST", "/users", {"user": {"name": "x", "password": "y", "default_project_id": 5}}),
    ("user, unknown domain", "admin", "POST", "/users", {"user": {
        "name": "x", "password": "y", "domain_id": NOBODY}}),
    ("user, unknown project", "admin", "POST", "/users", {"user": {
        "name": "x2", "password": "y", "default_project_id": NOBODY}}, {"x2": "user.id"}),
    ("user, nulls", "admin", "POST", "/users", {"user": {
        "name": "x3", "password": "y", "email": None, "description": None, "default_project_id": None}},
     {"x3": "user.id"}),
    ("user shown", "admin", "GET", "/users/{eve}"),
    ("user, nobody shown", "admin", "GET", f"/users/{NOBODY}"),
    ("users by name", "admin", "GET", "/users?name=eve"),
    ("users by enabled", "admin", "GET", "/users?enabled=false"),
    ("users by nothing", "admin", "GET", "/users?name=nothing"),
    ("user changed", "admin", "PATCH", "/users/{bob}", {"user": {
        "email": "bob@example.org", "description": "builder", "default_project_id": "{p}"}}),
    ("user, name changed", "admin", "PATCH", "/users/{mute}", {"user": {"name": "loud"}}),
    ("user, nulls put", "admin", "PATCH", "/users/{mute}", {"user": {
        "email": None, "description": None, "default_project_id": None}}),
    ("user, nothing changed", "admin", "PATCH", "/users/{bob}", {"user": {}}),
    ("user, name taken", "admin", "PATCH", "/users/{bob}", {"user": {"name": "eve"}}),
    ("user, name null", "admin", "PATCH", "/users/{bob}", {"user": {"name": None}}),
    ("user, enabled no", "admin", "PATCH", "/users/{bob}", {"user": {"enabled": "no"}}),
    ("user, other domain", "admin", "PATCH", "/users/{bob}", {"user": {"domain_id": NOBODY}}),
    ("user, nobody changed", "admin", "PATCH", f"/users/{NOBODY}", {"user": {"description": "x"}}),
    # Roles and grants.
    ("roles by name", "admin", "GET", "/roles?name=member", None, {"member": "roles.0.id"}),
    ("readers", "admin", "GET", "/roles?name=reader", None, {"reader": "roles.0.id"}),
    ("managers", "admin", "GET", "/roles?name=admin", None, {"chief": "roles.0.id"}),
    ("role shown", "admin", "GET", "/roles/{member}"),
    ("role, nothing shown", "admin", "GET", f"/roles/{NOBODY}"),
    ("grant", "admin", "PUT", "/projects/{p}/users/{eve}/roles/{member}"),
    ("grant again", "admin", "PUT", "/projects/{p}/users/{eve}/roles/{member}"),
    ("grant to bob", "admin", "PUT", "/projects/{p}/users/{bob}/roles/{reader}"),
    ("grant of nothing", "admin", "PUT", f"/projects/{{p}}/users/{{eve}}/roles/{NOBODY}"),
    ("grant to nobody", "admin", "PUT", f"/projects/{{p}}/users/{NOBODY}/roles/{{member}}"),
    ("grant nowhere", "admin", "PUT", f"/projects/{NOBODY}/users/{{eve}}/roles/{{member}}"),
    ("grant looked at", "admin", "GET", "/projects/{p}/users/{eve}/roles/{member}"),
    ("grant checked", "admin", "HEAD", "/projects/{p}/users/{eve}/roles/{member}"),
    ("grant, implied", "admin", "HEAD", "/projects/{p}/users/{eve}/roles/{reader}"),
    ("grant, other role", "admin", "GET", "/projects/{p}/users/{eve}/roles/{chief}"),
    ("grant, no role", "admin", "GET", f"/projects/{{p}}/users/{{eve}}/roles/{NOBODY}"),
    ("grant, nobody", "admin", "GET", f"/projects/{{p}}/users/{NOBODY}/roles/{{member}}"),
    ("grant, nowhere", "admin", "GET", f"/projects/{NOBODY}/users/{{eve}}/roles/{{member}}"),
    ("grants", "admin", "GET", "/projects/{p}/users/{eve}/roles"),
    ("grants of nobody", "admin", "GET", f"/projects/{{p}}/users/{NOBODY}/roles"),
    ("grants nowhere", "admin", "GET", f"/projects/{NOBODY}/users/{{eve}}/roles"),
    ("assignments", "admin", "GET", "/role_assignments?user.id={eve}&scope.project.id={p}"),
    ("assignments, named", "admin", "GET", "/role_assignments?user.id={eve}&include_names=1"),
    ("assignments, effective", "admin", "GET", "/role_assignments?user.id={eve}&effective"),
    ("assignments of nobody", "admin", "GET", f"/role_assignments?user.id={NOBODY}"),
    ("projects of eve", "admin", "GET", "/users/{eve}/projects"),
    ("projects of nobody", "admin", "GET", f"/users/{NOBODY}/projects"),
    # Tokens.
    ("token", None, "POST", "/auth/tokens", by_password("eve", "eve-password", **within("p")), {"eves": "token"}),
    ("token, unscoped", None, "POST", "/auth/tokens", by_password("eve", "eve-password", scope="unscoped"),
     {"unscoped": "token"}),
    ("token, default project", None, "POST", "/auth/tokens", by_password("eve", "eve-password")),
    ("token, no catalogue", None, "POST", "/auth/tokens?nocatalog",
     by_password("eve", "eve-password", **within("p"))),
    ("token, wrong password", None, "POST", "/auth/tokens", by_password("eve", "wrong")),
    ("token of nobody", None, "POST", "/auth/tokens", by_password("nobody", "wrong")),
    ("token, disabled", None, "POST", "/auth/tokens", by_password("off", "off-password")),
    ("token, no role", None, "POST", "/auth/tokens", by_password("eve", "eve-password", **within("q2"))),
    ("token nowhere", None, "POST", "/auth/tokens", by_password("eve", "eve-password", **within("nothing"))),
    ("token, disabled project", None, "POST", "/auth/tokens", by_password("eve", "eve-password", **within("off"))),
    ("token, no auth", None, "POST", "/auth/tokens", {}),
    ("token, no identity", None, "POST", "/auth/tokens", {"auth": {}}),
    ("token, no methods", None, "POST", "/auth/tokens", {"auth": {"identity": {}}}),
    ("token, methods empty", None, "POST", "/auth/tokens", {"auth": {"identity": {"methods": []}}}),
    ("token, method unknown", None, "POST", "/auth/tokens", {"auth": {"identity": {"methods": ["x"], "x": {}}}}),
    ("token, method missing", None, "POST", "/auth/tokens", {"auth": {"identity": {"methods": ["password"]}}}),
    ("token, no domain", None, "POST", "/auth/tokens", {"auth": {"identity": {
        "methods": ["password"], "password": {"user": {"name": "eve", "password": "eve-password"}}}}}),
    ("token, scope 5", None, "POST", "/auth/tokens", by_password("eve", "eve-password", scope=5)),
    ("token by id", None, "POST", "/auth/tokens", {"auth": {"identity": {
        "methods": ["password"], "password": {"user": {"id": "{eve}", "password": "eve-password"}}},
        "scope": {"project": {"id": "{p}"}}}}),
    ("token shown", "eves", "GET", "/auth/tokens", None, {}, "eves"),
    ("token shown to admin", "admin", "GET", "/auth/tokens", None, {}, "eves"),
    ("token checked", "eves", "HEAD", "/auth/tokens", None, {}, "eves"),
    ("token of another shown", "eves", "GET", "/auth/tokens", None, {}, "admin"),
    ("token, none shown", "eves", "GET", "/auth/tokens", None, {}, "nonsense"),
    ("token, none named", "eves", "GET", "/auth/tokens"),
    ("token by token", None, "POST", "/auth/tokens", by_token("{unscoped}", **within("p")), {"child": "token"}),
    ("token by token, unscoped", None, "POST", "/auth/tokens", by_token("{child}", scope="unscoped")),
    ("token by nonsense", None, "POST", "/auth/tokens", by_token("nonsense")),
    ("catalogue", "eves", "GET", "/auth/catalog"),
    ("catalogue, unscoped", "unscoped", "GET", "/auth/catalog"),
    ("own projects", "eves", "GET", "/auth/projects"),
    ("own projects, unscoped", "unscoped", "GET", "/auth/projects"),
    # What members may.
    *((f"member: {method} {path}", "eves", method, path, body) for method, path, body in [
        ("GET", "/projects", None),
        ("GET", "/projects/{p}", None),
        ("GET", "/projects/{q}", None),
        ("POST", "/projects", {"project": {"name": "mine"}}),
        ("PATCH", "/projects/{p}", {"project": {"description": "mine"}}),
        ("DELETE", "/projects/{p}", None),
        ("GET", "/users", None),
        ("GET", "/users/{eve}", None),
        ("GET", "/users/{bob}", None),
        ("POST", "/users", {"user": {"name": "mine", "password": "x"}}),
        ("PATCH", "/users/{eve}", {"user": {"email": "mine"}}),
        ("DELETE", "/users/{eve}", None),
        ("GET", "/users/{eve}/projects", None),
        ("GET", "/users/{bob}/projects", None),
        ("GET", "/roles", None),
        ("GET", "/roles/{member}", None),
        ("GET", "/role_assignments", None),
        ("GET", "/projects/{p}/users/{eve}/roles", None),
        ("HEAD", "/projects/{p}/users/{eve}/roles/{member}", None),
        ("PUT", "/projects/{p}/users/{eve}/roles/{chief}", None),
        ("DELETE", "/projects/{p}/users/{eve}/roles/{member}", None),
        ("GET", "/services", None),
        ("GET", "/endpoints", None),
        ("GET", "/domains", None),
        ("GET", "/domains/default", None),
    ]),
    ("domain", "admin", "GET", "/domains/default"),
    ("domains", "admin", "GET", "/domains"),
    ("domain, nothing", "admin", "GET", f"/domains/{NOBODY}"),
    # Application credentials.
    ("credential", "eves", "POST", "/users/{eve}/application_credentials", {"application_credential": {
        "name": "c", "description": "for a script", "expires_at": "2099-01-01T00:00:00Z",
        "roles": [{"name": "member"}]}}, {"c": "application_credential.id", "secret": "application_credential.secret"}),
    ("credential, own secret", "eves", "POST", "/users/{eve}/application_credentials", {"application_credential": {
        "name": "d", "secret": "own-secret"}}, {"d": "application_credential.id"}),
    *((f"credential, {name}", "eves", "POST", "/users/{eve}/application_credentials", {
        "application_credential": body}) for name, body in [
        ("taken", {"name": "c"}),
        ("no name", {}),
        ("name empty", {"name": ""}),
        ("name 5", {"name": 5}),
        ("past", {"name": "e", "expires_at": "2020-01-01T00:00:00Z"}),
        ("no time", {"name": "e", "expires_at": "tomorrow"}),
        ("role unknown", {"name": "e", "roles": [{"name": "boss"}]}),
        ("role not held", {"name": "e", "roles": [{"name": "admin"}]}),
        ("role 5", {"name": "e", "roles": [5]}),
        ("roles a", {"name": "e", "roles": "a"}),
        ("rules 5", {"name": "e", "access_rules": 5}),
        ("unrestricted maybe", {"name": "e", "unrestricted": "maybe"}),
    ]),
    ("credential, nothing", "eves", "POST", "/users/{eve}/application_credentials", {}),
    ("credential for another", "admin", "POST", "/users/{eve}/application_credentials", {
        "application_credential": {"name": "x"}}),
    ("credentials", "eves", "GET", "/users/{eve}/application_credentials"),
    ("credentials by name", "eves", "GET", "/users/{eve}/application_credentials?name=c"),
    ("credentials of another", "eves", "GET", "/users/{bob}/application_credentials"),
    ("credential shown", "eves", "GET", "/users/{eve}/application_credentials/{c}"),
    ("credential, none shown", "eves", "GET", f"/users/{{eve}}/application_credentials/{NOBODY}"),
    ("credential, unscoped", "unscoped", "POST", "/users/{eve}/application_credentials", {
        "application_credential": {"name": "x"}}),
    ("credential's token", None, "POST", "/auth/tokens", by_credential(id="{c}", secret="{secret}"),
     {"delegated": "token"}),
    ("credential's token by name", None, "POST", "/auth/tokens", by_credential(
        name="c", secret="{secret}", user={"name": "eve", "domain": DOMAIN})),
    ("credential's token, wrong secret", None, "POST", "/auth/tokens", by_credential(id="{c}", secret="wrong")),
    ("credential's token, unknown", None, "POST", "/auth/tokens", by_credential(id=NOBODY, secret="wrong")),
    ("credential's token shown", "delegated", "GET", "/auth/tokens", None, {}, "delegated"),
    ("credential by credential", "delegated", "POST", "/users/{eve}/application_credentials", {
        "application_credential": {"name": "f"}}),
    ("credential ended by credential", "delegated", "DELETE", "/users/{eve}/application_credentials/{d}"),
    ("token by credential's token", None, "POST", "/auth/tokens", by_token("{delegated}", **within("p"))),
    ("credential, none deleted", "eves", "DELETE", f"/users/{{eve}}/application_credentials/{NOBODY}"),
    ("credential deleted", "eves", "DELETE", "/users/{eve}/application_credentials/{c}"),
    ("credential's token is gone", "delegated", "GET", "/auth/projects"),
    # What ends.
    ("token revoked", "eves", "DELETE", "/auth/tokens", None, {}, "child"),
    ("token revoked again", "eves", "DELETE", "/auth/tokens", None, {}, "child"),
    ("revoked token", "child", "GET", "/auth/projects"),
    ("grant taken, other role", "admin", "DELETE", "/projects/{p}/users/{eve}/roles/{chief}"),
    ("grant taken, no role", "admin", "DELETE", f"/projects/{{p}}/users/{{eve}}/roles/{NOBODY}"),
    ("grant taken, nobody", "admin", "DELETE", f"/projects/{{p}}/users/{NOBODY}/roles/{{member}}"),
    ("grant taken, nowhere", "admin", "DELETE", f"/projects/{NOBODY}/users/{{eve}}/roles/{{member}}"),
    ("grant taken", "admin", "DELETE", "/projects/{p}/users/{eve}/roles/{member}"),
    ("grant taken again", "admin", "DELETE", "/projects/{p}/users/{eve}/roles/{member}"),
    ("grants, none", "admin", "GET", "/projects/{p}/users/{eve}/roles"),
    ("token without its role", "eves", "GET", "/auth/projects"),
    ("token, role taken", None, "POST", "/auth/tokens", by_password("eve", "eve-password", **within("p"))),
    ("user disabled", "admin", "PATCH", "/users/{bob}", {"user": {"enabled": False}}),
    ("token, user disabled", None, "POST", "/auth/tokens", by_password("bob", "bob-password")),
    ("user enabled", "admin", "PATCH", "/users/{bob}", {"user": {"enabled": True}}),
    ("user deleted", "admin", "DELETE", "/users/{eve}"),
    ("user deleted again", "admin", "DELETE", "/users/{eve}"),
    ("token of nobody's", None, "POST", "/auth/tokens", by_password("eve", "eve-password")),
    ("project deleted", "admin", "DELETE", "/projects/{p}"),
    ("project deleted again", "admin", "DELETE", "/projects/{p}"),
]]

#: Parts of answers in which the two differ wherever they stand.
EVERYWHERE = {
    "extra": "Keystone repeats fields in it after a change",
    "unrestricted": "Keystone shows null for what is false",
}
#: Steps whose answers differ, and why.
DIFFERENCES = {
    "project, no project": "Keystone fails: 500",
    "project, enabled yes": "the same",
    "project, enabled no": "the same",
    "project, name taken": "the same",
    "user, enabled yes": "the same",
    "user, enabled no": "the same",
    "project, enabled null": "Keystone names words that it does not take either",
    "project, description null": "an empty text",
    "project, other parent": "400 for 403: it is the request that is wrong",
    "user, no name": "what is secret is not repeated",
    "user, password 5": "the same",
    "user, email 5": "Keystone takes anything",
    "user, nulls": "what is null is left out",
    "user, nulls put": "the same",
    "token, method unknown": "Keystone lists its methods",
    "token, none shown": "Keystone speaks of the kind of its tokens",
    "token by nonsense": "401 for 404, as for other credentials that are wrong",
    "credential's token, unknown": "the same: nobody learns which there are",
    "credential's token is gone": "the same",
    "catalogue, unscoped": "the rule is named, as elsewhere",
    "member: GET /projects": "members see the projects in which they have a role, which clients look for by name",
    "member: GET /projects/{q}": "and no others: 404 for 403",
    "member: GET /domains": "the only one",
    "credential, unscoped": "without a project it is good for nothing",
    "assignments, effective": "no role implies another one here",
    "token without its role": "a token in a project in which its user has no role is not good",
}
