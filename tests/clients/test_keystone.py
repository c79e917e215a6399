"""The program beside a real Keystone: clients, roles, scopes, caching, access rules and outages."""

import contextlib
import datetime
import json
import re
import socket
import time

import pytest
from conftest import TARGET, TOOLS, Service
from identity_steps import DIFFERENCES, STEPS, Side
from servers.keystone import ADMIN_PASSWORD, Cloud, Keystone, credential, http, password, project


pytestmark = pytest.mark.slow


def settings(keystone_url, **more):
    """The variables that make the program ask this Keystone."""
    keystone = {
        "auth_url": keystone_url, "username": "embervault", "password": "embervault-password",
        "project_name": "service", "user_domain_name": "Default", "project_domain_name": "Default", **more,
    }
    variables = {f"EMBERVAULT_IDENTITY__KEYSTONE__{key.upper()}": value for key, value in keystone.items()}
    return {"EMBERVAULT_IDENTITY__MODE": "keystone", **variables}


@pytest.fixture(scope="module")
def cloud(tmp_path_factory):
    keystone = Keystone.create(TOOLS / "keystone/bin/python", tmp_path_factory.mktemp("keystone"))
    try:
        yield Cloud(keystone)
    finally:
        keystone.stop()


@pytest.fixture(scope="module")
def service(cloud, tmp_path_factory):
    """The program that the catalogue names, used by clients as the member."""
    directory = tmp_path_factory.mktemp("service")
    clouds = directory / "clouds.yaml"
    clouds.write_text(cloud.clouds_yaml())
    service = Service(directory / "data", {"OS_CLIENT_CONFIG_FILE": str(clouds), **settings(cloud.keystone.url)})
    cloud.publish(service.base)
    yield service
    service.stop()


@pytest.fixture
def serve(cloud, tmp_path):
    """Starts a program of the test's own, with other settings of `identity.keystone`."""
    with contextlib.ExitStack() as running:

        def start(url=cloud.keystone.url, **more):
            service = Service(tmp_path / "data", settings(url, **more))
            running.callback(service.stop)
            return service

        yield start


@pytest.fixture(scope="module")
def backup(service, cloud):
    """A volume and a backup of the member."""
    demo, token = cloud.projects["demo"], cloud.token()
    made = call(service, demo, token, "/volumes", "POST", {"volume": {"size": 1, "name": "kept"}})
    assert made.status == 202, made
    settle(service, demo, token, f"/volumes/{made.body['volume']['id']}")
    wanted = {"backup": {"volume_id": made.body["volume"]["id"], "name": "kept"}}
    made = call(service, demo, token, "/backups", "POST", wanted)
    assert made.status == 202, made
    return settle(service, demo, token, f"/backups/{made.body['backup']['id']}")


def call(service, project_id, token, path="/backups", method="GET", body=None, **headers):
    """One request for block storage."""
    if token is not None:
        headers["X_Auth_Token"] = token
    return http(method, f"{service.base}/v3/{project_id}{path}", body, **headers)


def settle(service, project_id, token, path):
    """What is there once nothing works on it any more."""
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        [shown] = call(service, project_id, token, path).body.values()
        if shown["status"] == "available":
            return shown
        assert not shown["status"].startswith("error"), shown
        time.sleep(0.1)
    raise AssertionError(shown)


def becomes(status, ask, seconds=60):
    """Asks again and again until the answer has this status."""
    until = time.monotonic() + seconds
    while (answer := ask()).status != status:
        assert time.monotonic() < until, answer
        time.sleep(0.1)
    return answer


def log_of(service):
    """All that the service logged: it ends here, for its lines reach the file some time after the answer."""
    service.stop()
    return (service.data.parent / "log").read_text()


