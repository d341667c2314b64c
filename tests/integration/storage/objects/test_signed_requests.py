"""Objects are read, written and deleted without the client of boto3, which only repeats what fails."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from botocore.httpsession import where

from scoreline.storage.errors import BucketNotFound, ObjectNotFound, PreconditionFailed, StoreError, StoreUnavailable
from scoreline.storage.objects import requests, signed_requests
from scoreline.storage.objects.base import CREATE, OVERWRITE, IfMatch, PutMode, exists
from scoreline.storage.objects.connections import Connections, Response
from scoreline.storage.objects.r2 import R2Store
from scoreline.storage.objects.signed_requests import MAX_BODY_BYTES, SignedRequests
from scoreline.storage.settings import R2Settings
from scoreline.worker.dev.stack import Stack
from tests.support.broken_store import BrokenStore
from tests.support.fakes import CuttingProxy
from tests.support.s3 import settings_of

DATA = bytes(range(256)) * 64


@pytest.fixture(params=["stack", "seaweed"])
def server(request: pytest.FixtureRequest) -> R2Settings:
    """Return the address of each S3 server. Only SeaweedFS checks signatures."""
    return settings_of(request.getfixturevalue(request.param))


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return f"signed/{tmp_path.name}"


def by_client(store: R2Store, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Return a list to which the arguments of each request of the client are added."""
    asked: list[dict[str, Any]] = []

    def noting(behind: Any) -> Callable[..., Any]:
        @functools.wraps(behind)
        def noted(**arguments: Any) -> Any:
            asked.append(arguments)
            return behind(**arguments)

        return noted

    for name in ("get_object", "head_object", "put_object", "delete_object"):
        monkeypatch.setattr(store.client, name, noting(getattr(store.client, name)))
    return asked


def connections_of(signed: SignedRequests) -> Connections:
    """Return the connections of a store that is reached without a proxy."""
    assert signed._connections is not None
    return signed._connections


