"""The embedded S3 server stores an object whole or not at all."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from typing import Any

import moto.s3.models
import pytest
from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.moto_server.werkzeug_app import create_backend_app
from werkzeug.test import EnvironBuilder, run_wsgi_app

from scoreline.worker.dev.plain_writes import PlainWrites
from tests.support.moto_bucket import moto_bucket

BUCKET = "plain-writes"
_SIGNED = {
    "Authorization": "AWS4-HMAC-SHA256 Credential=k/20260101/auto/s3/aws4_request, SignedHeaders=host, Signature=0"
}


@pytest.fixture(scope="module")
def bucket() -> Iterator[Any]:
    with moto_bucket(BUCKET) as found:
        yield found


def put(body: bytes, length: int, key: str = "k") -> str:
    """Send a part of an object, as a client does that is killed while it sends, and return the status."""
    backend = moto.s3.models.s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
    raw = f"/{BUCKET}/{key}"
    headers = {**_SIGNED, "If-None-Match": "*", "x-amz-meta-sha256": "of the whole"}
    environ = EnvironBuilder(raw, "http://127.0.0.1:9000", method="PUT", headers=list(headers.items())).get_environ()
    environ |= {"RAW_URI": raw, "REQUEST_URI": raw, "CONTENT_LENGTH": str(length), "wsgi.input": io.BytesIO(body)}
    _, status, _ = run_wsgi_app(PlainWrites(create_backend_app("s3"), backend), environ, buffered=True)
    return status.partition(" ")[0]


def ask_for_absent(app: Any, method: str) -> tuple[str, str, bytes]:
    """Ask for an object that does not exist. Return the status, the code of the error, and the body."""
    raw = f"/{BUCKET}/absent"
    environ = EnvironBuilder(raw, "http://127.0.0.1:9000", method=method, headers=list(_SIGNED.items())).get_environ()
    body, status, _ = run_wsgi_app(app, environ | {"RAW_URI": raw, "REQUEST_URI": raw}, buffered=True)
    text = b"".join(body)
    return status.partition(" ")[0], text.partition(b"<Code>")[2].partition(b"<")[0].decode(), text


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_an_object_that_does_not_exist_is_missing_as_in_moto_but_without_it(bucket: Any, method: str) -> None:
    backend, moto_app = moto.s3.models.s3_backends[DEFAULT_ACCOUNT_ID]["aws"], create_backend_app("s3")
    plain = PlainWrites(lambda *_: pytest.fail("moto was asked"), backend)
    expected = ask_for_absent(moto_app, method)
    found = ask_for_absent(plain, method)
    assert found[:2] == expected[:2] == ("404", "NoSuchKey" if method == "GET" else "")
    assert bool(found[2]) == bool(expected[2]) == (method == "GET")


def test_an_object_whose_client_died_while_it_sent_is_not_stored(bucket: Any) -> None:
    assert put(b"half", 8) == "400"
    assert "k" not in bucket.keys
    assert put(b"both two", 8) == "200"
    assert bucket.keys["k"].value == b"both two"


def test_an_object_appears_with_its_metadata_and_etag(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    appeared: list[tuple[str, str]] = []
    store = bucket.keys.setlist

    def note(key: str, items: list[Any]) -> None:
        appeared.extend((item.metadata["x-amz-meta-sha256"], item._etag) for item in items)
        store(key, items)

    monkeypatch.setattr(bucket.keys, "setlist", note)
    assert put(b"new", 3, "new") == "200"
    assert appeared == [("of the whole", hashlib.md5(b"new").hexdigest())]