def test_the_openstack_client_goes_the_whole_way_with_keystone(service, cloud):
    openstack, demo, token = service.openstack, cloud.projects["demo"], cloud.token()
    volume = json.loads(openstack("volume", "create", "--size", "1", "source", "-f", "json"))
    settle(service, demo, token, f"/volumes/{volume['id']}")
    for name, more in (("full", []), ("inc", ["--incremental", "--property", "k=v"])):
        made = json.loads(openstack("volume", "backup", "create", "--name", name, *more, "source", "-f", "json"))
        settle(service, demo, token, f"/backups/{made['id']}")
    listed = json.loads(openstack("volume", "backup", "list", "-f", "json"))
    assert {"full", "inc"} <= {row["Name"] for row in listed}
    shown = json.loads(openstack("volume", "backup", "show", "inc", "-f", "json"))
    assert shown["status"] == "available" and shown["is_incremental"] and shown["metadata"] == {"k": "v"}
    openstack("volume", "backup", "delete", "full")
    openstack("volume", "backup", "restore", "inc", "restored")
    restored = json.loads(openstack("volume", "show", "restored", "-f", "json"))
    settle(service, demo, token, f"/volumes/{restored['id']}")
    openstack("volume", "backup", "delete", "inc")
    openstack("volume", "delete", "source", "restored")
    assert "cinder-backup" in openstack("volume", "service", "list", cloud="embervault-admin")


def test_the_conformance_tester_passes_with_keystone(service):
    done = service.conformance("--os-cloud", "embervault", "--data")
    assert (done.returncode, done.stdout) == (0, "scs-0117-test-backup: PASS\n"), done.stderr


def test_a_reader_reads_and_who_has_no_known_role_does_not_even_that(service, cloud, backup):
    demo, reader, stranger = cloud.projects["demo"], cloud.token("reader"), cloud.token("stranger")
    listed = call(service, demo, reader)
    assert listed.status == 200 and backup["id"] in [row["id"] for row in listed.body["backups"]]
    wanted = {"backup": {"volume_id": backup["volume_id"]}}
    refused = call(service, demo, reader, "/backups", "POST", wanted)
    assert refused.status == 403
    assert refused.body["forbidden"]["message"] == "Policy doesn't allow backup:create to be performed."
    assert call(service, demo, reader, f"/backups/{backup['id']}", "DELETE").status == 403
    refused = call(service, demo, stranger)
    assert refused.status == 403 and "backup:get_all" in refused.body["forbidden"]["message"]
    assert call(service, demo, stranger, "/backups", "POST", wanted).status == 403


def test_another_project_sees_nothing_and_administrators_see_everything(service, cloud, backup):
    demo, other, token = cloud.projects["demo"], cloud.projects["other"], cloud.token("neighbour")
    assert call(service, other, token).body == {"backups": []}
    for path, method, body in [
        (f"/backups/{backup['id']}", "GET", None),
        (f"/backups/{backup['id']}", "DELETE", None),
        (f"/backups/{backup['id']}/restore", "POST", {"restore": {}}),
        (f"/volumes/{backup['volume_id']}", "GET", None),
        ("/backups", "POST", {"backup": {"volume_id": backup["volume_id"]}}),
    ]:
        assert call(service, other, token, path, method, body).status == 404, path
    foreign = call(service, demo, token, f"/backups/{backup['id']}")
    assert foreign.status == 400 and foreign.body["badRequest"]["message"] == "Malformed request url"
    admin = cloud.token("admin", "admin")
    shown = call(service, cloud.projects["admin"], admin, f"/backups/{backup['id']}")
    assert shown.status == 200 and shown.body["backup"]["id"] == backup["id"]


def test_only_a_token_of_a_project_is_let_in(service, cloud):
    demo, keystone = cloud.projects["demo"], cloud.keystone
    assert call(service, demo, f" {cloud.token()} ").status == 200
    unscoped, _ = keystone.authenticate(password("member"))
    of_domain, _ = keystone.authenticate(password("member"), {"domain": {"id": "default"}})
    for token in (unscoped, of_domain):
        assert call(service, demo, token).status == 401
    for token in (None, "", "rubbish", "gAAAAA" + "x" * 170, cloud.token()[:-1]):
        refused = call(service, demo, token)
        assert refused.status == 401, token
        assert refused.headers["WWW-Authenticate"] == f'Keystone uri="{keystone.url}"'
        assert refused.body == {"error": {
            "code": 401, "title": "Unauthorized",
            "message": "The request you have made requires authentication.",
        }}


