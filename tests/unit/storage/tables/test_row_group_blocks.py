"""A row group of numbers that fits into a block is decoded column after column, which takes few and large requests."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scoreline.storage.errors import UnreadableInput
from scoreline.storage.tables import blocks, decoded_columns, forward, row_groups
from scoreline.storage.tables.base import Pinned, Rows, Span
from scoreline.storage.tables.blocks import BlockReader
from scoreline.storage.tables.fetching import Fetcher
from scoreline.storage.tables.parquet import ParquetFormat
from scoreline.storage.tables.ranged import RangedFile
from scoreline.storage.tables.row_groups import StreamingReader
from tests.support.counting_store import CountingStore, RequestLog

ROWS = 60_000
BATCH = 4_096


@pytest.fixture(autouse=True)
def small_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a row group of a few megabytes count as too large to be fetched as a whole."""
    monkeypatch.setattr(RangedFile, "WHOLE_BYTES", 0)
    monkeypatch.setattr(forward, "READ_BYTES", 1 << 20)


@pytest.fixture
def entered(monkeypatch: pytest.MonkeyPatch) -> list[type]:
    """The class of the reader of each row group that was read."""
    found: list[type] = []
    enter = forward.ForwardReader._enter_group

    def watched(self: forward.ForwardReader, row: int) -> row_groups.RowGroupReader:
        reader = enter(self, row)
        found.append(type(reader))
        return reader

    monkeypatch.setattr(forward.ForwardReader, "_enter_group", watched)
    return found


def of_numbers(rows: int) -> pa.Table:
    random = np.random.default_rng(3)
    floats = random.normal(size=(4, rows))
    missing = random.random(rows) < 0.3
    number = np.arange(rows)
    return pa.table(
        {
            "float64": floats[0],
            "float32": floats[1].astype("f4"),
            "float64 with nulls": pa.array(floats[2], mask=missing),
            "float32 with NaN": np.where(missing, np.nan, floats[3]).astype("f4"),
            "int64": number,
            "nulls in one batch": pa.array(number, mask=number == BATCH + 1),
            "int8 with nulls": pa.array(number % 100, pa.int8(), mask=missing),
            "bool": number % 3 == 0,
            "bool with nulls": pa.array(number % 2 == 0, mask=missing),
            "time": pa.array(number, pa.timestamp("us", "UTC")),
            "date": pa.array(number.astype("i4"), pa.date32()),
            "only nulls": pa.nulls(rows, pa.float64()),
        }
    )


def of_floats(rows: int = ROWS) -> pa.Table:
    values = np.random.default_rng(0).normal(size=(8, rows))
    return pa.table(list(values), names=[f"x{number}" for number in range(8)])


class WatchedStore(CountingStore, RequestLog):
    """Counts the bytes that are requested, and notes the requests."""


def put(folder: Path, data: pa.Table, **options: Any) -> tuple[WatchedStore, Pinned]:
    store, sink = WatchedStore(folder, "bucket"), io.BytesIO()
    pq.write_table(data, sink, **{"row_group_size": ROWS} | options)
    return store, Pinned.of(store, store.put("a.parquet", sink.getvalue()))


def read(formats: ParquetFormat, source: Pinned, start: int, stop: int, schema: pa.Schema) -> list[Rows]:
    span = Span(start=start, stop=stop, first_row=start, rows=stop - start, size=0)
    return list(formats.read(source, span, schema, BATCH))


def bits(column: pa.ChunkedArray) -> pa.Array:
    """Return a column of floats as integers, so that NaN equals NaN; return any other column unchanged."""
    column = column.combine_chunks()
    if not pa.types.is_floating(column.type):
        return column
    values = column.fill_null(0).to_numpy().view(f"i{column.type.bit_width // 8}")
    return pa.array(values, mask=column.is_null().to_numpy(zero_copy_only=False))


@pytest.mark.parametrize(
    "options",
    [{}, {"data_page_size": 5_000}, {"use_dictionary": False, "data_page_size": 5_120, "write_batch_size": 1}],
    ids=["large pages", "small pages", "pages that end between any rows"],
)
def test_values_and_batches_are_those_of_a_streaming_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entered: list[type], options: dict[str, Any]
) -> None:
    # Given two row groups, the second of which has a batch with fewer rows in the middle of the object
    table = of_numbers(2 * ROWS)
    _, source = put(tmp_path, table, **options)
    found = read(ParquetFormat(), source, 0, 2 * ROWS, table.schema)
    assert entered == [BlockReader, BlockReader]
    # When the same rows are read with all columns side by side
    monkeypatch.setattr(row_groups, "BLOCK_BYTES", 0)
    expected = read(ParquetFormat(), source, 0, 2 * ROWS, table.schema)
    assert entered[2:] == [StreamingReader, StreamingReader]
    # Then batches have the same rows, types and values
    assert [item.numbers.tolist() for item in found] == [item.numbers.tolist() for item in expected]
    for ours, theirs in zip(found, expected, strict=True):
        ours.batch.validate(full=True)
        assert ours.batch.schema.equals(theirs.batch.schema)
        assert [column.null_count for column in ours.batch.columns] == [
            column.null_count for column in theirs.batch.columns
        ]
    rows = pa.Table.from_batches([item.batch for item in found])
    for name in table.column_names:
        assert bits(rows[name]).equals(bits(table[name])), name


