"""Tempest and Cinder's plugin for it, unmodified, as far as they need identity and block storage only."""

import pathlib
import re

import pytest
from conftest import TOOLS, Service

pytestmark = pytest.mark.slow

TEMPEST = TOOLS / "tempest" / "bin" / "tempest"
PASSWORD = "secret"
# Ids of tests we cannot pass, each with the reason.
EXCEPTIONS = pathlib.Path(__file__).with_name("tempest_exceptions.txt")
# Services but for these are there; Neutron is believed in because whole classes ask for a network
# they do not use, Glance because others fetch its client and do not use it either. An interval of 0
# makes tempest look again at once; that of compute stands in for one that is 0.
CONFIGURATION = """
[auth]
use_dynamic_credentials = false
test_accounts_file = {workspace}/etc/accounts.yaml
[oslo_concurrency]
lock_path = {workspace}/locks
[identity]
auth_version = v3
uri_v3 = {base}/identity/v3
region = RegionOne
v3_endpoint_type = public
default_domain_id = default
[identity-feature-enabled]
api_v2 = false
api_v2_admin = false
[service_available]
cinder = true
glance = true
horizon = false
neutron = true
nova = false
swift = false
[compute]
build_interval = 0
[volume]
catalog_type = block-storage
endpoint_type = public
min_microversion = 3.0
max_microversion = latest
build_interval = 0
build_timeout = 300
backup_driver = posix
storage_protocol = local
vendor_name = Embervault
[volume-feature-enabled]
concurrency_tests = true
[enforce_scope]
cinder = true
[network-feature-enabled]
floating_ips = false
[validation]
run_validation = false
"""
# Tests that run only where tempest may make users and projects.
MAKES_ITS_OWN = {"tempest.api.volume.test_volume_absolute_limits.AbsoluteLimitsTests.test_get_volume_absolute_limits"}
# Name, project, role. Tempest takes the first account that fits, and for somebody else any: the
# first. Tests of roles want the administrator in the project of the others, tests across projects
# elsewhere.
ELSE = ("else", "elsewhere", "member")
PROJECT = [("member", "demo", "member"), ("reader", "demo", "reader")]
ADMIN_WITHIN = [ELSE, *PROJECT, ("admin", "demo", "admin")]
ADMIN_OUTSIDE = [ELSE, *PROJECT, ("admin", "admin", "admin")]


class Tempest:
    """A workspace of tempest and a service for it alone."""

    def __init__(self, directory, accounts):
        config = directory / "embervault.toml"
        config.write_text("".join(
            f'[[identity.users]]\nname = "{name}"\npassword = "{PASSWORD}"\nproject = "{project}"\nrole = "{role}"\n'
            for name, project, role in accounts
        ))
        # Cinder's default quotas: some tests run into them. In its home tempest notes its workspaces.
        extra = {"EMBERVAULT_QUOTA__VOLUMES": "10", "EMBERVAULT_QUOTA__BACKUPS": "10", "HOME": str(directory)}
        self.service = Service(directory / "data", extra, config=config)
        self.workspace = directory / "tempest"
        self._tempest("init", self.workspace, cwd=directory)
        settings = CONFIGURATION.format(workspace=self.workspace, base=self.service.base)
        (self.workspace / "etc" / "tempest.conf").write_text(settings)
        (self.workspace / "etc" / "accounts.yaml").write_text("".join(map(self._account, accounts)))

    def _account(self, account):
        name, project, role = account
        text = f"- username: {name}\n  password: {PASSWORD}\n  project_name: {project}\n  domain_name: Default\n"
        # Without a role only tests that want somebody else take it.
        text += "" if account == ELSE else f"  roles: [{role}]\n"
        return text + ("  types: [admin]\n" if role == "admin" else "")

    def _tempest(self, *arguments, cwd=None):
        # One run may be of two hundred tests.
        return self.service.run(TEMPEST, *arguments, cwd=cwd or self.workspace, timeout=1800)

    def known(self, regex):
        """Ids of the tests that match, with their tags."""
        listed = self._tempest("run", "--list-tests", "--regex", regex)
        return [line for line in listed.stdout.splitlines() if re.fullmatch(r"[\w.]+\[.*\]", line)]

    def run(self, tests):
        """Runs these tests; ids by outcome."""
        (self.workspace / "list").write_text("\n".join(tests) + "\n")
        done = self._tempest("run", "--serial", "--load-list", self.workspace / "list")
        (self.workspace / "output").write_text(done.stdout + done.stderr)
        found = {"ok": [], "SKIPPED": [], "FAILED": []}
        for test, outcome in re.findall(r"^\{0\} (.+?)(?: \[[\d.]+s\])? \.\.\. (ok|SKIPPED|FAILED)", done.stdout, re.M):
            found[outcome].append(test)
        assert any(found.values()), done.stdout + done.stderr
        return found


