"""A plain client: what is sent and what comes back, nothing in between."""

import time

import requests


class Client:
    """Somebody with a token: `user` holds name, password and project."""

    def __init__(self, base, user, version="3.71"):
        self.base, self.user, self.version = base, user, version
        self.session = requests.Session()
        self.token = self.log_in()
        answer = self.send("GET", "/identity/v3/auth/tokens", headers={"X-Subject-Token": self.token}).json()["token"]
        self.project, self.id = answer["project"]["id"], answer["user"]["id"]

    def log_in(self):
        """A new token."""
        default = {"id": "default"}
        named = {"name": self.user["name"], "password": self.user["password"], "domain": default}
        self.identity = {"methods": ["password"], "password": {"user": named}}
        scope = {"project": {"name": self.user["project"], "domain": default}}
        body = {"auth": {"identity": self.identity, "scope": scope}}
        answer = self.session.post(f"{self.base}/identity/v3/auth/tokens", json=body)
        assert answer.status_code == 201, answer.text
        return answer.headers["X-Subject-Token"]

    def whole(self, path):
        """The path of a request, with the project where that belongs."""
        is_whole = path == "/" or path.startswith(("/v3", "/identity", "/healthcheck", "/openapi"))
        return path if is_whole else f"/v3/{self.project}{path}"

    def send(self, method, path, body=None, version=None, headers=None):
        """One request; a path without `/v3` is one of block storage."""
        url = self.base + self.whole(path)
        version = self.version if version is None else version
        version = f"volume {version}" if version else ""
        sent = {"Accept": "application/json", "X-Auth-Token": self.token, "OpenStack-API-Version": version}
        sent = {key: value for key, value in {**sent, **(headers or {})}.items() if value}
        return self.session.request(method, url, json=body, headers=sent, allow_redirects=False, timeout=120)

    def made(self, collection, kind=None, **fields):
        """The id of something new."""
        kind = kind or collection[:-1]
        answer = self.send("POST", f"/{collection}", {kind: fields})
        assert answer.ok, answer.text
        return answer.json()[kind]["id"]

    def make(self, collection, **fields):
        """The same, once it is there."""
        made = self.made(collection, **fields)
        self.wait(collection, made)
        return made

    def wait(self, collection, id, *states):
        """Waits until it is in one of the states (`gone` is one), else `available` or `reserved`."""
        deadline = time.monotonic() + 180
        while time.monotonic() < deadline:
            answer = self.send("GET", f"/{collection}/{id}")
            if answer.status_code == 404:
                assert states == ("gone",), f"{collection} {id} is gone"
                return
            state = answer.json()[collection[:-1]]["status"]
            if state in (states or ("available", "reserved")):
                return
            assert not state.startswith("error"), answer.text
            time.sleep(0.05)
        raise AssertionError(f"{collection} {id} is {state}")
