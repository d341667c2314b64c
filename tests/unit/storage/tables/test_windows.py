"""A row group whose rows fit into a window is decoded column after column, which takes few and large requests."""

from __future__ import annotations

import io
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scoreline.storage.errors import UnreadableInput
from scoreline.storage.objects.base import StoredObject
from scoreline.storage.tables import forward, row_groups, windows
from scoreline.storage.tables.base import Pinned, Rows, Span
from scoreline.storage.tables.fetching import Fetcher, Request
from scoreline.storage.tables.parquet import ParquetFormat
from scoreline.storage.tables.ranged import RangedFile
from scoreline.storage.tables.row_groups import StreamingReader
from scoreline.storage.tables.windows import WindowReader
from tests.support.counting_store import CountingStore
from tests.support.waiting import wait_until

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


def of_numbers(rows: int = ROWS) -> pa.Table:
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
            "repeated": number % 5,
            "int8 with nulls": pa.array(number % 100, pa.int8(), mask=missing),
            "bool": number % 3 == 0,
            "bool with nulls": pa.array(number % 2 == 0, mask=missing),
            "time": pa.array(number, pa.timestamp("us", "UTC")),
            "date": pa.array(number.astype("i4"), pa.date32()),
            "only nulls": pa.nulls(rows, pa.float64()),
        }
    )


class WatchedStore(CountingStore):
    """Records where the requested ranges begin."""

    def __init__(self, root: Path, bucket: str) -> None:
        super().__init__(root, bucket)
        self.starts: list[int] = []

    def get(self, key: str, **options: Any) -> StoredObject:
        self.starts.append(options["byte_range"][0])
        return super().get(key, **options)


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
@pytest.mark.parametrize(
    "edges", [(0, ROWS), (0, 30_000, ROWS), (0, 8 * BATCH), (7 * BATCH, ROWS), (29_999, ROWS), (1, 50_001)]
)
def test_values_and_batches_are_those_of_a_streaming_reader(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    entered: list[type],
    options: dict[str, Any],
    edges: tuple[int, ...],
) -> None:
    table = of_numbers()
    _, source = put(tmp_path, table, **options)
    for start, stop in pairwise(edges):
        found = read(ParquetFormat(), source, start, stop, table.schema)
        # When the same rows are read with all columns side by side
        with monkeypatch.context() as patched:
            patched.setattr(row_groups, "WINDOW_BYTES", 0)
            expected = read(ParquetFormat(), source, start, stop, table.schema)
        assert entered[-2:] == [WindowReader, StreamingReader]
        # Then batches have the same rows, types and values
        assert [item.numbers.tolist() for item in found] == [item.numbers.tolist() for item in expected]
        rows = pa.Table.from_batches([item.batch for item in found])
        rows.validate(full=True)
        assert rows.schema.equals(table.schema)
        for name in table.column_names:
            assert bits(rows[name]).equals(bits(table[name].slice(start, stop - start))), name


def test_each_column_chunk_takes_one_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a row group with eight large column chunks, and no room for two of them in a request
    values = np.random.default_rng(0).normal(size=(8, ROWS))
    table = pa.table(list(values), names=[f"x{number}" for number in range(8)])
    store, source = put(tmp_path, table)
    monkeypatch.setattr(windows, "_LARGE_REQUEST_BYTES", 700_000)
    formats = ParquetFormat()
    formats.survey(source)
    store.asked = 0
    store.starts.clear()
    read(formats, source, 0, ROWS, table.schema)
    assert len(store.starts) == 8
    assert store.asked <= source.size


