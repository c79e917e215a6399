"""What Cinder's own code answered, asked of the running service: see tests/golden/README.md."""

import base64
import binascii
import json
import re
import tomllib

import pytest
from conftest import ROOT, Service
from world import World, call, configuration

GOLDEN = ROOT / "tests" / "golden"
FILES = sorted(path.stem for path in GOLDEN.glob("*.jsonl"))
FIXTURES = tomllib.loads((GOLDEN / "fixtures.toml").read_text())
DEVIATIONS = tomllib.loads((GOLDEN / "deviations.toml").read_text())
# Its exchanges only read, so that they can look at the same things.
SHARED = "list-routing-versions"
# As recorded: where the API was, the caller's project, and another one.
BASE = "http://volume.example.com:8776"
PROJECT, OTHER_PROJECT = "89afd400b64646dfb0a2f1b4b9a5c6d7", "f" * 32
HEADERS = (
    "Content-Type", "Etag", "Location", "OpenStack-API-Version", "Retry-After", "Vary", "WWW-Authenticate",
)
ID = re.compile(r"\b(?:[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{32})\b")
# What differs from run to run or from place to place, and how it must look.
VARIABLE = re.compile(rf"(?P<base>{BASE})|(?P<id>{ID.pattern})|(?P<time>2026-11-21T[\d:]{{8}}(?:\.\d{{6}}|Z))"
                      r"|(?P<host>node1(?:@lvm(?:#pool)?)?)")
NAME = r"[\w.-]+"
HOSTS = {"node1": NAME, "node1@lvm": f"{NAME}@{NAME}", "node1@lvm#pool": f"{NAME}@{NAME}#{NAME}"}
# What an exported record says of the place where the data lie.
OPAQUE = {
    "body.backup-record.backup_service": r"cinder\.backup\.drivers\..+",
    "body.backup-record.backup_url.service": r"cinder\.backup\.drivers\..+",
    "body.backup-record.backup_url.service_metadata": r".+",
}
REQUEST_ID = re.compile(r"req-[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}")


def exchanges():
    for file in FILES:
        for number, line in enumerate((GOLDEN / f"{file}.jsonl").open(), 1):
            row = json.loads(line)
            path = re.sub(ID, lambda found: found[0][:8], row["path"].replace(PROJECT, "{project}"))
            yield pytest.param(file, number, row, id=f"{file}:{number} {row['method']} {path[:100]}")


def record(text):
    """What stands in a backup's exported record; None if it is no record."""
    try:
        found = json.loads(base64.b64decode(text))
        return found if isinstance(found, dict) else None
    except (binascii.Error, ValueError):
        return None


def named(row):
    """The ids an exchange names, also those inside of records."""
    text = json.dumps(row)
    records = [json.dumps(record(part)) for part in re.findall(r'"backup_url": "([\w+/=]+)"', text)]
    return set(ID.findall(" ".join([text, *records])))


@pytest.fixture(scope="module")
def services(tmp_path_factory):
    """A service for each file, started when it is first asked for."""
    running = {}

    def service(file):
        if file not in running:
            directory = tmp_path_factory.mktemp(file)
            lines = sum(1 for _ in (GOLDEN / f"{file}.jsonl").open())
            config = directory / "embervault.toml"
            config.write_text(configuration(["other", "shared", "left", *(str(line + 1) for line in range(lines))]))
            quota = {"EMBERVAULT_QUOTA__VOLUMES": "10", "EMBERVAULT_QUOTA__BACKUPS": "10"}
            running[file] = Service(directory / "data", quota, config=config)
        return running[file]

    yield service
    for one in running.values():
        one.stop()


@pytest.fixture(scope="module")
def shared_world(services):
    """The world of the exchanges that only read."""
    made = []

    def world():
        if not made:
            made.append(World(services(SHARED), "shared", FIXTURES[SHARED]))
            for fixture in FIXTURES[SHARED]:
                made[0].make(fixture)
        return made[0]

    return world


def world_of(file, number, row, services):
    """A project with what this exchange presupposes."""
    holding = [one for one in FIXTURES[file] if number in one.get("lines", [number])]
    by_id = {one["id"]: one for one in holding if "id" in one}
    world = World(services(file), str(number), list(by_id.values()))
    for one in holding:
        if "id" not in one or (one["id"] in named(row) and one is by_id[one["id"]]):
            world.make(one)
    return world


def send(world, row, ids):
    def ours(text):
        return VARIABLE.sub(lambda found: ids.get(found[0], found[0]), text)

    def ours_in_record(text):
        found = record(text)
        return text if found is None else base64.b64encode(ours(json.dumps(found)).encode()).decode()

    role = row["roles"].split(",")[0]
    caller = world.caller_without_roles() if role == "nothing" else world.caller(role)
    headers = {**row["request_headers"], "X-Auth-Token": caller.token}
    match row["request"]:
        case None:
            body = None
        case str(text):
            body = text
        case tree:
            text = re.sub(r'(?<="backup_url": ")[\w+/=]+', lambda found: ours_in_record(found[0]), json.dumps(tree))
            body = ours(text)
    return call(world.service.base, row["method"], ours(row["path"]), headers, body)