def test_keystone_is_asked_once_for_a_token_and_once_for_the_service(serve, cloud):
    service, demo, keystone = serve(), cloud.projects["demo"], cloud.keystone
    tokens = [cloud.token() for _ in range(3)]
    asked, logins = keystone.requests("GET", "/v3/auth/tokens"), keystone.requests("POST", "/v3/auth/tokens")
    for number, token in enumerate(tokens, 1):
        for _ in range(3):
            assert call(service, demo, token).status == 200
        assert len(keystone.requests("GET", "/v3/auth/tokens")) == len(asked) + number
    assert len(keystone.requests("POST", "/v3/auth/tokens")) <= len(logins) + 1
    secrets = [*tokens, "embervault-password"]
    assert not [secret for secret in secrets if secret in log_of(service)]


def test_a_revoked_token_is_refused_once_the_cache_has_forgotten_it(serve, cloud):
    service, demo = serve(cache_time="1s"), cloud.projects["demo"]
    token, unseen = cloud.token(), cloud.token()
    assert call(service, demo, token).status == 200
    cloud.keystone.revoke(token)
    cloud.keystone.revoke(unseen)
    assert call(service, demo, unseen).status == 401
    # Asking all the time must not keep the token in the cache.
    becomes(401, lambda: call(service, demo, token))


def test_an_expired_token_is_refused_unless_a_service_vouches_for_it(serve, cloud):
    demo, public = cloud.projects["demo"], "https://identity.example.com/v3"
    short = cloud.keystone.beside(token_seconds=12)
    try:
        service = serve(short.url, www_authenticate_uri=public)
        token, body = short.authenticate(password("member"), project("demo"))
        assert call(service, demo, token).status == 200
        # One second more, so that the token of the service's own user has expired as well.
        expiry = datetime.datetime.fromisoformat(body["expires_at"].replace("Z", "+00:00"))
        time.sleep((expiry - datetime.datetime.now(datetime.timezone.utc)).total_seconds() + 1)
        refused = call(service, demo, token)
        assert refused.status == 401 and refused.headers["WWW-Authenticate"] == f'Keystone uri="{public}"'
        assert call(service, demo, cloud.token(keystone=short)).status == 200

        of_service, of_member = cloud.token("embervault"), cloud.token()
        assert call(service, demo, token, X_Service_Token=of_service).status == 200
        assert call(service, demo, token).status == 401
        for voucher in ("rubbish", of_member):
            assert call(service, demo, token, X_Service_Token=voucher).status == 401
        assert call(service, demo, of_member, X_Service_Token=of_service).status == 200
        assert call(service, demo, of_member, X_Service_Token="rubbish").status == 401
    finally:
        short.stop()


def test_a_revoked_token_of_the_service_itself_is_replaced(serve, cloud):
    service, demo, keystone = serve(), cloud.projects["demo"], cloud.keystone
    assert call(service, demo, cloud.token()).status == 200
    cloud.forget_tokens("embervault")
    asked, logins = keystone.requests("GET", "/v3/auth/tokens"), keystone.requests("POST", "/v3/auth/tokens")
    for _ in range(3):
        assert call(service, demo, cloud.token()).status == 200
    # Keystone refuses the old token once, then there is a new one.
    answers = keystone.requests("GET", "/v3/auth/tokens")[len(asked):]
    assert [" 401 " in line for line in answers] == [True, False, False, False]
    assert len(keystone.requests("POST", "/v3/auth/tokens")) == len(logins) + 1


def test_an_application_credential_logs_in(service, cloud):
    made = cloud.application_credential()
    environment = {
        "OS_CLOUD": "", "OS_CLIENT_CONFIG_FILE": "/nonexistent", "OS_AUTH_TYPE": "v3applicationcredential",
        "OS_AUTH_URL": cloud.keystone.url, "OS_REGION_NAME": "RegionOne",
        "OS_APPLICATION_CREDENTIAL_ID": made["id"], "OS_APPLICATION_CREDENTIAL_SECRET": made["secret"],
    }
    done = service.run(TOOLS / "sdk-new/bin/openstack", "volume", "create", "--size", "1", "by-credential",
                       environment=environment)
    assert done.returncode == 0 and "by-credential" in done.stdout, done.stdout + done.stderr


