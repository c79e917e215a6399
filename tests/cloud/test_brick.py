"""Volumes of a Cinder on NFS: backed up and restored through os-brick, and nothing of it left."""

import json

import pytest
from bed import MIB, noise, until
from tenant import POOL, CloudBed, Tenant

GIB = 1 << 30


class BrickBed(CloudBed):
    """The service in front of a cloud, for volumes in Ceph and on NFS."""

    def __init__(self, dir, cinder, **brick):
        rbd = {"conf": cinder.ceph.client_conf, "user": "embervault", "pool": POOL, "timeout": "10s"}
        brick = {"backends": ["nfs"], "python": cinder.python, "timeout": "5m", **brick}
        # Each helper is a Python that starts, and many do at once on a busy machine.
        super().__init__(dir, cinder, {"timeout": "60s", "rbd": {"ceph": rbd}, "brick": brick})
        self.extra["PATH"] = cinder.path

    def path(self, volume):
        """The file whose content the volume is now; after a snapshot it is one more, of the format of QEMU."""
        info = self.cinder.share / f"volume-{volume}.info"
        name = json.loads(info.read_text())["active"] if info.exists() else f"volume-{volume}"
        return self.cinder.share / name

    def write(self, volume, offset, data):
        with open(self.path(volume), "r+b") as file:
            file.seek(offset)
            file.write(data)

    def content(self, volume):
        return self.path(volume).read_bytes()

    def temporaries(self):
        """What was made for jobs: at Cinder, on the share, and the notes of it."""
        left = []
        for kind in ("volumes", "snapshots"):
            listed = self.cinder.call("GET", f"/{kind}/detail?all_tenants=1").body[kind]
            left += [(kind, row["id"], row["status"]) for row in listed if "embervault_job" in row["metadata"]]
        return left + self.query("SELECT job, volume FROM temporaries")

    def leftovers(self):
        return super().leftovers() + self.temporaries()


@pytest.fixture(scope="module")
def bed(cinder, tmp_path_factory):
    with BrickBed(tmp_path_factory.mktemp("brick"), cinder) as bed:
        bed.start()
        yield bed


def create_volume(tenant, **more):
    return tenant.create_volume(volume_type="nfs", **more)


def test_a_volume_comes_back_as_a_new_one_and_on_itself(bed, tenant):
    volume = create_volume(tenant, name="data")
    bed.write(volume, 3 * MIB, noise(1, 24 * MIB))
    bed.write(volume, GIB - 4096, noise(2, 4096))
    expected = bed.content(volume)
    backup = tenant.backed_up(volume)["id"]
    assert bed.leftovers() == []
    assert tenant.show("volumes", volume)["status"] == "available"
    restored = tenant.restored(backup)
    assert tenant.show("volumes", restored)["volume_type"] == "nfs"
    assert bed.content(restored) == expected
    bed.write(volume, 0, noise(3, 40 * MIB))
    tenant.restored(backup, volume)
    assert bed.content(volume) == expected
    assert bed.leftovers() == []


def test_an_incremental_backup_has_what_changed(bed, tenant):
    volume = create_volume(tenant)
    bed.write(volume, 0, noise(4, 24 * MIB))
    first = bed.content(volume)
    full = tenant.backed_up(volume)["id"]
    bed.write(volume, 10 * MIB, noise(5, MIB))
    bed.write(volume, 500 * MIB, noise(6, MIB))
    second = bed.content(volume)
    incremental = tenant.backed_up(volume, incremental=True)
    assert incremental["is_incremental"]
    ((stored,),) = bed.query(f"SELECT stored_bytes FROM backups WHERE id = '{incremental['id']}'")
    assert stored < 4 * MIB, f"{stored} bytes were stored"
    for backup, expected in ((full, first), (incremental["id"], second)):
        assert bed.content(tenant.restored(backup)) == expected
    assert bed.leftovers() == []


def test_a_snapshot_is_backed_up_as_it_was(bed, tenant):
    volume = create_volume(tenant)
    bed.write(volume, 0, noise(7, 8 * MIB))
    expected = bed.content(volume)
    made = tenant.ask("POST", "/snapshots", {"snapshot": {"volume_id": volume}})["snapshot"]["id"]
    tenant.wait("snapshots", made, "available")
    backup = tenant.backed_up(volume, snapshot_id=made)["id"]
    assert tenant.show("snapshots", made)["status"] == "available"
    # The volume is a file of QEMU's format now, whose bytes are not the volume's: it is not written.
    before = bed.content(volume)
    tenant.restore(backup, volume)
    tenant.wait("backups", backup, "available")
    assert tenant.show("volumes", volume)["status"] == "error_restoring"
    assert bed.content(volume) == before
    tenant.delete("snapshots", made)
    assert bed.content(tenant.restored(backup)) == expected
    assert bed.leftovers() == []