class Comparison:
    """Recorded and actual values side by side; ids are bound to each other as they turn up."""

    def __init__(self, ids):
        self.ids, self.found = dict(ids), []

    def differ(self, where, expected, actual):
        text = VARIABLE.sub(lambda found: self.ids.get(found[0], found[0]), json.dumps(expected))
        self.found.append(f"{where}: expected {text}, got {json.dumps(actual)}")

    def compare(self, where, expected, actual):
        match expected, actual:
            case dict(), dict():
                self.objects(where, expected, actual)
            case list(), list() if len(expected) == len(actual):
                for number, (one, other) in enumerate(zip(expected, actual)):
                    self.compare(f"{where}[{number}]", one, other)
            case str(), str():
                self.text(where, expected, actual)
            case _ if expected != actual or type(expected) is not type(actual):
                self.differ(where, expected, actual)

    def objects(self, where, expected, actual):
        for key in [*expected, *(key for key in actual if key not in expected)]:
            here = f"{where}.{key}"
            if key not in expected:
                self.found.append(f"{here}: not expected, got {json.dumps(actual[key])}")
            elif key not in actual:
                self.found.append(f"{here}: missing, expected {json.dumps(expected[key])}")
            elif here in OPAQUE:
                if not re.fullmatch(OPAQUE[here], str(actual[key])):
                    self.differ(here, OPAQUE[here], actual[key])
            elif key == "capabilities":
                # The recorded ones are a stub's; a backend says more of itself.
                self.compare(here, sorted(expected[key]), sorted(set(expected[key]) & set(actual[key])))
            elif key == "backup_url":
                self.compare(here, record(expected[key]), record(actual[key]))
                if record(actual[key]) and list(record(actual[key])) != list(record(expected[key])):
                    self.found.append(f"{here}: keys in another order")
            else:
                self.compare(here, expected[key], actual[key])
        self.times(where, expected, actual)

    def times(self, where, expected, actual):
        """Times that were recorded equal within one object are equal here."""
        known = {}
        for key, value in expected.items():
            if isinstance(value, str) and VARIABLE.fullmatch(value) and value.startswith("2026-") and key in actual:
                if known.setdefault(value, actual[key]) != actual[key]:
                    self.differ(f"{where}.{key}", known[value], actual[key])

    def text(self, where, expected, actual):
        if expected.startswith("~"):
            pattern = expected[1:]
        else:
            pattern, end, groups = "", 0, []
            for found in VARIABLE.finditer(expected):
                pattern += re.escape(expected[end:found.start()]) + self.variable(found, groups)
                end = found.end()
            pattern += re.escape(expected[end:])
        matched = re.fullmatch(pattern, actual, re.DOTALL)
        if not matched:
            self.differ(where, expected, actual)
        elif not expected.startswith("~"):
            self.ids.update(zip(groups, matched.groups()))

    def variable(self, found, groups):
        text = found[0]
        match found.lastgroup:
            case "time":
                return r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d" + ("Z" if text.endswith("Z") else r"\.\d{6}")
            case "host":
                return HOSTS[text]
        if text in self.ids:
            return re.escape(self.ids[text])
        if text in groups:
            return rf"(?:\{groups.index(text) + 1})"
        groups.append(text)
        return f"({ID.pattern})"


def differences(row, answer, ids):
    comparison = Comparison(ids)
    if answer.status != row["status"]:
        comparison.differ("answer", [row["status"], row["body"]], [answer.status, answer.body])
        return comparison.found
    comparison.compare("body", row["body"], answer.body)
    for name in HEADERS:
        comparison.compare(name, row["headers"].get(name), answer.headers.get(name))
    request_id = answer.headers.get("x-openstack-request-id", "")
    if not REQUEST_ID.fullmatch(request_id):
        comparison.differ("x-openstack-request-id", "req-…", request_id)
    # Cinder's own answers bear it too; those given before it is reached and bare ones do not.
    is_before = "OpenStack-API-Version" not in row["headers"] and row["status"] in (200, 302, 401, 404)
    is_bare = row["headers"].get("Content-Type", "").startswith("text/html")
    compute_id = None if is_before or is_bare else request_id
    comparison.compare("x-compute-request-id", compute_id, answer.headers.get("x-compute-request-id"))
    return comparison.found


@pytest.mark.parametrize("file, number, row", exchanges())
def test_the_service_answers_as_recorded(file, number, row, services, shared_world):
    world = shared_world() if file == SHARED else world_of(file, number, row, services)
    ids = {text: text for text in ID.findall(row["path"] + json.dumps(row["request"]))}
    ids |= world.ids
    ids[BASE] = world.service.base
    ids[PROJECT] = world.caller("member").project_id
    ids[OTHER_PROJECT] = world.caller("member", "other").project_id
    instead = DEVIATIONS.get(f"{file}:{number}", {})
    expected = {**row, **{key: instead[key] for key in ("status", "headers") if key in instead}}
    if "body" in instead:
        expected["body"] = json.loads(instead["body"])
    try:
        answer = send(world, row, ids)
    finally:
        world.leave()
    found = differences(expected, answer, ids)
    assert not found, "\n".join(found)


def test_every_deviation_is_of_a_recorded_exchange():
    known = {f"{one.values[0]}:{one.values[1]}" for one in exchanges()}
    assert set(DEVIATIONS) <= known and all(one["reason"] for one in DEVIATIONS.values())
