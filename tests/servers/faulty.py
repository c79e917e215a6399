"""A proxy before a store, which fails on demand as stores and networks do.

What it does not fail it passes on byte by byte: the `Host` header too, so that signatures of the
client stay valid. It stands before any HTTP/1.1 server, but knows the error documents of S3."""

import asyncio
import collections
import contextlib
import dataclasses
import hashlib
import random
import re
import socket
import struct
import threading
import urllib.parse

from . import ports

PIECE = 256 << 10
HEAD_LIMIT = 1 << 20
#: Lists that pass are remembered up to this size, should they be wanted again when they are old.
REMEMBERED = 4 << 20
LIST = re.compile(r"[?&](list-type=2|format=json|prefix=)")

ERRORS = {
    "error": ("500 Internal Server Error", "InternalError", "We encountered an internal error. Please try again."),
    "slow_down": ("503 Slow Down", "SlowDown", "Please reduce your request rate."),
}
#: Which methods a kind is for, where a plan does not say.
METHODS = {"lose_write": "PUT", "stale_list": "GET", "truncate": "GET", "shorten": "GET", "flip": "GET"}

KINDS = {
    "error": "status 500, nothing done",
    "slow_down": "status 503 SlowDown, nothing done",
    "reset": "the connection is reset before the body of the request",
    "reset_midway": "the connection is reset within the body of the request, or of the answer if the request has none",
    "stall": "accepted, then silence until `clear()`, or for `seconds`; if the client is still there then, it goes on",
    "truncate": "the answer ends, and the connection, before its Content-Length",
    "shorten": "the answer ends early, with a Content-Length that says so",
    "flip": "one bit of the answer's body is wrong",
    "lose_write": "a PUT is acknowledged and forgotten",
    "lose_answer": "the request is carried out, and the connection reset instead of an answer",
    "stale_list": "a list is answered as it last was; with none remembered for the same request, it passes",
}


@dataclasses.dataclass
class Fault:
    """Part of a plan. `method` is a regular expression for the whole method, `path` for a part of path and query."""

    kind: str
    method: str = ""
    path: str = ""
    probability: float = 1.0
    #: How often it may strike; any number of times if not given.
    times: int | None = None
    #: How many requests that it is for pass before.
    skip: int = 0
    #: For a stall.
    seconds: float | None = None

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(f"{self.kind}: not one of {', '.join(KINDS)}")
        self.method = self.method or METHODS.get(self.kind, ".*")

    def is_for(self, request):
        return re.fullmatch(self.method, request.method) and re.search(self.path, request.target)


