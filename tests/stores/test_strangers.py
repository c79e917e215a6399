"""Who means harm, without an account or with one, and settings that were written down wrong."""

import concurrent.futures
import contextlib
import json
import os
import re
import socket
import time
import urllib.parse

import pytest

from bed import MIB, Bed, Client

CONNECTIONS = 200
TIMEOUT = 2
LIMIT = 1024
LOG_IN = "POST /identity/v3/auth/tokens HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


def settings():
    return {"api": {"client_timeout": f"{TIMEOUT}s", "connections_max": CONNECTIONS}}


def send(process, text, buffer=None, patience=1.0):
    """A connection of its own on which this was sent, as far as it was taken in time."""
    place = urllib.parse.urlsplit(process.base)
    stranger = socket.socket()
    if buffer:
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    stranger.settimeout(60)
    stranger.connect((place.hostname, place.port))
    stranger.settimeout(patience)
    with contextlib.suppress(TimeoutError):
        stranger.sendall(text.encode())
    stranger.settimeout(60)
    return stranger


def rest(stranger):
    """All that comes until the other side closes."""
    answer = b""
    with stranger:
        while piece := stranger.recv(65536):
            answer += piece
    return answer.decode()


def resident(process, key="VmRSS"):
    with open(f"/proc/{process.child.pid}/status") as status:
        line = next(line for line in status if line.startswith(f"{key}:"))
    return int(line.split()[1]) * 1024


def cpu_seconds(process):
    with open(f"/proc/{process.child.pid}/stat") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


@pytest.fixture
def service(tmp_path):
    with Bed(tmp_path, prefix=["prlimit", f"--nofile={LIMIT}:{LIMIT}"], **settings()) as bed:
        yield bed.start()


@pytest.mark.calm
def test_strangers_neither_hold_the_service_nor_speak_for_it(service):
    # The token comes before the body, and a body in time.
    started = time.monotonic()
    refused = rest(send(service, "POST /v3/backups HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{"))
    assert refused.startswith("HTTP/1.1 401 "), refused
    waited = rest(send(service, f"{LOG_IN}Content-Length: 1000\r\n\r\n{{"))
    assert waited.startswith("HTTP/1.1 408 ") and "Request Timeout" in waited, waited
    large = rest(send(service, f"{LOG_IN}Content-Length: 1000000\r\n\r\n{'x' * 1000000}"))
    assert large.startswith("HTTP/1.1 413 "), large
    # What stands behind an answer that closes is not read, and yet the answer arrives.
    nonsense = "GET / HTTP/1.1\r\n\r\n" * 5000
    assert rest(send(service, nonsense)).startswith("HTTP/1.1 400 ")
    # Half a head, be it the first or a later one, is no reason to wait.
    half = rest(send(service, "GET / HTTP/1.1\r\nHos"))
    assert half.startswith("HTTP/1.1 408 "), half
    assert rest(send(service, "GET / HTTP/1.1\r\nHost: x\r\n\r\nGET / HT")).count("HTTP/1.1 300 ") == 1
    assert time.monotonic() - started < 8 * TIMEOUT
    # Whom nobody believes does not choose the host of links.
    links = rest(send(service, "GET / HTTP/1.1\r\nHost: x\r\nX-Forwarded-Host: evil\r\nConnection: close\r\n\r\n"))
    assert "http://x/v3/" in links and "evil" not in links, links
    bad = rest(send(service, 'GET / HTTP/1.1\r\nHost: "evil"\r\nConnection: close\r\n\r\n'))
    assert "evil" not in bad, bad


@pytest.mark.calm
def test_many_strangers_wait_and_the_rest_goes_on(service):
    started, spent = time.monotonic(), cpu_seconds(service)
    strangers = [send(service, f"{LOG_IN}Content-Length: 1000\r\n\r\n{{") for _ in range(CONNECTIONS + 120)]
    assert len(os.listdir(f"/proc/{service.child.pid}/fd")) < CONNECTIONS + 100
    # Some still wait for a place, and so does this one.
    client = Client(service.bed, service)
    assert client.ask("GET", "/backups") == {"backups": []}
    took = time.monotonic() - started
    assert took < 6 * TIMEOUT
    # Most of a core would be what turns in circles; a slow machine takes longer for everything.
    assert cpu_seconds(service) - spent < max(3, took / 2)
    for stranger in strangers:
        stranger.close()


