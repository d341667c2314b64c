"""The contract of object stores, run against every store."""

from __future__ import annotations

import contextlib
import os
import random
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from scoreline.storage.errors import (
    AccessDenied,
    BucketNotFound,
    InvalidKey,
    ObjectNotFound,
    PreconditionFailed,
    StoreUnavailable,
)
from scoreline.storage.objects import r2, requests
from scoreline.storage.objects.base import CREATE, IfMatch, ObjectStore, exists
from scoreline.storage.objects.caching import CachingStore
from scoreline.storage.objects.directory import DirectoryStore
from scoreline.storage.objects.r2 import R2Store
from scoreline.storage.objects.writer import ObjectWriter
from scoreline.storage.settings import R2Settings
from scoreline.tasks.job.documents import read_job
from scoreline.worker.dev.stack import Stack
from tests.support.broken_store import BrokenStore
from tests.support.fakes import CuttingProxy
from tests.support.s3 import settings_of
from tests.support.waiting import HANG_S

_STACKS = {"moto": "stack", "seaweed": "seaweed"}
"""The fixtures of the S3 servers."""


@pytest.fixture(params=list(_STACKS))
def server(request: pytest.FixtureRequest) -> R2Settings:
    """Return the address of each S3 server and its credentials."""
    return settings_of(request.getfixturevalue(_STACKS[request.param]))


class _All:
    """Contains every key."""

    def __contains__(self, key: object) -> bool:
        return True


