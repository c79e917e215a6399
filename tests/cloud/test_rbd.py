"""Volumes of a real Cinder in a real Ceph: backed up, restored, and left as they were."""

import json
import re

import pytest
from bed import MIB, noise, until
from tenant import CloudBed, Tenant, digest_of

GIB = 1 << 30


@pytest.fixture(scope="module")
def bed(cinder, tmp_path_factory):
    # Of what Ceph calls unchanged only samples are read, as it is by default.
    with CloudBed(tmp_path_factory.mktemp("bed"), cinder, engine={"paranoid": False}) as bed:
        bed.start()
        yield bed


@pytest.fixture
def tenant(bed):
    return Tenant(bed, bed.processes[-1])


def kept(bed, volume):
    """Snapshots of ours."""
    return [name for name in bed.snapshots(volume) if re.fullmatch(r"backup\.[0-9a-f-]+\.snap\..+", name)]


def back_up(tenant, volume, **more):
    backup = tenant.back_up(volume, **more)
    return tenant.wait("backups", backup, "available")


def test_a_volume_comes_back_as_a_new_one_of_the_tenants(bed, tenant):
    volume = tenant.create_volume(name="data", metadata={"purpose": "test"})
    data = noise(1, 24 * MIB)
    bed.write(volume, 0, data)
    expected = bed.digest(volume)
    assert expected == digest_of(data, GIB)
    backup = back_up(tenant, volume, name="first")
    assert tenant.show("volumes", volume)["status"] == "available"
    restored = tenant.restore(backup["id"])
    row = tenant.wait("volumes", restored, "available")
    tenant.wait("backups", backup["id"], "available")
    assert row["os-vol-tenant-attr:tenant_id"] == tenant.project
    assert (row["name"], row["metadata"]) == ("data", {"purpose": "test", "src_backup_id": backup["id"]})
    assert bed.digest(restored) == expected


def test_an_incremental_backup_asks_ceph_what_changed(bed, tenant):
    volume = tenant.create_volume()
    data = bytearray(noise(2, 48 * MIB))
    bed.write(volume, 0, bytes(data))
    full = back_up(tenant, volume)
    first = bed.digest(volume)
    assert len(kept(bed, volume)) == 1
    change = noise(3, 64 << 10)
    bed.write(volume, 20 * MIB, change)
    bed.discard(volume, 8 * MIB, 4 * MIB)
    second = bed.digest(volume)
    assert second != first
    incremental = back_up(tenant, volume, incremental=True)
    assert incremental["is_incremental"]
    # A sample of what Ceph calls unchanged is read too.
    ((read,),) = bed.query(f"SELECT read_bytes FROM backups WHERE id = '{incremental['id']}'")
    assert read < 8 * MIB, f"{read} bytes were read"
    # The older snapshot is gone, and the newer one is what the next backup compares with.
    assert len(kept(bed, volume)) == 1
    for backup, expected in ((full, first), (incremental, second)):
        restored = tenant.restore(backup["id"])
        tenant.wait("volumes", restored, "available")
        tenant.wait("backups", backup["id"], "available")
        assert bed.digest(restored) == expected
    # Restored onto the volume itself, which has data where the backup has none.
    assert tenant.restore(full["id"], volume) == volume
    tenant.wait("backups", full["id"], "available")
    tenant.wait("volumes", volume, "available")
    assert bed.digest(volume) == first


def test_a_snapshot_is_backed_up_as_it_was(bed, tenant):
    volume = tenant.create_volume()
    bed.write(volume, 0, noise(4, 8 * MIB))
    made = tenant.ask("POST", "/snapshots", {"snapshot": {"volume_id": volume}})["snapshot"]["id"]
    tenant.wait("snapshots", made, "available")
    expected = bed.digest(volume)
    bed.write(volume, MIB, noise(5, MIB))
    backup = back_up(tenant, volume, snapshot_id=made)
    assert kept(bed, volume) == []
    restored = tenant.restore(backup["id"])
    tenant.wait("volumes", restored, "available")
    assert bed.digest(restored) == expected


def test_a_tenant_deletes_a_volume_that_was_backed_up(bed, tenant):
    volume = tenant.create_volume()
    bed.write(volume, 0, noise(6, MIB))
    backup = back_up(tenant, volume)
    assert len(kept(bed, volume)) == 1
    tenant.delete("volumes", volume)
    restored = tenant.restore(backup["id"])
    tenant.wait("volumes", restored, "available")


def test_a_backup_goes_on_where_a_kill_cut_it_off(bed, tenant):
    volume = tenant.create_volume()
    bed.write(volume, 0, noise(7, 200 * MIB))
    expected = bed.digest(volume)
    backup = tenant.back_up(volume)
    until("a snapshot is there", lambda: kept(bed, volume))
    bed.processes[-1].kill()
    # It is the moment of the first run that is backed up.
    bed.write(volume, 0, noise(8, MIB))
    tenant = Tenant(bed, bed.start())
    tenant.wait("backups", backup, "available")
    assert len(kept(bed, volume)) == 1
    assert tenant.show("volumes", volume)["status"] == "available"
    restored = tenant.restore(backup)
    tenant.wait("volumes", restored, "available")
    assert bed.digest(restored) == expected


def test_a_restore_goes_on_where_a_kill_cut_it_off(bed):
    tenant = Tenant(bed, bed.processes[-1])
    volume = tenant.create_volume()
    bed.write(volume, 0, noise(9, 200 * MIB))
    expected = bed.digest(volume)
    backup = back_up(tenant, volume)
    bed.write(volume, 0, noise(10, 100 * MIB))
    tenant.restore(backup["id"], volume)
    until("the volume is held", lambda: tenant.show("volumes", volume)["status"] == "restoring-backup")
    bed.processes[-1].kill()
    tenant = Tenant(bed, bed.start())
    tenant.wait("volumes", volume, "available")
    tenant.wait("backups", backup["id"], "available")
    assert bed.digest(volume) == expected