@pytest.mark.parametrize(
    "name",
    [
        "plain.parquet",
        "a b/é.bin",
        "50%+50%=1&x=y;z,w:v@u$t!s'r(q)p*o.csv",
        "what?/really#.csv",
        "~tilde-and_under.score",
        '[a]{b}|c^d`e"f<g>h\\i',
        "day=2026-01-01/%2F/part.parquet",
    ],
)
def test_an_object_is_written_read_and_deleted_without_the_client(
    server: R2Settings, folder: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, key = R2Store(server, "scoreline"), f"{folder}/{name}"
    # Given an object as the client writes and reads it
    only_client = R2Store(server, "scoreline")
    monkeypatch.setattr(only_client._signed, "_connections", None)
    etag = only_client.put(key, DATA, metadata={"rows": "3", "plan_sha256": 'a "b"; c=d/e'}).etag
    expected, expected_range = only_client.get(key), only_client.get(key, byte_range=(5, 4_000))
    asked = by_client(store, monkeypatch)
    # Then the store reads the same, and writes the same
    assert store.get(key, if_match=etag) == store.get(key) == expected
    assert store.head(key) == only_client.head(key) == expected.info
    again = store.put(f"{key}2", DATA, mode=CREATE, metadata=expected.info.metadata)
    assert replace(again, key=key) == expected.info
    assert replace(only_client.head(f"{key}2"), key=key) == expected.info
    time.sleep(store.rewrite_after_s)
    swapped = store.put(f"{key}2", b"", mode=IfMatch(again.etag))
    assert only_client.get(f"{key}2").info == swapped
    store.delete(f"{key}2")
    assert not exists(only_client, f"{key}2")
    assert store.get(key, if_match=etag, byte_range=(5, 4_000)) == expected_range
    assert store.get(key, if_match=etag, byte_range=(16_000, 99_999)).data == DATA[16_000:]
    memory = bytearray(100)
    store.get(key, if_match=etag, byte_range=(50, 150), into=[memoryview(memory)])
    assert memory == DATA[50:150]
    assert not asked


def test_a_page_has_the_type_with_which_a_browser_shows_it(server: R2Settings, folder: str) -> None:
    store = R2Store(server, "scoreline")
    written = store.put(f"{folder}/_report.html", b"<!doctype html>", metadata={"plan": "1"})
    got = store.client.get_object(Bucket="scoreline", Key=written.key)
    assert got["ContentType"] == "text/html; charset=utf-8"
    assert store.get(written.key).info == written


def test_errors_are_those_of_the_client(server: R2Settings, folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store, key = R2Store(server, "scoreline", max_attempts=1), f"{folder}/k"
    etag = store.put(key, b"1").etag
    asked = by_client(store, monkeypatch)
    with pytest.raises(PreconditionFailed, match="was changed since it was read"):
        store.get(key, if_match="0" * 32)
    with pytest.raises(ObjectNotFound, match="no object"):
        store.get(f"{key}-other", if_match=etag)
    with pytest.raises(PreconditionFailed, match="shorter than it was"):
        store.get(key, if_match=etag, byte_range=(1_000, 2_000))
    assert len(asked) == 1  # the client only explains an unusual error
    # And no number of them keeps the store from reading without the client
    assert store.get(key, if_match=etag).data == b"1"
    assert len(asked) == 1


def test_a_body_that_is_cut_is_completed_by_the_client(
    stack: Stack, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(stack)
    key, data = f"{folder}/k", DATA * 200
    etag = R2Store(settings, "scoreline").put(key, data).etag
    with CuttingProxy(int(settings.endpoint_url.rpartition(":")[2]), after=1_000_000, times=1) as proxy:
        store = R2Store(replace(settings, endpoint_url=f"http://127.0.0.1:{proxy.port}"), "scoreline")
        asked = by_client(store, monkeypatch)
        assert store.get(key, if_match=etag).data == data
    (rest,) = asked
    assert rest["IfMatch"] == f'"{etag}"'
    assert int(rest["Range"].removeprefix("bytes=").rstrip("-")) >= 900_000


def test_a_connection_that_is_cut_is_left_to_the_client(
    stack: Stack, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, key = settings_of(stack), f"{folder}/k"
    etag = R2Store(settings, "scoreline").put(key, DATA).etag
    with CuttingProxy(int(settings.endpoint_url.rpartition(":")[2]), after=10, times=1) as proxy:
        store = R2Store(replace(settings, endpoint_url=f"http://127.0.0.1:{proxy.port}"), "scoreline")
        asked = by_client(store, monkeypatch)
        assert store.get(key, if_match=etag).data == DATA
    assert len(asked) == 1
    with pytest.raises(StoreUnavailable, match="cannot read"):
        R2Store(replace(settings, endpoint_url="http://127.0.0.1:9"), "scoreline", max_attempts=1).get(
            key, if_match="e"
        )


def test_a_store_that_accepts_only_the_client_is_asked_twice_only_a_few_times(
    stack: Stack, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, key = settings_of(stack), f"{folder}/k"
    etag = R2Store(settings, "scoreline").put(key, DATA).etag
    # Given a signature that the store refuses, for example because its address has another region
    with BrokenStore(settings.endpoint_url) as broken:
        store = R2Store(replace(settings, endpoint_url=broken.endpoint), "scoreline")
        refused = R2Store(
            replace(settings, endpoint_url=broken.endpoint, access_key_id="unknown-key"), "scoreline"
        )._signed
        monkeypatch.setattr(store, "_signed", refused)
        sent: list[str] = []
        connections = connections_of(refused)
        send = connections.send

        def noted(method: str, path: str, *arguments: Any) -> Response:
            sent.append(path)
            return send(method, path, *arguments)

        monkeypatch.setattr(connections, "send", noted)
        # Then the client reads each object, and is soon the only one that is asked
        for _ in range(6):
            assert store.get(key, if_match=etag).data == DATA
        assert len(sent) == 3


def test_the_client_sends_all_requests_if_there_is_a_proxy(
    stack: Stack, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, key = settings_of(stack), f"{folder}/k"
    etag = R2Store(settings, "scoreline").put(key, DATA).etag
    # Given a server that can be reached only through a proxy
    with BrokenStore(settings.endpoint_url) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.endpoint)
        monkeypatch.setenv("http_proxy", proxy.endpoint)
        monkeypatch.setenv("no_proxy", "")
        monkeypatch.setenv("NO_PROXY", "")
        store = R2Store(replace(settings, endpoint_url="http://127.0.0.1:9"), "scoreline")
        asked = by_client(store, monkeypatch)
        assert store.get(key, if_match=etag).data == DATA
        assert len(asked) == 1


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, where()),
        ({"AWS_CA_BUNDLE": "/aws.pem", "REQUESTS_CA_BUNDLE": "/requests.pem"}, "/aws.pem"),
        ({"REQUESTS_CA_BUNDLE": "/requests.pem"}, "/requests.pem"),
    ],
    ids=["none", "AWS", "requests"],
)
def test_requests_use_the_certificates_of_the_client(
    environ: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    made: list[dict[str, Any]] = []
    monkeypatch.setattr(signed_requests, "Connections", lambda url, **options: made.append(options))
    R2Store(R2Settings(endpoint_url="https://127.0.0.1:9", access_key_id="a", secret_access_key="b"), "data")
    assert [options["ca_file"] for options in made] == [expected]


@pytest.mark.parametrize(("connect_s", "expected_s"), [(3, 2.0), (0.5, 0.5)])
def test_a_server_that_cannot_be_reached_is_soon_left_to_the_client(
    connect_s: float, expected_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[dict[str, Any]] = []
    monkeypatch.setattr(signed_requests, "Connections", lambda url, **options: made.append(options))
    settings = R2Settings(endpoint_url="https://127.0.0.1:9", access_key_id="a", secret_access_key="b")
    R2Store(settings, "data", connect_timeout_s=connect_s, read_timeout_s=7)
    assert [options["timeouts_s"] for options in made] == [(expected_s, 7)]


@pytest.mark.parametrize("status", [409, 429, 500, 503])
def test_a_busy_store_does_not_count_as_one_that_accepts_only_the_client(
    stack: Stack, folder: str, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    settings, key = settings_of(stack), f"{folder}/k"
    store = R2Store(settings, "scoreline")
    etag = store.put(key, DATA).etag
    asked, connections = by_client(store, monkeypatch), connections_of(store._signed)
    send = connections.send

    def busy(*arguments: Any) -> Response:
        return replace(send(*arguments), status=status)

    with monkeypatch.context() as patched:
        patched.setattr(connections, "send", busy)
        for _ in range(5):
            assert store.get(key, if_match=etag).data == DATA
    assert len(asked) == 5
    assert store.get(key, if_match=etag).data == DATA
    assert len(asked) == 5


def test_an_answer_without_a_length_is_left_to_the_client(
    stack: Stack, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = f"{folder}/k"
    store = R2Store(settings_of(stack), "scoreline")
    etag, connections = store.put(key, DATA).etag, connections_of(store._signed)
    asked, send = by_client(store, monkeypatch), connections.send
    monkeypatch.setattr(connections, "send", lambda *arguments: replace(send(*arguments), length=None))
    assert store.get(key, if_match=etag).data == DATA
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("headers", "error", "message"),
    [
        ({"etag": '"another"'}, PreconditionFailed, "another version"),
        ({"content-range": "bytes 0-9/{size}"}, StoreError, "not with the bytes from 10 on"),
        ({"content-range": "bytes 10-19/*"}, StoreError, "not with the bytes from 10 on"),
    ],
)
def test_an_answer_to_another_question_is_refused(
    stack: Stack,
    folder: str,
    monkeypatch: pytest.MonkeyPatch,
    headers: dict[str, str],
    error: type[Exception],
    message: str,
) -> None:
    key = f"{folder}/k"
    store = R2Store(settings_of(stack), "scoreline")
    etag, connections = store.put(key, DATA).etag, connections_of(store._signed)
    send = connections.send

    def other(*arguments: Any) -> Response:
        answer = send(*arguments)
        return replace(answer, headers={**answer.headers, **{k: v.format(size=len(DATA)) for k, v in headers.items()}})

    monkeypatch.setattr(connections, "send", other)
    with pytest.raises(error, match=message):
        store.get(key, if_match=etag, byte_range=(10, 20))


def test_errors_of_writes_are_those_of_the_client(
    server: R2Settings, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, key = R2Store(server, "scoreline", max_attempts=1), f"{folder}/k"
    etag = store.put(key, b"1").etag
    time.sleep(store.rewrite_after_s)
    asked, before = by_client(store, monkeypatch), requests.so_far()
    for mode in (CREATE, IfMatch("0" * 32)):
        with pytest.raises(PreconditionFailed, match="already exists, or was changed"):
            store.put(key, b"2", mode=mode)
    for read in (store.get, store.head):
        with pytest.raises(ObjectNotFound, match="no object"):
            read(f"{key}-other")
    store.delete(f"{key}-other")
    assert not asked
    assert store.get(key).data == b"1"
    assert store.head(key).etag == etag
    # And each of them is counted once
    assert requests.so_far() - before == requests.Requests(class_a=2, class_b=4)


def test_a_missing_bucket_is_explained_by_the_client(server: R2Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    store = R2Store(server, "no-such-bucket", max_attempts=1)
    asked = by_client(store, monkeypatch)
    for request in (lambda: store.get("k"), lambda: store.put("k", b"1", mode=CREATE)):
        with pytest.raises(BucketNotFound, match="no bucket 'no-such-bucket'"):
            request()
    assert len(asked) == 2


@pytest.mark.parametrize(
    ("data", "metadata"),
    [(b"1", {"Rows": "3"}), (b"1", {"rows": "a  b"}), (b"1", {"rows": " a"}), (bytes(MAX_BODY_BYTES + 1), {})],
    ids=["capital", "two blanks", "a blank before it", "large"],
)
def test_a_write_that_the_client_sends_in_another_way_is_left_to_it(
    server: R2Settings, folder: str, monkeypatch: pytest.MonkeyPatch, data: bytes, metadata: dict[str, str]
) -> None:
    store, key = R2Store(server, "scoreline"), f"{folder}/k"
    asked = by_client(store, monkeypatch)
    store.put(key, data, metadata=metadata)
    assert len(asked) == 1
    assert store.get(key).data == data
    assert len(asked) == 1


def test_metadata_that_the_client_refuses_is_refused(server: R2Settings, folder: str) -> None:
    store, key = R2Store(server, "scoreline"), f"{folder}/k"
    for value in ("é", "a\r\nx-amz-meta-b: c"):
        with pytest.raises(StoreError):
            store.put(key, b"1", metadata={"rows": value})
    assert not exists(store, key)


@pytest.mark.parametrize("mode", ["overwrite", "create", "swap"])
def test_a_write_whose_answer_is_lost_is_resolved_as_by_the_client(
    stack: Stack, folder: str, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    settings, key = settings_of(stack), f"{folder}/k"
    direct, modes = R2Store(settings, "scoreline"), dict[str, PutMode](overwrite=OVERWRITE, create=CREATE)
    found: dict[str, tuple[str, bytes]] = {}
    for what in ("without the client", "by the client"):
        direct.delete(key)
        old = direct.put(key, b"old").etag if mode == "swap" else ""
        condition = modes.get(mode, IfMatch(old))
        time.sleep(direct.rewrite_after_s)
        # Given a network that loses the answer to the first write, which the server has received
        with CuttingProxy(int(settings.endpoint_url.rpartition(":")[2]), after=30, times=1) as proxy:
            store = R2Store(
                replace(settings, endpoint_url=f"http://127.0.0.1:{proxy.port}"), "scoreline", max_attempts=3
            )
            if what == "by the client":
                monkeypatch.setattr(store._signed, "_connections", None)
            try:
                store.put(key, b"new", mode=condition)
                result = "written"
            except PreconditionFailed:
                result = "refused"
            assert proxy.left <= 0
            found[what] = result, direct.get(key).data
    # Then the caller learns the same, by whichever way the first request was sent
    assert found["without the client"] == found["by the client"]
    assert found["by the client"] == ("written" if mode == "overwrite" else "refused", b"new")


def test_a_store_that_refuses_writes_without_the_client_is_soon_asked_only_by_the_client(
    stack: Stack, folder: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = R2Store(settings_of(stack), "scoreline")
    sent: list[str] = []
    connections = connections_of(store._signed)
    send = connections.send

    def refused(method: str, *arguments: Any) -> Response:
        sent.append(method)
        answer = send(method, *arguments)
        return replace(answer, status=403) if method in ("PUT", "DELETE") else answer

    monkeypatch.setattr(connections, "send", refused)
    asked = by_client(store, monkeypatch)
    for number in range(5):
        store.put(f"{folder}/{number}", DATA)
        assert store.get(f"{folder}/{number}").data == DATA
    assert (sent.count("PUT"), sent.count("GET"), len(asked)) == (3, 5, 5)
    for number in range(5):
        store.delete(f"{folder}/{number}")
    assert sent.count("DELETE") == 3
    assert [record.message for record in caplog.records] == ["store.signed_request_refused"] * 2


@pytest.mark.parametrize("act", ["put", "head", "delete"])
@pytest.mark.parametrize("status", [307, 400, 409, 429, 500, 503])
def test_any_other_answer_is_left_to_the_client(
    stack: Stack, folder: str, monkeypatch: pytest.MonkeyPatch, status: int, act: str
) -> None:
    store, key = R2Store(settings_of(stack), "scoreline"), f"{folder}/k"
    store.put(key, DATA, metadata={"rows": "3"})
    if act == "put":
        time.sleep(store.rewrite_after_s)
    acts: dict[str, Callable[[], Any]] = {
        "put": lambda: store.put(key, b"new"),
        "head": lambda: store.head(key),
        "delete": lambda: store.delete(key),
    }
    asked, connections = by_client(store, monkeypatch), connections_of(store._signed)
    # Given a server that does nothing but give this answer to requests of the client only
    refused = replace(connections.send("GET", "/", {}), status=status, headers={})
    monkeypatch.setattr(connections, "send", lambda *_: refused)
    found = acts[act]()
    assert len(asked) == 1
    monkeypatch.undo()
    if act == "put":
        assert store.get(key).data == b"new"
    elif act == "head":
        assert dict(found.metadata) == {"rows": "3"}
    else:
        assert not exists(store, key)


def test_a_connection_stays_open_after_each_request(
    server: R2Settings, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, key = R2Store(server, "scoreline"), f"{folder}/k"
    opened: list[None] = []
    connections = connections_of(store._signed)
    new = connections._new

    def noted() -> Any:
        opened.append(None)
        return new()

    monkeypatch.setattr(connections, "_new", noted)
    store.put(key, DATA, mode=CREATE)
    time.sleep(store.rewrite_after_s)
    for _ in range(2):
        with pytest.raises(PreconditionFailed):
            store.put(key, DATA, mode=CREATE)
        with pytest.raises(ObjectNotFound):
            store.get(f"{key}-other")
        with pytest.raises(ObjectNotFound):
            store.head(f"{key}-other")
        assert store.get(key).info == store.head(key)
    store.delete(key)
    assert len(opened) == 1
