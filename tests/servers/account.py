"""Requests to a Swift account: to make containers, and to look into them without the program under test."""

import json
import urllib.parse

from . import web


class Account:
    """Logs in, as TempAuth wants it, and again when the token is no longer taken."""

    def __init__(self, auth_url, username, password):
        self.auth_url = auth_url
        self.login = {"X-Auth-User": username, "X-Auth-Key": password}
        self.url = self.token = None

    def request(self, method, path, query="", headers=None, body=None):
        """`path` is `/container/object`, not yet escaped; `query` is."""
        answer = self._send(method, path, query, headers, body)
        if answer.status == 401:
            self.url = None
            answer = self._send(method, path, query, headers, body)
        return answer

    def make_container(self, container):
        """Whether the container is there afterwards."""
        return self.request("PUT", f"/{container}").status in (201, 202)

    def objects(self, container, prefix=""):
        """All names with a prefix and their sizes, in order; None if there is no such container."""
        found, marker = {}, ""
        while True:
            query = urllib.parse.urlencode({"format": "json", "prefix": prefix, "marker": marker})
            answer = self.request("GET", f"/{container}", query)
            if answer.status != 200:
                return None if answer.status == 404 else found
            page = json.loads(answer.body)
            if not page:
                return found
            found.update((entry["name"], entry["bytes"]) for entry in page)
            marker = page[-1]["name"]

    def _send(self, method, path, query, headers, body):
        if not self.url and (refused := self._log_in()):
            return refused
        url = self.url + urllib.parse.quote(path) + (f"?{query}" if query else "")
        return web.request(method, url, {**(headers or {}), "X-Auth-Token": self.token}, body)

    def _log_in(self):
        """Finds URL and token; the answer if there are none."""
        answer = web.request("GET", self.auth_url, self.login)
        if answer.status not in (200, 204):
            return answer
        self.url, self.token = answer.headers["X-Storage-Url"], answer.headers["X-Auth-Token"]
        return None