def test_what_cannot_be_backed_up_is_refused_with_the_reason(bed):
    tenant = Tenant(bed, bed.processes[-1])
    volume = tenant.create_volume(volume_type="other")
    path = f"/v3/{tenant.project}/backups"
    status, _, answer = tenant.request("POST", path, {"backup": {"volume_id": volume}})
    assert status == 400
    assert 'backend "other"' in answer["badRequest"]["message"]
    assert tenant.ask("GET", f"/backups?volume_id={volume}")["backups"] == []


def test_volumes_of_others_are_not_there(bed):
    tenant = Tenant(bed, bed.processes[-1])
    neighbour = Tenant(bed, bed.processes[-1], "neighbour")
    volume = tenant.create_volume()
    backup = back_up(tenant, volume)
    path = f"/v3/{neighbour.project}/backups"
    assert neighbour.request("POST", path, {"backup": {"volume_id": volume}})[0] == 404
    assert neighbour.request("POST", f"{path}/{backup['id']}/restore", {"restore": {}})[0] == 404


def test_a_quota_of_cinders_stands_against_a_restore(bed, cinder):
    tenant = Tenant(bed, bed.processes[-1], "neighbour")
    volume = tenant.create_volume()
    backup = back_up(tenant, volume)
    limit = {"quota_set": {"volumes": 1}}
    answer = cinder.call("PUT", f"/os-quota-sets/{tenant.project}", limit)
    assert answer.status == 200, answer
    status, _, answer = tenant.request(
        "POST", f"/v3/{tenant.project}/backups/{backup['id']}/restore", {"restore": {}})
    assert status == 413, answer
    assert tenant.show("backups", backup["id"])["status"] == "available"


def test_a_volume_that_a_machine_is_about_to_get_is_not_written(bed, cinder):
    tenant = Tenant(bed, bed.processes[-1])
    volume = tenant.create_volume()
    bed.write(volume, 0, noise(11, MIB))
    backup = back_up(tenant, volume)
    bed.write(volume, 0, noise(12, MIB))
    expected = bed.digest(volume)
    # An attachment that was begun before the volume was taken for the restore; the volume does not show it.
    attachment = {"attachment": {"volume_uuid": volume, "instance_uuid": "00000000-0000-4000-8000-000000000001"}}
    made = cinder.call("POST", "/attachments", attachment, user="member")
    assert made.status == 200, made
    reset = cinder.call("POST", f"/volumes/{volume}/action", {"os-reset_status": {"status": "available"}})
    assert reset.status == 202, reset
    tenant.restore(backup["id"], volume)
    tenant.wait("backups", backup["id"], "available")
    assert tenant.show("volumes", volume)["status"] == "reserved"
    assert bed.digest(volume) == expected


def test_a_volume_whose_restore_was_not_accepted_goes_and_no_other(bed):
    tenant = Tenant(bed, bed.processes[-1])
    left, other = (tenant.create_volume(metadata={"embervault_restore": marker}) for marker in ("left", "other"))
    bed.query("INSERT INTO volumes_in_making (marker, begun_at) VALUES ('left', 0)")
    tenant.wait_gone("volumes", left)
    until("the marker is gone", lambda: not bed.query("SELECT 1 FROM volumes_in_making"))
    assert tenant.show("volumes", other)["status"] == "available"


def test_what_cinder_adds_to_the_metadata_is_not_restored(bed, cinder):
    tenant = Tenant(bed, bed.processes[-1])
    volume = tenant.create_volume(metadata={"purpose": "test"})
    flag = {"os-update_readonly_flag": {"readonly": True}}
    assert cinder.call("POST", f"/volumes/{volume}/action", flag, user="member").status == 202
    assert tenant.show("volumes", volume)["metadata"]["readonly"] == "True"
    restored = tenant.restore(back_up(tenant, volume)["id"])
    row = tenant.wait("volumes", restored, "available")
    assert sorted(row["metadata"]) == ["purpose", "src_backup_id"]


def test_zeros_behind_the_size_of_an_image_are_no_part_of_the_volume(bed, cinder):
    tenant = Tenant(bed, bed.processes[-1])
    volume = tenant.create_volume()
    cinder.ceph.call("rbd", "resize", f"volumes/volume-{volume}", "--size", "1100M", "--no-progress")
    bed.write(volume, GIB, bytes(MIB))
    assert back_up(tenant, volume)["size"] == 1
    bed.write(volume, GIB + MIB, b"data")
    backup = tenant.back_up(volume)
    row = until("it fails", lambda: (row := tenant.show("backups", backup))["status"] == "error" and row)
    assert "it was extended after the backup was asked for" in row["fail_reason"]


def test_a_client_that_ceph_has_shut_out_comes_back(bed, cinder):
    tenant = Tenant(bed, bed.processes[-1])
    volume = tenant.create_volume()
    bed.write(volume, 0, noise(13, 100 * MIB))
    expected = bed.digest(volume)
    backup = back_up(tenant, volume)
    restored = tenant.restore(backup["id"])
    # While it writes, the service is the image's only client.
    status = lambda: cinder.ceph.call("rbd", "status", f"volumes/volume-{restored}", "--format", "json")
    watchers = until("the service has opened it", lambda: json.loads(status())["watchers"])
    for watcher in watchers:
        cinder.ceph.call("ceph", "osd", "blacklist", "add", watcher["address"])
    tenant.wait("volumes", restored, "available")
    tenant.wait("backups", backup["id"], "available")
    assert bed.digest(restored) == expected
    back_up(tenant, volume)
