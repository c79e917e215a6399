"""WsgiDAV under Cheroot: a WebDAV server over plain files, with basic authentication."""

import base64
import json
import os
import subprocess
import urllib.parse

from . import Server, ServerError, web

USER, PASSWORD = "embervault", "embervault-secret"


class WebDav(Server):
    """Runs in an interpreter of its own, which has `wsgidav` and `cheroot`: WEBDAV_PYTHON, or `python`.

    A PUT writes into the file itself, so one that is cut short leaves a shorter file behind."""

    port_names = ("http",)

    def __init__(self, dir, python=None):
        super().__init__(dir)
        self.python = python or os.environ.get("WEBDAV_PYTHON")
        if not self.python:
            raise ServerError("an interpreter with wsgidav and cheroot is needed: WEBDAV_PYTHON")
        self.endpoint = f"http://127.0.0.1:{self.ports['http']}"

    def make(self):
        (self.data / "files").mkdir()
        configuration = {
            "host": "127.0.0.1", "port": self.ports["http"], "server": "cheroot",
            "server_args": {"numthreads": 64, "request_queue_size": 256},
            "provider_mapping": {"/": str(self.data / "files")},
            "http_authenticator": {"accept_basic": True, "accept_digest": False, "default_to_digest": False},
            "simple_dc": {"user_mapping": {"*": {USER: {"password": PASSWORD}}}},
            "dir_browser": {"enable": False},
            "verbose": 2,
        }
        (self.data / "wsgidav.json").write_text(json.dumps(configuration))

    def run(self):
        self.spawn("wsgidav", [self.python, "-I", "-m", "wsgidav.server.server_cli", "-c", self.data / "wsgidav.json"])
        self.until(lambda: web.answers(self.endpoint, 401), "WsgiDAV answers")

    def version(self):
        wanted = "from importlib.metadata import version as v; print('WsgiDAV', v('wsgidav'), 'Cheroot', v('cheroot'))"
        printed = subprocess.run([self.python, "-I", "-c", wanted], capture_output=True, text=True, check=True).stdout
        return printed.strip()

    def storage(self, name, place):
        """A folder, made if need be."""
        folder = ""
        for part in place.split("/"):
            folder += f"/{part}"
            status = self.request("MKCOL", folder).status
            if status not in (201, 405):  # 405: it is there.
                raise self.failure(f"storage {name}: cannot make {folder}: {status}")
        return {
            "url": f"webdav+{self.endpoint}/{place}",
            "webdav": {"username": USER, "password": PASSWORD},
        }

    def request(self, method, path, headers=None, body=None):
        """A request with the right name and password."""
        login = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        url = self.endpoint + urllib.parse.quote(path)
        return web.request(method, url, {**(headers or {}), "Authorization": f"Basic {login}"}, body)

    @property
    def files(self):
        """Where what clients put is kept, by the same names."""
        return self.data / "files"