def test_a_member_with_much_metadata_is_bounded_and_lists_of_it_take_little(tmp_path):
    keys, volumes, lists = 1000, 40, 30
    with Bed(tmp_path) as bed:
        process = bed.start()
        demo = Client(bed, process)

        def ask(method, path, body=None):
            status, headers, answer = demo.request(method, f"/v3/{demo.project}{path}", body)
            return status, answer, headers

        def entries(start, count, length=55):
            return {f"k{number:05}": "x" * length for number in range(start, start + count)}

        def made(number):
            volume = {"volume": {"size": 1, "name": f"n{number}", "metadata": entries(0, keys)}}
            return demo.ask("POST", "/volumes", volume)["volume"]["id"]

        ids = {made(number) for number in range(volumes)}
        one = f"/volumes/{min(ids)}"
        # The bounds are those of the default settings: 1024 keys, 64 KiB.
        status, answer, headers = ask("POST", f"{one}/metadata", {"metadata": entries(keys, 25, 0)})
        assert status == 413 and headers["Retry-After"] == "0", (status, answer)
        assert "1025 keys exceed the 1024 allowed" in answer["overLimit"]["message"]
        status, answer, _ = ask("POST", f"{one}/metadata", {"metadata": entries(0, 100, 110)})
        assert status == 413 and "exceed the 65536 allowed" in answer["overLimit"]["message"], answer
        assert "api.metadata_items_max and api.metadata_bytes_max" in answer["overLimit"]["message"]

        # Lists at once: little more than a few pages in memory, and everybody is answered.
        path = f"/v3/{demo.project}/volumes/detail"
        demo.request("GET", path)
        before = resident(process)
        with open(f"/proc/{process.child.pid}/clear_refs", "w") as refs:
            refs.write("5")
        with concurrent.futures.ThreadPoolExecutor(lists) as pool:
            answers = [one.result() for one in [pool.submit(demo.request, "GET", path) for _ in range(lists)]]
        assert {status for status, *_ in answers} == {200}
        grown = resident(process, "VmHWM") - before
        assert grown < 80 * MIB, f"{grown / MIB:.0f} MiB for {lists} lists at once"
        # A page ends before it is full, and leads to the next one.
        seen, pages = [], 0
        while path:
            page = demo.request("GET", path)[2]
            seen += [row["id"] for row in page["volumes"]]
            assert len(json.dumps(page)) < 3 * MIB / 2
            path = page["volumes_links"][0]["href"].removeprefix(process.base) if "volumes_links" in page else None
            pages += 1
        assert sorted(seen) == sorted(ids) and pages > 1

        # What is larger, from before there was a bound, can be read, made smaller and removed.
        old = json.dumps(entries(0, 2000, 110))
        bed.query(f"UPDATE volumes SET metadata = '{old}' WHERE id = '{min(ids)}'")
        assert len(demo.ask("GET", f"{one}/metadata")["metadata"]) == 2000
        assert ask("PUT", f"{one}/metadata/new", {"meta": {"new": ""}})[0] == 413
        assert ask("PUT", f"{one}/metadata/k00001", {"meta": {"k00001": "y"}})[0] == 200
        assert ask("DELETE", f"{one}/metadata/k00000")[0] == 200
        assert ask("PUT", f"{one}/metadata", {"metadata": entries(0, 1500, 0)})[0] == 200
        assert len(demo.ask("GET", f"{one}/metadata")["metadata"]) == 1500
        demo.delete("volumes", min(ids))