class FaultyProxy:
    """Serves on its own port, in a thread of its own. `endpoint` is where clients find it."""

    def __init__(self, upstream, seed=0, port=None):
        parts = urllib.parse.urlsplit(upstream)
        self.upstream = (parts.hostname, parts.port or 80)
        self.port = port or ports.free()
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self.strikes = []  # Kind, method and target of each, in order.
        self.random = random.Random(seed)
        self._lock = threading.Lock()
        self._plan = []
        self._lists = collections.OrderedDict()
        self._loop = self._cleared = None

    def set(self, plan, seed=None):
        """From now on these faults and no others; of several for one request the first that strikes."""
        plan = [dataclasses.replace(fault) for fault in plan]
        with self._lock:
            self._plan = plan
            if seed is not None:
                self.random.seed(seed)

    def clear(self):
        """No faults from now on. Who stalls may go on."""
        self.set([])
        if self._loop:
            self._loop.call_soon_threadsafe(self._release)

    @property
    def struck(self):
        """How often each kind of fault has struck."""
        return dict(collections.Counter(kind for kind, _, _ in self.strikes))

    def in_front(self, section):
        """The same storage section, reached through here."""
        settings = {name: value for name, value in section.items() if not isinstance(value, dict)}
        behind = f"http://{self.upstream[0]}:{self.upstream[1]}"
        for kind, options in section.items():
            if isinstance(options, dict):
                settings[kind] = {
                    name: value.replace(behind, self.endpoint) if isinstance(value, str) else value
                    for name, value in options.items()
                }
        settings["url"] = settings["url"].replace(behind, self.endpoint)
        return settings

    def start(self):
        listener = socket.create_server(("127.0.0.1", self.port), backlog=256)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, args=(listener,), name="faulty", daemon=True)
        self._thread.start()
        return self

    def stop(self):
        """Resets all connections."""
        if self._loop:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop = None

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.stop()

    # What a link asks.

    def choose(self, request):
        """The fault for a request; one that can then not strike is to be given back."""
        with self._lock:
            for fault in self._plan:
                if fault.times == 0 or not fault.is_for(request):
                    continue
                if fault.kind == "stale_list" and request.target not in self._lists:
                    continue
                if fault.skip:
                    fault.skip -= 1
                elif fault.probability >= 1 or self.random.random() < fault.probability:
                    self._count(fault, -1)
                    return fault

    def give_back(self, fault):
        with self._lock:
            self._count(fault, +1)

    def strike(self, fault, request):
        self.strikes.append((fault.kind, request.method, request.target))

    def remember(self, request, answer):
        self._lists[request.target] = answer
        self._lists.move_to_end(request.target)
        if len(self._lists) > 64:
            self._lists.popitem(last=False)

    def remembered(self, request):
        return self._lists[request.target]

    async def stalled(self, seconds):
        """Until `clear()`, or for so long."""
        cleared = self._cleared
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(cleared.wait(), seconds)

    # The thread.

    def _run(self, listener):
        asyncio.set_event_loop(self._loop)
        self._cleared = asyncio.Event()
        serving = asyncio.start_server(self._serve, sock=listener, limit=HEAD_LIMIT, backlog=256)
        server = self._loop.run_until_complete(serving)
        self._loop.run_forever()
        server.close()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    async def _serve(self, reader, writer):
        await Link(self, reader, writer).serve()

    def _release(self):
        self._cleared.set()
        self._cleared = asyncio.Event()

    @staticmethod
    def _count(fault, change):
        if fault.times is not None:
            fault.times += change


class Reset(Exception):
    """This connection ends here and now."""


class Message:
    """The head of a request or an answer, as it came, and what of it matters here."""

    def __init__(self, head):
        self.head = head
        first, *lines = head.decode("latin-1").split("\r\n")
        self.first = first.split(" ", 2)
        pairs = (line.partition(":") for line in lines if line)
        self.headers = {name.strip().lower(): value.strip() for name, _, value in pairs}

    method = property(lambda self: self.first[0])
    target = property(lambda self: self.first[1])
    status = property(lambda self: int(self.first[1]))

    @property
    def lasts(self):
        """Whether the connection is meant to serve further requests."""
        return "HTTP/1.1" in self.first and "close" not in self.headers.get("connection", "").lower()

    @property
    def expects(self):
        return "100-continue" in self.headers.get("expect", "").lower()

    def length(self, default):
        """How long the body is: a number, "chunked", or what it is if the head does not say."""
        if "chunked" in self.headers.get("transfer-encoding", "").lower():
            return "chunked"
        return int(self.headers["content-length"]) if "content-length" in self.headers else default

    def answer_length(self, request):
        """The same for an answer; None is up to the end of the connection."""
        if request.method == "HEAD" or self.status in (204, 304):
            return 0
        return self.length(None)

    def of_length(self, length):
        """The head with another length, and with the range that goes with it."""
        kept = [
            line
            for line in self.head.split(b"\r\n")[:-2]
            if not re.match(rb"(?i)(content-length|transfer-encoding|content-range):", line)
        ]
        kept.append(b"Content-Length: %d" % length)
        if ranged := re.match(r"bytes (\d+)-\d+/(.*)", self.headers.get("content-range", "")):
            start = int(ranged[1])
            kept.append(f"Content-Range: bytes {start}-{max(start, start + length - 1)}/{ranged[2]}".encode())
        return b"\r\n".join([*kept, b"", b""])


