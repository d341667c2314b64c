"""An S3 server that is as far away as R2: each request waits, and a connection has a limited rate.

The server runs in a process of its own, keeps objects in memory, and takes little CPU time, because it shares the
machine with the measured processes. It also counts the requests, and the bytes that it sends. It accepts any
credentials and any bucket.
"""

from __future__ import annotations

import ctypes
import hashlib
import itertools
import json
import multiprocessing
import re
import threading
import time
import urllib.request
import xml.sax.saxutils
from dataclasses import asdict, dataclass
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from multiprocessing.sharedctypes import Synchronized
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, quote, unquote, urlsplit

_CHUNK = 256 << 10
_PAGE_KEYS = 1_000
_LOG = "/-requests"

type _Count = Synchronized[ctypes.c_longlong]


@dataclass(frozen=True, kw_only=True)
class _Stored:
    data: bytes
    etag: str
    headers: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class Request:
    """A request that the server has received."""

    who: str
    """The access key of the process that sent the request."""
    method: str
    name: str
    """Bucket and key."""
    begun: float
    ended: float
    """Times by `time.monotonic`, which all processes of a machine share."""


class _Server(ThreadingHTTPServer):
    """The HTTP server, with the objects of all buckets, and the delays and rate of its responses."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, delay_s: float, write_delay_s: float, rate: float, requests: _Count, sent: _Count) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.delay_s = delay_s
        self.write_delay_s = write_delay_s
        self.log: list[Request] = []
        self.rate = rate
        self.requests = requests
        self.sent = sent
        self.objects: dict[str, _Stored] = {}
        """Objects by bucket and key."""
        self.uploads: dict[str, dict[int, bytes]] = {}
        self.numbers = itertools.count()
        self.lock = threading.Lock()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # buffer the headers of a response, so that one call sends them
    server: _Server

    def _begin(self) -> tuple[str, dict[str, str], bytes]:
        """Wait as long as each request has to, and return the path (bucket and key), the query and the body."""
        with self.server.requests.get_lock():
            self.server.requests.value += 1  # type: ignore[assignment, operator]
        begun = time.monotonic()
        time.sleep(self.server.delay_s if self.command in ("GET", "HEAD") else self.server.write_delay_s)
        parts = urlsplit(self.path)
        who = re.search(r"Credential=([^/]*)/", self.headers.get("Authorization", ""))
        name = unquote(parts.path).strip("/")
        seen = Request(who=who[1] if who else "", method=self.command, name=name, begun=begun, ended=time.monotonic())
        self.server.log.append(seen)
        query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return name, query, body

    def do_GET(self) -> None:
        """Send an object, a range of it, a page of a listing, or the requests so far."""
        if self.path == _LOG:
            self._answer(200, json.dumps([asdict(seen) for seen in self.server.log]).encode())
            return
        name, query, _ = self._begin()
        if "/" not in name:
            self._list(name, query) if "list-type" in query else self._answer(200, b"")
            return
        stored = self.server.objects.get(name)
        if stored is None:
            self._fail(404, "NoSuchKey")
        elif self.headers.get("If-Match", stored.etag) != stored.etag:
            self._fail(412, "PreconditionFailed")
        else:
            self._send(stored)

    do_HEAD = do_GET

    def do_PUT(self) -> None:
        """Store an object, or a part of a multipart upload."""
        name, query, body = self._begin()
        if "partNumber" in query:
            self.server.uploads[query["uploadId"]][int(query["partNumber"])] = body
            self._answer(200, b"", ETag=f'"{query["partNumber"]}"')
        else:
            self._store(name, body)

    def do_POST(self) -> None:
        """Begin or complete a multipart upload."""
        name, query, _ = self._begin()
        if "uploads" in query:
            upload = str(next(self.server.numbers))
            self.server.uploads[upload] = {}
            self._answer(200, f"<R><UploadId>{upload}</UploadId></R>".encode())
        else:
            parts = self.server.uploads.pop(query["uploadId"])
            self._store(name, b"".join(parts[number] for number in sorted(parts)), xml=True)

    def do_DELETE(self) -> None:
        """Delete an object."""
        name, _, _ = self._begin()
        self.server.objects.pop(name, None)
        self._answer(204, b"")

    def _store(self, name: str, body: bytes, *, xml: bool = False) -> None:
        etag = f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}-{next(self.server.numbers)}"'
        kept = tuple((key, value) for key, value in self.headers.items() if key.lower().startswith("x-amz-meta-"))
        with self.server.lock:
            before = self.server.objects.get(name)
            expected = self.headers.get("If-Match")
            refused = (self.headers.get("If-None-Match") is not None and before is not None) or (
                expected is not None and (before is None or before.etag != expected)
            )
            if not refused:
                self.server.objects[name] = _Stored(data=body, etag=etag, headers=kept)
        if refused:
            self._fail(412, "PreconditionFailed")
        else:
            self._answer(200, f"<R><ETag>{etag}</ETag></R>".encode() if xml else b"", ETag=etag)

    def _send(self, stored: _Stored) -> None:
        size = len(stored.data)
        start, stop = 0, size
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, stop = int(wanted[1]), min(int(wanted[2] or size - 1) + 1, size)
            if start >= size:
                self._fail(416, "InvalidRange")
                return
        self.send_response(206 if wanted else 200)
        self.send_header("ETag", stored.etag)
        self.send_header("Content-Length", str(stop - start))
        for header in stored.headers:
            self.send_header(*header)
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
        self.end_headers()
        if self.command == "HEAD":
            return
        self._pour(memoryview(stored.data)[start:stop])

    def _pour(self, data: memoryview) -> None:
        """Send bytes at the limited rate of a connection."""
        self.wfile.flush()
        free = time.monotonic()
        for start in range(0, len(data), _CHUNK):
            block = data[start : start + _CHUNK]
            self.connection.sendall(block)
            if self.server.rate:
                free += len(block) / self.server.rate
                if (left := free - time.monotonic()) > 0.002:  # the system would prolong shorter waits
                    time.sleep(left)
        with self.server.sent.get_lock():
            self.server.sent.value += len(data)  # type: ignore[assignment, operator]

    def _list(self, bucket: str, query: dict[str, str]) -> None:
        prefix = f"{bucket}/{query.get('prefix', '')}"
        after = query.get("continuation-token", "")
        with self.server.lock:
            found = sorted(
                (name.encode(), stored) for name, stored in self.server.objects.items() if name.startswith(prefix)
            )
        left = [(name.decode(), stored) for name, stored in found if name.decode() > after]
        page = left[:_PAGE_KEYS]
        now = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())
        items = "".join(
            f"<Contents><Key>{quote(name[len(bucket) + 1 :])}</Key><Size>{len(stored.data)}</Size>"
            f"<ETag>{xml.sax.saxutils.escape(stored.etag)}</ETag><LastModified>{now}</LastModified></Contents>"
            for name, stored in page
        )
        more = len(left) > len(page)
        token = f"<NextContinuationToken>{xml.sax.saxutils.escape(page[-1][0])}</NextContinuationToken>" if more else ""
        self._answer(
            200,
            f"<ListBucketResult><IsTruncated>{str(more).lower()}</IsTruncated><EncodingType>url</EncodingType>"
            f"{token}{items}</ListBucketResult>".encode(),
        )

    def _fail(self, status: int, code: str) -> None:
        self._answer(status, f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode())

    def _answer(self, status: int, body: bytes, **headers: Any) -> None:
        self.send_response(status)
        self.send_header("Date", formatdate(usegmt=True))
        for name, value in headers.items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def handle_expect_100(self) -> bool:
        """Tell the client at once to send the body of its request."""
        super().handle_expect_100()
        self.wfile.flush()
        return True

    def send_response(self, code: int, message: str | None = None) -> None:
        """Send the first line of a response, without the headers that the base class adds."""
        self.send_response_only(code, message)

    def log_message(self, *_: object) -> None:
        """Print nothing."""


def _serve(pipe: Connection, delay_s: float, write_delay_s: float, rate: float, requests: _Count, sent: _Count) -> None:
    server = _Server(delay_s, write_delay_s, rate, requests, sent)
    pipe.send(server.server_port)
    server.serve_forever()


class SlowStore:
    """Runs the slow S3 server on a free port of 127.0.0.1 until its `with` block ends.

    Parameters
    ----------
    delay_s : float
        Seconds that each request waits.
    write_delay_s : float, optional
        Seconds that each request waits if it is neither GET nor HEAD; by default, the same as `delay_s`.
    rate : float
        Bytes per second of a connection; 0 for no limit.
    """

    def __init__(self, *, delay_s: float = 0.03, write_delay_s: float | None = None, rate: float = 60e6) -> None:
        context = multiprocessing.get_context("spawn")
        self._requests, self._sent = context.Value(ctypes.c_longlong, 0), context.Value(ctypes.c_longlong, 0)
        self._pipe, there = context.Pipe()
        write_s = delay_s if write_delay_s is None else write_delay_s
        arguments = (there, delay_s, write_s, rate, self._requests, self._sent)
        self._process = context.Process(target=_serve, args=arguments, daemon=True)

    def __enter__(self) -> Self:
        self._process.start()
        self.endpoint = f"http://127.0.0.1:{self._pipe.recv()}"
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.terminate()
        self._process.join()

    @property
    def requests(self) -> int:
        """Number of requests so far."""
        return int(self._requests.value)

    def log(self) -> list[Request]:
        """Return all requests so far, in the order in which they were answered."""
        with urllib.request.urlopen(f"{self.endpoint}{_LOG}") as answer:
            return [Request(**seen) for seen in json.load(answer)]

    @property
    def sent(self) -> int:
        """Bytes of objects that were sent so far."""
        return int(self._sent.value)
