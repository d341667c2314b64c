"""The embedded S3 server reads the heads of requests as the standard library does, only faster."""

from __future__ import annotations

import io
from typing import Any

import pytest
from moto.moto_server.werkzeug_app import MotoRequestHandler

from scoreline.worker.dev.s3 import KeepingAlive

_USUAL = "PUT /b/k?x=1 HTTP/1.1\r\nHost: 127.0.0.1:9\r\nx-amz-meta-Rows:  a b \r\nContent-Length: 2\r\n"


def read(handler_class: type[MotoRequestHandler], data: bytes) -> tuple[Any, ...]:
    """Return what a handler knows of a request, what it answered, and the body that is left to be read."""
    handler: Any = handler_class.__new__(handler_class)
    line, _, rest = data.partition(b"\n")
    written = io.BytesIO()
    handler.raw_requestline, handler.rfile, handler.wfile = line + b"\n", io.BytesIO(rest), written
    handler.client_address = ("127.0.0.1", 1)
    handler.protocol_version = "HTTP/1.1"
    handler.log_request = handler.log_error = lambda *_: None
    handler.date_time_string = lambda *_: "now"
    handler.version_string = lambda *_: "server"
    is_valid = handler.parse_request()
    known: tuple[Any, ...] = ()
    if is_valid:
        known = handler.command, handler.path, handler.request_version, handler.requestline
        fields = handler.headers
        known += (list(fields.items()), list(fields.keys()), fields.get("host"), fields.get("none", ""))
    return is_valid, known, handler.close_connection, written.getvalue(), handler.rfile.read()


@pytest.mark.parametrize(
    "head",
    [
        _USUAL,
        _USUAL + "Connection: close\r\n",
        _USUAL + "connection: Close\r\n",
        _USUAL + "Expect: 100-continue\r\n",
        _USUAL + "X-Twice: 1\r\nX-Twice: 2\r\n",
        _USUAL + "X-Empty:\r\nX-Latin: \xe9\r\n",
        _USUAL.replace("\r\n", "\n"),
        _USUAL.replace("1.1", "1.0"),
        _USUAL.replace("1.1", "1.0") + "Connection: keep-alive\r\n",
        _USUAL.replace("1.1", "2.0"),
        _USUAL.replace("/b/k", "//b/k"),
        _USUAL.replace(" HTTP/1.1", ""),
        _USUAL + "X-Folded: 1\r\n 2\r\n",
        _USUAL + "no colon\r\nX-After: 1\r\n",
        _USUAL + "X Blank: 1\r\nX-After: 1\r\n",
        _USUAL + "X-Many: 1\r\n" * 97,
        _USUAL + "X-Many: 1\r\n" * 98,
        _USUAL + "X-Long: " + "x" * 70_000 + "\r\n",
    ],
)
def test_a_head_is_read_as_by_the_standard_library(head: str) -> None:
    data = (head + ("\r\n" if "\r\n" in head else "\n")).encode("latin-1") + b"ab"
    expected, found = read(MotoRequestHandler, data), read(KeepingAlive, data)
    assert found[0] == expected[0]
    if expected[0]:
        assert found == expected
    else:  # the connection is closed, so the rest is not read
        assert found[:4] == expected[:4]