class Link:
    """One connection of a client, and the one to the server that goes with it."""

    def __init__(self, proxy, reader, writer):
        self.proxy, self.reader, self.writer = proxy, reader, writer
        self.server_reader = self.server_writer = None
        self.sent = True  # All of the request, by the time its answer came.
        writer.transport.set_write_buffer_limits(high=HEAD_LIMIT)

    async def serve(self):
        """Request after request, until one side has enough."""
        try:
            while request := await read_head(self.reader):
                if not await self._handle(request):
                    break
            await self._close()
        except (Reset, ConnectionError, EOFError, ValueError, asyncio.CancelledError):
            reset(self.writer)
        finally:
            self._drop_server()

    async def _handle(self, request):
        """Whether the connection lasts."""
        fault = self.proxy.choose(request)
        if not fault:
            return await self._pass(request)
        if fault.kind in ("truncate", "shorten", "flip") or fault.kind == "reset_midway" and not request.length(0):
            return await self._pass(request, fault)
        self.proxy.strike(fault, request)
        if fault.kind in ERRORS:
            return await self._fail(request, *ERRORS[fault.kind])
        return await getattr(self, f"_{fault.kind}")(request, fault)

    # Faults.

    async def _fail(self, request, status, code, message):
        body = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{message}</Message></Error>'
        if not request.expects:  # Else the client waits for leave to send it, and gets none.
            await discard(self.reader, request.length(0))
        head = f"HTTP/1.1 {status}\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n\r\n"
        await self._send((head + ("" if request.method == "HEAD" else body)).encode())
        return request.lasts and not request.expects

    async def _reset(self, request, fault):
        raise Reset

    async def _reset_midway(self, request, fault):
        length = request.length(0)
        await self._forward(request, cut=1 if length == "chunked" else self.proxy.random.randrange(length))

    async def _stall(self, request, fault):
        await self.proxy.stalled(fault.seconds)
        if has_left(self.writer):
            raise Reset
        return await self._pass(request)

    async def _lose_write(self, request, fault):
        if request.expects:
            await self._send(b"HTTP/1.1 100 Continue\r\n\r\n")
        digest = hashlib.md5()
        async for data in pieces(self.reader, request.length(0), raw=False):
            digest.update(data)
        tag, status = f'"{digest.hexdigest()}"', "200 OK"
        if "x-auth-token" in request.headers:  # As Swift says it.
            tag, status = digest.hexdigest(), "201 Created"
        await self._send(f"HTTP/1.1 {status}\r\nETag: {tag}\r\nContent-Length: 0\r\n\r\n".encode())
        return request.lasts

    async def _lose_answer(self, request, fault):
        answer = await self._forward(request)
        await discard(self.server_reader, answer.answer_length(request))
        raise Reset

    async def _stale_list(self, request, fault):
        await discard(self.reader, request.length(0))
        await self._send(self.proxy.remembered(request))
        return request.lasts

    # What passes, whole or with a fault in its answer.

    async def _pass(self, request, fault=None):
        answer = await self._forward(request)
        length = answer.answer_length(request)
        if fault and (length == 0 or answer.status >= 300):
            self.proxy.give_back(fault)
            fault = None
        if fault:
            self.proxy.strike(fault, request)
            await self._spoil(answer, length, fault)
        else:
            await self._deliver(request, answer, length)
        if not (self.sent and length is not None and answer.lasts):
            self._drop_server()
        return self.sent and request.lasts and answer.lasts and length is not None

    async def _deliver(self, request, answer, length):
        kept = [answer.head] if request.method == "GET" and LIST.search(request.target) else None
        await self._send(answer.head)
        size = 0
        async for data in pieces(self.server_reader, length):
            await self._send(data)
            size += len(data)
            if kept and size <= REMEMBERED:
                kept.append(data)
        if kept and answer.status == 200 and size <= REMEMBERED and length is not None:
            self.proxy.remember(request, b"".join(kept))

    async def _spoil(self, answer, length, fault):
        head, source = answer.head, pieces(self.server_reader, length)
        if not isinstance(length, int):
            whole = b"".join([data async for data in pieces(self.server_reader, length, raw=False)])
            length, source = len(whole), one_piece(whole)
            head = answer.of_length(length)
        place, bit = self.proxy.random.randrange(length or 1), 1 << self.proxy.random.randrange(8)
        if fault.kind == "shorten":
            head = answer.of_length(place)
        await self._send(head)
        sent = 0
        async for data in source:
            here = place - sent
            sent += len(data)
            if 0 <= here < len(data):
                if fault.kind != "flip":
                    await self._send(data[:here])
                    break
                data = data[:here] + bytes([data[here] ^ bit]) + data[here + 1 :]
            await self._send(data)
        if fault.kind == "flip":
            return
        self._drop_server()
        if fault.kind == "reset_midway":
            raise Reset
        self.sent = self.sent and fault.kind == "shorten"

    async def _forward(self, request, cut=None):
        """Sends a request on, up to `cut` bytes of its body, and returns the head of the answer.

        Both directions at once: the server may want to say something before it has the body."""
        await self._connect()
        self.server_writer.write(request.head)
        sending = asyncio.ensure_future(self._send_body(request, cut))
        hearing = asyncio.ensure_future(self._hear())
        try:
            await asyncio.wait({sending, hearing}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
            answer = await hearing
            if cut is not None:
                raise Reset
            self.sent = sending.done()  # Else nobody knows where the next request begins.
            return answer
        finally:
            for task in (sending, hearing):
                task.cancel()
            await asyncio.gather(sending, hearing, return_exceptions=True)

    async def _send_body(self, request, cut):
        sent = 0
        async for data in pieces(self.reader, request.length(0)):
            rest = len(data) if cut is None else cut - sent
            sent += len(data)
            try:
                self.server_writer.write(data[:rest])
                await self.server_writer.drain()
            except ConnectionError:
                return  # Its answer may be there all the same.
            if rest < len(data) or sent == cut:
                raise Reset

    async def _hear(self):
        while True:
            answer = await read_head(self.server_reader)
            if not answer:
                raise ConnectionResetError
            if answer.status >= 200:
                return answer
            await self._send(answer.head)

    async def _connect(self):
        if self.server_writer and self.server_reader.at_eof():  # It has not waited for us.
            self._drop_server()
        if not self.server_writer:
            opened = await asyncio.open_connection(*self.proxy.upstream, limit=HEAD_LIMIT)
            self.server_reader, self.server_writer = opened
            self.server_writer.transport.set_write_buffer_limits(high=HEAD_LIMIT)

    def _drop_server(self):
        if self.server_writer:
            self.server_writer.transport.abort()
            self.server_reader = self.server_writer = None

    async def _send(self, data):
        self.writer.write(data)
        await self.writer.drain()

    async def _close(self):
        """Says that nothing more comes, and takes what is still on its way: else that would reset the connection
        before the client has read its answer."""
        with contextlib.suppress(OSError, asyncio.TimeoutError):
            self.writer.write_eof()
            await asyncio.wait_for(discard(self.reader, None), 1)
        self.writer.close()


async def read_head(reader):
    """The next message; None if there is none."""
    try:
        return Message(await reader.readuntil(b"\r\n\r\n"))
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise
        return None


async def pieces(reader, length, raw=True):
    """A body in pieces, as it comes over the line, or only what is meant by it."""
    if length is None:
        while data := await reader.read(PIECE):
            yield data
    elif length == "chunked":
        size = None
        while size != 0:
            line = await reader.readuntil(b"\r\n")
            size = int(line.split(b";")[0], 16)
            if raw:
                yield line
            async for data in pieces(reader, size):
                yield data
            end = await reader.readuntil(b"\r\n")
            while size == 0 and end != b"\r\n":  # Headers that follow the body.
                if raw:
                    yield end
                end = await reader.readuntil(b"\r\n")
            if raw:
                yield end
    else:
        while length:
            data = await reader.read(min(length, PIECE))
            if not data:
                raise EOFError
            length -= len(data)
            yield data


async def one_piece(data):
    yield data


async def discard(reader, length):
    async for _ in pieces(reader, length):
        pass


def reset(writer):
    """Ends a connection with RST instead of FIN."""
    with contextlib.suppress(OSError):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def has_left(writer):
    """Whether the client has closed its side. What it has sent before may hide that from the reader."""
    state = writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
    return state != 1  # TCP_ESTABLISHED