def test_a_volume_in_use_stays_in_use(bed, tenant, cinder):
    volume = create_volume(tenant)
    bed.write(volume, 0, noise(8, 8 * MIB))
    expected = bed.content(volume)
    attachment = {"volume_uuid": volume, "connector": {"host": "compute", "ip": "127.0.0.1"}}
    made = cinder.call("POST", "/attachments", {"attachment": attachment}, user="member")
    assert made.status == 200, made
    attachment = made.body["attachment"]["id"]
    done = cinder.call("POST", f"/attachments/{attachment}/action", {"os-complete": {}}, user="member")
    assert done.status == 204, done
    assert tenant.show("volumes", volume)["status"] == "in-use"
    backup = tenant.backed_up(volume, force=True)["id"]
    assert tenant.show("volumes", volume)["status"] == "in-use"
    assert bed.temporaries() == []
    assert cinder.call("DELETE", f"/attachments/{attachment}", user="member").status == 200
    assert bed.content(tenant.restored(backup)) == expected


@pytest.mark.parametrize("moment", ["snapshots", "volumes", "connection"])
def test_a_backup_goes_on_where_a_kill_cut_it_off(bed, moment):
    tenant = Tenant(bed, bed.processes[-1])
    volume = create_volume(tenant)
    bed.write(volume, 0, noise(9, 100 * MIB))
    expected = bed.content(volume)
    backup = tenant.back_up(volume)
    until(f"the {moment} is there", lambda: any(moment == kind for kind, *_ in bed.temporaries())
          or (moment == "connection" and bed.query("SELECT 1 FROM temporaries WHERE volume IS NOT NULL")))
    bed.processes[-1].kill()
    # It is the moment of the first run that is backed up.
    bed.write(volume, 0, noise(10, MIB))
    tenant = Tenant(bed, bed.start())
    tenant.wait("backups", backup, "available")
    until("nothing is left", lambda: bed.leftovers() == [])
    assert bed.content(tenant.restored(backup)) == expected


def test_a_restore_goes_on_where_a_kill_cut_it_off(bed):
    tenant = Tenant(bed, bed.processes[-1])
    volume = create_volume(tenant)
    bed.write(volume, 0, noise(11, 100 * MIB))
    expected = bed.content(volume)
    backup = tenant.backed_up(volume)["id"]
    bed.write(volume, 0, noise(12, 100 * MIB))
    tenant.restore(backup, volume)
    until("it is connected", lambda: bed.query("SELECT 1 FROM temporaries WHERE volume IS NOT NULL"))
    assert tenant.show("volumes", volume)["status"] == "restoring-backup"
    bed.processes[-1].kill()
    tenant = Tenant(bed, bed.start())
    tenant.wait("volumes", volume, "available")
    tenant.wait("backups", backup, "available")
    assert bed.content(volume) == expected
    assert bed.leftovers() == []


def test_what_is_left_of_a_job_that_is_lost_goes(bed, cinder):
    tenant = Tenant(bed, bed.processes[-1])
    marks = {"metadata": {"embervault_job": "lost"}}
    source = create_volume(tenant)
    bed.query("INSERT INTO temporaries (job) VALUES ('lost')")
    made = cinder.call("POST", "/snapshots", {"snapshot": {"volume_id": source, **marks}})
    assert made.status == 202, made
    volume = create_volume(tenant, **marks)
    tenant.wait_gone("volumes", volume)
    until("nothing is left", lambda: bed.temporaries() == [])
    assert tenant.show("volumes", source)["status"] == "available"


def test_a_copy_that_cinder_cannot_make_fails_the_backup_with_the_reason(bed, tenant, cinder):
    volume = create_volume(tenant)
    bed.path(volume).rename(cinder.share / "hidden")
    backup = tenant.back_up(volume)
    row = until("it fails", lambda: (row := tenant.show("backups", backup))["status"] == "error" and row)
    assert "cinder has not made a snapshot" in row["fail_reason"]
    (cinder.share / "hidden").rename(cinder.share / f"volume-{volume}")
    until("nothing is left", lambda: bed.leftovers() == [])
    assert tenant.backed_up(volume)["status"] == "available"


def test_a_backend_that_is_not_set_up_is_refused_by_name(bed, tenant):
    volume = tenant.create_volume(volume_type="other")
    status, _, answer = tenant.request("POST", f"/v3/{tenant.project}/backups", {"backup": {"volume_id": volume}})
    assert status == 400
    assert '"other"' in answer["badRequest"]["message"]
    assert bed.temporaries() == []


@pytest.mark.parametrize(("setting", "words"), [
    ({"python": "/no/python3"}, "there is no file /no/python3"),
    ({"python": "/bin/true"}, "install os-brick"),
    ({"backends": ["nfs", "nsf"]}, "one of Cinder's backends: ceph, nfs, other"),
    ({"backends": ["nfs", "ceph"]}, "[cinder.rbd.ceph]"),
])
def test_what_cannot_work_refuses_to_start(cinder, tmp_path, setting, words):
    bed = BrickBed(tmp_path, cinder, **setting)
    with pytest.raises(AssertionError) as refused:
        bed.start()
    assert words in str(refused.value)
