"""Processes of a worker read small objects that one of them has fetched, and never use what they cannot check."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator
from dataclasses import replace
from queue import Empty, SimpleQueue
from types import SimpleNamespace
from typing import BinaryIO

import pyarrow as pa
import pytest

from scoreline.storage.scratch_files import open_files
from scoreline.storage.tables.base import Pinned
from scoreline.storage.tables.spool import Spool, Spooled
from tests.support.text_tables import Put
from tests.support.waiting import HANG_S

TEXT = b"id,x\n1,2.5\n"


@pytest.fixture
def files() -> Iterator[list[BinaryIO]]:
    found = open_files(2)
    yield found
    for file in found:
        file.close()


def spool(files: list[BinaryIO], own: int, *, limit_bytes: int = 1 << 20, unused_s: float = HANG_S) -> Spool:
    return Spool(files, own, limit_bytes=limit_bytes, unused_s=unused_s)


def write(planner: Spool, *objects: tuple[Pinned, bytes, int]) -> None:
    planner.begin()
    for source, data, rows in objects:
        assert planner.reserve(len(data))
        planner.add(source, data, rows)


def find(other: Spool, source: Pinned, rows: int = 1) -> Spooled | None:
    (found,) = other.find([(source, rows)])
    return found


def read(other: Spool, source: Pinned, rows: int = 1) -> bytes | pa.RecordBatch | None:
    found = find(other, source, rows)
    return None if found is None else found.read()


def test_a_process_reads_what_another_has_written(files: list[BinaryIO], put: Put) -> None:
    planner, other = spool(files, 0), spool(files, 1)
    objects = [(put(TEXT + b"3,4.5\n" * number, f"{number}.csv"), TEXT + b"3,4.5\n" * number) for number in range(50)]
    write(planner, *((source, data, number + 1) for number, (source, data) in enumerate(objects)))
    planner.publish()
    found = other.find([(source, number + 1) for number, (source, _) in enumerate(objects)])
    assert [item.read() for item in found if item is not None] == [data for _, data in objects]
    # And the planner itself reads it, too, and both may plan at once
    assert read(planner, objects[7][0], 8) == objects[7][1]
    write(other, (objects[0][0], TEXT, 1))
    other.publish()
    assert read(planner, objects[49][0], 50) == objects[49][1]
    planner.clear()
    other.clear()


def test_only_the_listed_version_and_all_of_its_rows_are_found(files: list[BinaryIO], put: Put) -> None:
    planner, other = spool(files, 0), spool(files, 1)
    source = put(TEXT)
    write(planner, (source, TEXT, 2))
    planner.publish()
    assert read(other, source, 2) == TEXT
    assert find(other, source, 1) is None
    assert find(other, replace(source, etag="other"), 2) is None
    assert find(other, replace(source, key="other.csv"), 2) is None
    planner.clear()


def test_nothing_is_found_before_all_objects_are_written(files: list[BinaryIO], put: Put) -> None:
    planner, other = spool(files, 0), spool(files, 1)
    source = put(TEXT)
    write(planner, (source, TEXT, 1))
    assert find(other, source) is None
    # And the process that follows one that died meanwhile finds an empty file
    spool(files, 0)
    assert os.fstat(files[0].fileno()).st_size == 0
    # And so it does if the objects were published
    write(planner, (source, TEXT, 1))
    planner.publish()
    assert find(other, source) is not None
    spool(files, 0)
    assert find(other, source) is None
    planner.clear()


def test_objects_are_read_at_once_only_if_their_rows_follow_in_one_block(files: list[BinaryIO], put: Put) -> None:
    planner, other = spool(files, 0), spool(files, 1)
    sources = [put(TEXT, f"{number}.csv") for number in range(6)]
    planner.begin()
    for objects in (sources[:3], sources[3:5]):
        assert all(planner.reserve(len(TEXT)) for _ in objects)
        rows = pa.record_batch({"x": [int(source.key[0]) for source in objects for _ in range(2)]})
        assert planner.add_rows([(source, 2) for source in objects], rows)
    assert planner.reserve(len(TEXT))
    planner.add(sources[5], TEXT, 2)
    planner.publish()
    found = [item for item in other.find([(source, 2) for source in sources]) if item is not None]
    together = found[0].joined_with(found[1])
    assert together is not None
    rows_of_both = together.read()
    assert isinstance(rows_of_both, pa.RecordBatch)
    assert rows_of_both.column(0).to_pylist() == [0, 0, 1, 1]
    pairs = [(one, two) for one in range(6) for two in range(6) if found[one].joined_with(found[two]) is not None]
    assert pairs == [(0, 1), (1, 2), (3, 4)]
    planner.clear()


def test_a_damaged_object_is_not_used(files: list[BinaryIO], put: Put) -> None:
    planner, other = spool(files, 0), spool(files, 1)
    source = put(TEXT)
    write(planner, (source, TEXT, 1))
    planner.publish()
    found = find(other, source)
    assert found is not None
    os.pwrite(files[0].fileno(), b"9", found.offset + 5)
    assert found.read() is None
    os.ftruncate(files[0].fileno(), found.offset + 3)
    assert found.read() is None
    planner.clear()


def test_a_disk_that_cannot_be_read_only_costs_requests(
    files: list[BinaryIO], put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    planner, other, another = spool(files, 0), spool(files, 1), spool(files, 1)
    source = put(TEXT)
    write(planner, (source, TEXT, 1))
    planner.publish()
    found = find(other, source)
    assert found is not None

    def refuse(*_: object) -> bytes:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr("os.pread", refuse)
        assert (found.read(), find(another, source)) == (None, None)
    assert found.read() == TEXT
    planner.clear()
    planner.clear()


def damage(file: BinaryIO, at: int, size: int = 1) -> None:
    """Change each of some bytes, whatever it is."""
    os.pwrite(file.fileno(), bytes(255 - byte for byte in os.pread(file.fileno(), size, at)), at)


@pytest.mark.parametrize("at", [8, 16, 30])  # the offset of the index, the number of objects, and the digest
@pytest.mark.parametrize("size", [1, 8])
def test_a_damaged_header_is_not_used(files: list[BinaryIO], put: Put, at: int, size: int) -> None:
    planner, other = spool(files, 0), spool(files, 1)
    source = put(TEXT)
    write(planner, (source, TEXT, 1), (put(TEXT, "b.csv"), TEXT, 1))
    planner.publish()
    damage(files[0], at, size)
    assert find(other, source) is None
    planner.clear()


@pytest.mark.parametrize("from_end", [1, 60])  # within the digest of the object, and before it
def test_a_damaged_index_is_not_used(files: list[BinaryIO], put: Put, from_end: int) -> None:
    planner, other = spool(files, 0), spool(files, 1)
    source = put(TEXT)
    write(planner, (source, TEXT, 1))
    planner.publish()
    damage(files[0], os.fstat(files[0].fileno()).st_size - from_end)
    assert find(other, source) is None
    planner.clear()


def test_the_objects_of_another_job_are_never_taken_for_those_of_the_last(files: list[BinaryIO], put: Put) -> None:
    planner, other = spool(files, 0), spool(files, 1)
    one, two = put(TEXT, "a.csv"), put(TEXT.replace(b"2", b"7"), "b.csv")
    write(planner, (one, TEXT, 1))
    planner.publish()
    found = find(other, one)
    assert found is not None
    # When the planner writes the objects of another job before the part reads its own
    write(planner, (two, TEXT.replace(b"2", b"7"), 1))
    assert found.read() is None
    planner.publish()
    assert (find(other, one), read(other, two)) == (None, TEXT.replace(b"2", b"7"))
    planner.clear()


def test_a_process_writes_no_more_than_the_limit(files: list[BinaryIO], put: Put) -> None:
    planner = spool(files, 0, limit_bytes=500)
    assert not planner.reserve(1)  # it has not begun
    for _ in range(2):  # the second job finds as much space as the first
        planner.begin()
        assert [planner.reserve(size) for size in (160, 160, 132, 1)] == [True, False, True, False]


@pytest.mark.parametrize(("limit", "index", "objects"), [(10_000, 1 << 20, 136), (1 << 20, 1_000, 13)])
def test_the_index_is_limited_and_counts_towards_the_limit(
    files: list[BinaryIO], put: Put, monkeypatch: pytest.MonkeyPatch, limit: int, index: int, objects: int
) -> None:
    monkeypatch.setattr("scoreline.storage.tables.spool._INDEX_BYTES", index)
    planner, other = spool(files, 0, limit_bytes=limit), spool(files, 1)
    planner.begin()
    written: list[Pinned] = []
    while planner.reserve(1):
        written.append(put(b"1", f"{len(written)}.csv"))
        planner.add(written[-1], b"1", 1)
    planner.publish()
    assert len(written) == objects
    assert os.fstat(files[0].fileno()).st_size <= limit
    assert {read(other, source) for source in written} == {b"1"}
    planner.clear()


def test_a_full_disk_only_costs_requests(
    files: list[BinaryIO], put: Put, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    planner, other = spool(files, 0), spool(files, 1)
    source = put(TEXT)
    with monkeypatch.context() as patched:

        def refuse(*_: object) -> int:
            raise OSError(28, "No space left on device")

        patched.setattr("os.pwrite", refuse)
        write(planner, (source, TEXT, 1))
    planner.publish()
    assert find(other, source) is None
    assert [record.message for record in caplog.records] == ["spool.unwritable"]
    # And the next job tries again
    write(planner, (source, TEXT, 1))
    planner.publish()
    assert read(other, source) == TEXT
    planner.clear()


def test_without_a_folder_for_files_there_is_no_spool(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/nowhere")
    assert open_files(2) == []
    assert [record.message for record in caplog.records] == ["spool.unwritable"]


def test_no_other_program_finds_the_files(files: list[BinaryIO]) -> None:
    for file in files:
        found = os.fstat(file.fileno())
        assert found.st_nlink == 0
        assert stat.S_IMODE(found.st_mode) == 0o600
        assert not os.get_inheritable(file.fileno())  # a program that a process starts has no access either


def test_unused_objects_are_deleted_after_some_time(files: list[BinaryIO], put: Put) -> None:
    source = put(TEXT)
    planner, other = spool(files, 0, unused_s=0.0), spool(files, 1)
    before = set(threading.enumerate())
    write(planner, (source, TEXT, 1))
    planner.publish()
    for thread in set(threading.enumerate()) - before:
        thread.join(HANG_S)
    assert os.fstat(files[0].fileno()).st_size == 0
    assert find(other, source) is None


def test_objects_are_kept_for_some_time_after_a_process_has_used_them_last(
    files: list[BinaryIO], put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = put(TEXT)
    planner, other = spool(files, 0, unused_s=120.0), spool(files, 1)
    now_s, waits = [1_000.0], list[float]()

    class Cleared:
        """Does not wait, but lets the time pass. Another process uses an object during the first wait."""

        def get(self, timeout: float) -> None:
            until_s = now_s[0] + timeout
            waits.append(timeout)
            if len(waits) == 1:
                now_s[0] += 80.0
                assert find(other, source) is not None
            now_s[0] = until_s
            raise Empty

        def put(self, item: None) -> None:
            pass

    monkeypatch.setattr("scoreline.storage.tables.spool.time", SimpleNamespace(monotonic=lambda: now_s[0]))
    monkeypatch.setattr("scoreline.storage.tables.expiry.SimpleQueue", Cleared)
    before = set(threading.enumerate())
    write(planner, (source, TEXT, 1))
    planner.publish()
    for thread in set(threading.enumerate()) - before:
        thread.join(HANG_S)
    assert waits == [120.0, 80.0]
    assert find(other, source) is None


def test_the_thread_that_deletes_objects_ends_without_a_word_if_its_file_is_closed(put: Put) -> None:
    found = open_files(1)
    planner = spool(found, 0, unused_s=0.01)
    write(planner, (put(TEXT), TEXT, 1))
    found[0].close()
    cleared = planner._expiry._emptied = SimpleQueue[None]()
    planner._expiry._run(cleared)
    assert planner._expiry._emptied is None


def test_the_thread_that_deletes_objects_ends_with_them(files: list[BinaryIO], put: Put) -> None:
    planner = spool(files, 0)
    before = set(threading.enumerate())
    write(planner, (put(TEXT), TEXT, 1))
    planner.publish()
    (thread,) = (item for item in set(threading.enumerate()) - before if item.name == "spool")
    planner.begin()
    thread.join(HANG_S)
    assert not thread.is_alive()


def test_reading_objects_keeps_them(files: list[BinaryIO], put: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    planner, other = spool(files, 0), spool(files, 1)
    monkeypatch.setattr(planner._expiry, "begin", lambda: None)  # the thread would delete what is long unused
    source = put(TEXT)
    write(planner, (source, TEXT, 1))
    planner.publish()
    os.pwrite(files[0].fileno(), bytes(8), 0)  # as if they had been used last when the machine started
    assert read(other, source) == TEXT
    assert os.pread(files[0].fileno(), 8, 0) != bytes(8)
    planner.clear()
