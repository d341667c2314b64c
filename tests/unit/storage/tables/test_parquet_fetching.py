"""The column chunks of Parquet are fetched in few requests, in parallel, within a fixed amount of memory."""

from __future__ import annotations

import dataclasses
import io
import mmap
import statistics
import threading
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scoreline.storage import kept_memory, scratch_files
from scoreline.storage.errors import InputChanged, StoreUnavailable
from scoreline.storage.kept_memory import MEMORY
from scoreline.storage.objects.base import StoredObject
from scoreline.storage.objects.directory import DirectoryStore
from scoreline.storage.process_memory import own_memory
from scoreline.storage.tables import decoded_columns, forward, parquet, row_groups, windows
from scoreline.storage.tables.base import Pinned, Span
from scoreline.storage.tables.chunk_file import ChunkFile
from scoreline.storage.tables.fetching import BLOCK_BYTES, CONNECTIONS, Fetcher, Request
from scoreline.storage.tables.formats import Tables
from scoreline.storage.tables.kept_reader import KeptReader
from scoreline.storage.tables.options import ReadOptions
from scoreline.storage.tables.parquet import ParquetFormat
from scoreline.storage.tables.parquet_chunks import Chunk, plan_requests
from scoreline.storage.tables.ranged import RangedFile
from tests.support.counting_store import RequestedStore
from tests.support.waiting import HANG_S, wait_until

ROWS = 100_000
COLUMNS = [f"f{number}" for number in range(8)]
SCHEMA = pa.schema([(name, pa.float64()) for name in COLUMNS])


class WatchedStore(RequestedStore):
    """Records the ranges that are requested, and the threads that request them."""

    def __init__(self, root: Path, bucket: str) -> None:
        super().__init__(root, bucket)
        self.ranges: list[tuple[int, int]] = []
        self.threads: set[threading.Thread] = set()

    def get(self, key: str, *, byte_range: tuple[int, int] | None = None, **options: Any) -> StoredObject:
        assert byte_range is not None
        assert options["if_match"]
        self.ranges.append(byte_range)
        self.threads.add(threading.current_thread())
        return super().get(key, byte_range=byte_range, **options)

    @property
    def bytes(self) -> int:
        return sum(stop - start for start, stop in self.ranges)


def table(rows: int = ROWS, columns: list[str] = COLUMNS) -> pa.Table:
    values = np.random.default_rng(0).normal(size=(len(columns), rows))
    return pa.table([pa.array(column) for column in values], names=columns)


def put(folder: Path, data: pa.Table, **options: Any) -> tuple[WatchedStore, Pinned]:
    store = WatchedStore(folder, "bucket")
    sink = io.BytesIO()
    pq.write_table(data, sink, **options)
    return store, Pinned.of(store, store.put("a.parquet", sink.getvalue()))


@pytest.fixture(scope="module")
def values() -> pa.Table:
    return table()


def span(start: int, stop: int) -> Span:
    return Span(start=start, stop=stop, first_row=start, rows=stop - start, size=0)


def read(
    formats: ParquetFormat, source: Pinned, start: int, stop: int, schema: pa.Schema = SCHEMA, batch_rows: int = 8_192
) -> pa.Table:
    rows = list(formats.read(source, span(start, stop), schema, batch_rows))
    assert np.concatenate([item.numbers for item in rows]).tolist() == list(range(start, stop))
    assert max(item.batch.num_rows for item in rows) <= batch_rows
    return pa.Table.from_batches([item.batch for item in rows])


def footer_read(formats: ParquetFormat, store: WatchedStore, source: Pinned) -> None:
    """Read the footer, and delete the record of this request."""
    formats.survey(source)
    store.ranges.clear()


def chunks_of(sizes: list[int], gap: int = 0) -> list[Chunk]:
    starts = np.cumsum([4, *(size + gap for size in sizes[:-1])]).tolist()
    return [
        Chunk(name=str(n), start=start, stop=start + size, dictionary_bytes=0, encoded_bytes=size, decoded_bytes=size)
        for n, (start, size) in enumerate(zip(starts, sizes, strict=True))
    ]


