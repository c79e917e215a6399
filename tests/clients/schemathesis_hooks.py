"""What schemathesis cannot know of the service: which ids are there, which versions are worth asking
for, and which fields of an answer belong to which version and role.

Without ids nearly every example would end at 404. A first set comes from the test
(`EMBERVAULT_SEEDS`), more from the answers of the run itself. What the test made is never deleted by
an example, or soon there would be nothing left to look at."""

import json
import os
import random
import re

import jsonschema_rs
import schemathesis

SEEDS = json.load(open(os.environ["EMBERVAULT_SEEDS"]))
MADE = SEEDS["spare"]
TRANSFER_KEYS = {}
CALLS = {}
CHOICE = random.Random()

# Fields of bodies and queries, and what they name.
NAMES = {
    "volume_id": "volumes", "volume_uuid": "volumes", "source_volid": "volumes", "add_volumes": "volumes",
    "remove_volumes": "volumes", "snapshot_id": "snapshots", "backup_id": "backups", "host": "hosts",
    "attachment_id": "attachments", "volume_type": "types", "new_type": "types", "vol_type_id": "types",
    "group_id": "groups", "group_type": "group_types", "source_group_id": "groups",
    "group_snapshot_id": "group_snapshots", "volume_types": "types", "binary": "binaries", "backup_url": "records",
}
# Parts of paths, and what they name; an `id` names what stands before it.
PARTS = {
    "project": "projects", "user": "users", "role": "roles", "host": "hosts", "key": "keys",
    "credential": "application_credentials",
}


def happens(probability):
    return CHOICE.random() < probability


def collection(path):
    """What the `id` of a path names."""
    first = re.sub(r"^(/v3/\{project_id\}|/identity/v3)/", "", path).split("/")[0]
    return "transfers" if "transfer" in first else first


def some(kind, is_end=False):
    """An id of this kind, most times; never one of the test's own for an example that takes it away."""
    made, seeded = MADE.get(kind, []), SEEDS.get(kind, [])
    # Drawn in any case: what comes next must not depend on how much there is.
    is_seed, is_real, which = happens(0.6), happens(0.85), CHOICE.random()
    # What the run made may be gone again.
    ids = made if is_end else seeded if seeded and is_seed else seeded + made
    return ids[int(which * len(ids))] if ids and is_real else None


def filled(value):
    """The value with real ids in place of most of those made up."""
    if isinstance(value, list):
        return [filled(item) for item in value]
    if not isinstance(value, dict):
        return value
    result = {}
    for key, inner in value.items():
        kind = NAMES.get(key)
        if kind and isinstance(inner, list):
            result[key] = [some(kind) or item for item in inner]
        else:
            result[key] = (isinstance(inner, str) and some(kind)) or filled(inner)
    if isinstance(result.get("volume_id"), str) and isinstance(result.get("snapshot_id"), str) and happens(0.9):
        # Any snapshot with any volume would be refused nearly always.
        pairs = [*SEEDS["snapshots_of"].items(), (None, result["volume_id"])]
        result["snapshot_id"], result["volume_id"] = CHOICE.choice(pairs)
    return result


def resolved(document, part):
    """A part of the document, with what it refers to."""
    while "$ref" in part and part["$ref"].startswith("#/"):
        target = document
        for step in part["$ref"][2:].split("/"):
            target = target[step]
        properties = {**target.get("properties", {}), **part.get("properties", {})}
        part = {**target, **{key: value for key, value in part.items() if key != "$ref"}, "properties": properties}
    return part


def fields(document, schema, value):
    """Every field of a value that the schema knows: name, first version, whether for administrators."""
    schema = resolved(document, schema)
    for choice in schema.get("oneOf", []):
        yield from fields(document, choice, value)
    if isinstance(value, list):
        for item in value:
            yield from fields(document, schema.get("items", {}), item)
    if isinstance(value, dict):
        for key, inner in value.items():
            field = resolved(document, schema.get("properties", {}).get(key, {}))
            yield key, minor(field), field.get("x-admin", False)
            yield from fields(document, field, inner)


def minor(part):
    return int(part.get("x-since", "3.0").split(".")[1])


def raw(case):
    document = case.operation.schema.raw_schema
    return document, document["paths"][case.operation.path][case.method.lower()]


def version(case):
    """A version at which the operation and most often the fields of the body exist."""
    document, operation = raw(case)
    since = [minor(operation)]
    if isinstance(case.body, dict) and "requestBody" in operation and happens(0.9):
        body = resolved(document, operation["requestBody"])["content"]["application/json"]["schema"]
        since.extend(first for _, first, _ in fields(document, body, case.body))
    least = max(since) if happens(0.9) else 0
    return f"volume 3.{CHOICE.choice([least, 71, CHOICE.randint(least, 71)])}"


