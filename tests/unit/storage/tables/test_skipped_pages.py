"""A process that reads the end of a row group does not decode the pages before it."""

from __future__ import annotations

import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scoreline.storage.errors import UnreadableInput
from scoreline.storage.objects.directory import DirectoryStore
from scoreline.storage.tables import chunk_file, forward, row_groups
from scoreline.storage.tables.base import ALIGNED_ROWS, Pinned, Span, align
from scoreline.storage.tables.chunk_file import ChunkFile
from scoreline.storage.tables.fetching import Fetcher
from scoreline.storage.tables.parquet import ParquetFormat
from scoreline.storage.tables.parquet_chunks import Chunk, find_chunks, plan_requests
from scoreline.storage.tables.parquet_pages import Page, page_of_nulls, read_header
from scoreline.storage.tables.ranged import RangedFile
from tests.support.counting_store import CountingStore

ROWS = 60_000
BATCH_ROWS = 4_096


@pytest.fixture(autouse=True)
def small_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a row group of a few megabytes count as large."""
    monkeypatch.setattr(forward, "READ_BYTES", 2 << 20)
    monkeypatch.setattr(forward, "_WHOLE_BYTES", 1 << 10)


@pytest.fixture
def skipped(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the columns whose pages were skipped."""
    found: list[str] = []
    skip = ChunkFile._skip_pages

    def watched(self: ChunkFile, stream: chunk_file._Stream) -> None:
        skip(self, stream)
        if stream.left_out:
            found.append(stream.chunk.name)

    monkeypatch.setattr(ChunkFile, "_skip_pages", watched)
    return found


def many_types() -> pa.Table:
    numbers = np.random.default_rng(0).normal(size=ROWS)
    missing = numbers > 1
    whole = (numbers * 1_000).astype(np.int64)
    columns: dict[str, Any] = {
        "float": pa.array(numbers),
        "repeated": pa.array(whole % 5),
        "missing": pa.array(whole, mask=missing),
        "text": pa.array([f"row {row} {'x' * (row % 40)}" for row in range(ROWS)]),
        "kind": pa.array(np.array(["a", "bb", "", "d"])[whole % 4], mask=missing),
        "category": pa.array(np.array(["a", "bb", "", "d"])[whole % 4], mask=missing).dictionary_encode(),
        "flag": pa.array(whole % 2 == 0, mask=missing),
        "time": pa.array(whole, pa.timestamp("us", "UTC")),
        "date": pa.array([datetime.date(2026, 1, 1)] * ROWS),
        "price": pa.array([None, "1.25", "-3.50"] * (ROWS // 3)).cast(pa.decimal128(9, 2)),
        "small": pa.array(numbers.astype(np.float32)),
        "list": pa.array([[row] * (row % 3) for row in range(ROWS)]),
        "pair": pa.array([None if row % 7 == 0 else {"a": row, "b": None} for row in range(ROWS)]),
        "nothing": pa.nulls(ROWS, pa.float64()),
    }
    schema = pa.schema([pa.field(name, column.type) for name, column in columns.items()])
    schema = schema.append(pa.field("required", pa.int64(), nullable=False))
    return pa.table([*columns.values(), pa.array(whole)], schema=schema)


def put(folder: Path, table: pa.Table, **options: Any) -> Pinned:
    store = DirectoryStore(folder, "bucket")
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, **{"row_group_size": ROWS} | options)
    return Pinned.of(store, store.put("a.parquet", sink.getvalue().to_pybytes()))


def read(source: Pinned, start: int, stop: int, schema: pa.Schema, formats: ParquetFormat | None = None) -> pa.Table:
    span = Span(start=start, stop=stop, first_row=start, rows=stop - start, size=0)
    rows = list((formats or ParquetFormat()).read(source, span, schema, BATCH_ROWS))
    assert np.concatenate([item.numbers for item in rows]).tolist() == list(range(start, stop))
    return pa.Table.from_batches([item.batch for item in rows])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_dictionary": False, "compression": "zstd"},
        {"data_page_version": "2.0", "compression": "gzip", "write_page_checksum": True},
        {"compression": "none", "dictionary_pagesize_limit": 4_096},
        {"data_page_size": 1_000, "write_batch_size": 100, "compression": "lz4"},
        {"version": "1.0", "write_page_index": True, "max_rows_per_page": 777},
    ],
    ids=lambda options: " ".join(options) or "default",
)
def test_the_rows_are_the_same_whichever_pages_are_left_out(
    tmp_path: Path, skipped: list[str], options: dict[str, Any]
) -> None:
    table = many_types()
    source = put(tmp_path, table, **options)
    whole = read(source, 0, ROWS, table.schema)
    assert whole.equals(table)
    assert not skipped
    formats = ParquetFormat()
    for start, stop in ((30_000, 45_000), (45_000, 45_001), (59_000, ROWS)):
        assert read(source, start, stop, table.schema, formats).equals(table.slice(start, stop - start))
    assert read(source, ROWS - 1, ROWS, table.schema).equals(table.slice(ROWS - 1))
    assert {"float", "text", "missing", "price"} <= set(skipped)
    # These pages are read: a list may continue on the next page, categories need other rows, and a required column has
    # no nulls
    assert not {"list", "pair", "category", "required"} & set(skipped)


