"""gcp-storage-emulator: Google Cloud Storage's JSON API over plain files. See `gcs_emulator` for what it is not."""

import json
import os
import subprocess
import urllib.parse
from pathlib import Path

from . import Server, ServerError, web


class Gcs(Server):
    """Runs in an interpreter of its own, which has `gcp-storage-emulator`: GCS_PYTHON, or `python`.

    It deals with one request at a time, and asks nobody for credentials."""

    port_names = ("http",)

    def __init__(self, dir, python=None):
        super().__init__(dir)
        self.python = python or os.environ.get("GCS_PYTHON")
        if not self.python:
            raise ServerError("an interpreter with gcp-storage-emulator is needed: GCS_PYTHON")
        self.endpoint = f"http://127.0.0.1:{self.ports['http']}"

    def run(self):
        script = Path(__file__).with_name("gcs_emulator.py")
        self.spawn("gcs", [self.python, "-I", script, self.data, self.ports["http"]])
        self.until(lambda: web.answers(f"{self.endpoint}/storage/v1/b"), "the emulator answers")

    def version(self):
        wanted = "from importlib.metadata import version as v; print(v('gcp-storage-emulator'))"
        printed = subprocess.run([self.python, "-I", "-c", wanted], capture_output=True, text=True, check=True).stdout
        return f"gcp-storage-emulator {printed.strip()}, completed"

    def storage(self, name, place):
        """A bucket, made if need be."""
        bucket = place.partition("/")[0]
        made = self.request("POST", "/storage/v1/b", body={"name": bucket}).status
        # Else it keeps what is deleted for a week.
        policy = {"softDeletePolicy": {"retentionDurationSeconds": 0}}
        keep = self.request("PATCH", f"/storage/v1/b/{bucket}", body=policy)
        if made not in (200, 409) or keep.status != 200:
            raise self.failure(f"storage {name}: cannot make the bucket of {place}: {made}, {keep.status}")
        return {"url": f"gcs://{place}", "gcs": {"endpoint": self.endpoint, "anonymous": True}}

    def request(self, method, path, query=None, headers=None, body=b""):
        """`path` is escaped already; `query` is a dict; a `body` that is a dict is sent as JSON."""
        headers = dict(headers or {})
        if isinstance(body, dict):
            headers["Content-Type"], body = "application/json", json.dumps(body).encode()
        return web.request(method, f"{self.endpoint}{path}?{urllib.parse.urlencode(query or {})}", headers, body)

    def put(self, bucket, name, body, query=None):
        """An upload in one request."""
        query = {"uploadType": "media", "name": name, **(query or {})}
        return self.request("POST", f"/upload/storage/v1/b/{bucket}/o", query, body=body)

    def get(self, bucket, name, headers=None):
        """An object, or what `headers` ask of it."""
        path = f"/storage/v1/b/{bucket}/o/{urllib.parse.quote(name, safe='')}"
        return self.request("GET", path, {"alt": "media"}, headers)