def plausible(case, query):
    """The query without what would be refused whatever else it says."""
    document, operation = raw(case)
    told = [resolved(document, parameter) for parameter in operation.get("parameters", [])]
    if not SEEDS["is_admin"]:
        theirs = [row["name"] for row in told if row.get("x-admin")]
        query = {key: value for key, value in query.items() if key not in theirs}
    if "sort" in query:
        query.pop("sort_key", None), query.pop("sort_dir", None)
        query["sort"] = CHOICE.choice(["created_at:asc", "id", "created_at:desc,id:asc", query["sort"]])
    return query


def agree(case, path):
    """Makes the body say what the path or the service wants to hear."""
    if case.operation.path.endswith("/metadata/{key}"):
        case.body = {"meta": {path["key"]: "value"}}
    elif case.operation.path.endswith("specs/{key}"):
        case.body = {path["key"]: "value"}
    elif case.operation.path.endswith("/accept") and path["id"] in TRANSFER_KEYS:
        case.body = {"accept": {"auth_key": TRANSFER_KEYS[path["id"]]}}
    elif isinstance(case.body.get("auth"), dict):
        case.body["auth"]["identity"] = CHOICE.choice(SEEDS["identities"])


def takes_away(case, body):
    """Whether the example would take away what it names."""
    path = case.operation.path
    is_deletion = case.method == "DELETE" and "quota" not in path
    # Users and projects can be disabled.
    is_deletion = is_deletion or case.method == "PATCH"
    return is_deletion or path.endswith("/accept") or bool(body.keys() & {"os-force_delete", "delete"})


@schemathesis.hook
def before_call(context, case, kwargs):
    # The choices for an example depend on it alone, not on what happened before.
    CALLS[case.operation.label] = CALLS.get(case.operation.label, 0) + 1
    CHOICE.seed(f"{case.operation.label} {CALLS[case.operation.label]}")
    body = case.body if isinstance(case.body, dict) else {}
    is_end = takes_away(case, body)

    path = dict(case.path_parameters or {})
    if "project_id" in path and happens(0.97):
        path["project_id"] = SEEDS["projects"][0]
    last = re.findall(r"\{(\w+)\}", case.operation.path)[-1:]
    for part in path:
        kind = collection(case.operation.path) if part == "id" else PARTS.get(part)
        is_it = is_end and [part] == last and part != "key"
        path[part] = some(kind, is_it) or path[part]
    case.path_parameters = path

    if case.query:
        query = filled(dict(case.query))
        if "marker" in query:
            query["marker"] = some(collection(case.operation.path)) or query["marker"]
        case.query = plausible(case, query) if happens(0.8) else query
    if body:
        case.body = filled(body)
        if happens(0.5):
            agree(case, path)

    headers = dict(case.headers or {})
    if happens(0.5):
        headers["Accept"] = "application/json"
    if not case.operation.path.startswith("/identity") and happens(0.9):
        headers["OpenStack-API-Version"] = version(case)
    if "X-Subject-Token" in headers and happens(0.7):
        # The run's own token is looked at, but only spare ones are revoked.
        if case.method != "DELETE":
            headers["X-Subject-Token"] = SEEDS["token"]
        elif SEEDS["spare_tokens"]:
            headers["X-Subject-Token"] = SEEDS["spare_tokens"].pop()
    case.headers = headers


@schemathesis.hook
def after_call(context, case, response):
    if case.method != "POST" or response.status_code not in (200, 201, 202):
        return
    try:
        made = next(iter(response.json().values()))
    except (ValueError, AttributeError, StopIteration):
        return
    if isinstance(made, dict) and "id" in made:
        is_credential = "application_credentials" in case.operation.path
        kind = "application_credentials" if is_credential else collection(case.operation.path)
        MADE.setdefault(kind, []).append(made["id"])
        if "auth_key" in made:
            TRANSFER_KEYS[made["id"]] = made["auth_key"]
    elif isinstance(made, dict) and "volume_name" in made:
        MADE.setdefault("volumes", []).append(made["volume_id"])


@schemathesis.check
def fields_fit_version_and_role(ctx, response, case):
    """No operation and no field of an answer before its microversion, or for those who may not see it."""
    document, operation = raw(case)
    documented = operation["responses"].get(str(response.status_code))
    if not documented or case.method == "HEAD":
        return
    content = resolved(document, documented).get("content", {}).get("application/json")
    if operation["operationId"] == "actOnVolume" and response.status_code == 200 and response.content:
        # What an action answers depends on the action.
        name = "ConnectionInfo" if "os-initialize_connection" in case.body else "MetadataAnswer"
        content = {"schema": {"$ref": f"#/components/schemas/{name}"}}
        validator = jsonschema_rs.Draft202012Validator({**content["schema"], "components": document["components"]})
        validator.validate(response.json())
    spoken = re.fullmatch(r"volume 3\.(\d+)", (response.headers.get("openstack-api-version") or [""])[0])
    if content is None:
        assert not response.content, "a body that is not documented"
    elif spoken and response.status_code < 300:
        at = int(spoken[1])
        assert minor(operation) <= at, "an operation that is not there yet"
        for name, since, is_for_admins in fields(document, content["schema"], response.json()):
            assert since <= at, f"{name} at {spoken[0]}"
            assert SEEDS["is_admin"] or not is_for_admins, f"{name} is for administrators"