def counts(found):
    """Passed, failed, skipped; fails with the ids that did."""
    assert not found["FAILED"], "\n".join([f"{len(found['FAILED'])} failed, {len(found['ok'])} passed:", *found["FAILED"]])
    return len(found["ok"]), len(found["FAILED"]), len(found["SKIPPED"])


@pytest.fixture
def tempest(request, tmp_path):
    tempest = Tempest(tmp_path, request.param)
    yield tempest
    tempest.service.stop()


@pytest.mark.parametrize("tempest", [ADMIN_WITHIN], indirect=True, ids=["admin within"])
def test_the_backup_tests_of_tempest_pass(tempest):
    tests = [one for one in tempest.known(r"^tempest\.api\.volume.*ackup") if not re.search(r"\[.*(compute|image)", one)]
    assert counts(tempest.run(tests)) == (5, 0, 0)


@pytest.mark.parametrize("tempest", [ADMIN_WITHIN], indirect=True, ids=["admin within"])
def test_the_backup_tests_of_the_cinder_plugin_pass(tempest):
    # One of them needs Glance and Nova and does not say so; those across projects come next.
    elsewhere = r"\[.*compute|\.test_incremental_backup\[|^cinder_tempest_plugin\.api\.volume\.admin\."
    tests = [one for one in tempest.known(r"^cinder_tempest_plugin.*(ackup|oncurren)") if not re.search(elsewhere, one)]
    # The plugin itself skips what a reader must not do.
    assert counts(tempest.run(tests)) == (33, 0, 4)


@pytest.mark.parametrize("tempest", [ADMIN_OUTSIDE], indirect=True, ids=["admin outside"])
def test_the_backup_tests_of_the_cinder_plugin_across_projects_pass(tempest):
    tests = tempest.known(r"^cinder_tempest_plugin\.api\.volume\.admin\.test_volume_backup")
    assert counts(tempest.run(tests)) == (3, 0, 0)


@pytest.mark.parametrize("tempest", [ADMIN_OUTSIDE], indirect=True, ids=["admin outside"])
def test_all_volume_tests_of_tempest_pass_but_for_named_exceptions(tempest):
    rows = [line.split(maxsplit=1) for line in EXCEPTIONS.read_text().splitlines() if not line.startswith("#")]
    exceptions = dict(rows)
    known = {one.split("[")[0]: one for one in tempest.known(r"^tempest\.api\.volume")}
    assert set(exceptions) <= set(known)
    found = tempest.run([one for name, one in known.items() if name not in exceptions and name not in MAKES_ITS_OWN])
    assert counts(found) == (len(known) - len(exceptions) - len(MAKES_ITS_OWN), 0, 0)
    assert (len(known), len(exceptions)) == (220, 29)


@pytest.mark.parametrize("tempest", [ADMIN_OUTSIDE], indirect=True, ids=["admin outside"])
def test_tempest_makes_its_own_users_and_projects(tempest):
    settings = tempest.workspace / "etc" / "tempest.conf"
    settings.write_text(settings.read_text().replace("neutron = true", "neutron = false").replace(
        "use_dynamic_credentials = false",
        "use_dynamic_credentials = true\ncreate_isolated_networks = false\nadmin_username = admin\n"
        f"admin_password = {PASSWORD}\nadmin_project_name = admin\nadmin_domain_name = Default",
    ))
    known = tempest.known(r"^tempest\.api\.volume")
    # And a class of each sort, to see that users of every role are made and removed.
    classes = r"test_volume_types\.|test_volumes_list\.|test_volume_transfers\."
    tests = [one for one in known if one.split("[")[0] in MAKES_ITS_OWN or re.search(classes, one)]
    found = tempest.run(tests)
    assert counts(found) == (len(tests), 0, 0)
    assert MAKES_ITS_OWN <= {one.split("[")[0] for one in found["ok"]}
