"""Records of backups: whose data they lead to, and what they count for."""

import base64
import json
import uuid

from bed import Bed, Client, until
from test_lost import backed_up, lose_database
from test_stuck import fields_of, record_of

USERS = [("member", "secret", "alpha", "member"), ("other", "secret", "beta", "member"),
         ("admin", "secret", "beta", "admin")]


def take_in(client, record, **changed):
    """Imports the record under a new id, with fields changed; the row in which that ends."""
    fields = {**fields_of(record), "id": str(uuid.uuid4()), **changed}
    copy = {**record, "backup_url": base64.b64encode(json.dumps(fields).encode()).decode()}
    backup = client.ask("POST", "/backups/import_record", {"backup-record": copy})["backup"]["id"]

    def ended():
        row = client.show("backups", backup)
        return row["status"] in ("available", "error") and row

    return until("the import ends", ended)


def test_a_member_who_may_import_opens_no_other_projects_backups(tmp_path):
    with Bed(tmp_path, users=USERS) as bed:
        bed.data.mkdir()
        (bed.data / "policy.yaml").write_text('"backup:backup-import": "role:member"\n')
        process = bed.start()
        member, other = Client(bed, process), Client(bed, process, "other", "beta")
        admin = Client(bed, process, "admin", "beta")
        backup, digest = backed_up(bed, member)
        record = record_of(admin, backup)
        # Nothing tells what is another's from what is nowhere.
        storage, vault, root = fields_of(record)["service_metadata"].split(":")[2:]
        nowhere = take_in(other, record, service_metadata=f"embervault:1:{storage}:{uuid.uuid4()}:{root}")
        missing = take_in(other, record, service_metadata=f"embervault:1:{storage}:{vault}:{uuid.uuid4()}")
        foreign = take_in(other, record)
        assert foreign["status"] == "error", "a member has another project's backup"
        assert foreign["fail_reason"] == missing["fail_reason"] == nowhere["fail_reason"]
        own = take_in(member, record)
        assert own["status"] == "available"
        member.check(own["id"], digest)
        given = take_in(admin, record)
        assert given["status"] == "available"
        admin.check(given["id"], digest)
        process.stop()

        # The same where the database knows nothing; it takes no vault over for a stranger.
        lose_database(bed)
        process = bed.start()
        member, other = Client(bed, process), Client(bed, process, "other", "beta")
        assert take_in(other, record)["fail_reason"] == foreign["fail_reason"]
        assert bed.query("SELECT id FROM vaults") == []
        own = take_in(member, record)
        assert own["status"] == "available"
        member.check(own["id"], digest)


def test_an_import_is_charged_what_it_was_allowed(tmp_path):
    """The size in a record is its owner's word; the data have one of their own."""
    with Bed(tmp_path, users=USERS) as bed:
        process = bed.start()
        member, admin = Client(bed, process), Client(bed, process, "admin", "beta")
        backup, digest = backed_up(bed, member)
        record = record_of(admin, backup)

        def used():
            return admin.ask("GET", f"/os-quota-sets/{admin.project}?usage=true")["quota_set"]["backup_gigabytes"]["in_use"]

        admin.ask("PUT", f"/os-quota-sets/{admin.project}", {"quota_set": {"backup_gigabytes": 1}})
        first = take_in(admin, record, size=0)
        assert (first["status"], first["size"], used()) == ("available", 1, 1)
        second = take_in(admin, record, size=0)
        assert second["status"] == "error" and "quota" in second["fail_reason"], second
        assert used() == 1
        # The one that was refused leaves the data to the other.
        admin.delete("backups", second["id"])
        admin.delete("backups", first["id"])
        assert used() == 0
        third = take_in(admin, record, size=0)
        assert third["status"] == "available"
        member.check(backup, digest)


def test_a_record_makes_no_other_projects_backup_a_parent(tmp_path):
    with Bed(tmp_path, users=USERS) as bed:
        process = bed.start()
        member, admin = Client(bed, process), Client(bed, process, "admin", "beta")
        backup, _ = backed_up(bed, member)
        record = record_of(admin, backup)

        def has_dependents():
            shown = member.show("backups", backup)["has_dependent_backups"]
            [listed] = member.ask("GET", "/backups/detail")["backups"]
            assert listed["has_dependent_backups"] is shown
            dependents = fields_of(record_of(admin, backup))["num_dependent_backups"]
            assert dependents == int(shown)
            return shown

        assert take_in(admin, record, parent_id=backup)["status"] == "available"
        assert not has_dependents()
        child = member.back_up(member.show("backups", backup)["volume_id"], incremental=True)
        member.wait("backups", child, "available")
        assert member.show("backups", backup)["has_dependent_backups"]
        member.delete("backups", child)
        assert not has_dependents()


def test_a_shredding_says_what_lies_in_vaults_of_others(tmp_path):
    with Bed(tmp_path, users=USERS) as bed:
        process = bed.start()
        member, admin = Client(bed, process), Client(bed, process, "admin", "beta")
        backup, digest = backed_up(bed, member)
        given = take_in(admin, record_of(admin, backup))
        assert given["status"] == "available"
        # The vault of one project holds a backup of another, which would be destroyed with it.
        refused = bed.run("vault", "shred", member.project, "--yes", status=1).stderr
        assert f"{given['id']} of project {admin.project}" in refused, refused
        admin.check(given["id"], digest)
        # And what is the project's is not all in its vaults.
        own, _ = backed_up(bed, admin)
        told = bed.run("vault", "shred", admin.project, "--yes", status=1)
        assert given["id"] in told.stdout and "vaults of other projects" in told.stderr, told
        assert own not in [row["id"] for row in admin.ask("GET", "/backups")["backups"]]
        admin.delete("backups", given["id"])
        # Nothing is left but the steps for copies.
        assert "has no vault" in bed.run("vault", "shred", admin.project, "--yes", status=1).stderr
        bed.run("vault", "shred", member.project, "--yes")
        assert bed.objects("vault.json") == []


def test_a_shredding_names_vaults_that_the_database_does_not_know(tmp_path):
    with Bed(tmp_path) as bed:
        process = bed.start()
        member = Client(bed, process)
        backup, digest = backed_up(bed, member)
        process.stop()
        lose_database(bed)
        process = bed.start()
        member = Client(bed, process)
        backed_up(bed, member)
        process.stop()
        assert len(bed.objects("vault.json")) == 2
        told = bed.run("vault", "shred", member.project, "--yes", status=1)
        assert "does not know whose it is" in told.stdout and "vault rebuild --storage main" in told.stderr, told
        bed.run("vault", "rebuild", "--storage", "main")
        process = bed.start()
        Client(bed, process).check(backup, digest)
        process.stop()
        bed.run("vault", "shred", member.project, "--yes")
        assert bed.objects("vault.json") == []
        # A rotation counts the vaults that have a key.
        assert "0 vaults" in bed.run("key", "rotate").stdout
