"""Objects whose ETag is known are requested without the client of boto3, which only repeats what fails."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from botocore.httpsession import where

from scoreline.storage.errors import ObjectNotFound, PreconditionFailed, StoreError, StoreUnavailable
from scoreline.storage.objects import signed_get
from scoreline.storage.objects.connections import Connections, Response
from scoreline.storage.objects.r2 import R2Store
from scoreline.storage.objects.signed_get import SignedGet
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
    """Return a list to which each call of the client's `get_object` is added."""
    asked: list[dict[str, Any]] = []
    get_object = store.client.get_object

    def noted(**arguments: Any) -> Any:
        asked.append(arguments)
        return get_object(**arguments)

    monkeypatch.setattr(store.client, "get_object", noted)
    return asked


def connections_of(signed: SignedGet) -> Connections:
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
def test_an_object_with_a_known_etag_is_read_without_the_client(
    server: R2Settings, folder: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, key = R2Store(server, "scoreline"), f"{folder}/{name}"
    etag = store.put(key, DATA, metadata={"rows": "3"}).etag
    expected, expected_range = store.get(key), store.get(key, byte_range=(5, 4_000))
    asked = by_client(store, monkeypatch)
    assert store.get(key, if_match=etag) == expected
    assert store.get(key, if_match=etag, byte_range=(5, 4_000)) == expected_range
    assert store.get(key, if_match=etag, byte_range=(16_000, 99_999)).data == DATA[16_000:]
    memory = bytearray(100)
    store.get(key, if_match=etag, byte_range=(50, 150), into=memoryview(memory))
    assert memory == DATA[50:150]
    assert not asked


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
    assert len(asked) == 3
    # And no number of them keeps the store from reading without the client
    assert store.get(key, if_match=etag).data == b"1"
    assert len(asked) == 3


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
        )._signed_get
        monkeypatch.setattr(store, "_signed_get", refused)
        sent: list[str] = []
        connections = connections_of(refused)
        get = connections.get

        def noted(path: str, headers: Mapping[str, str]) -> Response:
            sent.append(path)
            return get(path, headers)

        monkeypatch.setattr(connections, "get", noted)
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
    monkeypatch.setattr(signed_get, "Connections", lambda url, **options: made.append(options))
    R2Store(R2Settings(endpoint_url="https://127.0.0.1:9", access_key_id="a", secret_access_key="b"), "data")
    assert [options["ca_file"] for options in made] == [expected]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_store_does_not_count_as_one_that_accepts_only_the_client(
    stack: Stack, folder: str, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    settings, key = settings_of(stack), f"{folder}/k"
    store = R2Store(settings, "scoreline")
    etag = store.put(key, DATA).etag
    asked, connections = by_client(store, monkeypatch), connections_of(store._signed_get)
    get = connections.get

    def busy(path: str, headers: Mapping[str, str]) -> Response:
        return replace(get(path, headers), status=status)

    with monkeypatch.context() as patched:
        patched.setattr(connections, "get", busy)
        for _ in range(5):
            assert store.get(key, if_match=etag).data == DATA
    assert len(asked) == 5
    assert store.get(key, if_match=etag).data == DATA
    assert len(asked) == 5


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
    etag, connections = store.put(key, DATA).etag, connections_of(store._signed_get)
    get = connections.get

    def other(path: str, sent: Mapping[str, str]) -> Response:
        answer = get(path, sent)
        return replace(answer, headers={**answer.headers, **{k: v.format(size=len(DATA)) for k, v in headers.items()}})

    monkeypatch.setattr(connections, "get", other)
    with pytest.raises(error, match=message):
        store.get(key, if_match=etag, byte_range=(10, 20))
