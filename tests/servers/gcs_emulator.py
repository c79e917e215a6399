"""Starts gcp-storage-emulator, completed where it is too far from Google Cloud Storage to be of use.

Run by an interpreter that has the emulator, with a directory and a port. What is added here follows
Google's description of the JSON API, not Google's servers; a test of it is no proof of these:

* Generation preconditions: `ifGenerationMatch` and `ifGenerationNotMatch` when an object is
  uploaded, read or deleted (the emulator ignores them). Not within batches.
* Lists in pages: `maxResults`, `pageToken`, `startOffset` (it answers with everything).
* 416 for a range beyond the end (it answers 206), ranges from the end (it ignores them).
* The empty line that separates a batch's answers from the heads of their parts (it has none).
* Uploads that are empty (it crashes) or have no content type (it answers with null).
* Names such as `a` and `a/b` side by side (it crashes), files replaced at once instead of in place.
"""

import base64
import hashlib
import http.server
import json
import logging
import os
import re
import sys
from http import HTTPStatus

from gcp_storage_emulator import server, storage
from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.handlers import objects

PAGE = 1000
UNMET = "At least one of the pre-conditions you specified did not hold."


def first(request, name):
    """A parameter of the request; None if it has none of that name."""
    return request.query.get(name, [None])[0]


def conditional(handle):
    """A handler of requests for one object, which looks at the object's generation first."""

    def handler(request, response, store, *args, **kwargs):
        now = generation(request, store)
        wanted, unwanted = first(request, "ifGenerationMatch"), first(request, "ifGenerationNotMatch")
        if wanted is not None and wanted != now:
            return refuse(request, response)
        if unwanted is not None and unwanted == now:
            if request.method != server.GET:
                return refuse(request, response)
            response.status = HTTPStatus.NOT_MODIFIED
            return None
        return handle(request, response, store, *args, **kwargs)

    return handler


def generation(request, store):
    """Of the object that the request is for; 0 if there is none."""
    name = request.params.get("object_id") or first(request, "name")
    try:
        return store.get_file_obj(request.params["bucket_name"], name)["generation"]
    except NotFound:
        return "0"


def refuse(request, response):
    _ = request.data  # The client is still sending it.
    reason = {"message": UNMET, "domain": "global", "reason": "conditionNotMet"}
    response.status = HTTPStatus.PRECONDITION_FAILED
    response.json({"error": {"code": 412, "message": UNMET, "errors": [reason]}})


def paged(handle):
    """A handler of lists, of which it gives a part and says where the next begins."""

    def handler(request, response, store, *args, **kwargs):
        handle(request, response, store, *args, **kwargs)
        if response.status != HTTPStatus.OK:
            return
        listed = json.loads(response._content)
        entries = [(item["name"], "items", item) for item in listed["items"]]
        entries += [(prefix, "prefixes", prefix) for prefix in listed["prefixes"]]
        start, token = first(request, "startOffset") or "", first(request, "pageToken")
        after = base64.urlsafe_b64decode(token).decode() if token else ""
        entries = sorted((entry for entry in entries if entry[0] >= start and entry[0] > after), key=lambda e: e[0])
        size = int(first(request, "maxResults") or PAGE)
        page = {"kind": listed["kind"]}
        for _, part, entry in entries[:size]:
            page.setdefault(part, []).append(entry)
        if len(entries) > size:
            page["nextPageToken"] = base64.urlsafe_b64encode(entries[size - 1][0].encode()).decode()
        response.json(page)

    return handler


def ranged(handle):
    """A handler of downloads, to which it gives only ranges that are there."""

    def handler(request, response, store, *args, **kwargs):
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", request.get_header("range", ""))
        if asked and generation(request, store) != "0":
            size = int(store.get_file_obj(request.params["bucket_name"], request.params["object_id"])["size"])
            if not asked[1]:
                start = max(0, size - int(asked[2]))
                request._request_handler.headers.replace_header("range", f"bytes={start}-")
            if size == 0 or asked[1] and int(asked[1]) >= size:
                response.status = HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE
                response["Content-Range"] = f"bytes */{size}"
                return
        handle(request, response, store, *args, **kwargs)

    return handler


def batched(handle):
    """A handler of batches, in whose answer each part's own head ends with an empty line."""

    def handler(request, response, *args, **kwargs):
        handle(request, response, *args, **kwargs)
        response._content = response._content.replace("application/http\r\nHTTP/", "application/http\r\n\r\nHTTP/")

    return handler


def typed(make):
    """What makes the description of an object, which always has a content type."""

    def maker(base_url, bucket, name, content_type, *args, **kwargs):
        return make(base_url, bucket, name, content_type or "application/octet-stream", *args, **kwargs)

    return maker


def present(read):
    """What reads the body of a request, where that of an upload may be empty."""

    def reader(handler, query):
        data = read(handler, query)
        return b"" if data is None and query.get("uploadType") == ["media"] else data

    return reader


def write_bytes(store, rel, content):
    """A file that is there whole or not at all, whenever we are killed."""
    path = store._disk_path(rel)
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name("fresh")
    fresh.write_bytes(content)
    os.replace(fresh, path)


def object_path(store, bucket, name):
    """A file for each name, whatever the name is."""
    return f"{bucket}/{hashlib.sha256(name.encode()).hexdigest()}"


def complete():
    """The routes have the handlers in them, so those are exchanged there too."""
    objects._make_object_resource = typed(objects._make_object_resource)
    server._read_data = present(server._read_data)
    storage._FileStore.write_bytes = write_bytes
    storage.Storage._object_path = object_path
    http.server.HTTPServer.request_queue_size = 256
    download = objects.download
    objects.download = ranged(download)
    exchanged = {
        objects.ls: paged(objects.ls),
        objects.insert: conditional(objects.insert),
        objects.upload_partial: conditional(objects.upload_partial),
        objects.get: conditional(objects.get),
        objects.delete: conditional(objects.delete),
        objects.batch: batched(objects.batch),
        download: conditional(objects.download),
    }
    server.HANDLERS = tuple(
        (route, {method: exchanged.get(handle, handle) for method, handle in handlers.items()})
        for route, handlers in server.HANDLERS
    )


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR)
    complete()
    server.create_server("127.0.0.1", int(sys.argv[2]), data_dir=sys.argv[1]).run()
