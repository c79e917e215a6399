"""The real command-line client, for which block storage is at one place."""

import json
import os
import subprocess

from bed import ROOT, until

CLOUDS = """\
clouds:
  tenant:
    auth:
      auth_url: {keystone}
      username: {user}
      password: {user}-password
      project_name: {project_name}
      user_domain_name: Default
      project_domain_name: Default
    region_name: RegionOne
    block_storage_endpoint_override: {place}/v3/{project}
    volume_api_version: '3'
"""


class OpenStack:
    """Called with the words of a command, it gives what the command prints."""

    def __init__(self, dir, cinder, place, user="member"):
        project_name = cinder.cloud.USERS[user][0]
        self.project = cinder.cloud.projects[project_name]
        self.path = dir / f"clouds-{user}.yaml"
        self.path.write_text(CLOUDS.format(
            keystone=cinder.keystone.url, place=place, user=user, project_name=project_name, project=self.project))

    def run(self, *words):
        variables = {**os.environ, "OS_CLOUD": "tenant", "OS_CLIENT_CONFIG_FILE": str(self.path)}
        command = [ROOT / "target/tools/sdk-new/bin/openstack", *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, env=variables)

    def __call__(self, *words, is_shown=True):
        done = self.run(*words, *(("-f", "json") if is_shown else ()))
        assert done.returncode == 0, f"{words}: {done.stderr}"
        return json.loads(done.stdout) if is_shown and done.stdout.strip() else None

    def wait(self, kind, id):
        def look():
            status = self(*kind.split(), "show", id)["status"]
            assert status not in ("error", "error_restoring"), f"{kind} {id} is {status}"
            return status == "available"

        until(f"{kind} {id} is available", look)
