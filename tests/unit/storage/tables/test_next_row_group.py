"""While the rows of a large row group are decoded and scored, the bytes of the next row group are fetched."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scoreline.storage.errors import InputChanged, PreconditionFailed
from scoreline.storage.objects.base import StoredObject
from scoreline.storage.tables import blocks, forward
from scoreline.storage.tables.base import Pinned, Rows, Span
from scoreline.storage.tables.fetching import Fetcher, Request
from scoreline.storage.tables.parquet import ParquetFormat
from scoreline.storage.tables.ranged import RangedFile
from scoreline.storage.tables.row_groups import RowGroup
from tests.support.counting_store import RequestedStore
from tests.support.waiting import wait_until

ROWS = 30_000
GROUPS = 3
BATCH = 4_096
COLUMNS = 8
COLUMN_BYTES = 240_000
FETCH_BYTES = 6 * COLUMN_BYTES
AHEAD_BYTES = 3 * COLUMN_BYTES


class Ranges(RequestedStore):
    """Notes where the requested ranges begin, and refuses some of them."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.begun: list[int] = []
        self.refused = range(0)

    def get(self, key: str, *, byte_range: tuple[int, int] | None = None, **options: Any) -> StoredObject:
        start = 0 if byte_range is None else byte_range[0]
        self.begun.append(start)
        if start in self.refused:
            raise PreconditionFailed("the object has changed")
        return super().get(key, byte_range=byte_range, **options)