@pytest.mark.calm
def test_who_never_ends_is_cut_off_and_gives_its_place_back(service):
    started = time.monotonic()
    chunked = f"{LOG_IN}Transfer-Encoding: chunked\r\n\r\n1\r\n{{\r\n"
    strangers = [send(service, chunked) for _ in range(CONNECTIONS)]
    # This one goes on after its answer as before it.
    talker = strangers.pop()
    with pytest.raises(OSError):
        while time.monotonic() - started < 6 * TIMEOUT:
            talker.sendall(b"1\r\n \r\n")
            time.sleep(0.1)
    for stranger in strangers:
        answer = rest(stranger)
        assert answer.startswith("HTTP/1.1 408 ") and "connection: close" in answer.lower(), answer
    # Neither does the head of a second request come for ever.
    dripping = send(service, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert dripping.recv(65536).startswith(b"HTTP/1.1 300 ")
    again = time.monotonic()
    with pytest.raises(OSError):
        while time.monotonic() - again < 4 * TIMEOUT:
            dripping.sendall(b"G")
            time.sleep(0.2)
    assert time.monotonic() - started < 8 * TIMEOUT
    assert Client(service.bed, service).ask("GET", "/backups") == {"backups": []}


@pytest.mark.calm
def test_requests_that_nobody_waits_for_cost_little(service):
    client = Client(service.bed, service)
    started = time.monotonic()
    assert client.ask("GET", "/backups") == {"backups": []}
    usual = time.monotonic() - started
    # What comes together is answered, in its order, with and without a body.
    head = "GET /healthcheck HTTP/1.1\r\nHost: x\r\n"
    body = f"{LOG_IN}Content-Length: 5000\r\n\r\n{{{' ' * 4999}"
    several = f"{head}\r\n" * 300 + body * 20 + f"{head}\r\n".replace("GET", "HEAD")
    answers = rest(send(service, f"{several}{head}Connection: close\r\n\r\n", patience=60))
    statuses = re.findall(r"HTTP/1\.1 (\d+) ", answers)
    assert statuses == ["200"] * 300 + ["400"] * 20 + ["204", "200"], statuses
    assert answers.count("\r\n\r\nOK") == 301 and answers.lower().count("connection: close") == 1

    flooders, before = 20, resident(service)
    small = "GET / HTTP/1.1\r\nHost:\r\n\r\n" * 40_000
    strangers = [send(service, small, buffer=4096, patience=0.2) for _ in range(flooders)]
    time.sleep(1)
    grown = resident(service) - before
    assert grown < flooders * MIB / 2, f"{grown / flooders / MIB:.1f} MiB for each"
    started = time.monotonic()
    assert client.ask("GET", "/backups") == {"backups": []}
    assert time.monotonic() - started < TIMEOUT + 20 * usual
    for stranger in strangers:
        stranger.close()


def test_what_a_head_or_a_document_may_take_is_known_before_it_is_kept(service):
    def status(line, headers="", body=None):
        length = "" if body is None else f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        head = f"{line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}{length}\r\n"
        answer = rest(send(service, head + (body or "")))
        return int(answer.split(" ", 2)[1]), answer

    client, log = Client(service.bed, service), len(service.log.read_text())
    token = f"X-Auth-Token: {client.token}\r\n"
    path = "/identity/v3/auth/tokens"
    small = ",".join('{"":0}' for _ in range(2000))
    many = f'{{"volume":[{",".join("0" for _ in range(50_000))}]}}'
    for line, headers, body, expected in [
        (f"POST {path}?{'&'.join('a' * 30_000)}", "", "{}", 414),
        (f"POST {path}?{'&'.join('a' * 3000)}", "", "{}", 400),
        (f"GET /v3/volumes?{'&'.join('a' * 3000)}", token, None, 400),
        (f"GET /identity/{'x' * 60_000}", "", None, 414),
        (f"GET /identity/{'x' * 8000}", "", None, 404),
        ("GET /identity/v3", f"Accept: {'x' * 60_000}\r\n", None, 431),
        (f"POST {path}", "", f'{{"auth":[{small}]}}', 400),
        (f"POST {path}", "", " " * 20_000, 413),
        (f"POST /v3/{client.project}/volumes", token, many, 400),
        ("GET /identity/v3/users/%00", token, None, 400),
        ("GET /identity/v3/users/%00/application_credentials", token, None, 400),
        ("GET /identity/v3/projects?name=%00", token, None, 400),
    ]:
        found, answer = status(line, headers, body)
        assert found == expected, (line[:60], found, answer[:500])
    assert "more than 256 values" in status(f"POST {path}", "", f'{{"auth":[{small}]}}')[1]
    assert len(service.log.read_text()) - log < 8000


def test_answers_that_nobody_takes_are_bounded(tmp_path):
    strangers, users = 100, [("bob", "secret", "greedy", "member"), ("alice", "secret", "modest", "member")]
    with Bed(tmp_path, users=users) as bed:
        process = bed.start()
        bob, alice = Client(bed, process, "bob", "greedy"), Client(bed, process, "alice", "modest")
        for volume in range(6):
            made = bob.create_volume()
            metadata = {f"k{key:03}": "\x01" * 230 + f"{volume:02}" for key in range(250)}
            bed.query(f"UPDATE volumes SET metadata = '{json.dumps(metadata)}' WHERE id = '{made}'")
        path = f"/v3/{bob.project}/volumes/summary"
        assert len(json.dumps(bob.request("GET", path)[2])) > 2_000_000
        before = resident(process)
        with open(f"/proc/{process.child.pid}/clear_refs", "w") as refs:
            refs.write("5")
        head = f"GET {path} HTTP/1.1\r\nHost: x\r\nX-Auth-Token: {bob.token}\r\n"
        version = "OpenStack-API-Version: volume 3.71\r\n\r\n"
        waiting = [send(process, head + version, buffer=4096) for _ in range(strangers)]
        # Others are not kept waiting by it.
        assert alice.ask("GET", "/volumes/detail")["volumes"] == []
        time.sleep(2)
        grown = resident(process, "VmHWM") - before
        assert grown < 60 * MIB, f"{grown / MIB:.0f} MiB for {strangers} answers"
        for stranger in waiting:
            stranger.close()


@pytest.mark.calm
def test_one_user_with_many_projects_does_not_hold_the_memory_of_all(tmp_path):
    projects = ["p1", "p2", "p3", "p4"]
    users = [*(("bob", "secret", project, "member") for project in projects), ("alice", "secret", "modest", "member")]
    with Bed(tmp_path, users=users) as bed:
        process = bed.start()
        metadata = json.dumps({f"k{key:03}": "\x01" * 250 for key in range(250)})
        heads = []
        for project in projects:
            bob = Client(bed, process, "bob", project)
            made = bob.create_volume()
            bed.query(f"UPDATE volumes SET metadata = '{metadata}' WHERE id = '{made}'")
            heads.append(f"GET /v3/{bob.project}/volumes/{made} HTTP/1.1\r\nHost: x\r\nX-Auth-Token: {bob.token}\r\n\r\n")
        # Not before all is made: who holds a whole share gets nothing more.
        waiting = [send(process, head, buffer=4096) for head in heads for _ in range(25)]
        time.sleep(1)
        started = time.monotonic()
        alice = Client(bed, process, "alice", "modest")
        alice.ask("GET", "/limits")
        alice.create_volume()
        assert time.monotonic() - started < 5
        for stranger in waiting:
            stranger.close()


def test_wrong_settings_are_refused_and_not_repeated(tmp_path):
    bed = Bed(tmp_path)
    good = bed.config.read_text()
    policy = tmp_path / "policy.yaml"

    def refused(text, *arguments):
        bed.config.write_text(text + good)
        error = bed.run(*arguments, status=1).stderr
        assert "hunter2" not in error, error
        return error

    for text, message in [
        ("log.filter = hunter2\n", "line 1, column 14: string values must be quoted"),
        ("quota.groups = 'hunter2'\n", "quota.groups: invalid type, expected i64"),
        ("maintenance.compact_percent = 'hunter2'\n", "maintenance.compact_percent: "),
        ("storage.second.url = 'webdav+https://u:hunter2@host/x'\n", "storage.second.url: no password"),
        (f"a = {'[' * 100_000}\n", "line 1, column"),
    ]:
        error = refused(text, "config", "print")
        assert message in error and len(error) < 1000, error
    bed.config.write_text(good.replace(bed.database, "postgresql://u:hunter2@host/name?password=hunter2"))
    assert "hunter2" not in bed.run("config", "print").stdout
    bed.config.write_text(good.replace(bed.database, "postgresql://u:%hunter2@host/name"))
    assert "hunter2" not in bed.run("worker", status=1).stderr

    doubled = "".join(f'r{n:02}: "rule:r{n + 1:02} or rule:r{n + 1:02}"\n' for n in range(20)) + 'r20: "!"\n'
    for rules, line in [
        (f'a: "@"\n"backup:get": "{"(" * 100_000}@{")" * 100_000}"\n', 2),
        (f'a: "@"\n"backup:get": "{"not " * 100_000}@"\n', 2),
        ("".join(f'r{n:05}: "rule:r{n + 1:05}"\n' for n in range(20_000)) + 'r20000: "@"\n', None),
        (doubled, None),
    ]:
        policy.write_text(rules)
        error = refused(f"policy.file = '{policy}'\n", "worker")
        assert f"{policy}, line {line or ''}" in error, error

    files = ["prlimit", f"--nofile={CONNECTIONS}:{CONNECTIONS}"]
    with Bed(tmp_path / "few", prefix=files) as few:
        assert "api.connections_max" in few.run("serve", status=1).stderr


def test_bodies_that_are_on_their_way_are_bounded(tmp_path):
    largest, strangers = 4 * MIB, 100
    users = [("bob", "secret", "greedy", "member"), ("alice", "secret", "modest", "member")]
    with Bed(tmp_path, users=users, api={"body_bytes_max": "4 MiB"}, engine={"memory": "512 MiB"}) as bed:
        process = bed.start()
        bob, alice = Client(bed, process, "bob", "greedy"), Client(bed, process, "alice", "modest")
        before = resident(process)
        head = f"POST /v3/{bob.project}/backups HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        head += f"X-Auth-Token: {bob.token}\r\nContent-Length: {largest}\r\n\r\n"
        # All but the last byte.
        waiting = [send(process, head + " " * (largest - 1), patience=0.2) for _ in range(strangers)]
        started = time.monotonic()
        alice.create_volume()
        assert time.monotonic() - started < 5
        # One caller may hold 8 of the largest. Beside them stands what each connection has read ahead.
        grown = resident(process) - before
        assert grown < 8 * largest + strangers * MIB / 4, f"{grown / MIB:.0f} MiB"
        for stranger in waiting:
            stranger.close()


@pytest.mark.calm
def test_strangers_and_jobs_together_keep_to_the_memory(tmp_path):
    """Two backups to a slow storage, and all that clients can make the service hold, at the same time."""
    size, strangers, users = 256 * MIB, 120, [("bob", "secret", "greedy", "member"), ("alice", "secret", "modest", "member")]
    settings = {
        "jobs": {"lease": "60s"},
        "maintenance": {"verify_every": "1s"},
    }
    storage = {"url": f"fs:{tmp_path / 'store'}", "upload_limit": "6 MiB"}
    with Bed(tmp_path, storage, users=users, **settings) as bed:
        # As the engine is set by default.
        bed.settings["engine"] = {}
        bed.write_config()
        process = bed.start()
        bob, alice = Client(bed, process, "bob", "greedy"), Client(bed, process, "alice", "modest")
        # Values of control characters are six times as long in an answer.
        metadata = json.dumps({f"k{key:03}": "\x01" * 250 for key in range(250)})
        backups, heads = [], []
        for client in (bob, alice):
            volume = client.create_volume()
            bed.write(volume, 0, os.urandom(size))
            bed.query(f"UPDATE volumes SET metadata = '{metadata}' WHERE id = '{volume}'")
            backups.append((client, client.back_up(volume)))
            head = f"GET /v3/{client.project}/volumes/detail HTTP/1.1\r\nHost: x\r\nX-Auth-Token: {client.token}\r\n\r\n"
            body = f"POST /v3/{client.project}/backups HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            body += f"X-Auth-Token: {client.token}\r\nContent-Length: 110000\r\n\r\n" + " " * 109_999
            one = f"GET /v3/{client.project}/volumes/{volume} HTTP/1.1\r\nHost: x\r\nX-Auth-Token: {client.token}\r\n\r\n"
            heads += [(head, 4096), (one, 4096), (body, None)]
        for client, _ in backups:
            for _ in range(6):
                made = client.create_volume()
                bed.query(f"UPDATE volumes SET metadata = '{metadata}' WHERE id = '{made}'")
        for client, backup in backups:
            assert client.show("backups", backup)["status"] == "creating"

        def guess(number):
            user = {"name": f"user{number}", "password": "wrong", "domain": {"id": "default"}}
            document = json.dumps({"auth": {"identity": {"methods": ["password"], "password": {"user": user}}}})
            stranger = send(process, f"{LOG_IN}Content-Length: {len(document)}\r\nConnection: close\r\n\r\n{document}")
            return rest(stranger)[:12]

        waiting = [send(process, head, buffer, 0.2) for head, buffer in heads for _ in range(strangers // len(heads))]
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            assert {"HTTP/1.1 401"} <= set(pool.map(guess, range(100)))
        for client, backup in backups:
            assert client.show("backups", backup)["status"] == "creating", "it was too short for this test"
        most = resident(process, "VmHWM")
        print(f"{most / MIB:.0f} MiB at most")
        assert most <= 256 * MIB, f"{most / MIB:.0f} MiB"
        for stranger in waiting:
            stranger.close()
        for client, backup in backups:
            client.wait("backups", backup, "available")
