"""The embedded S3 server in memory: moto, behind a layer that is as strict as R2.

By default, moto stores objects in temporary files, and reads the whole object for every ranged request. If a model of
300 MB is requested in ranges of 4 MiB, moto reads the model 75 times. With this module, a ranged request reads only the
requested bytes. Moto's own server also looks for all of its services in the file system at each request. This search
takes half of the time of a request. This module serves S3 alone, keeps connections open as R2 does, and lets
`PlainReads`, `PlainWrites` and `PlainListings` answer plain requests.
"""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Callable, Sequence
from http.client import HTTPMessage
from types import SimpleNamespace
from typing import Any, cast

import moto.s3.models
from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.moto_server.werkzeug_app import MotoRequestHandler, create_backend_app
from werkzeug.serving import run_simple

from scoreline.worker.dev.plain_listings import PlainListings
from scoreline.worker.dev.plain_reads import PlainReads
from scoreline.worker.dev.plain_writes import MAX_BYTES, PlainWrites
from scoreline.worker.dev.strict import App, StrictR2

_FIELD = re.compile(rb"[!-9;-~]+:[^\r\n]*\r?\n")
_MAX_LINE_BYTES, _MAX_LINES = 65_536, 100
"""Those of the standard library."""
_END = (b"\r\n", b"\n", b"")
_JOINED_BYTES = 64 << 10
"""Size up to which the body of an answer is sent together with its head. Copying it takes less time than a second
call."""


class _InMemory(io.BytesIO):
    """Replaces the temporary file of an object. Reading the whole object copies no bytes."""

    def __init__(self, max_size: int = 0) -> None:
        super().__init__()

    def read(self, size: int | None = -1, /) -> bytes:
        """Return the next `size` bytes, or all remaining bytes."""
        if self.tell() == 0 and (size is None or size < 0):
            return self.getvalue()
        return super().read(size)


class _Fields(list[tuple[str, str]]):
    """The headers of a request, with those methods of the e-mail parser's message that are used."""

    def __contains__(self, wanted: object) -> bool:
        return str(wanted).lower() in (name.lower() for name, _ in self)

    def get(self, wanted: str, default: str = "") -> str:
        """Return the first header with a name, in upper or lower case."""
        wanted = wanted.lower()
        return next((text for name, text in self if name.lower() == wanted), default)

    def items(self) -> Sequence[tuple[str, str]]:
        """Return names and texts."""
        return self

    def keys(self) -> Sequence[str]:
        """Return the names."""
        return [name for name, _ in self]


class KeepingAlive(MotoRequestHandler):
    """Keeps the connection open after a small request, so that the client can send its next request.

    Werkzeug closes the connection after each request, because it may not have read the body of the request. A new
    connection takes as much time as the rest of a small request.
    """

    disable_nagle_algorithm = True  # otherwise, the body of an answer waits for the acknowledgement of its headers

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Log one request in a single line. Werkzeug's log takes a seventh of the time of a small request."""
        sys.stderr.write(f'"{self.requestline}" {code} {size}\n')

    def parse_request(self) -> bool:
        """Read the head of a request. The e-mail parser, which takes longer, reads only what is unusual."""
        words = self.raw_requestline.decode("latin-1").split()
        lines: list[bytes] = []
        while len(lines) < _MAX_LINES and (line := self.rfile.readline(_MAX_LINE_BYTES + 1)) not in _END:
            lines.append(line)
        usual = len(words) == 3 and words[2] == "HTTP/1.1" and not words[1].startswith("//")
        if not usual or len(lines) == _MAX_LINES or not all(map(_FIELD.fullmatch, lines)):
            unread, self.rfile = self.rfile, io.BytesIO(b"".join([*lines, b"\r\n"]))
            try:
                return bool(super().parse_request())
            finally:
                self.rfile = unread
        self.command, self.path, self.request_version = words
        self.requestline = " ".join(words)
        parted = (line.decode("latin-1").partition(":") for line in lines)
        fields = _Fields((name, text.lstrip(" \t").rstrip("\r\n")) for name, _, text in parted)
        self.headers = cast(HTTPMessage, fields)
        self.close_connection = fields.get("connection", "").lower() == "close"
        return fields.get("expect", "").lower() != "100-continue" or self.handle_expect_100()

    def run_wsgi(self) -> None:
        """Answer one request."""
        length = self.headers.get("Content-Length", "0")
        has_body = length != "0" or "Transfer-Encoding" in self.headers
        if self.command == "PUT":
            small = length.isdecimal() and int(length) <= MAX_BYTES and "Transfer-Encoding" not in self.headers
            answer = self._answer(self.rfile.read(int(length))) if small else None
        else:
            answer = self._answer() if self.command in ("GET", "HEAD", "DELETE") and not has_body else None
        if answer is None:
            super().run_wsgi()
            return
        self._send(*answer)

    def _send(self, status: str, headers: list[tuple[str, str]], data: bytes) -> None:
        self.log_request(status.partition(" ")[0])
        found = {name.lower(): text for name, text in headers}
        if self.command == "HEAD" or status.startswith("204"):
            data = b""
        elif "content-length" not in found:
            headers = [*headers, ("Content-Length", str(len(data)))]
        elif found["content-length"] != str(len(data)):  # the client notices missing bytes if the connection is closed
            headers = [*headers, ("Connection", "close")]
            self.close_connection = True
        if found.get("connection", "").lower() == "close":
            self.close_connection = True
        lines = [f"{self.protocol_version} {status}", f"Server: {self.version_string()}"]
        lines += [f"Date: {self.date_time_string()}", *(f"{name}: {text}" for name, text in headers), "", ""]
        head = "\r\n".join(lines).encode("latin-1")
        if len(data) <= _JOINED_BYTES:
            self.wfile.write(head + data)
        else:
            self.wfile.write(head)
            self.wfile.write(data)

    def _answer(self, body: bytes | None = None) -> tuple[str, list[tuple[str, str]], bytes] | None:
        """Return status, headers and body of the answer; None if the application failed, so that Werkzeug explains.

        Parameters
        ----------
        body : bytes, optional
            The body of the request, if it has been read.
        """
        started: list[tuple[str, list[tuple[str, str]]]] = []

        def start(status: str, headers: list[tuple[str, str]], *_: Any) -> Any:
            started.append((status, headers))

        self.environ = self.make_environ()
        if body is not None:
            self.environ["wsgi.input"] = io.BytesIO(body)
        try:
            answer = self.server.app(self.environ, start)
            try:
                return *started[-1], b"".join(answer)
            finally:
                if hasattr(answer, "close"):
                    answer.close()
        except Exception:  # noqa: BLE001
            return None if body is None else ("500 Internal Server Error", [], b"")


def serve(port: int, wrap: Callable[[App], App] = StrictR2) -> None:
    """Serve on a port of 127.0.0.1 until the process ends. The function `wrap` adds a layer around moto."""
    vars(moto.s3.models)["tempfile"] = SimpleNamespace(SpooledTemporaryFile=_InMemory)
    os.environ["MOTO_PORT"] = str(port)
    backend = moto.s3.models.s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
    app = PlainReads(PlainWrites(PlainListings(create_backend_app("s3"), backend), backend), backend)
    run_simple("127.0.0.1", port, wrap(app), threaded=True, request_handler=KeepingAlive)


def main() -> None:
    """Serve on the port in the first command-line argument."""
    serve(int(sys.argv[1]))


if __name__ == "__main__":
    main()
