"""Snapshots of volumes that somebody uses meanwhile."""

import concurrent.futures
import datetime
import os
import uuid

from bed import Bed, Client, held, noise, until


def test_a_backup_of_a_snapshot_has_the_moment_at_which_the_snapshot_was_taken(tmp_path):
    """It was asked for before that, of a volume in use; the service was killed, and the volume was written to."""
    with Bed(tmp_path, jobs={"copies": 1}) as bed:
        process = bed.start()
        demo = Client(bed, process)
        volume, busy = demo.create_volume(), demo.create_volume()
        attachment = {"volume_uuid": volume, "instance_uuid": str(uuid.uuid4()), "connector": {"host": "h"}}
        attached = demo.ask("POST", "/attachments", {"attachment": attachment})["attachment"]["id"]
        demo.ask("POST", f"/attachments/{attached}/action", {"os-complete": {}})
        # The one place for copies is taken: whoever opens this volume waits for a writer.
        path = bed.volume_path(busy)
        path.unlink()
        os.mkfifo(path)
        demo.ask("POST", "/volumes", {"volume": {"size": 1, "source_volid": busy}})
        until("it is copied", lambda: bed.query("SELECT 1 FROM jobs WHERE state = 'running'"))
        snapshot = demo.ask("POST", "/snapshots", {"snapshot": {"volume_id": volume, "force": True}})["snapshot"]
        bed.write(volume, 0, noise(1, 4096))
        written = datetime.datetime.now(datetime.UTC).replace(tzinfo=None).isoformat()
        process.kill()
        path.unlink()
        path.write_bytes(b"")
        demo = Client(bed, bed.start())
        taken = demo.wait("snapshots", snapshot["id"], "available")
        assert taken["created_at"] == snapshot["created_at"]
        backup = demo.back_up(volume, snapshot_id=snapshot["id"])
        shown = demo.wait("backups", backup, "available")
        assert demo.show("snapshots", snapshot["id"])["created_at"] < written < shown["data_timestamp"]
        demo.check(backup, bed.digest(volume))


def test_a_group_is_not_snapshotted_while_one_of_its_volumes_is_being_attached(park, tmp_path):
    """Nor copied: a transaction that attaches a volume has it locked."""
    database = park.database()
    with Bed(tmp_path, database=database) as bed, concurrent.futures.ThreadPoolExecutor() as pool:
        process = bed.start()
        admin, demo = Client(bed, process, "admin"), Client(bed, process)
        group_type = admin.ask("POST", "/group_types", {"group_type": {"name": "g"}})["group_type"]["id"]
        [volume_type] = [row["id"] for row in demo.ask("GET", "/types")["volume_types"]]
        body = {"group_type": group_type, "volume_types": [volume_type]}
        group = demo.ask("POST", "/groups", {"group": body})["group"]["id"]
        volume = demo.create_volume()
        demo.ask("PUT", f"/groups/{group}", {"group": {"add_volumes": volume}})
        attach = f"UPDATE volumes SET status = 'reserved' WHERE id = '{volume}'"
        lock = f"DO $$ BEGIN PERFORM pg_advisory_xact_lock(hashtext('{volume}')); END $$"
        asked = [
            ("/group_snapshots", {"group_snapshot": {"group_id": group}}),
            ("/groups/action", {"create-from-src": {"source_group_id": group}}),
        ]
        for path, body in asked:
            with held(database, f"{lock}; {attach}"):
                answer = pool.submit(demo.request, "POST", f"/v3/{demo.project}{path}", body)
                assert not concurrent.futures.wait([answer], 1).done, path
            assert answer.result()[0] == 400, (path, answer.result())
            with held(database, f"UPDATE volumes SET status = 'available' WHERE id = '{volume}'"):
                pass