def test_each_column_takes_one_request_and_is_fetched_before_it_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a row group with eight large column chunks, and no room for two of them in a request
    monkeypatch.setattr("scoreline.storage.tables.parquet_chunks._REQUEST_BYTES", (1 << 10, 700_000))
    table = of_floats()
    store, source = put(tmp_path, table)
    formats = ParquetFormat()
    formats.survey(source)
    monkeypatch.setattr(blocks, "FETCH_BYTES", 1_500_000)
    monkeypatch.setattr(decoded_columns, "_BLOCK_BYTES", 1)
    store.requests.clear()
    store.asked = 0
    sent: list[bool] = []
    held: list[int] = []
    take = Fetcher.take

    def watched(self: Fetcher, request: Any) -> Sequence[memoryview]:
        sent.append(request.is_sent)
        held.append(self.held_bytes)
        return take(self, request)

    monkeypatch.setattr(Fetcher, "take", watched)
    read(formats, source, 0, ROWS, table.schema)
    assert len(store.requests) == len(sent) == 8
    assert store.asked <= source.size
    assert all(sent)
    assert 700_000 < max(held) <= 1_500_000


@pytest.mark.parametrize(
    ("column", "start", "stop"),
    [
        (pa.array(["text"] * ROWS), 0, ROWS),
        (pa.array(["text"] * ROWS).dictionary_encode(), 0, ROWS),
        (pa.array([[1.0]] * ROWS), 0, ROWS),
        (pa.array(range(ROWS)), 0, ROWS - 1),
        (pa.array(range(ROWS)), 1, ROWS),
    ],
    ids=["text", "category", "list", "without the last row", "without the first row"],
)
def test_values_of_unknown_size_and_slices_are_decoded_side_by_side(
    tmp_path: Path, entered: list[type], column: pa.Array, start: int, stop: int
) -> None:
    table = of_floats().append_column("other", column)
    _, source = put(tmp_path, table)
    read(ParquetFormat(), source, start, stop, table.schema)
    assert entered == [StreamingReader]


@pytest.mark.parametrize("limit", ["BLOCK_BYTES", "_BLOCK_COLUMN_BYTES"])
def test_a_block_and_its_columns_are_limited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entered: list[type], limit: str
) -> None:
    table = of_floats()
    _, source = put(tmp_path, table)
    size = table.nbytes if limit == "BLOCK_BYTES" else 700_000
    for most in (size, size // 2):
        monkeypatch.setattr(row_groups, limit, most)
        read(ParquetFormat(), source, 0, ROWS, table.schema)
    assert entered == [BlockReader, StreamingReader]


def test_only_a_large_block_releases_the_unused_heap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table, released = of_floats(), list[int]()
    _, source = put(tmp_path, table)
    monkeypatch.setattr(blocks, "shrink_heap", lambda: released.append(1))
    for large_bytes, times in ((table.nbytes, 0), (table.nbytes - 1, 1)):
        monkeypatch.setattr(blocks, "_LARGE_BYTES", large_bytes)
        read(ParquetFormat(), source, 0, ROWS, table.schema)
        assert len(released) == times


def test_a_row_group_of_the_default_size_of_pandas_takes_at_most_24_requests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given the memory of a real process, and a row group of 160 MB
    monkeypatch.undo()
    rows = 1_048_576
    values = np.random.default_rng(0).normal(size=rows)
    table = pa.table({"id": np.arange(rows)} | {f"x{number}": values for number in range(18)})
    store, source = put(tmp_path, table, row_group_size=rows)
    assert source.size > 160_000_000
    formats = ParquetFormat()
    formats.survey(source)
    store.requests.clear()
    store.asked = 0
    first = 0
    for item in formats.read(source, Span(start=0, stop=rows, first_row=0, rows=rows, size=0), table.schema, 65_536):
        assert item.batch.column("x17").equals(pa.array(values[first : first + item.batch.num_rows]))
        first += item.batch.num_rows
    assert first == rows
    assert len(store.requests) <= 24
    assert store.asked <= 1.02 * source.size
    # And its first rows take one request for each column, which has a dictionary of a MiB
    store.requests.clear()
    store.asked = 0
    assert sum(item.batch.num_rows for item in read(formats, source, 0, 8_192, table.schema)) == 8_192
    assert len(store.requests) <= table.num_columns + 2
    assert store.asked <= table.num_columns * 1.6 * (1 << 20)


def test_a_row_group_that_cannot_be_decoded_is_named(tmp_path: Path) -> None:
    table = of_floats(2 * ROWS)
    store, source = put(tmp_path, table)
    chunk = pq.ParquetFile(tmp_path / "bucket" / "a.parquet").metadata.row_group(1).column(3)
    content = bytearray(store.get("a.parquet").data)
    content[chunk.dictionary_page_offset : chunk.dictionary_page_offset + 100] = bytes(100)
    source = Pinned.of(store, store.put("a.parquet", bytes(content)))
    with pytest.raises(UnreadableInput, match="row group 1"):
        read(ParquetFormat(), source, 0, 2 * ROWS, table.schema)


def test_fewer_rows_than_the_footer_says_are_an_error() -> None:
    group = row_groups.RowGroup(number=0, first_row=0, rows=5, chunks=[])
    reader = BlockReader(group, pa.schema([]), 3, None, lambda: None)  # type: ignore[arg-type, return-value]
    window: Any = type("Window", (), {"add_batch": lambda *_: None})()
    for sizes, missing in (([3, 1], 1), ([3], 2), ([2], 3), ([], 5)):
        batches = [pa.record_batch({"x": [1] * size}) for size in sizes]
        opened: Any = type("Opened", (), {"iter_batches": lambda *_, batches=batches, **__: iter(batches)})()
        with pytest.raises(pa.ArrowInvalid, match=f"it has {missing} fewer rows than its footer says"):
            reader._add_batches(window, opened, ["x"], [0, 3, 5])
