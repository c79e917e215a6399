"""Volumes of a real Cinder in a real Ceph: backed up, restored, and left as they were."""

import json

import pytest
from bed import MIB, noise, until
from tenant import Tenant, digest_of

GIB = 1 << 30
IMAGE = {"os_distro": "debian", "hw_disk_bus": "scsi", "min_disk": "1"}


def test_a_volume_comes_back_as_a_new_one_of_the_tenants(bed, tenant):
    volume = tenant.create_volume(name="data", metadata={"purpose": "test"})
    data = noise(1, 24 * MIB)
    bed.write(volume, 0, data)
    expected = bed.digest(volume)
    assert expected == digest_of(data, GIB)
    backup = tenant.backed_up(volume, name="first")
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
    full = tenant.backed_up(volume)
    first = bed.digest(volume)
    assert len(bed.kept(volume)) == 1
    change = noise(3, 64 << 10)
    bed.write(volume, 20 * MIB, change)
    bed.discard(volume, 8 * MIB, 4 * MIB)
    second = bed.digest(volume)
    assert second != first
    incremental = tenant.backed_up(volume, incremental=True)
    assert incremental["is_incremental"]
    # A sample of what Ceph calls unchanged is read too.
    ((read,),) = bed.query(f"SELECT read_bytes FROM backups WHERE id = '{incremental['id']}'")
    assert read < 8 * MIB, f"{read} bytes were read"
    # The older snapshot is gone, and the newer one is what the next backup compares with.
    assert len(bed.kept(volume)) == 1
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
    backup = tenant.backed_up(volume, snapshot_id=made)
    assert bed.kept(volume) == []
    restored = tenant.restore(backup["id"])
    tenant.wait("volumes", restored, "available")
    assert bed.digest(restored) == expected


def test_a_tenant_deletes_a_volume_that_was_backed_up(bed, tenant):
    volume = tenant.create_volume()
    bed.write(volume, 0, noise(6, MIB))
    backup = tenant.backed_up(volume)
    assert len(bed.kept(volume)) == 1
    tenant.delete("volumes", volume)
    restored = tenant.restore(backup["id"])
    tenant.wait("volumes", restored, "available")


def test_a_backup_goes_on_where_a_kill_cut_it_off(bed, tenant):
    volume = tenant.create_volume()
    bed.write(volume, 0, noise(7, 200 * MIB))
    expected = bed.digest(volume)
    backup = tenant.back_up(volume)
    until("a snapshot is there", lambda: bed.kept(volume))
    bed.processes[-1].kill()
    # It is the moment of the first run that is backed up.
    bed.write(volume, 0, noise(8, MIB))
    tenant = Tenant(bed, bed.start())
    tenant.wait("backups", backup, "available")
    assert len(bed.kept(volume)) == 1
    assert tenant.show("volumes", volume)["status"] == "available"
    restored = tenant.restore(backup)
    tenant.wait("volumes", restored, "available")
    assert bed.digest(restored) == expected


def test_a_restore_goes_on_where_a_kill_cut_it_off(bed):
    tenant = Tenant(bed, bed.processes[-1])
    volume = tenant.create_volume()
    bed.write(volume, 0, noise(9, 200 * MIB))
    expected = bed.digest(volume)
    backup = tenant.backed_up(volume)
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
    backup = tenant.backed_up(volume)
    path = f"/v3/{neighbour.project}/backups"
    assert neighbour.request("POST", path, {"backup": {"volume_id": volume}})[0] == 404
    assert neighbour.request("POST", f"{path}/{backup['id']}/restore", {"restore": {}})[0] == 404


def test_a_quota_of_cinders_stands_against_a_restore(bed, cinder):
    tenant = Tenant(bed, bed.processes[-1], "neighbour")
    volume = tenant.create_volume()
    backup = tenant.backed_up(volume)
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
    backup = tenant.backed_up(volume)
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
    restored = tenant.restore(tenant.backed_up(volume)["id"])
    row = tenant.wait("volumes", restored, "available")
    assert sorted(row["metadata"]) == ["purpose", "src_backup_id"]


