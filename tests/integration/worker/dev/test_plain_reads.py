"""Plain reads of the embedded S3 server have the same answers as those of moto, and connections stay open."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import moto.s3.models
import pytest
from moto.core.models import DEFAULT_ACCOUNT_ID
from werkzeug.serving import make_server

from scoreline.worker.dev.plain_reads import PlainReads
from scoreline.worker.dev.s3 import KeepingAlive
from tests.support.moto_bucket import moto_bucket
from tests.support.plain_servers import Servers
from tests.support.waiting import HANG_S

BUCKET = "plain-reads"
DATA = bytes(range(256)) * 4


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    made = Servers(PlainReads, BUCKET)
    with moto_bucket(BUCKET):
        made.put("/k", DATA, {"x-amz-meta-rows": "3", "Content-Type": "text/csv"})
        made.put("/a b/é%2F+&=?.bin", DATA)
        made.put("/empty")
        yield made


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/k", {}),
        ("/k", {"Range": "bytes=0-9"}),
        ("/k", {"Range": "bytes=1000-"}),
        ("/k", {"Range": "bytes=1000-99999"}),
        ("/k", {"Range": "bytes=1023-1023"}),
        ("/a b/é%2F+&=?.bin", {}),
        ("/empty", {}),
    ],
)
def test_a_plain_read_has_the_answer_of_moto(servers: Servers, path: str, headers: dict[str, str]) -> None:
    servers.passed.clear()
    expected = servers.ask(servers.moto, path, headers)
    etag = expected[2]["etag"]
    assert servers.ask(servers.plain, path, headers) == expected
    assert servers.ask(servers.plain, path, headers | {"If-Match": etag}) == expected
    assert not servers.passed


@pytest.mark.parametrize(
    ("path", "headers", "query"),
    [
        ("/k", {"Range": "bytes=1024-2000"}, ""),
        ("/k", {"Range": "bytes=9-1"}, ""),
        ("/k", {"Range": "bytes=-5"}, ""),
        ("/k", {"Range": "bytes=0-1,4-5"}, ""),
        ("/k", {"Range": "bytes=x-y"}, ""),
        ("/k", {"If-Match": '"0"'}, ""),
        ("/k", {"If-None-Match": "*"}, ""),
        ("/k", {"If-Modified-Since": "Fri, 01 Jan 2100 00:00:00 GMT"}, ""),
        ("/k", {}, "versionId=null"),
        ("/k", {}, "response-content-type=a"),
        ("/k", {}, "tagging"),
        ("/k", {"Authorization": None}, ""),
        ("/k", {"Host": f"{BUCKET}.s3.amazonaws.com"}, ""),
        ("/empty", {"Range": "bytes=0-0"}, ""),
        ("/absent", {}, ""),
        ("/", {}, ""),
        ("//k", {}, ""),
    ],
)
def test_every_other_request_is_left_to_moto(
    servers: Servers, path: str, headers: dict[str, str | None], query: str
) -> None:
    servers.passed.clear()
    assert servers.ask(servers.plain, path, headers, query) == servers.ask(servers.moto, path, headers, query)
    assert len(servers.passed) == 1


def test_objects_of_a_bucket_with_versions_or_a_policy_are_left_to_moto(servers: Servers) -> None:
    bucket = moto.s3.models.s3_backends[DEFAULT_ACCOUNT_ID]["aws"].buckets[BUCKET]
    for name, value, before in (("versioning_status", "Enabled", None), ("policy", b'{"Statement": []}', None)):
        servers.passed.clear()
        setattr(bucket, name, value)
        try:
            assert servers.ask(servers.plain, "/k", {})[0] == "200"
            assert len(servers.passed) == 1
        finally:
            setattr(bucket, name, before)


@pytest.fixture
def connection(request: pytest.FixtureRequest) -> Iterator[http.client.HTTPConnection]:
    """A connection to a server with `KeepingAlive`, and an application that answers as the path says."""

    def app(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        if environ["PATH_INFO"] == "/fails":
            raise ZeroDivisionError
        lengths = {"/short": [("Content-Length", "10")], "/no-length": []}
        start("200 OK", lengths.get(environ["PATH_INFO"], [("Content-Length", "4")]))
        return [b"da", b"ta"]

    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=KeepingAlive)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    opened = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=HANG_S)
    yield opened
    opened.close()
    server.shutdown()
    thread.join()
    server.server_close()


def got(connection: http.client.HTTPConnection, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    connection.request(method, path, body)
    answer = connection.getresponse()
    return answer.status, answer.read()


@pytest.mark.parametrize("path", ["/", "/no-length"])
def test_a_connection_stays_open_after_a_small_request(connection: http.client.HTTPConnection, path: str) -> None:
    assert got(connection, "GET", path) == (200, b"data")
    used = connection.sock
    assert used is not None
    assert got(connection, "GET", path) == (200, b"data")
    assert connection.sock is used
    assert got(connection, "PUT", path, b"body") == (200, b"data")
    assert connection.sock is used
    # And it is closed after another request with a body, which Werkzeug may not have read
    assert got(connection, "POST", path, b"body") == (200, b"data")
    assert connection.sock is None
    assert got(connection, "GET", path) == (200, b"data")


def test_a_body_that_is_too_short_ends_with_its_connection(connection: http.client.HTTPConnection) -> None:
    connection.request("GET", "/short")
    with pytest.raises(http.client.IncompleteRead):
        connection.getresponse().read()


def test_a_failure_of_the_application_is_an_answer(connection: http.client.HTTPConnection) -> None:
    status, _ = got(connection, "GET", "/fails")
    assert status == 500
    assert got(connection, "GET", "/") == (200, b"data")
