"""The stock openstack client, openstacksdk at two versions, and the conformance tester."""

import hashlib
import json
import pathlib
import sqlite3
import time

import pytest
from conftest import TARGET, TOOLS, Service

FLOW = pathlib.Path(__file__).with_name("scs_flow.py")


def wait(service, kind, name, status="available"):
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        shown = json.loads(service.openstack(*kind.split(), "show", name, "-f", "json"))
        if shown["status"] == status:
            return shown
        assert not shown["status"].startswith("error"), shown
        time.sleep(0.2)
    raise AssertionError(f"{kind} {name} is {shown['status']}")


def transfer(service, verb, volume, file):
    done = service.run(TARGET / "debug" / "embervault", "volume", verb, "--data-dir", service.data,
                       "--volume", volume, file)
    assert done.returncode == 0, done.stderr


def digest(path):
    hasher = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            hasher.update(piece)
    return hasher.hexdigest()


def test_no_setting_of_a_developer_reaches_the_service(tmp_path, monkeypatch):
    # `tests/run --soak` sets the first, which the program would refuse.
    monkeypatch.setenv("EMBERVAULT_SOAK", "1")
    monkeypatch.setenv("EMBERVAULT_DATABASE__URL", "postgresql://nobody@127.0.0.1:1/none")
    Service(tmp_path / "data").stop()


def test_the_openstack_client_backs_up_and_restores_bit_for_bit(service, tmp_path):
    openstack = service.openstack
    volume = json.loads(openstack("volume", "create", "--size", "1", "--property", "a=b", "source", "-f", "json"))
    wait(service, "volume", "source")
    image = tmp_path / "image"
    image.write_bytes(hashlib.shake_256(b"data").digest(5_000_000) + bytes(3_000_000) + b"end" * 99)
    transfer(service, "import", volume["id"], image)
    openstack("volume", "backup", "create", "--name", "full", "source")
    assert wait(service, "volume backup", "full")["is_incremental"] is False

    image.write_bytes(bytes(2_000_000) + hashlib.shake_256(b"new").digest(4_000_000))
    transfer(service, "import", volume["id"], image)
    openstack("volume", "backup", "create", "--incremental", "--property", "k=v", "--name", "inc", "source")
    shown = wait(service, "volume backup", "inc")
    assert shown["is_incremental"] is True and shown["metadata"] == {"k": "v"}
    listed = json.loads(openstack("volume", "backup", "list", "-f", "json"))
    assert {"full", "inc"} <= {row["Name"] for row in listed}

    openstack("volume", "backup", "delete", "full")
    openstack("volume", "backup", "restore", "inc", "restored")
    restored = wait(service, "volume", "restored")
    assert restored["properties"]["a"] == "b"
    transfer(service, "export", volume["id"], tmp_path / "source")
    transfer(service, "export", restored["id"], tmp_path / "restored")
    assert digest(tmp_path / "source") == digest(tmp_path / "restored")
    with open(tmp_path / "restored", "rb") as file:
        assert file.read(image.stat().st_size) == image.read_bytes()

    openstack("volume", "backup", "set", "--name", "renamed", "--description", "d", "inc")
    assert wait(service, "volume backup", "renamed")["description"] == "d"
    openstack("volume", "backup", "restore", "--force", "renamed", "source")
    wait(service, "volume", "source")


def test_snapshots_types_limits_and_services_by_the_openstack_client(service):
    openstack = service.openstack
    openstack("volume", "create", "--size", "1", "snapped")
    wait(service, "volume", "snapped")
    openstack("volume", "snapshot", "create", "--volume", "snapped", "snap")
    wait(service, "volume snapshot", "snap")
    openstack("volume", "backup", "create", "--snapshot", "snap", "--name", "of-snap", "snapped")
    assert wait(service, "volume backup", "of-snap")["snapshot_id"]
    openstack("volume", "create", "--snapshot", "snap", "--size", "2", "from-snap")
    assert wait(service, "volume", "from-snap")["size"] == 2
    openstack("volume", "set", "--size", "3", "from-snap")
    assert wait(service, "volume", "from-snap")["size"] == 3
    openstack("volume", "snapshot", "delete", "snap")
    assert "__DEFAULT__" in openstack("volume", "type", "list")
    assert "nova" in openstack("availability", "zone", "list", "--volume")
    assert "cinder-backup" in openstack("volume", "service", "list", cloud="embervault-admin")
    assert "total_backups_used" in openstack("limits", "show", "--absolute")
    created = json.loads(openstack("application", "credential", "create", "ci", "-f", "json"))
    created = {key.lower(): value for key, value in created.items()}
    environment = {
        "OS_CLOUD": "", "OS_CLIENT_CONFIG_FILE": "/nonexistent", "OS_AUTH_TYPE": "v3applicationcredential",
        "OS_AUTH_URL": f"{service.base}/identity/v3",
        "OS_APPLICATION_CREDENTIAL_ID": created["id"], "OS_APPLICATION_CREDENTIAL_SECRET": created["secret"],
    }
    done = service.run(TOOLS / "sdk-new/bin/openstack", "volume", "list", environment=environment)
    assert done.returncode == 0 and "snapped" in done.stdout, done.stderr