@pytest.mark.parametrize("first_row", [1, 33_333])
def test_batches_are_small_if_the_decoders_of_all_columns_are_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first_row: int
) -> None:
    # Given a dictionary and a page of 24 columns, which take more memory than a batch
    table = pa.table({f"x{number}": np.random.default_rng(number).normal(size=ROWS) for number in range(24)})
    source = put(tmp_path, table)
    span = Span(start=first_row, stop=ROWS, first_row=first_row, rows=ROWS - first_row, size=0)
    monkeypatch.setattr(row_groups, "SMALL_BATCH_BYTES", 1 << 18)
    for limit, rows in ((1 << 30, BATCH_ROWS), (1 << 20, align((1 << 18) // (24 * 8)))):
        monkeypatch.setattr(row_groups, "LARGE_DECODERS_BYTES", limit)
        batches = [item.batch for item in ParquetFormat().read(source, span, table.schema, BATCH_ROWS)]
        # Then batches are smaller, end at multiples of their size, and have the same rows
        first = -(-first_row // rows) * rows
        ends = np.cumsum([first_row, *(batch.num_rows for batch in batches)]).tolist()
        assert ends == [first_row, *range(first, ROWS, rows), ROWS]
        assert pa.Table.from_batches(batches).equals(table.slice(first_row))


@pytest.mark.parametrize("text_bytes", [2_000, 200_000])
def test_batches_beside_large_decoders_end_at_multiples_even_if_few_rows_are_large(text_bytes: int) -> None:
    size = 1_000 * text_bytes
    chunks = [
        Chunk(
            name=str(number),
            start=number * size,
            stop=(number + 1) * size,
            dictionary_bytes=0,
            encoded_bytes=size,
            decoded_bytes=size,
        )
        for number in range(90)
    ]
    group = row_groups.RowGroup(number=0, first_row=0, rows=1_000, chunks=chunks)
    assert not group.is_wide
    assert group.batch_rows(8_192) == ALIGNED_ROWS  # rounding would depend on the size of smaller batches
    assert group.batch_rows(5) == 5


def test_a_dictionary_is_released_when_it_was_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    streams: list[chunk_file._Stream] = []
    skip = ChunkFile._skip_pages

    def watched(self: ChunkFile, stream: chunk_file._Stream) -> None:
        skip(self, stream)
        streams.append(stream)
        assert len(stream.instead) > 1_000

    monkeypatch.setattr(ChunkFile, "_skip_pages", watched)
    table = many_types().select(["float", "text"])
    source = put(tmp_path, table, dictionary_pagesize_limit=4_096)
    rows = ParquetFormat().read(source, Span(start=45_000, stop=ROWS, first_row=0, rows=ROWS, size=0), table.schema, 64)
    next(iter(rows))
    assert [len(stream.instead) for stream in streams] == [0, 0]


def test_the_batches_are_those_of_a_reader_from_the_beginning(tmp_path: Path) -> None:
    table = many_types()
    source = put(tmp_path, table)
    span = Span(start=33_333, stop=ROWS, first_row=33_333, rows=ROWS - 33_333, size=0)
    batches = [rows.batch for rows in ParquetFormat().read(source, span, table.schema, BATCH_ROWS)]
    first = -(-33_333 // BATCH_ROWS) * BATCH_ROWS
    expected = [33_333, *range(first, ROWS, BATCH_ROWS)]
    assert np.cumsum([33_333, *(batch.num_rows for batch in batches[:-1])]).tolist() == expected
    for batch, start in zip(batches, expected, strict=True):
        assert batch.column("float").null_count == 0
        assert pa.Table.from_batches([batch]).equals(table.slice(start, batch.num_rows))


def test_a_page_that_is_not_decoded_may_be_damaged_but_not_its_header(tmp_path: Path, skipped: list[str]) -> None:
    table = many_types().select(["float", "text"])
    source = put(tmp_path, table, use_dictionary=False, write_page_checksum=True)
    path = tmp_path / "bucket" / "a.parquet"
    sound = path.read_bytes()
    start = pq.read_metadata(path).row_group(0).column(0).data_page_offset
    page = read_header(sound[start : start + 1_000])

    def damage(position: int) -> Pinned:
        data = bytearray(sound)
        data[position : position + 2] = b"\xff\xff"
        return Pinned.of(source.store, source.store.put("a.parquet", bytes(data)))

    in_body = damage(start + page.header_bytes + 1_000)
    assert read(in_body, 50_000, ROWS, table.schema).equals(table.slice(50_000))
    assert skipped
    with pytest.raises(UnreadableInput, match=r"row group 0"):
        read(in_body, 0, ROWS, table.schema)
    with pytest.raises(UnreadableInput, match=r"row group 0"):
        read(damage(start + page.size), 50_000, ROWS, table.schema)


def test_headers_that_are_no_headers_are_refused() -> None:
    page = page_of_nulls(1_234_567)
    header = read_header(page + b"more")
    assert (header.values, header.size, header.is_dictionary) == (1_234_567, len(page), False)
    for length in range(header.header_bytes):
        with pytest.raises(ValueError, match="page"):
            read_header(page[:length])
    nested, endless = b"\x19" * 16_000, b"\x19\xfc\xff\xff\xff\xff\x0f" + b"\0" * 9_000  # lists
    for data in (b"", b"\0", b"\xff" * 100, b"\x1c" * 10_000, b"\x15\x00\x15\x02\x15\x01\x00", nested, endless):
        with pytest.raises(ValueError, match="page"):
            read_header(data)


def counted(folder: Path, source: Pinned) -> tuple[CountingStore, Pinned]:
    store = CountingStore(folder, "bucket")
    return store, Pinned.of(store, store.head(source.key))


@pytest.mark.parametrize("use_dictionary", [True, False])
@pytest.mark.parametrize("compression", ["none", "snappy", "lz4"])
def test_pages_that_are_shorter_than_a_page_of_nulls_can_be_skipped(
    tmp_path: Path, skipped: list[str], compression: str, use_dictionary: bool
) -> None:
    nothing = {name: pa.nulls(ROWS, kind) for name, kind in (("a", pa.float64()), ("b", pa.string()))}
    table = pa.table({"float": many_types().column("float"), **nothing, "z": many_types().column("small")})
    options = {"compression": compression, "use_dictionary": use_dictionary, "write_statistics": False}
    store, source = counted(tmp_path, put(tmp_path, table, **options))
    for start in (20_480, 33_000, 39_999, 45_000):
        store.asked = 0
        assert read(source, start, ROWS, table.schema).equals(table.slice(start))
        assert store.asked < source.size + (64 << 10), "nothing but the footer is fetched twice"
    assert "float" in skipped


def test_pages_before_one_that_is_not_understood_are_left_out(
    tmp_path: Path, skipped: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    table = many_types().select(["float", "text"])
    store, source = counted(tmp_path, put(tmp_path, table, use_dictionary=False))
    calls: list[int] = []

    def only_the_first(data: bytes) -> Page:
        calls.append(len(data))
        if len(calls) % 2 == 0:
            raise ValueError("the header of a page is incomplete")
        return read_header(data)

    monkeypatch.setattr(chunk_file, "read_header", only_the_first)
    assert read(source, 50_000, ROWS, table.schema).equals(table.slice(50_000))
    assert skipped == ["float", "text"]
    assert store.asked < source.size + (64 << 10)


def test_a_page_that_is_larger_than_its_chunk_is_not_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = many_types().select(["float"])
    source = put(tmp_path, table, use_dictionary=False)
    huge = Page(header_bytes=20, body_bytes=1 << 40, values=1, is_dictionary=False)
    monkeypatch.setattr(chunk_file, "read_header", lambda data: huge)
    assert read(source, 50_000, ROWS, table.schema).equals(table.slice(50_000))


def test_no_pages_of_a_writer_that_gives_too_small_sizes_are_left_out(tmp_path: Path, skipped: list[str]) -> None:
    # Given a file of a parquet-mr release that gives too small sizes: Arrow then reads past the end of column chunks
    table = many_types().select(["float", "text", "missing"])
    source = put(tmp_path, table)
    data = (tmp_path / "bucket" / "a.parquet").read_bytes()
    name = pq.read_metadata(pa.BufferReader(data)).created_by.encode()
    for release, are_skipped in (("1.2.8", False), ("1.2", False), ("1.12.3", True), ("1.2.9", True)):
        old = data.replace(name, f"parquet-mr version {release}".encode().ljust(len(name)))
        assert old != data
        source = Pinned.of(source.store, source.store.put("a.parquet", old))
        assert read(source, 45_000, ROWS, table.schema).equals(table.slice(45_000))
        assert bool(skipped) == are_skipped
        skipped.clear()


def test_what_follows_a_chunk_of_which_pages_are_left_out_cannot_be_read_with_it(tmp_path: Path) -> None:
    source = put(tmp_path, many_types().select(["float"]), use_dictionary=False, compression="none")
    column = pq.read_metadata(tmp_path / "bucket" / "a.parquet").row_group(0).column(0)
    start = column.data_page_offset
    chunk = Chunk(
        name="float",
        start=start,
        stop=start + column.total_compressed_size,
        dictionary_bytes=0,
        encoded_bytes=column.total_uncompressed_size,
        decoded_bytes=8 * ROWS,
        can_be_null=True,
    )
    planned = list(plan_requests([chunk], 0, ROWS))
    raw = RangedFile(source.store, source.key, source.size, source.etag)
    fetcher = Fetcher(raw.get_into, 100 << 20, (request for request, _ in planned))
    file = ChunkFile(source, fetcher, planned, gradual=True, skipped_rows=45_000)
    file.seek(start)
    assert read_header(bytes(file.read(1_000))).values == 40_000
    with pytest.raises(OSError, match="beyond"):
        file.read(chunk.size)
    file.seek(start)
    with pytest.raises(OSError, match="were read before"):
        file.read(10)
    file.close()
    fetcher.close()


def test_no_pages_are_left_out_if_chunks_overlap() -> None:
    def column(start: int) -> SimpleNamespace:
        return SimpleNamespace(
            data_page_offset=start,
            num_values=9,
            dictionary_page_offset=None,
            physical_type="DOUBLE",
            total_uncompressed_size=100,
            total_compressed_size=100,
        )

    def found(*starts: int) -> list[Chunk]:
        columns = [column(start) for start in starts]
        level = SimpleNamespace(path="x", max_repetition_level=0, max_definition_level=1)
        metadata: Any = SimpleNamespace(
            row_group=lambda group: SimpleNamespace(column=columns.__getitem__),
            schema=SimpleNamespace(column=lambda number: level),
        )
        return find_chunks(metadata, 0, dict.fromkeys(range(len(starts)), "x"), 1_000, ["x"])

    assert [chunk.can_be_null for chunk in found(4, 104)] == [True, True]
    assert [chunk.can_be_null for chunk in found(4, 50)] == [False]
    assert [chunk.can_be_null for chunk in found(4, 950)] == [False]
