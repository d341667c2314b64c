"""The address of a store leads to a different kind of server, such as a console or a login page."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from scoreline.storage.errors import BucketNotFound, NotAnObjectStore, StoreError, StoreUnavailable
from scoreline.storage.objects.base import CREATE
from scoreline.storage.objects.r2 import R2Store
from scoreline.storage.settings import R2Settings

XHTML, HTML = b"<html></html>", b"<!doctype html><meta charset=utf-8><br>"
REQUESTS: dict[str, Callable[[R2Store], Any]] = {
    "list": lambda store: list(store.list("models/")),
    "list folders": lambda store: store.folders("models/"),
    "get": lambda store: store.get("k"),
    "get a range": lambda store: store.get("k", byte_range=(0, 4)),
    "head": lambda store: store.head("k"),
    "put": lambda store: store.put("k", b"1"),
    "create": lambda store: store.put("k", b"1", mode=CREATE),
    "upload in parts": lambda store: store.always_multipart().put("k", b"1"),
}


@pytest.fixture
def other_server() -> Iterator[Callable[..., R2Store]]:
    """Return a function that starts a server with one response to all requests, and returns a store at its address."""
    started: list[ThreadingHTTPServer] = []
    stores: list[R2Store] = []

    def start(status: int, page: bytes) -> R2Store:
        class Page(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                self.send_response(status)
                self.send_header("Content-Type", "text/html; charset=utf-8")
                self.send_header("Content-Length", str(len(page)))
                self.send_header("Connection", "close")
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(page)

            do_PUT = do_HEAD = do_POST = do_DELETE = do_GET

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
        started.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        settings = R2Settings(endpoint_url=address, access_key_id="a", secret_access_key="b")
        stores.append(R2Store(settings, "data", max_attempts=1))
        return stores[-1]

    yield start
    for store in stores:
        store.client.close()
    for server in started:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("page", [XHTML, HTML, b""], ids=["xhtml", "html", "empty"])
@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS)
def test_a_page_instead_of_an_answer_is_an_error_that_names_the_setting(
    other_server: Callable[..., R2Store], page: bytes, request_: Callable[[R2Store], Any]
) -> None:
    with pytest.raises(StoreError, match="R2_ENDPOINT_URL") as failed:
        request_(other_server(200, page))
    assert isinstance(failed.value, NotAnObjectStore | StoreUnavailable)
    assert "answered 500" not in str(failed.value)


def test_a_host_that_boto3_refuses_is_an_error_that_names_the_setting() -> None:
    with pytest.raises(StoreError, match="R2_ENDPOINT_URL cannot be used: Invalid endpoint: http://my_store:9000"):
        R2Store(R2Settings(endpoint_url="http://my_store:9000", access_key_id="a", secret_access_key="b"), "data")


def test_a_page_of_a_proxy_is_an_outage(other_server: Callable[..., R2Store]) -> None:
    with pytest.raises(StoreUnavailable, match="answered 502 with a web page: is R2_ENDPOINT_URL correct"):
        other_server(502, XHTML).put("k", b"1")


@pytest.mark.parametrize("verb", ["list", "put"])
def test_a_path_that_is_not_found_is_not_reported_as_a_missing_object(
    other_server: Callable[..., R2Store], verb: str
) -> None:
    with pytest.raises(BucketNotFound if verb == "list" else NotAnObjectStore, match=r"correct .*R2_ENDPOINT_URL"):
        REQUESTS[verb](other_server(404, b""))
    with pytest.raises(StoreError, match="answered 404 with a web page: is R2_ENDPOINT_URL correct"):
        REQUESTS[verb](other_server(404, XHTML))