def test_cinderclient_makes_and_deletes_a_backup(service):
    openstack = service.openstack
    openstack("volume", "create", "--size", "1", "by-cinder")
    wait(service, "volume", "by-cinder")
    user = service.user("demo")
    cinder = [TOOLS / "sdk-new/bin/cinder", "--os-auth-type", "v3password", "--os-auth-url", f"{service.base}/identity/v3",
              "--os-username", user["name"], "--os-password", user["password"], "--os-user-domain-id", "default",
              "--os-project-name", user["project"], "--os-project-domain-id", "default"]
    for command in (["backup-create", "--name", "cb", "by-cinder"], ["backup-list"], ["backup-show", "cb"]):
        if command[0] == "backup-show":
            wait(service, "volume backup", "cb")
        done = service.run(*cinder, *command)
        assert done.returncode == 0, done.stderr
    done = service.run(*cinder, "backup-restore", "cb")
    assert done.returncode == 0 and "restore_backup_" in done.stdout, done.stderr
    wait(service, "volume backup", "cb")
    done = service.run(*cinder, "backup-delete", "cb")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("sdk", ["sdk-scs", "sdk-new"])
def test_the_scs_flow_passes_twice_in_a_row(own_service, sdk):
    python = TOOLS / sdk / "bin/python"
    for _ in range(2):
        done = own_service.run(python, FLOW)
        assert done.returncode == 0 and done.stdout.startswith("PASS"), done.stdout + done.stderr
    # An unnamed backup in the project: names stay null, and a check that can bear that passes.
    own_service.openstack("volume", "create", "--size", "1", "other")
    wait(own_service, "volume", "other")
    own_service.openstack("volume", "backup", "create", "other")
    done = own_service.run(python, FLOW, "--tolerate-unnamed")
    assert done.returncode == 0, done.stdout + done.stderr
    done = own_service.run(python, FLOW, environment={"OS_CLOUD": "embervault-admin"})
    assert "ABORT" in done.stderr


def test_the_conformance_tester_passes_with_data_twice_and_beside_an_unnamed_backup(own_service):
    own_service.openstack("volume", "create", "--size", "1", "other")
    wait(own_service, "volume", "other")
    own_service.openstack("volume", "backup", "create", "other")
    for arguments in ([], ["--data"], ["--data", "--legacy-report"]):
        done = own_service.conformance("--os-cloud", "embervault", *arguments)
        verdict = "volume-backup-check: PASS\n" if "--legacy-report" in arguments else "scs-0117-test-backup: PASS\n"
        assert (done.returncode, done.stdout) == (0, verdict), done.stderr
    assert own_service.openstack("volume", "list", "-f", "value", "-c", "Name").split() == ["other"]


def test_the_conformance_tester_refuses_administrators_and_tells_failures(own_service):
    done = own_service.conformance("--os-cloud", "embervault-admin")
    assert (done.returncode, done.stdout) == (1, "scs-0117-test-backup: ABORT\n"), done.stderr
    done = own_service.conformance("--os-cloud", "nothing")
    assert done.returncode != 0 and done.stdout == "scs-0117-test-backup: ABORT\n", done.stderr
    # A storage that gives back something else than it was given must not pass.
    own_service.conformance("--os-cloud", "embervault")
    [record] = (own_service.data / "storage").glob("v/*/vault.json")
    record.write_text("rubbish")
    # The database's copy would put it right.
    with sqlite3.connect(own_service.data / "embervault.db", timeout=60) as connection:
        connection.execute("UPDATE vaults SET record = 'rubbish'")
    done = own_service.conformance("--os-cloud", "embervault", "--timeout", "300")
    assert (done.returncode, done.stdout) == (1, "scs-0117-test-backup: FAIL\n"), done.stderr
    assert "vault.json is corrupt" in done.stderr


def test_the_demonstration_succeeds_on_an_ext4_image(service, tmp_path):
    files, image = tmp_path / "files", tmp_path / "image"
    files.mkdir()
    for number in range(200):
        (files / str(number)).write_bytes(hashlib.shake_256(bytes([number % 150])).digest(1000 + 997 * number))
    done = service.run("mke2fs", "-q", "-t", "ext4", "-d", files, image, "64M",
                       environment={"PATH": "/usr/sbin:/sbin:" + service.environment["PATH"]})
    assert done.returncode == 0, done.stderr
    done = service.run(TARGET / "debug" / "embervault", "demo", "--input", image)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("every byte is right") == 3 and "incremental backup" in done.stdout
