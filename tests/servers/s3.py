"""Signed S3 requests: to make buckets, and to look into them without the program under test."""

import datetime
import hashlib
import hmac
import urllib.parse
import xml.etree.ElementTree

from . import web


class S3:
    """Sends requests with AWS Signature Version 4, path style."""

    def __init__(self, endpoint, region, access_key_id, secret_access_key):
        self.endpoint, self.region = endpoint, region
        self.id, self.secret = access_key_id, secret_access_key

    def request(self, method, path, query=None, headers=None, body=b""):
        """`path` is `/bucket/key`, not yet escaped; `query` and `headers` are dicts."""
        path = urllib.parse.quote(path, safe="/-_.~")
        query = "&".join(
            f"{urllib.parse.quote(key, safe='')}={urllib.parse.quote(value, safe='')}"
            for key, value in sorted((query or {}).items())
        )
        signed = self._signed(method, path, query, headers or {}, body)
        return web.request(method, f"{self.endpoint}{path}" + (f"?{query}" if query else ""), signed, body)

    def make_bucket(self, bucket):
        """Whether the bucket is there and ours afterwards."""
        return self.request("PUT", f"/{bucket}").status in (200, 409) and self.keys(bucket, limit=1) is not None

    def keys(self, bucket, prefix="", limit=None):
        """All keys with a prefix and their sizes, in order; None if there is no such bucket."""
        found, query = {}, {"list-type": "2", "prefix": prefix, **({"max-keys": str(limit)} if limit else {})}
        while True:
            answer = self.request("GET", f"/{bucket}", query)
            if answer.status != 200:
                return None
            tree = xml.etree.ElementTree.fromstring(answer.body)
            for entry in tree.iterfind("{*}Contents"):
                found[entry.findtext("{*}Key")] = int(entry.findtext("{*}Size"))
            token = tree.findtext("{*}NextContinuationToken")
            if limit or not token:
                return found
            query["continuation-token"] = token

    def _signed(self, method, path, query, headers, body):
        now = datetime.datetime.now(datetime.timezone.utc)
        digest = hashlib.sha256(body).hexdigest()
        headers = {
            **headers,
            "Host": urllib.parse.urlsplit(self.endpoint).netloc,
            "x-amz-date": now.strftime("%Y%m%dT%H%M%SZ"),
            "x-amz-content-sha256": digest,
        }
        lower = {name.lower(): str(value).strip() for name, value in headers.items()}
        names = ";".join(sorted(lower))
        canonical = "\n".join(
            [method, path, query, *(f"{name}:{lower[name]}" for name in sorted(lower)), "", names, digest]
        )
        scope = [now.strftime("%Y%m%d"), self.region, "s3", "aws4_request"]
        text = "\n".join(
            ["AWS4-HMAC-SHA256", headers["x-amz-date"], "/".join(scope), hashlib.sha256(canonical.encode()).hexdigest()]
        )
        key = f"AWS4{self.secret}".encode()
        for part in [*scope, text]:
            key = hmac.new(key, part.encode(), hashlib.sha256).digest()
        headers["Authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={self.id}/{'/'.join(scope)}, SignedHeaders={names}, Signature={key.hex()}"
        )
        return headers