@pytest.mark.parametrize("count", [1, 2, 5, 11, 18, 24, 30, 40, 100, 1_000])
def test_a_row_group_of_160_mb_takes_at_most_24_large_requests(count: int) -> None:
    chunks = chunks_of([160_000_000 // count] * count)
    requests = [request for request, _ in plan_requests(chunks, 0, 1_000)]
    assert len(requests) <= 21
    assert max(request.size for request in requests) <= 16 << 20
    # Each byte is requested once
    assert [request.start for request in requests[1:]] == [request.stop for request in requests[:-1]]
    assert sum(request.size for request in requests) == chunks[-1].stop - chunks[0].start


def test_a_row_group_that_almost_fits_needs_few_more_requests() -> None:
    requests = [
        request for request, _ in plan_requests(chunks_of([8_660_000] * 18), 0, 1_000, budget_bytes=130_000_000)
    ]
    assert len(requests) <= 23
    assert sum(request.size for request in requests if request.row == 0) <= 130_000_000
    assert sum(request.size for request in requests) == 18 * 8_660_000


def test_chunks_are_not_joined_across_many_bytes_that_are_not_needed() -> None:
    near, far = (list(plan_requests(chunks_of([100_000] * 50, gap), 0, 1)) for gap in (300, 30_000))
    assert len(near) < 5
    assert len(far) == 50
    assert sum(request.size for request, _ in far) == 50 * 100_000


@pytest.mark.parametrize(("count", "size", "most"), [(18, 18 << 20, 90), (40, 31 << 20, 560), (4, 100 << 20, 60)])
def test_a_row_group_that_does_not_fit_is_requested_in_pieces_of_which_half_are_in_memory(
    count: int, size: int, most: int
) -> None:
    budget = 80 << 20
    planned = list(plan_requests(chunks_of([size] * count), 100, 1_000, budget_bytes=budget))
    assert len(planned) <= most
    assert sum(request.size for request, _ in planned) == count * size
    by_column = [[request for request, chunks in planned if chunks[0].name == str(name)] for name in range(count)]
    piece = statistics.median(request.size for request, _ in planned)
    # At any row, the pieces in use leave enough memory for one request per connection
    for row in range(100, 1_100, 7):
        current = [[request for request in requests if request.row <= row][-1] for requests in by_column]
        left = [
            request.stop - (requests[0].start + size * (row - 100) // 1_000)
            for request, requests in zip(current, by_column, strict=True)
        ]
        assert sum(left) + CONNECTIONS * piece <= 1.1 * budget
    # And pieces of different columns end at different rows
    assert len({requests[1].row for requests in by_column}) >= count / 2


def test_what_only_later_rows_need_is_requested_apart() -> None:
    chunks = [
        Chunk(name=name, start=start, stop=start + (9 << 20), dictionary_bytes=dictionary, encoded_bytes=9 << 20,
              decoded_bytes=9 << 20)
        for name, start, dictionary in (("plain", 1 << 20, 0), ("repetitive", 10 << 20, 1 << 20))
    ]  # fmt: skip
    small = chunks_of([100_000] * 3)
    planned = list(plan_requests([*small, *chunks], 500, 1_000_000, needed_rows=8_192))
    now = [request.size for request, _ in planned if request.row < 500 + 8_192]
    # The first rows need one page of each large column, and also the dictionary of the second column
    assert now == [300_000, pytest.approx(1 << 20, rel=0.05), pytest.approx(1.5 * (1 << 20), rel=0.05)]
    assert sum(request.size for request, _ in planned) == 300_000 + 2 * (9 << 20)


def test_what_is_read_past_is_requested_before_the_rest_and_column_by_column() -> None:
    chunks = [dataclasses.replace(chunk, can_be_null=True) for chunk in chunks_of([20 << 20] * 3)]
    planned = list(plan_requests(chunks, 100, 1_000, budget_bytes=40 << 20, skipped_rows=500))
    ordered = sorted((request for request, _ in planned), key=lambda request: request.row)
    past = [request for request in ordered if request.row == 100]
    assert [request.start for request in past] == sorted(request.start for request in past)
    for chunk in chunks:
        own = [request.size for request in past if chunk.start <= request.start < chunk.stop]
        assert own == [5 << 20, 5 << 20]
    assert all(request.row >= 600 for request in ordered[len(past) :])


def test_whole_row_groups_are_read_once_in_few_requests(tmp_path: Path, values: pa.Table) -> None:
    store, source = put(tmp_path, values, row_group_size=ROWS // 2)
    formats = ParquetFormat()
    footer_read(formats, store, source)
    assert read(formats, source, 0, ROWS).equals(values)
    assert len(store.ranges) <= 4
    assert store.bytes <= 1.02 * source.size


def test_only_the_needed_columns_are_read(tmp_path: Path, values: pa.Table) -> None:
    store, source = put(tmp_path, values, row_group_size=ROWS)
    formats = ParquetFormat()
    footer_read(formats, store, source)
    wanted = pa.schema([SCHEMA.field("f6"), SCHEMA.field("f1")])
    assert read(formats, source, 0, ROWS, wanted).equals(values.select(["f6", "f1"]))
    assert store.bytes <= 1.02 * source.size / 4


def test_a_slice_is_read_up_to_its_end(tmp_path: Path, values: pa.Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward, "READ_BYTES", 4 << 20)
    store, source = put(tmp_path, values, row_group_size=ROWS, use_dictionary=False, data_page_size=20_000)
    formats = ParquetFormat()
    footer_read(formats, store, source)
    assert read(formats, source, 0, ROWS // 4).equals(values.slice(0, ROWS // 4))
    assert store.bytes < 0.5 * source.size


def test_the_time_to_plan_does_not_grow_with_the_square_of_the_requests(
    tmp_path: Path, values: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forward, "READ_BYTES", 2 << 20)
    looked = []
    is_gradual = forward._Plan.is_gradual

    def look(plan: forward._Plan) -> bool:  # this goes through all requests of the row group
        looked.append(plan)
        return is_gradual.__get__(plan)

    monkeypatch.setattr(forward._Plan, "is_gradual", property(look))
    store, source = put(tmp_path, values, row_group_size=ROWS)
    formats = ParquetFormat()
    footer_read(formats, store, source)
    assert read(formats, source, 0, ROWS - 1).equals(values.slice(0, ROWS - 1))
    assert len(store.ranges) > 10
    assert len(looked) == 2


@pytest.mark.parametrize("options", [{}, {"use_dictionary": False}, {"data_page_size": 20_000}])
def test_only_the_first_pages_are_read_for_the_first_rows(tmp_path: Path, options: dict[str, Any]) -> None:
    values = table(1_000_000, COLUMNS[:2])
    store, source = put(tmp_path, values, row_group_size=1_000_000, **options)
    formats = ParquetFormat()
    footer_read(formats, store, source)
    wanted = Span(start=0, stop=1_000_000, first_row=0, rows=1_000_000, size=0, wanted=range(30_000))
    found = list(formats.read(source, wanted, values.schema, 65_536))
    assert pa.Table.from_batches([rows.batch for rows in found]).equals(values.slice(0, 30_000))
    assert store.bytes <= 2 * 2_200_000
    assert len(store.ranges) == 2
    # And reading can continue
    assert read(formats, source, 30_000, 1_000_000, values.schema, 65_536).equals(values.slice(30_000))
    assert store.bytes <= 1.02 * source.size


@pytest.mark.parametrize("memory", [192 << 20, 4 << 20], ids=["fetched whole", "fetched by windows"])
def test_slices_of_a_row_group_are_read_once_by_a_process(
    tmp_path: Path, values: pa.Table, memory: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forward, "READ_BYTES", memory)
    store, source = put(tmp_path, values, row_group_size=ROWS)
    formats = ParquetFormat()
    footer_read(formats, store, source)
    edges = [0, 1, 10_000, 10_001, 50_000, 90_000, ROWS]
    found = [read(formats, source, start, stop) for start, stop in pairwise(edges)]
    assert pa.concat_tables(found).equals(values)
    assert store.bytes <= 1.02 * source.size
    # A second process reads each byte at most once, and gets the same rows
    other = ParquetFormat()
    footer_read(other, store, source)
    assert read(other, source, 50_000, 90_000).equals(found[4])
    assert read(other, source, 95_000, ROWS).equals(values.slice(95_000))
    assert store.bytes <= 1.02 * source.size


def test_a_reader_is_kept_only_for_the_next_rows_of_the_same_columns(tmp_path: Path, values: pa.Table) -> None:
    store, source = put(tmp_path, values, row_group_size=ROWS)
    formats = ParquetFormat()
    for start, stop, schema, batch_rows in (
        (0, 50_000, SCHEMA, 8_192),
        (40_000, 60_000, SCHEMA, 8_192),  # this span begins at a row before the position of the reader
        (60_000, 70_000, pa.schema(list(SCHEMA)[::-1]), 8_192),
        (70_000, 80_000, SCHEMA, 1_000),
    ):
        footer_read(formats, store, source)
        found = read(formats, source, start, stop, schema, batch_rows)
        assert found.equals(values.slice(start, stop - start).select(schema.names))
        assert store.bytes > source.size / 2
    wait_until(lambda: count_of_threads("kept-reader") == 1, "one reader to be kept")
    formats.release()
    wait_until(lambda: not count_of_threads("kept-reader", "fetch"), "the reader to be released")


def test_a_kept_reader_is_released_when_a_text_is_read(
    tmp_path: Path, values: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    unused_at_shrinking: list[int] = []
    monkeypatch.setattr(parquet, "shrink_heap", lambda: unused_at_shrinking.append(MEMORY.unused_bytes))
    store, source = put(tmp_path, values, row_group_size=ROWS)
    text = Pinned.of(store, DirectoryStore(tmp_path, "bucket").put("a.csv", b"x\n1\n"))
    tables, options = Tables(), ReadOptions()
    list(tables.read(source, span(0, 10), SCHEMA, 8_192, options))
    assert count_of_threads("kept-reader") == 1
    MEMORY.array(10)
    assert MEMORY.unused_bytes
    list(tables.read(text, tables.survey(text, options).spans[0], pa.schema([("x", pa.int64())]), 10, options))
    wait_until(lambda: not count_of_threads("kept-reader", "fetch"), "the reader to be released")
    assert MEMORY.unused_bytes == 0
    assert unused_at_shrinking == [0]


def test_a_kept_reader_is_released_when_it_is_not_used(tmp_path: Path, values: pa.Table) -> None:
    store, source = put(tmp_path, values, row_group_size=ROWS)
    formats = ParquetFormat()
    formats._kept = KeptReader(kept_s=0.01)
    read(formats, source, 0, 10)
    wait_until(lambda: not count_of_threads("kept-reader", "fetch"), "the reader to be released")
    footer_read(formats, store, source)
    assert read(formats, source, 10, ROWS).equals(values.slice(10))
    assert store.bytes > source.size / 2


def count_of_threads(*names: str) -> int:
    return sum(thread.name in names for thread in threading.enumerate())


def test_an_object_that_is_replaced_between_windows_is_noticed(
    tmp_path: Path, values: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forward, "READ_BYTES", 2 << 20)
    store, source = put(tmp_path, values, row_group_size=ROWS)
    formats = ParquetFormat()
    rows = formats.read(source, span(0, ROWS - 1), SCHEMA, 1_000)
    next(rows)
    store.put("a.parquet", store.get("a.parquet", byte_range=(0, source.size), if_match=source.etag).data)
    with pytest.raises(InputChanged, match=r"s3://bucket/a\.parquet was replaced or deleted"):
        list(rows)
    # And the reader is not kept for the next span
    assert not count_of_threads("kept-reader")
    wait_until(lambda: not count_of_threads("fetch"), "the threads to end")


def test_threads_end_if_reading_is_given_up(tmp_path: Path, values: pa.Table) -> None:
    _, source = put(tmp_path, values, row_group_size=ROWS)
    rows = ParquetFormat().read(source, span(0, ROWS), SCHEMA, 1_000)
    next(rows)
    assert count_of_threads("fetch")
    rows.close()  # type: ignore[attr-defined]
    wait_until(lambda: not count_of_threads("fetch", "kept-reader"), "the threads to end")


# The fetcher


def requests(count: int, size: int = 10) -> list[Request]:
    return [Request(number * size, (number + 1) * size, number) for number in range(count)]


def test_requests_are_sent_side_by_side_and_taken_in_any_order() -> None:
    meet = threading.Barrier(4)

    def get(start: int, buffers: Sequence[memoryview]) -> None:
        meet.wait(HANG_S)
        [buffer] = buffers
        buffer[:] = bytes(range(start, start + len(buffer)))

    planned = requests(8)
    fetcher = Fetcher(get, 1_000, planned, connections=4)
    fetcher.fetch_until(100)
    for number in (3, 0, 7, 1):
        assert fetcher.take(planned[number])[0] == bytes(range(number * 10, number * 10 + 10))
    fetcher.close()


def test_the_budget_is_not_exceeded_until_bytes_are_released() -> None:
    sent: list[int] = []

    def get(start: int, buffers: Sequence[memoryview]) -> None:
        sent.append(start)

    planned = requests(10)
    fetcher = Fetcher(get, 35, planned)
    fetcher.fetch_until(8)
    for request in planned[:3]:
        fetcher.take(request)
    assert sorted(sent) == [0, 10, 20]
    assert fetcher.held_bytes == 30
    fetcher.release(5)
    fetcher.take(planned[3])
    assert fetcher.held_bytes == 35
    fetcher.release(35)
    fetcher.take(planned[6])
    assert fetcher.held_bytes == 30
    # And rows that are not needed are not fetched ahead
    fetcher.release(30)
    fetcher.take(planned[7])
    assert planned[8].is_sent is False
    fetcher.close()


def test_an_error_is_raised_where_its_bytes_are_needed() -> None:
    def get(start: int, buffers: Sequence[memoryview]) -> None:
        if start == 10:
            raise StoreUnavailable("down")
        buffers[0][:] = bytes(10)

    planned = requests(3)
    fetcher = Fetcher(get, 1_000, planned)
    fetcher.fetch_until(3)
    assert [*fetcher.take(planned[2]), *fetcher.take(planned[0])] == [bytes(10)] * 2
    with pytest.raises(StoreUnavailable, match="down"):
        fetcher.take(planned[1])
    fetcher.close()


def test_closing_does_not_wait_for_the_store_and_sends_nothing_more() -> None:
    stuck, begun = threading.Event(), threading.Event()
    sent: list[int] = []

    def get(start: int, buffers: Sequence[memoryview]) -> None:
        sent.append(start)
        begun.set()
        assert stuck.wait(HANG_S)

    fetcher = Fetcher(get, 1_000, requests(5), connections=1)
    fetcher.fetch_until(5)
    assert begun.wait(HANG_S)
    fetcher.close()
    stuck.set()
    wait_until(lambda: not count_of_threads("fetch"), "the thread to end")
    assert sent == [0]


def test_bytes_that_nobody_took_are_released_at_once() -> None:
    begun, late = threading.Event(), threading.Event()

    def get(start: int, buffers: Sequence[memoryview]) -> None:
        if start == 20:
            begun.set()
            assert late.wait(HANG_S)

    planned = requests(3)
    fetcher = Fetcher(get, 1_000, planned)
    fetcher.fetch_until(5)
    assert begun.wait(HANG_S)
    wait_until(lambda: planned[1].data is not None, "the bytes to come")
    fetcher.close()
    late.set()
    wait_until(lambda: not count_of_threads("fetch"), "the threads to end")
    assert [request.data for request in planned] == [None, None, None]


class Paged:
    """A file with two chunks of 3 MiB, which are read page by page with a budget of 2 MiB."""

    def __init__(self, folder: Path) -> None:
        store = WatchedStore(folder, "bucket")
        self.data = np.random.default_rng(0).bytes(8 << 20)
        self.source = Pinned.of(store, store.put("a.parquet", self.data))
        self.chunks = chunks_of([3 << 20, 3 << 20])
        planned = [
            (Request(start, min(start + (1 << 20), chunk.stop), number), [chunk])
            for chunk in self.chunks
            for number, start in enumerate(range(chunk.start, chunk.stop, 1 << 20))
        ]
        planned.sort(key=lambda item: item[0].row)
        for request, _ in planned:
            request.block_bytes = BLOCK_BYTES
        raw = RangedFile(store, self.source.key, self.source.size, self.source.etag)
        self.fetcher = Fetcher(raw.get_into, 2 << 20, (request for request, _ in planned))
        self.fetcher.fetch_until(9)
        self.file = ChunkFile(self.source, self.fetcher, planned, gradual=True)

    def read(self, number: int, offset: int, size: int) -> Any:
        start = self.chunks[number].start + offset
        self.file.seek(start)
        found = self.file.read(size)
        is_same = found == self.data[start : start + size]  # pytest would take minutes to show how they differ
        assert is_same
        return found

    def close(self) -> None:
        self.file.close()
        self.fetcher.close()
        assert self.fetcher.held_bytes == 0


@pytest.fixture
def mapped(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the memory mappings for blocks."""
    found: list[int] = []

    def map_memory(size: int) -> mmap.mmap:
        found.append(size)
        return own_memory(size)

    MEMORY.release()
    monkeypatch.setattr(kept_memory, "own_memory", map_memory)
    return found


def test_pages_are_fetched_into_the_memory_of_earlier_pages(tmp_path: Path, mapped: list[int]) -> None:
    paged = Paged(tmp_path)
    page = 150_000
    for offset in range(0, 3 << 20, page):
        for number in (0, 1):
            paged.read(number, offset, min(page, (3 << 20) - offset))
    # Then six times a MiB were fetched, but little more memory than the budget was used
    assert sum(mapped) <= (2 << 20) + (2 << 20) // CONNECTIONS + 4 * BLOCK_BYTES
    paged.close()


def test_the_memory_of_a_page_in_use_is_not_fetched_into(tmp_path: Path) -> None:
    paged = Paged(tmp_path)
    used = [paged.read(number, offset, 1_000) for offset in range(0, 3 << 20, 1_000_000) for number in (0, 1)]
    copies = [bytes(page) for page in used]
    for number in (0, 1):
        for offset in range(2_001_000, 3_000_000, 100_000):
            paged.read(number, offset, 100_000)
    is_same = used == copies
    assert is_same
    paged.close()


def test_a_block_is_released_at_the_next_read(tmp_path: Path) -> None:
    paged = Paged(tmp_path)
    paged.fetcher.limit(0)  # so that nothing else is fetched
    paged.read(0, 0, 2 * BLOCK_BYTES + 10)
    held = paged.fetcher.held_bytes
    paged.read(1, 0, 10)
    assert held - paged.fetcher.held_bytes == 2 * BLOCK_BYTES
    paged.close()


def test_blocks_of_one_fetcher_serve_the_next_one(mapped: list[int]) -> None:
    for _ in range(2):
        planned = requests(6, 2 * BLOCK_BYTES)
        for request in planned:
            request.block_bytes = BLOCK_BYTES
        fetcher = Fetcher(lambda _, __: None, sum(request.size for request in planned), planned)
        fetcher.fetch_until(6)
        taken = [fetcher.take(request) for request in planned]
        fetcher.close()
        wait_until(lambda: not count_of_threads("fetch"), "the threads to end")
        taken.clear()
    assert mapped == [BLOCK_BYTES] * 12


# Wide row groups


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reduce the memory, so that eight columns cannot be decoded side by side."""
    monkeypatch.setattr(row_groups, "DECODER_BYTES", 1 << 20)
    monkeypatch.setattr(row_groups, "WINDOW_BYTES", 1 << 20)
    monkeypatch.setattr(row_groups, "MAX_WINDOW_BYTES", 1 << 20)


@pytest.mark.usefixtures("narrow")
def test_columns_of_a_wide_row_group_are_decoded_one_after_another(tmp_path: Path, values: pa.Table) -> None:
    wide = values.append_column("text", pa.array([f"row {row}" for row in range(ROWS)]))
    wide = wide.append_column("kind", pa.array(["a", "b", None, "c"] * (ROWS // 4)).dictionary_encode())
    wide = wide.append_column("some", pa.array([1, None, 3, 4, None] * (ROWS // 5), pa.int32()))
    wide = wide.append_column("flag", pa.array([True, None] * (ROWS // 2)))
    wide = wide.append_column("when", pa.array(range(ROWS), pa.timestamp("us", "UTC")))
    wide = wide.append_column("price", pa.array([None, "1.25"] * (ROWS // 2)).cast(pa.decimal128(9, 2)))
    wide = wide.append_column("list", pa.array([[row, row + 1] for row in range(ROWS)]))
    wide = wide.replace_schema_metadata({"pandas": "{}"})
    store, source = put(tmp_path, wide, row_group_size=ROWS // 2)
    formats = ParquetFormat()
    schema = formats.survey(source).schema
    by_arrow = pq.ParquetFile(tmp_path / "bucket" / "a.parquet").schema_arrow
    store.ranges.clear()
    edges = [0, 20_000, 20_001, 70_000, ROWS]
    for start, stop in pairwise(edges):
        found = read(formats, source, start, stop, schema, 1_000)
        assert found.equals(wide.slice(start, stop - start))
        assert found.schema.equals(by_arrow, check_metadata=True)
    passes = -(-sum(column.nbytes for column in wide.columns) // (1 << 20))
    assert store.bytes <= (passes + 3) * source.size


@pytest.mark.usefixtures("narrow")
def test_batches_of_a_wide_row_group_do_not_hold_its_window(
    tmp_path: Path, values: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scratch_files, "room", lambda: 0)  # so that the window is in memory
    _, source = put(tmp_path, values, row_group_size=ROWS)
    batch = next(ParquetFormat().read(source, span(0, ROWS), SCHEMA, ROWS)).batch
    assert batch.nbytes <= (1 << 20) // windows._BATCHES + 64 * len(COLUMNS)
    address = batch.column(0).buffers()[1].address
    assert all(0 <= column.buffers()[1].address - address < 2 * batch.nbytes for column in batch.columns)


@pytest.mark.usefixtures("narrow")
def test_a_wide_row_group_is_fetched_ahead(tmp_path: Path, values: pa.Table, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given memory for requests of two columns, and a row group of eight columns
    monkeypatch.setattr(windows, "_FETCH_BYTES", 2_500_000)
    monkeypatch.setattr(windows, "_REQUEST_BYTES", 1_000_000)
    monkeypatch.setattr(decoded_columns, "_BLOCK_BYTES", 1)
    _, source = put(tmp_path, values, row_group_size=ROWS)
    sent: list[bool] = []
    take = Fetcher.take

    def watched(self: Fetcher, request: Request) -> Sequence[memoryview]:
        sent.append(request.is_sent)
        assert self.held_bytes <= 2_500_000
        return take(self, request)

    monkeypatch.setattr(Fetcher, "take", watched)
    assert read(ParquetFormat(), source, 0, ROWS).equals(values)
    # Then each column was requested before it was needed
    assert all(sent)