def test_access_rules_of_an_application_credential_are_kept(service, cloud, backup):
    demo = cloud.projects["demo"]
    rules = [
        ("block-storage", "GET", "/v3/*/backups"),
        ("block-storage", "GET", "/v3/{project_id}/volumes/{volume_id}"),
        ("block-storage", "GET", "/v3/**/detail"),
        ("compute", "POST", "/v3/*/backups"),
    ]
    rules = [{"service": service, "method": method, "path": path} for service, method, path in rules]
    token, _ = cloud.keystone.authenticate(credential(cloud.application_credential(access_rules=rules)))
    volume, wanted = f"/volumes/{backup['volume_id']}", {"backup": {"volume_id": backup["volume_id"]}}
    assert call(service, demo, token, volume).status == 200
    assert call(service, demo, token, "/backups?limit=1").status == 200
    assert call(service, demo, token, "/backups/detail").status == 200
    for method, path, body in [
        ("GET", "/volumes", None),
        ("GET", f"{volume}/metadata", None),
        ("GET", f"/backups/{backup['id']}", None),
        ("DELETE", f"/backups/{backup['id']}", None),
        ("POST", "/backups", wanted),
    ]:
        refused = call(service, demo, token, path, method, body)
        assert refused.status == 401 and refused.body["error"]["code"] == 401, (method, path, refused)
        assert refused.headers["WWW-Authenticate"] == f'Keystone uri="{cloud.keystone.url}"'
    token, _ = cloud.keystone.authenticate(credential(cloud.application_credential(access_rules=rules[:1])))
    assert call(service, demo, token).status == 200
    assert call(service, demo, token, volume).status == 401


def test_without_keystone_known_tokens_work_and_others_wait_for_its_return(service, serve, cloud):
    demo, known, unknown = cloud.projects["demo"], cloud.token(), cloud.token()
    assert call(service, demo, known).status == 200
    cloud.keystone.stop()
    try:
        late = serve()
        assert call(service, demo, known).status == 200
        for asked, token in ((service, unknown), (service, "rubbish"), (late, known)):
            assert call(asked, demo, token).status == 503
        assert call(service, demo, None).status == 401
    finally:
        cloud.keystone.start()
    for asked in (service, late):
        becomes(200, lambda: call(asked, demo, unknown))
        assert call(asked, demo, "rubbish").status == 401


def test_a_keystone_that_never_answers_does_not_hold_up_the_rest(serve, cloud):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        service = serve(f"http://127.0.0.1:{silent.getsockname()[1]}/v3", timeout="1s")
        started = time.monotonic()
        assert call(service, cloud.projects["demo"], "a-token").status == 503
        assert time.monotonic() - started < 30
        assert http("GET", f"{service.base}/").status == 300


def test_a_wrong_password_of_the_service_is_told_in_the_log_but_not_shown(serve, cloud):
    service = serve(password="wrong-hunter2")
    assert call(service, cloud.projects["demo"], cloud.token()).status == 503
    printed = service.run(TARGET / "debug" / "embervault", "config", "print")
    assert printed.returncode == 0 and "keystone" in printed.stdout, printed.stderr
    log = log_of(service)
    assert re.search("keystone", log, re.IGNORECASE) and re.search("401|password|credentials", log), log
    assert "hunter2" not in log + printed.stdout + printed.stderr


def test_the_embedded_identity_answers_as_keystone_does(cloud, tmp_path):
    configuration = tmp_path / "embervault.toml"
    named = {"name": "admin", "password": ADMIN_PASSWORD, "project": "admin", "role": "admin"}
    rows = [f"{key} = {json.dumps(value)}" for key, value in named.items()]
    configuration.write_text("\n".join(["[[identity.users]]", *rows]))
    service = Service(tmp_path / "data", config=configuration)
    try:
        log_in = {"auth": {"identity": password("admin"), "scope": project("admin")}}
        keystone, embedded = (Side(base, log_in) for base in (cloud.keystone.url, f"{service.base}/identity/v3"))
        differing = {}
        for step in STEPS:
            answers = keystone.take(step), embedded.take(step)
            if answers[0] != answers[1]:
                differing[step.name] = answers
        unexpected = {name: answers for name, answers in differing.items() if name not in DIFFERENCES}
        assert not unexpected, json.dumps(unexpected, indent=1)
        # What does not differ any more leaves the list.
        assert set(DIFFERENCES) == set(differing)
        log = log_of(service)
        assert "request refused" in log and not re.search(r"-password|own-secret", log), log
    finally:
        service.stop()