@pytest.fixture(autouse=True)
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a row group of two megabytes be decoded as one block, with one request for each column."""
    monkeypatch.setattr(RangedFile, "WHOLE_BYTES", 0)
    monkeypatch.setattr(forward, "READ_BYTES", 1 << 20)
    monkeypatch.setattr("scoreline.storage.tables.parquet_chunks._REQUEST_BYTES", (1 << 10, 2 * COLUMN_BYTES - 1))
    monkeypatch.setattr("scoreline.storage.tables.decoded_columns._BLOCK_BYTES", 1)
    monkeypatch.setattr(blocks, "FETCH_BYTES", FETCH_BYTES)
    monkeypatch.setattr(blocks, "AHEAD_BYTES", AHEAD_BYTES)


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Request, int]]:
    """Each request that was sent, and the bytes that were requested or in memory from then on."""
    found: list[tuple[Request, int]] = []
    send = Fetcher._send

    def watched(self: Fetcher, request: Request) -> None:
        send(self, request)
        found.append((request, self.held_bytes))

    monkeypatch.setattr(Fetcher, "_send", watched)
    return found


class Source:
    """An object of several row groups, and readers of it."""

    def __init__(self, folder: Path) -> None:
        self.store = Ranges(folder, "bucket")
        values = np.random.default_rng(0).normal(size=(COLUMNS, GROUPS * ROWS))
        self.table = pa.table(list(values), names=[f"x{number}" for number in range(COLUMNS)])
        sink = io.BytesIO()
        pq.write_table(self.table, sink, row_group_size=ROWS, use_dictionary=False)
        metadata = pq.ParquetFile(sink).metadata
        self.starts = [metadata.row_group(number).column(0).data_page_offset for number in range(GROUPS)]
        self.pinned = Pinned.of(self.store, self.store.put("a.parquet", sink.getvalue()))

    def read(self) -> Iterator[Rows]:
        return self.read_slice(ParquetFormat(), 0, self.table.num_rows)

    def read_slice(self, formats: ParquetFormat, start: int, stop: int) -> Iterator[Rows]:
        span = Span(start=start, stop=stop, first_row=start, rows=stop - start, size=0)
        return formats.read(self.pinned, span, self.table.schema, BATCH)

    def next_is_requested(self) -> bool:
        return any(self.starts[1] <= start < self.starts[2] for start in self.store.begun)

    def of_group(self, sent: list[tuple[Request, int]], number: int) -> list[Request]:
        stops = [*self.starts[1:], self.pinned.size]
        return [request for request, _ in sent if self.starts[number] <= request.start < stops[number]]


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return Source(tmp_path)


def test_the_next_row_group_is_requested_before_the_rows_of_this_one_are_scored(source: Source) -> None:
    rows = source.read()
    first = next(rows)
    wait_until(source.next_is_requested, "a request for the next row group to begin")
    found = pa.Table.from_batches([first.batch, *(item.batch for item in rows)])
    assert found.equals(source.table)
    assert len(source.store.begun) == 1 + GROUPS * COLUMNS  # the footer, and one request for each column


def test_rows_and_fetched_bytes_share_a_fixed_memory(source: Source, sent: list[tuple[Request, int]]) -> None:
    # Given all rows of the first row group, in use
    rows = source.read()
    batches = -(-ROWS // BATCH)
    held = [next(rows) for _ in range(batches)]
    # Then hardly any bytes of the next row group are in memory
    ahead = sum(request.size for request in source.of_group(sent, 1))
    assert AHEAD_BYTES - 2 * COLUMN_BYTES < ahead <= AHEAD_BYTES
    # And never more than the limit
    assert sum(item.batch.num_rows for item in held) == ROWS
    assert max(size for _, size in sent) <= FETCH_BYTES
    rows.close()  # type: ignore[attr-defined]


def test_rows_that_are_released_make_room_for_the_next_row_group(
    source: Source, sent: list[tuple[Request, int]]
) -> None:
    rows = source.read()
    ahead: list[int] = []
    for _ in range(-(-ROWS // BATCH)):
        next(rows)
        ahead.append(sum(request.size for request in source.of_group(sent, 1)))
    assert ahead == sorted(ahead)
    assert ahead[0] <= AHEAD_BYTES < ahead[-1] <= FETCH_BYTES
    rows.close()  # type: ignore[attr-defined]


def test_an_error_of_the_next_row_group_is_raised_after_the_rows_of_this_one(source: Source) -> None:
    source.store.refused = range(source.starts[1], source.starts[2])
    rows = source.read()
    found = [next(rows).batch.num_rows for _ in range(-(-ROWS // BATCH))]
    wait_until(source.next_is_requested, "the request to be refused")
    with pytest.raises(InputChanged, match=r"s3://bucket/a\.parquet was replaced or deleted"):
        next(rows)
    assert sum(found) == ROWS


@pytest.mark.parametrize("ends", ["closed", "failed"])
def test_nothing_is_left_in_memory_if_reading_ends_early(
    source: Source, sent: list[tuple[Request, int]], ends: str
) -> None:
    rows = source.read()
    next(rows)
    ahead = source.of_group(sent, 1)
    wait_until(lambda: all(request.data is not None for request in ahead), "the bytes of the next row group")
    if ends == "closed":
        rows.close()  # type: ignore[attr-defined]
    else:
        source.store.refused = range(source.pinned.size)
        with pytest.raises(InputChanged):
            list(rows)
    wait_until(lambda: not any(thread.name == "fetch" for thread in threading.enumerate()), "the threads to end")
    assert ahead
    assert not any(request.data for request, _ in sent)


def test_a_row_group_is_planned_when_its_rows_are_needed(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given an object whose row groups are fetched with a few requests
    planned: list[int] = []
    plan = forward.ForwardReader._plan
    monkeypatch.setattr("scoreline.storage.tables.parquet_chunks._REQUEST_BYTES", (1 << 20, 8 << 20))
    monkeypatch.setattr(forward, "READ_BYTES", 64 << 20)

    def watched(self: forward.ForwardReader, group: RowGroup, row: int) -> Any:
        planned.append(group.number)
        return plan(self, group, row)

    monkeypatch.setattr(forward.ForwardReader, "_plan", watched)
    formats, first, second = ParquetFormat(), 10_000, ROWS + 10_000
    # When slices of it are read, one after another
    found = [item.batch for item in source.read_slice(formats, 0, first)]
    assert planned == [0]
    # Then a slice plans only the row groups of its own rows, and they are fetched once
    found += [item.batch for item in source.read_slice(formats, first, second)]
    assert planned == [0, 1]
    assert pa.Table.from_batches(found).equals(source.table.slice(0, second))
    assert len(source.store.begun) == len(set(source.store.begun))
    formats.release()


def test_a_footer_is_read_once_for_all_row_groups(source: Source) -> None:
    # Given a cache for only one footer
    formats = ParquetFormat(footer_bytes=1)
    rows = source.read_slice(formats, 0, source.table.num_rows)
    next(rows)
    # When another object is surveyed while a row group is read
    sink = io.BytesIO()
    pq.write_table(source.table.slice(0, 1), sink)
    formats.survey(Pinned.of(source.store, source.store.put("b.parquet", sink.getvalue())))
    assert not formats.knows_footer(source.pinned)
    # Then the next row groups do not need the footer again
    footer, before = source.store.begun[0], len(source.store.begun)
    list(rows)
    assert footer > source.starts[-1]
    assert footer not in source.store.begun[before:]
