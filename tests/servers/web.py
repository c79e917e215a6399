"""One HTTP request at a time, exactly as it is given: for setting up places and for looking at them."""

import collections
import http.client
import urllib.parse

Answer = collections.namedtuple("Answer", "status headers body")


def request(method, url, headers=None, body=None, timeout=60):
    """Status, headers (names as in `http.client`) and body, whatever the status is."""
    parts = urllib.parse.urlsplit(url)
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    connection = http.client.HTTPConnection(parts.netloc, timeout=timeout)
    try:
        connection.request(method, target or "/", body=body, headers=headers or {})
        answer = connection.getresponse()
        return Answer(answer.status, answer.headers, answer.read())
    finally:
        connection.close()


def answers(url, status=200):
    """Whether a server gives that status there: it is up, not only its port."""
    try:
        return request("GET", url, timeout=5).status == status
    except (OSError, http.client.HTTPException):
        return False
