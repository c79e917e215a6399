"""Azurite: Microsoft's own emulator of Azure Blob Storage."""

import base64
import email.utils
import hashlib
import hmac
import json
import os
import urllib.parse
from pathlib import Path

from . import Server, ServerError, web

# The account that every Azurite has; its key is printed in the manual.
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


class Azurite(Server):
    """Started from where npm has put it: AZURITE_PREFIX, or `prefix`.

    It writes its list of blobs out every five seconds: `kill()` loses what was acknowledged after
    the last time, `stop()` loses nothing."""

    programs = {"node": "nodejs", "npm": "npm"}
    port_names = ("blob",)

    def __init__(self, dir, prefix=None):
        super().__init__(dir)
        prefix = prefix or os.environ.get("AZURITE_PREFIX")
        if not prefix:
            raise ServerError("an installation of azurite is needed: AZURITE_PREFIX")
        self.package = Path(prefix).resolve() / "node_modules" / "azurite"
        self.endpoint = f"http://127.0.0.1:{self.ports['blob']}/{ACCOUNT}"

    def run(self):
        self.spawn("azurite", [
            "node", self.package / json.loads((self.package / "package.json").read_text())["bin"]["azurite-blob"],
            "--blobHost", "127.0.0.1", "--blobPort", self.ports["blob"], "--location", self.data,
            "--silent", "--disableTelemetry", "--skipApiVersionCheck",
        ])
        self.until(lambda: web.answers(f"{self.endpoint}?comp=list", 403), "Azurite answers")

    def version(self):
        return "Azurite " + json.loads((self.package / "package.json").read_text())["version"]

    def storage(self, name, place):
        """A container, made if need be."""
        made = self.request("PUT", f"/{place.partition('/')[0]}", {"restype": "container"})
        if made.status not in (201, 409):
            raise self.failure(f"storage {name}: cannot make the container of {place}: {made.body}")
        return {
            "url": f"azblob://{place}",
            "azblob": {"endpoint": self.endpoint, "account_name": ACCOUNT, "account_key": KEY},
        }

    def request(self, method, path, query=None, headers=None, body=b""):
        """A signed request; `path` is `/container/blob`, not yet escaped, `query` and `headers` are dicts."""
        path, query = urllib.parse.quote(path), query or {}
        headers = {
            **(headers or {}), "x-ms-date": email.utils.formatdate(usegmt=True), "x-ms-version": "2022-11-02",
            "Content-Type": "application/octet-stream",
        }
        headers["Authorization"] = f"SharedKey {ACCOUNT}:{signature(method, path, query, headers, body)}"
        return web.request(method, f"{self.endpoint}{path}?{urllib.parse.urlencode(query)}", headers, body)


def signature(method, path, query, headers, body):
    """What of a request Azure's SharedKey vouches for, line by line."""
    lower = {name.lower(): value for name, value in headers.items()}
    standard = [
        "content-encoding", "content-language", "content-length", "content-md5", "content-type", "date",
        "if-modified-since", "if-match", "if-none-match", "if-unmodified-since", "range",
    ]
    lower["content-length"] = str(len(body) or "")
    lines = [method, *(lower.get(name, "") for name in standard)]
    lines += [f"{name}:{lower[name]}" for name in sorted(lower) if name.startswith("x-ms-")]
    lines += [f"/{ACCOUNT}/{ACCOUNT}{path}", *(f"{name}:{query[name]}" for name in sorted(query))]
    digest = hmac.new(base64.b64decode(KEY), "\n".join(lines).encode(), hashlib.sha256).digest()
    return base64.b64encode(digest).decode()
