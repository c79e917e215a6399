"""A volume that a restore makes is like the one that was backed up; and like a new one where the cloud has changed."""

import pytest
from bed import MIB, noise

IMAGE = {"os_distro": "debian", "hw_disk_bus": "scsi", "min_disk": "1"}


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
