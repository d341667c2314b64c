"""A proxy in front of the embedded S3 server that simulates faults of servers, tokens and proxies."""

from __future__ import annotations

import email.utils
import http.client
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from tests.support.waiting import HANG_S

BEHIND_S = 90


def _is_write(request: BaseHTTPRequestHandler) -> bool:
    return request.command in ("PUT", "POST", "DELETE")


REFUSALS: dict[str, tuple[Callable[[BaseHTTPRequestHandler], bool], int, str]] = {
    "read-only": (_is_write, 403, "AccessDenied"),
    "unlisted": (lambda request: "list-type" in request.path, 403, "AccessDenied"),
    "unknown-key": (lambda request: True, 403, "InvalidAccessKeyId"),
    "no-uploads": (lambda request: request.path.endswith("?uploads"), 501, "NotImplemented"),
    "no-aborts": (lambda request: request.command == "DELETE" and "uploadId" in request.path, 403, "AccessDenied"),
    "no-batches": (lambda request: request.path.endswith("?delete"), 400, "InvalidRequest"),
    "no-deletes": (lambda request: request.command == "DELETE" and "?" not in request.path, 403, "AccessDenied"),
}
"""For each fault: a check for the requests that are refused, and the status and code of the refusal."""
HEADERS_LOST = {
    "ignores-if-none-match": ("PUT", "if-none-match"),
    "ignores-if-none-match-of-uploads": ("POST", "if-none-match"),
    "ignores-if-match": ("PUT", "if-match"),
    "ignores-if-match-of-reads": ("GET", "if-match"),
    "ignores-ranges": ("GET", "range"),
}


class BrokenStore:
    """A proxy whose faults are chosen by the key id of each request: names of faults, joined by ``+``."""

    def __init__(self, endpoint: str) -> None:
        target = urlsplit(endpoint).netloc

        class Handler(_Handler):
            behind = target

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    behind = ""

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        key_id = self.headers.get("Authorization", "").partition("Credential=")[2].partition("/")[0]
        faults = key_id.split("+")
        for fault in faults:
            if fault in REFUSALS and REFUSALS[fault][0](self):
                _, status, code = REFUSALS[fault]
                self.answer(status, {}, f"<Error><Code>{code}</Code></Error>".encode())
                return
        lost = [
            name for method, name in (HEADERS_LOST.get(fault, ("", "")) for fault in faults) if method == self.command
        ]
        headers = {name: value for name, value in self.headers.items() if name.lower() not in lost}
        path = self.path.replace("prefix=", "prefix=elsewhere") if "stale-listings" in faults else self.path
        back = http.client.HTTPConnection(self.behind, timeout=HANG_S)
        back.request(self.command, path, body, headers)
        got = back.getresponse()
        data = got.read()
        back.close()
        kept = {
            name: value
            for name, value in got.getheaders()
            if name.lower() not in ("date", "server", "connection", "transfer-encoding")
            and not ("loses-metadata" in faults and name.lower().startswith("x-amz-meta-"))
        }
        self.answer(got.status, kept, data, behind_s=BEHIND_S if "is-behind" in faults else 0)

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET

    def answer(self, status: int, headers: dict[str, str], body: bytes, behind_s: float = 0) -> None:
        self.send_response_only(status)
        self.send_header("Date", email.utils.formatdate(time.time() - behind_s, usegmt=True))
        for name, value in headers.items():
            self.send_header(name, value)
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass
