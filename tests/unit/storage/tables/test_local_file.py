"""The rows of an object that is a file of this machine are read without requests, which are counted all the same."""

from __future__ import annotations

import errno
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scoreline.storage.errors import InputChanged, StoreUnavailable
from scoreline.storage.objects import requests
from scoreline.storage.objects.base import StoredObject
from scoreline.storage.objects.directory import DirectoryStore
from scoreline.storage.tables.base import Pinned, Rows, Span
from scoreline.storage.tables.parquet import ParquetFormat
from tests.support.counting_store import RequestedStore

ROWS = 100_000
BATCH = 4_096


class Ranges(DirectoryStore):
    """Notes the ranges that are requested."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.ranges: list[tuple[int, int] | None] = []

    def get(self, key: str, *, byte_range: tuple[int, int] | None = None, **options: Any) -> StoredObject:
        self.ranges.append(byte_range)
        return super().get(key, byte_range=byte_range, **options)


def written() -> bytes:
    number = np.arange(ROWS)
    table = pa.table(
        {
            "number": np.random.default_rng(0).normal(size=ROWS),
            "with nulls": pa.array(number, mask=number % 3 == 0),
            "text": pa.array([f"row {value}" for value in number.tolist()]),
            "list": pa.array([[value, None] for value in number.tolist()]),
        }
    )
    sink = io.BytesIO()
    pq.write_table(table, sink, row_group_size=ROWS // 2, data_page_size=20_000)
    return sink.getvalue()


DATA = written()


@pytest.fixture
def source(tmp_path: Path) -> Pinned:
    store = Ranges(tmp_path, "bucket")
    return Pinned.of(store, store.put("a.parquet", DATA))


def read(formats: ParquetFormat, source: Pinned, start: int, stop: int) -> list[Rows]:
    span = Span(start=start, stop=stop, first_row=start, rows=stop - start, size=0, by_rows=True)
    return list(formats.read(source, span, pq.read_schema(io.BytesIO(DATA)), BATCH))


def test_rows_and_counted_requests_are_those_of_a_bucket(source: Pinned, tmp_path: Path) -> None:
    # Given the same object in a store that is read with requests
    bucket = RequestedStore(tmp_path, "bucket")
    found, counts = [], []
    for pinned in (source, Pinned.of(bucket, bucket.head(source.key))):
        formats = ParquetFormat()
        formats.survey(pinned)
        before = requests.so_far()
        # When its rows are read, first a slice of a row group
        found.append([rows for bounds in ((0, 30_000), (30_000, ROWS)) for rows in read(formats, pinned, *bounds)])
        counts.append(requests.so_far() - before)
    # Then batches, row numbers and counts are equal, although the rows of the file took no request
    local, requested = found
    assert [rows.batch for rows in local] == [rows.batch for rows in requested]
    assert [rows.numbers.tolist() for rows in local] == [rows.numbers.tolist() for rows in requested]
    assert counts[0] == counts[1] != requests.Requests()
    assert isinstance(source.store, Ranges)
    assert all(bounds is not None and bounds[1] == len(DATA) for bounds in source.store.ranges)  # only the footer


@pytest.mark.parametrize("size", [len(DATA) // 2, len(DATA) + 1], ids=["truncated", "extended"])
def test_a_file_that_is_written_to_while_it_is_read_is_noticed(source: Pinned, tmp_path: Path, size: int) -> None:
    span = Span(start=0, stop=ROWS, first_row=0, rows=ROWS, size=0, by_rows=True)
    rows = ParquetFormat().read(source, span, pq.read_schema(io.BytesIO(DATA)), BATCH)
    next(rows)
    os.truncate(tmp_path / "bucket" / source.key, size)
    with pytest.raises(InputChanged):
        list(rows)


def test_an_object_that_is_replaced_while_it_is_read_is_read_to_its_end(source: Pinned) -> None:
    span = Span(start=0, stop=ROWS, first_row=0, rows=ROWS, size=0, by_rows=True)
    rows = ParquetFormat().read(source, span, pq.read_schema(io.BytesIO(DATA)), BATCH)
    first = next(rows)
    source.store.put(source.key, b"something else")
    assert len(first.numbers) + sum(len(found.numbers) for found in rows) == ROWS


@pytest.mark.parametrize("by", ["nothing", "another object", "a folder"])
def test_an_object_that_was_replaced_or_deleted_before_is_not_read(source: Pinned, tmp_path: Path, by: str) -> None:
    formats = ParquetFormat()
    formats.survey(source)  # the footer is cached
    if by == "another object":
        source.store.put(source.key, DATA)
    else:
        source.store.delete(source.key)
    if by == "a folder":
        (tmp_path / "bucket" / source.key).mkdir()
    with pytest.raises(InputChanged):
        read(formats, source, 0, ROWS)


def test_a_file_that_the_system_cannot_read_is_an_outage(source: Pinned, tmp_path: Path) -> None:
    path = tmp_path / "bucket" / source.key
    span = Span(start=0, stop=ROWS, first_row=0, rows=ROWS, size=0, by_rows=True)
    rows = ParquetFormat().read(source, span, pq.read_schema(io.BytesIO(DATA)), BATCH)
    next(rows)
    # When the open file can no longer be read, as on a share that fails
    (opened,) = (file for file in Path("/proc/self/fd").iterdir() if file.is_symlink() and file.readlink() == path)
    unreadable = os.open(path, os.O_WRONLY)
    os.dup2(unreadable, int(opened.name))
    os.close(unreadable)
    # Then the part is tried again, because the object is not damaged
    with pytest.raises(StoreUnavailable, match=f"cannot read {source.uri}: Bad file descriptor$"):
        list(rows)


def test_a_file_that_is_gone_from_a_share_is_an_outage(source: Pinned, monkeypatch: pytest.MonkeyPatch) -> None:
    span = Span(start=0, stop=ROWS, first_row=0, rows=ROWS, size=0, by_rows=True)
    rows = ParquetFormat().read(source, span, pq.read_schema(io.BytesIO(DATA)), BATCH)
    next(rows)

    def refuse(_: object) -> str:
        raise OSError(errno.ESTALE, "stale")

    monkeypatch.setattr(source.store, "etag_of", refuse)
    # Then the part is tried again, and will find what is in its place
    with pytest.raises(StoreUnavailable, match="Stale file handle"):
        list(rows)