@pytest.fixture(params=["moto", "seaweed", "moto by boto3", "seaweed by boto3", "directory", "caching"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    """Return each store; that of each S3 server also as if it were reached through a proxy, that is, by boto3 alone."""
    if request.param == "caching":
        return CachingStore(DirectoryStore(tmp_path, "data"), _All())
    if request.param == "directory":
        return DirectoryStore(tmp_path, "data")
    server, _, by_boto3 = request.param.partition(" by ")
    store = R2Store(settings_of(request.getfixturevalue(_STACKS[server])), "scoreline", max_attempts=2)
    if by_boto3:
        store._signed._connections = None
    return store


@pytest.fixture
def key(tmp_path: Path) -> str:
    return f"contract/{tmp_path.name}/a b/é.bin"


def test_an_object_is_read_back_as_it_was_written(store: ObjectStore, key: str) -> None:
    put = store.put(key, b"0123456789", metadata={"rows": "3"})
    got = store.get(key)
    assert got.data == b"0123456789"
    assert (got.info.size, got.info.etag, dict(got.info.metadata)) == (10, put.etag, {"rows": "3"})
    assert store.head(key) == got.info


def test_the_folders_below_a_prefix_are_listed_without_their_objects(store: ObjectStore, key: str) -> None:
    prefix = f"{key.rpartition('/')[0]}/days/"
    for day in ("2026-11-02", "2026-11-01", "2026-11-03 é"):
        for number in range(3):
            store.put(f"{prefix}{day}/{number}/x", b"")
    store.put(f"{prefix}2026-11-04", b"")  # not a folder
    assert list(store.folders(prefix)) == ["2026-11-01", "2026-11-02", "2026-11-03 é"]
    assert list(store.folders(f"{prefix}none/")) == []


def test_requests_are_counted_by_the_classes_in_which_r2_bills_them(store: ObjectStore, key: str) -> None:
    def counted(act: Callable[[], object]) -> tuple[int, int]:
        before = requests.so_far()
        with contextlib.suppress(ObjectNotFound, PreconditionFailed):
            act()
        used = requests.so_far() - before
        return used.class_a, used.class_b

    assert counted(lambda: store.put(key, b"0123456789")) == (1, 0)
    assert counted(lambda: store.put(f"{key}.new", b"x", mode=CREATE)) == (1, 0)
    assert counted(lambda: store.head(key))[0] == 0
    assert counted(lambda: store.get(f"{key}.missing")) == (0, 1)
    assert counted(lambda: store.head(f"{key}.missing"))[1] == 1
    assert counted(lambda: list(store.list("contract/"))) == (1, 0)
    assert counted(lambda: list(store.list("nothing/"))) == (1, 0)
    assert counted(lambda: store.delete(key)) == (0, 0)
    store.put(f"{key}.2", b"0123456789")
    etag = store.head(f"{key}.2").etag
    assert counted(lambda: store.get(f"{key}.2", byte_range=(2, 5), if_match=etag)) == (0, 1)


def test_an_upload_makes_its_object_appear_as_a_whole(store: ObjectStore, key: str) -> None:
    part = bytes(range(256)) * (5 << 12)
    upload = store.open_upload(key, mode=CREATE, metadata={"rows": "3"})
    upload.send(part)
    upload.send(bytearray(b"end"))
    assert not exists(store, key)
    info = upload.complete()
    upload.abort()  # has no effect any more
    got = store.get(key)
    assert got.data == part + b"end"
    assert (info.size, info.etag, dict(got.info.metadata)) == (len(part) + 3, got.info.etag, {"rows": "3"})


@pytest.mark.parametrize("size", [1, (9 << 20) + 1], ids=["one request", "in parts"])
def test_the_etag_of_an_s3_server_proves_what_it_received(store: ObjectStore, key: str, size: int) -> None:
    with ObjectWriter(store, key, confirm=True) as out:
        out.write(os.urandom(size))
        out.complete()
    assert out.confirmed == isinstance(store, R2Store)


def test_an_upload_does_not_replace_an_object_that_appeared_meanwhile(store: ObjectStore, key: str) -> None:
    upload = store.open_upload(key, mode=CREATE)
    upload.send(b"late")
    store.put(key, b"first")
    with pytest.raises(PreconditionFailed):
        upload.complete()
    upload.abort()
    assert store.get(key).data == b"first"


def test_an_aborted_upload_leaves_nothing(store: ObjectStore, key: str, tmp_path: Path) -> None:
    upload = store.open_upload(key)
    upload.send(b"never")
    upload.abort()
    assert not exists(store, key)
    if isinstance(store, R2Store):
        assert store.open_uploads(key) == []
    else:
        assert [path for path in tmp_path.rglob("*") if path.is_file() and path.name != ".lock"] == []


def test_a_range_is_half_open_and_the_size_is_that_of_the_whole_object(store: ObjectStore, key: str) -> None:
    store.put(key, b"0123456789")
    got = store.get(key, byte_range=(2, 5))
    assert (got.data, got.info.size) == (b"234", 10)
    assert store.get(key, byte_range=(8, 99)).data == b"89"
    assert store.get(key, byte_range=(4, 4)).data == b""


def test_a_range_can_be_read_into_memory_of_the_caller(store: ObjectStore, key: str) -> None:
    put = store.put(key, b"0123456789")
    memory = bytearray(b"-----")
    got = store.get(key, byte_range=(2, 5), if_match=put.etag, into=[memoryview(memory)])
    assert (bytes(memory), got.data, got.info.size) == (b"234--", b"", 10)
    store.get(key, byte_range=(8, 99), into=[memoryview(memory)])
    assert memory == b"894--"
    # And into several buffers, one after another
    buffers = [bytearray(size) for size in (1, 0, 4, 4)]
    for reading in (store, CachingStore(store, {key})):
        for _ in range(2):  # the second time from the cache
            for number in range(len(buffers)):
                buffers[number][:] = b"-" * len(buffers[number])
            reading.get(key, byte_range=(2, 9), into=[memoryview(buffer) for buffer in buffers])
            assert [bytes(buffer) for buffer in buffers] == [b"2", b"", b"3456", b"78--"]
            reading.get(key)


def test_a_file_that_is_cut_while_a_directory_store_reads_it_is_not_read_as_zeros(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = DirectoryStore(tmp_path, "bucket")
    put = store.put("a", bytes(range(100)))
    monkeypatch.setattr(os, "fstat", cutting(os.fstat, tmp_path / "bucket" / "a"))
    with pytest.raises(PreconditionFailed, match="was changed while it was read"):
        store.get("a", byte_range=(0, 100), if_match=put.etag, into=[memoryview(bytearray(100))])


def cutting(fstat: Callable[[int], os.stat_result], file: Path) -> Callable[[int], os.stat_result]:
    """Return a replacement for `fstat` that truncates the file after each call, as another program might."""

    def cut(descriptor: int) -> os.stat_result:
        found = fstat(descriptor)
        os.truncate(file, 40)
        return found

    return cut


def test_a_range_of_a_replaced_object_is_refused(store: ObjectStore, key: str) -> None:
    old = store.put(key, b"old old")
    time.sleep(0.01)
    store.put(key, b"new new")
    with pytest.raises(PreconditionFailed):
        store.get(key, byte_range=(0, 3), if_match=old.etag)


def test_create_never_overwrites(store: ObjectStore, key: str) -> None:
    store.put(key, b"first", mode=CREATE)
    with pytest.raises(PreconditionFailed):
        store.put(key, b"second", mode=CREATE)
    assert store.get(key).data == b"first"


def test_one_of_many_concurrent_creators_succeeds(store: ObjectStore, key: str) -> None:
    won: list[int] = []

    def create(number: int) -> None:
        try:
            store.put(key, str(number).encode(), mode=CREATE)
            won.append(number)
        except PreconditionFailed:
            pass

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [str(number).encode() for number in won] == [store.get(key).data]


def test_if_match_replaces_only_an_unchanged_object(store: ObjectStore, key: str) -> None:
    first = store.put(key, b"1")
    second = store.put(key, b"22", mode=IfMatch(first.etag))
    with pytest.raises(PreconditionFailed):
        store.put(key, b"333", mode=IfMatch(first.etag))
    assert store.get(key).info.etag == second.etag


def test_if_match_is_refused_for_a_missing_object(store: ObjectStore, key: str) -> None:
    with pytest.raises(PreconditionFailed):
        store.put(key, b"1", mode=IfMatch("e"))


def test_an_unknown_mode_writes_nothing(store: ObjectStore, key: str) -> None:
    with pytest.raises(AssertionError):
        store.put(key, b"1", mode="creat")  # type: ignore[arg-type]
    assert not exists(store, key)


def test_overwriting_without_metadata_removes_it(store: ObjectStore, key: str) -> None:
    store.put(key, b"1", metadata={"a": "b"})
    store.put(key, b"2")
    assert dict(store.head(key).metadata) == {}


def test_a_listing_has_the_keys_below_the_prefix_in_order(store: ObjectStore, key: str) -> None:
    folder = key.rpartition("/")[0]
    for name in ("b", "a/z", "a0"):
        store.put(f"{folder}/{name}", b"12")
    assert [(info.key, info.size) for info in store.list(f"{folder}/")] == [
        (f"{folder}/{name}", 2) for name in ("a/z", "a0", "b")
    ]
    assert [info.key for info in store.list(f"{folder}/a0")] == [f"{folder}/a0"]
    assert list(store.list(f"{folder}/none")) == []
    assert {abs(info.modified - time.time()) < HANG_S for info in store.list(f"{folder}/")} == {True}


def test_a_deleted_object_is_gone_and_can_be_deleted_again(store: ObjectStore, key: str) -> None:
    store.put(key, b"1")
    store.delete(key)
    store.delete(key)
    for read in (store.get, store.head):
        with pytest.raises(ObjectNotFound):
            read(key)


def test_many_objects_are_deleted_at_once_and_no_others(
    store: ObjectStore, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given objects whose keys begin alike or need escaping in XML, and requests for at most three keys
    monkeypatch.setattr(r2, "_BATCH_KEYS", 3)
    folder = f"{key}/"
    kept = [f"{folder}part-00001.parquet.old", f"{folder}part-0"]
    named = [f"{folder}part-{number:05d}.parquet" for number in range(4)] + [f"{folder}a&b <c> é.bin"]
    for each in (*kept, *named):
        store.put(each, b"1")
    # When most of them are deleted, among them one that does not exist, and then again
    for _ in range(2):
        store.delete_many([*named, f"{folder}missing"])
    # Then the others are left
    assert sorted(info.key for info in store.list(folder)) == sorted(kept)
    store.delete_many([])


def test_a_server_without_requests_for_many_keys_deletes_them_one_by_one(
    stack: Stack, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(stack)
    with BrokenStore(settings.endpoint_url) as proxy:
        store = R2Store(replace(settings, endpoint_url=proxy.endpoint, access_key_id="no-batches"), "scoreline")
        sent: list[str] = []
        store.client.meta.events.register("before-call.s3", lambda model, **_: sent.append(model.name))
        send = store._signed._send

        def noted(method: Any, *arguments: Any) -> Any:
            sent.append(method)
            return send(method, *arguments)

        monkeypatch.setattr(store._signed, "_send", noted)
        for number in range(3):
            store.put(f"{key}-{number}", b"1")
        sent.clear()
        store.delete_many([f"{key}-0", f"{key}-1"])
        store.delete_many([f"{key}-2"])
    assert sent == ["DeleteObjects", "DELETE", "DELETE", "DELETE"]
    assert list(R2Store(settings, "scoreline").list(f"{key}-")) == []


def test_a_key_that_could_not_be_deleted_with_others_is_deleted_alone(
    stack: Stack, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = R2Store(settings_of(stack), "scoreline")
    for number in range(2):
        store.put(f"{key}-{number}", b"1")
    deleted = {"Deleted": [{"Key": f"{key}-0"}], "Errors": [{"Key": f"{key}-1", "Code": "InternalError"}]}
    monkeypatch.setattr(store.client, "delete_objects", lambda **_: deleted)
    store.delete_many([f"{key}-0", f"{key}-1"])
    assert [info.key for info in store.list(f"{key}-")] == [f"{key}-0"]  # only the answer says that it is gone


def test_a_key_that_is_too_long_for_r2_is_refused_by_every_store(store: ObjectStore) -> None:
    with pytest.raises(InvalidKey):
        store.put("k" * 1025, b"")


def test_a_caching_store_reads_immutable_objects_once(tmp_path: Path) -> None:
    # Given an immutable object and another object, both read completely, and an immutable object that was created
    behind = DirectoryStore(tmp_path, "data")
    store = CachingStore(behind, {"read", "written"})
    behind.put("read", b"0123456789", metadata={"rows": "3"})
    behind.put("other", b"0")
    put = store.put("written", b"abc", mode=CREATE, metadata={"rows": "1"})
    seen = store.get("read", byte_range=(0, 99))
    assert store.get("other").data == b"0"
    # When all three objects are deleted by a store without the cache
    for key in ("read", "other", "written"):
        behind.delete(key)
    # Then the immutable objects can still be read from the cache, with their metadata
    assert store.get("read", byte_range=(2, 5), if_match=seen.info.etag).data == b"234"
    assert store.head("read") == seen.info
    assert (store.get("written").data, store.head("written")) == (b"abc", put)
    with pytest.raises(PreconditionFailed):
        store.get("read", if_match=put.etag)
    with pytest.raises(ObjectNotFound):
        store.get("other")
    # But after an object is overwritten or deleted through the cache, its old bytes cannot be read
    store.put("written", b"de")
    assert store.get("written").data == b"de"
    store.delete("read")
    with pytest.raises(ObjectNotFound):
        store.head("read")


@pytest.mark.parametrize("key", ["../up", "a/../../up", "/etc/passwd", "a//b", ".meta/x", ""])
def test_no_key_leads_out_of_a_directory_store(tmp_path: Path, key: str) -> None:
    with pytest.raises(InvalidKey):
        DirectoryStore(tmp_path, "data").put(key, b"")


@pytest.mark.parametrize("prefix", ["../", "a/../../", "..", "./"])
def test_no_prefix_leads_out_of_a_directory_store(tmp_path: Path, prefix: str) -> None:
    with pytest.raises(InvalidKey):
        list(DirectoryStore(tmp_path, "data").list(prefix))


def test_no_link_leads_out_of_a_directory_store(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path, "data")
    store.put("in/a", b"1")
    (tmp_path / "secret").write_bytes(b"hush")
    (tmp_path / "data/in/link").symlink_to(tmp_path / "secret")
    (tmp_path / "data/folder").symlink_to(tmp_path)
    for key in ("in/link", "folder/secret"):
        for touch in (store.get, store.head, lambda key: store.put(key, b"2"), store.delete):
            with pytest.raises(InvalidKey, match="leads out of the directory store"):
                touch(key)
    assert (tmp_path / "secret").read_bytes() == b"hush"
    (tmp_path / "data/inside").symlink_to(tmp_path / "data/in/a")
    assert store.get("inside").data == b"1"


@pytest.mark.parametrize(("byte_range", "got"), [(None, slice(None)), ((7, 9_000_001), slice(7, 9_000_001))])
def test_a_body_is_resumed_as_long_as_each_connection_brings_some_of_it(
    stack: Stack, key: str, byte_range: tuple[int, int] | None, got: slice
) -> None:
    data = random.Random(0).randbytes(10_000_000)
    server = settings_of(stack)
    port = int(server.endpoint_url.rpartition(":")[2])
    R2Store(server, "scoreline").put(key, data)
    # Given a network that cuts five connections, more than the three attempts of the store
    with CuttingProxy(port, after=1_500_000, times=5) as proxy:
        through = replace(server, endpoint_url=f"http://127.0.0.1:{proxy.port}")
        assert R2Store(through, "scoreline", max_attempts=3).get(key, byte_range=byte_range).data == data[got]
        assert proxy.left <= 0
    with CuttingProxy(port, after=1_500_000, times=5) as proxy:
        through = replace(server, endpoint_url=f"http://127.0.0.1:{proxy.port}")
        memory = bytearray(len(data[got]))
        blocks = [memoryview(memory)[start : start + 700_001] for start in range(0, len(memory), 700_001)]
        R2Store(through, "scoreline", max_attempts=3).get(key, byte_range=byte_range, into=blocks)
        assert memory == data[got]
    # And a network that delivers only the headers of responses

    def head_only(answer: bytes) -> bytes:
        head, end, _ = answer.rpartition(b"\r\n\r\n")
        return head + end

    with CuttingProxy(port, answers=head_only) as proxy:
        through = replace(server, endpoint_url=f"http://127.0.0.1:{proxy.port}")
        with pytest.raises(StoreUnavailable, match=key):
            R2Store(through, "scoreline", max_attempts=3, read_timeout_s=0.3).get(key, byte_range=byte_range)


def test_a_body_is_not_resumed_from_an_object_that_replaced_the_first(
    stack: Stack, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = settings_of(stack)
    port = int(server.endpoint_url.rpartition(":")[2])
    store = R2Store(server, "scoreline")
    store.put(key, b"a" * 3_000_000)
    read, asked = R2Store._read_body, []

    def replaced(self: R2Store, *arguments: Any) -> Any:
        # Given an object that is replaced by another object of the same size after the connection was cut
        asked.append(key)
        if len(asked) == 2:
            store.put(key, b"b" * 3_000_000)
        return read(self, *arguments)

    monkeypatch.setattr(R2Store, "_read_body", replaced)
    with CuttingProxy(port, after=1_500_000, times=1) as proxy:
        through = replace(server, endpoint_url=f"http://127.0.0.1:{proxy.port}")
        with pytest.raises(PreconditionFailed, match="changed"):
            R2Store(through, "scoreline", max_attempts=3).get(key)
    assert len(asked) == 2


def test_an_unreachable_server_is_reported_within_ten_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    settings = R2Settings(endpoint_url="http://127.0.0.1:9", access_key_id="k", secret_access_key="s")
    with pytest.raises(StoreUnavailable, match=r"127\.0\.0\.1:9"):
        R2Store(settings, "b", max_attempts=2, connect_timeout_s=3).get("k")
    assert 0 < sum(pauses) < 10 - 2 * 3  # ten seconds, minus the timeouts of two connection attempts


def test_a_missing_bucket_is_distinguished_from_a_missing_object(server: R2Settings) -> None:
    # Given a bucket that does not exist
    store = R2Store(server, "no-such-bucket")
    # Then each request whose response reveals that the bucket is missing reports the bucket
    for request in (
        lambda: store.get("k"),
        lambda: list(store.list("")),
        lambda: store.folders("models/"),
        lambda: store.put("k", b"1"),
        lambda: store.put("k", b"1", mode=CREATE),
    ):
        with pytest.raises(BucketNotFound, match="no bucket 'no-such-bucket' at http:"):
            request()
    # And reading a job reports the missing bucket, not a missing job
    with pytest.raises(BucketNotFound):
        read_job(store, "j")


@pytest.mark.parametrize(("key_id", "secret"), [("another", None), (None, "another")])
def test_refused_credentials_are_reported_as_such(seaweed: Stack, key_id: str | None, secret: str | None) -> None:
    settings = settings_of(seaweed)
    wrong = replace(
        settings, access_key_id=key_id or settings.access_key_id, secret_access_key=secret or settings.secret_access_key
    )
    store = R2Store(wrong, "scoreline")
    for request in (
        lambda: store.get("k"),
        lambda: store.head("k"),
        lambda: list(store.list("")),
        lambda: store.folders("models/"),
        lambda: store.put("k", b"1"),
        lambda: store.delete("k"),
        lambda: store.delete_many(["k"]),
    ):
        with pytest.raises(AccessDenied, match="the credentials were refused"):
            request()
    assert abs(store.server_time().timestamp() - time.time()) < HANG_S


def test_a_presigned_address_gives_the_object_as_a_download(server: R2Settings) -> None:
    store = R2Store(server, "scoreline")
    key = f"presigned/{random.randbytes(8).hex()}/ä b.csv"
    store.put(key, b"age\n1\n")
    wanted = "attachment; filename*=UTF-8''a%20b.csv"
    address = store.presign_read(key, seconds=60, disposition=wanted)
    with urllib.request.urlopen(address, timeout=HANG_S) as answer:
        assert answer.read() == b"age\n1\n"
        assert answer.headers["Content-Disposition"] == wanted
        assert answer.headers["Content-Type"] == "application/octet-stream"
    query = parse_qs(urlsplit(address).query)
    assert query["X-Amz-Algorithm"] == ["AWS4-HMAC-SHA256"]  # R2 knows no other
    assert query["X-Amz-Expires"] == ["60"]
    assert server.secret_access_key not in address
    with pytest.raises(InvalidKey):
        store.presign_read("", seconds=60, disposition=wanted)


def test_a_presigned_address_cannot_be_changed(seaweed: Stack) -> None:
    store = R2Store(settings_of(seaweed), "scoreline")
    key = f"presigned/{random.randbytes(8).hex()}/"
    for name in "ab":
        store.put(key + name, b"secret")
    address = store.presign_read(key + "a", seconds=60, disposition="attachment")
    for changed in (address.replace("Expires=60", "Expires=6000"), address.replace("a?", "b?")):
        assert changed != address
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(changed, timeout=HANG_S)