def test_the_first_half_of_a_row_group_is_read_without_the_second(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(8, ROWS))
    table = pa.table(list(values), names=[f"x{number}" for number in range(8)])
    store, source = put(tmp_path, table, use_dictionary=False, data_page_size=20_000)
    formats = ParquetFormat()
    formats.survey(source)
    store.asked = 0
    store.starts.clear()
    # The estimate of what is needed is rounded up to a page of the usual size
    half = read(formats, source, 0, ROWS // 2, table.schema)
    assert sum(item.batch.num_rows for item in half) == ROWS // 2
    assert len(store.starts) <= 16


@pytest.mark.parametrize(
    ("column", "stop"),
    [
        (pa.array(["text"] * ROWS), ROWS),
        (pa.array(["text"] * ROWS).dictionary_encode(), ROWS),
        (pa.array([[1.0]] * ROWS), ROWS),
        (pa.array([1] * ROWS).cast(pa.decimal128(19, 0)), ROWS),
        (pa.array(range(ROWS)), ROWS // 2 - 1),
    ],
    ids=["text", "category", "list", "decimal", "less than half of the rows"],
)
def test_values_of_unknown_size_and_small_slices_are_decoded_side_by_side(
    tmp_path: Path, entered: list[type], column: pa.Array, stop: int
) -> None:
    values = np.random.default_rng(0).normal(size=(8, ROWS))
    table = pa.table([*values, column], names=[f"x{number}" for number in range(9)])
    _, source = put(tmp_path, table)
    read(ParquetFormat(), source, 0, stop, table.schema)
    assert entered == [StreamingReader]


def test_the_next_row_group_is_requested_while_the_second_half_of_a_window_is_scored(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(8, 2 * ROWS))
    table = pa.table(list(values), names=[f"x{number}" for number in range(8)])
    store, source = put(tmp_path, table)
    first = pq.ParquetFile(tmp_path / "bucket" / "a.parquet").metadata.row_group(0)
    end = max(first.column(n).dictionary_page_offset + first.column(n).total_compressed_size for n in range(8))
    formats = ParquetFormat()
    formats.survey(source)
    store.starts.clear()
    rows = formats.read(source, Span(start=0, stop=2 * ROWS, first_row=0, rows=2 * ROWS, size=0), table.schema, BATCH)
    while int(next(rows).numbers[-1]) < ROWS // 2 - BATCH:
        assert max(store.starts) < end
    for _ in range(2):
        next(rows)
    wait_until(lambda: max(store.starts) >= end, "a request for the second row group")
    found = [item.batch for item in rows]
    assert found[-1].column("x0").to_pylist() == table["x0"].to_pylist()[-len(found[-1]) :]
    assert len(store.starts) == len(set(store.starts))  # nothing is requested twice


def test_a_row_group_that_cannot_be_decoded_is_named(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(8, 2 * ROWS))
    table = pa.table(list(values), names=[f"x{number}" for number in range(8)])
    _, source = put(tmp_path, table)
    file = tmp_path / "bucket" / "a.parquet"
    chunk = pq.ParquetFile(file).metadata.row_group(1).column(3)
    content = bytearray(file.read_bytes())
    content[chunk.dictionary_page_offset : chunk.dictionary_page_offset + 100] = bytes(100)
    file.write_bytes(content)
    store = WatchedStore(tmp_path, "bucket")
    source = Pinned.of(store, store.head("a.parquet"))
    with pytest.raises(UnreadableInput, match="row group 1"):
        read(ParquetFormat(), source, 0, 2 * ROWS, table.schema)


def test_a_row_group_with_fewer_rows_than_its_footer_says_is_an_error() -> None:
    window: Any = None
    reader = WindowReader.__new__(WindowReader)
    group: Any = row_groups.RowGroup(number=0, first_row=0, rows=5, chunks=[])
    vars(reader).update(_group=group, _batch_rows=5)
    opened: Any = type("Opened", (), {"iter_batches": lambda *_, **__: iter([pa.record_batch({"x": [1, 2]})])})()
    with pytest.raises(pa.ArrowInvalid, match="it has 3 fewer rows than its footer says"):
        reader._add_batches(window, opened, ["x"], [0, 5])


def test_fetched_bytes_stay_within_their_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(size=(8, ROWS))
    table = pa.table(list(values), names=[f"x{number}" for number in range(8)])
    _, source = put(tmp_path, table)
    monkeypatch.setattr(windows, "_LARGE_REQUEST_BYTES", 700_000)
    monkeypatch.setattr(windows, "_LARGE_FETCH_BYTES", 1_400_000)
    monkeypatch.setattr(windows, "_BLOCK_BYTES", 1)
    held: list[int] = []
    send = Fetcher._send

    def watched(self: Fetcher, request: Request) -> None:
        send(self, request)
        held.append(self.held_bytes)

    monkeypatch.setattr(Fetcher, "_send", watched)
    for start, stop in ((0, ROWS), (0, ROWS // 2), (ROWS // 2, ROWS)):
        read(ParquetFormat(), source, start, stop, table.schema)
    assert 700_000 < max(held) <= 1_400_000