def test_zeros_behind_the_size_of_an_image_are_no_part_of_the_volume(bed, cinder):
    tenant = Tenant(bed, bed.processes[-1])
    volume = tenant.create_volume()
    cinder.ceph.call("rbd", "resize", f"volumes/volume-{volume}", "--size", "1100M", "--no-progress")
    bed.write(volume, GIB, bytes(MIB))
    assert tenant.backed_up(volume)["size"] == 1
    bed.write(volume, GIB + MIB, b"data")
    backup = tenant.back_up(volume)
    row = until("it fails", lambda: (row := tenant.show("backups", backup))["status"] == "error" and row)
    assert "it was extended after the backup was asked for" in row["fail_reason"]


def test_a_client_that_ceph_has_shut_out_comes_back(bed, cinder):
    tenant = Tenant(bed, bed.processes[-1])
    volume = tenant.create_volume()
    bed.write(volume, 0, noise(13, 100 * MIB))
    expected = bed.digest(volume)
    backup = tenant.backed_up(volume)
    restored = tenant.restore(backup["id"])
    # While it writes, the service is the image's only client.
    status = lambda: cinder.ceph.call("rbd", "status", f"volumes/volume-{restored}", "--format", "json")
    watchers = until("the service has opened it", lambda: json.loads(status())["watchers"])
    for watcher in watchers:
        cinder.ceph.call("ceph", "osd", "blacklist", "add", watcher["address"])
    tenant.wait("volumes", restored, "available")
    tenant.wait("backups", backup["id"], "available")
    assert bed.digest(restored) == expected
    tenant.backed_up(volume)


@pytest.fixture
def gold(cinder):
    body = {"volume_type": {"name": "gold", "extra_specs": {"volume_backend_name": "ceph"}}}
    made = cinder.call("POST", "/types", body)
    assert made.status == 200, made
    gold = made.body["volume_type"]["id"]
    yield gold
    cinder.call("DELETE", f"/types/{gold}")


def told(tenant, backup):
    listed = tenant.ask("GET", f"/messages?resource_uuid={backup}")["messages"]
    return [message["user_message"] for message in listed]


def test_a_new_volume_has_what_the_old_one_had(bed, tenant, cinder, gold):
    volume = tenant.create_volume(name="system", description="of a machine", volume_type="gold")
    action = f"/volumes/{volume}/action"
    tenant.ask("POST", action, {"os-set_bootable": {"bootable": True}})
    tenant.ask("POST", action, {"os-set_image_metadata": {"metadata": IMAGE}})
    bed.write(volume, 0, noise(1, MIB))
    expected = bed.digest(volume)
    backup = tenant.backed_up(volume)["id"]
    tenant.delete("volumes", volume)
    restored = tenant.restored(backup)
    row = tenant.show("volumes", restored)
    assert (row["name"], row["description"]) == ("system", "of a machine")
    assert (row["volume_type"], row["bootable"], row["availability_zone"]) == ("gold", "true", "nova")
    assert row["volume_image_metadata"] == IMAGE
    assert bed.digest(restored) == expected
    assert told(tenant, backup) == []
    # The type is not the cloud's any more.
    tenant.delete("volumes", restored)
    answer = cinder.call("DELETE", f"/types/{gold}")
    assert answer.status == 202, answer
    restored = tenant.restored(backup)
    row = tenant.show("volumes", restored)
    assert (row["name"], row["volume_type"], row["bootable"]) == ("system", "ceph", "true")
    assert bed.digest(restored) == expected
    (message,) = told(tenant, backup)
    assert "The volume type of the backup is not there any more" in message


def test_a_new_volume_is_in_the_default_zone_where_its_own_is_gone(bed, tenant):
    volume = tenant.create_volume()
    bed.write(volume, 0, noise(2, MIB))
    backup = tenant.backed_up(volume)["id"]
    bed.query(f"UPDATE backups SET volume_zone = 'east' WHERE id = '{backup}'")
    row = tenant.show("volumes", tenant.restored(backup))
    assert (row["volume_type"], row["availability_zone"]) == ("ceph", "nova")
    (message,) = told(tenant, backup)
    assert "The availability zone of the backup is not there any more" in message
