"""Columns of a wide row group are decoded one after another, for one block of rows at a time."""

from __future__ import annotations

import gc
import io
import mmap
import os
import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scoreline.storage import reused_memory, scratch_files
from scoreline.storage.process_memory import own_memory
from scoreline.storage.tables import row_groups, windows
from scoreline.storage.tables.base import Pinned, Rows, Span
from scoreline.storage.tables.fetching import Fetcher
from scoreline.storage.tables.packing import SLAB_BYTES, PackedWindow
from scoreline.storage.tables.parquet import ParquetFormat
from scoreline.storage.tables.ranged import RangedFile
from tests.support.counting_store import CountingStore

ROWS = 20_000
BATCH = 640


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat every row group as wide, and decode blocks of rows of at most one MiB, in memory."""
    monkeypatch.setattr(scratch_files, "room", lambda: 0)
    monkeypatch.setattr(RangedFile, "WHOLE_BYTES", 0)
    monkeypatch.setattr(row_groups, "DECODER_BYTES", 1 << 10)
    monkeypatch.setattr(row_groups, "WINDOW_BYTES", 1 << 20)
    monkeypatch.setattr(row_groups, "MAX_WINDOW_BYTES", 1 << 20)
    monkeypatch.setattr(row_groups.RowGroup, "is_wide", True)


def of_all_types(rows: int = ROWS) -> pa.Table:
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
            "int8 with nulls": pa.array(number % 100, pa.int8(), mask=missing),
            "uint16": pa.array(number, pa.uint16()),
            "bool": number % 3 == 0,
            "bool with nulls": pa.array(number % 2 == 0, mask=missing),
            "text": [f"row {row}" for row in range(rows)],
            "text with nulls": pa.array([f"{row % 9}" for row in range(rows)], mask=missing),
            "category": pa.array([f"c{row % 7}" for row in range(rows)], mask=missing).dictionary_encode(),
            "null": pa.nulls(rows),
            "time": pa.array(number, pa.timestamp("us", "UTC")),
            "date": pa.array(number.astype("i4"), pa.date32()),
            "decimal": pa.array([f"{row}.25" for row in range(rows)]).cast(pa.decimal128(9, 2)),
            "list": pa.array([[row, row + 1] for row in range(rows)]),
            "struct": pa.array([{"a": row} for row in range(rows)]),
        }
    )


def put(folder: Path, data: pa.Table, **options: Any) -> tuple[CountingStore, Pinned]:
    store, sink = CountingStore(folder, "bucket"), io.BytesIO()
    pq.write_table(data, sink, row_group_size=data.num_rows, **options)
    return store, Pinned.of(store, store.put("a.parquet", sink.getvalue()))


def read(formats: ParquetFormat, source: Pinned, start: int, stop: int, schema: pa.Schema) -> list[Rows]:
    span = Span(start=start, stop=stop, first_row=start, rows=stop - start, size=0)
    return list(formats.read(source, span, schema, BATCH))


def bits(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column of floats as integers, so that NaN equals NaN; return any other column unchanged."""
    if not pa.types.is_floating(column.type):
        return pa.chunked_array([column.combine_chunks()])
    values = column.fill_null(0).to_numpy().view(f"i{column.type.bit_width // 8}")
    return pa.chunked_array([pa.array(values, mask=column.is_null().to_numpy())])


def numbers(rows: int = ROWS, columns: int = 16) -> pa.Table:
    values = np.random.default_rng(0).normal(size=(columns, rows))
    return pa.table({f"f{number}": column for number, column in enumerate(values)})


@pytest.mark.parametrize(
    "options",
    [{}, {"data_page_size": 1_000}, {"use_dictionary": False, "data_page_size": 5_120, "write_batch_size": 1}],
    ids=["large pages", "small pages", "pages that end between any rows"],
)
@pytest.mark.parametrize("disk", [0, 1 << 30, 1_500_000], ids=["in memory", "on disk", "on a small disk"])
@pytest.mark.parametrize(
    "edges", [(0, ROWS), (0, BATCH, 2 * BATCH, ROWS), (1, 639, 641, 6_001, 6_002, 15_000, ROWS - 1)]
)
def test_values_are_those_of_arrow_wherever_a_window_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], edges: tuple[int, ...], disk: int
) -> None:
    monkeypatch.setattr(scratch_files, "room", lambda: disk)
    table = of_all_types()
    _, source = put(tmp_path, table, **options)
    formats = ParquetFormat()
    schema = pq.ParquetFile(tmp_path / "bucket" / "a.parquet").schema_arrow
    for start, stop in pairwise(edges):
        rows = read(formats, source, start, stop, schema)
        found = pa.Table.from_batches([item.batch for item in rows])
        found.validate(full=True)
        assert found.schema.equals(schema, check_metadata=True)
        assert np.concatenate([item.numbers for item in rows]).tolist() == list(range(start, stop))
        expected = table.slice(start, stop - start)
        for name in table.column_names:
            assert bits(found[name]).equals(bits(expected[name])), name
        # And selected columns have the requested order
        some = pa.schema([schema.field(name) for name in ("text", "float64", "int8 with nulls")])
        assert read(formats, source, start, stop, some)[0].batch.schema.names == some.names
    formats.release()


def test_batches_begin_at_multiples_of_their_size_whatever_was_read_before(tmp_path: Path) -> None:
    table = numbers()
    _, source = put(tmp_path, table)
    formats = ParquetFormat()
    for start, stop in ((0, 1_000), (1_000, 9_000), (12_345, ROWS)):
        for reader in (formats, ParquetFormat()):  # a reader that has read the previous rows, and a new reader
            starts = [int(item.numbers[0]) for item in read(reader, source, start, stop, table.schema)]
            assert starts == [start, *range((start // BATCH + 1) * BATCH, stop, BATCH)]


def test_a_slice_that_fits_into_memory_is_fetched_once(tmp_path: Path) -> None:
    table = numbers()
    store, source = put(tmp_path, table)
    for start, stop in ((0, 8_000), (1_111, 9_111), (12_000, ROWS)):
        formats = ParquetFormat()
        formats.survey(source)
        store.asked = 0
        read(formats, source, start, stop, table.schema)
        assert store.asked <= 1.02 * source.size
    # And a larger row group is read in as few passes as possible
    store.asked = 0
    read(formats, source, 0, ROWS, table.schema)
    assert store.asked <= 4.08 * source.size


@pytest.mark.parametrize("step", [1, 2], ids=["all slices", "every other slice, as one of two processes"])
def test_small_slices_of_a_process_share_windows(tmp_path: Path, step: int) -> None:
    table = numbers()
    store, source = put(tmp_path, table)
    formats = ParquetFormat()
    formats.survey(source)
    store.asked = 0
    for start in range(0, ROWS, step * 500):
        found = pa.Table.from_batches([item.batch for item in read(formats, source, start, start + 500, table.schema)])
        assert found.equals(table.slice(start, 500))
    assert store.asked <= 5.1 * source.size


def test_only_the_rows_of_a_small_slice_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = numbers()
    _, source = put(tmp_path, table)
    mapped: list[int] = []

    class Watched(PackedWindow):
        def __init__(self, schema: pa.Schema, sizes: list[int]) -> None:
            mapped.append(sum(sizes))
            super().__init__(schema, sizes)

    monkeypatch.setattr(windows, "PackedWindow", Watched)
    read(ParquetFormat(), source, 0, 64, table.schema)
    assert mapped == [64]


def test_memory_of_a_batch_is_used_again_when_nothing_refers_to_it() -> None:
    window = PackedWindow(pa.schema([("x", pa.float64()), ("y", pa.int32())]), [3_000, 3_000])
    window.add("x", pa.chunked_array([np.arange(6_000.0)]))
    window.add("y", pa.chunked_array([np.arange(6_000, dtype="i4")]))
    batch = window.take()
    kept = batch.column("y")
    del batch
    assert kept.to_pylist() == list(range(3_000))
    held = window.held_bytes
    assert held >= 2 * SLAB_BYTES
    del kept
    gc.collect()
    assert window.held_bytes == held // 2
    assert window.take().column("x").to_pylist() == list(range(3_000, 6_000))


def test_fetched_bytes_take_the_memory_that_rows_do_not_take_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given sixteen columns with a request each, a quarter of whose rows is needed
    table = numbers(6_000)
    size = table.column(0).nbytes
    _, source = put(tmp_path, table, use_dictionary=False, compression="none")
    monkeypatch.setattr(windows, "_REQUEST_BYTES", size + 1_000)
    monkeypatch.setattr(windows, "_FETCH_BYTES", 4 * size + 4_000)
    monkeypatch.setattr(windows, "_LAST_BYTES", size + 1_000)
    monkeypatch.setattr("scoreline.storage.tables.decoded_columns._BLOCK_BYTES", 1)
    held: list[float] = []
    take = Fetcher.take

    def watched(self: Fetcher, request: Any) -> Sequence[memoryview]:
        held.append(self.held_bytes / (size + 1_000))
        return take(self, request)

    monkeypatch.setattr(Fetcher, "take", watched)
    read(ParquetFormat(), source, 0, 1_500, table.schema)
    # Then four columns are in memory at first, and hardly more than one when the rows of the others are there
    assert [round(columns) for columns in held[:4]] == [4] * 4
    assert all(columns <= min(4, 1 + (16 - number) / 4) + 0.1 for number, columns in enumerate(held))


@pytest.fixture
def on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the rows of windows on disk."""
    monkeypatch.setattr(scratch_files, "room", lambda: 1 << 30)


@pytest.mark.usefixtures("on_disk")
def test_rows_on_disk_are_fetched_once_and_take_the_memory_of_a_few_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = numbers()
    store, source = put(tmp_path, table)
    mapped: list[int] = []

    def map_memory(size: int) -> mmap.mmap:
        mapped.append(size)
        return own_memory(size)

    monkeypatch.setattr(reused_memory, "own_memory", map_memory)
    formats = ParquetFormat()
    formats.survey(source)
    store.asked = row = 0
    span = Span(start=0, stop=ROWS, first_row=0, rows=ROWS, size=0)
    for rows in formats.read(source, span, table.schema, BATCH):
        assert rows.batch.num_rows <= BATCH
        assert pa.Table.from_batches([rows.batch]).equals(table.slice(row, BATCH))
        row += rows.batch.num_rows
        del rows
    assert row == ROWS
    assert store.asked <= 1.02 * source.size
    of_batches = [size for size in mapped if size < windows._REQUEST_BYTES]
    assert sum(of_batches) <= 3 * BATCH * 16 * 8


@pytest.mark.usefixtures("on_disk")
def test_a_batch_from_disk_is_not_overwritten_while_it_is_used(tmp_path: Path) -> None:
    table = numbers()
    _, source = put(tmp_path, table)
    kept = [rows.batch for rows in read(ParquetFormat(), source, 3, ROWS, table.schema)]
    assert pa.Table.from_batches(kept).equals(table.slice(3))


@pytest.mark.usefixtures("on_disk")
@pytest.mark.parametrize("after", [0, 1, 5], ids=["writing fails", "reading fails", "reading fails later"])
def test_rows_are_kept_in_memory_if_the_disk_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, after: int
) -> None:
    table = of_all_types()
    _, source = put(tmp_path, table)
    schema = pq.ParquetFile(tmp_path / "bucket" / "a.parquet").schema_arrow
    opened: list[BinaryIO] = []

    def open_scratch() -> BinaryIO:
        full = after == 0
        opened.append(Path("/dev/full").open("r+b", buffering=0) if full else tempfile.TemporaryFile(buffering=0))  # noqa: SIM115
        return opened[-1]

    monkeypatch.setattr(scratch_files, "open_scratch", open_scratch)
    found: list[Rows] = []
    span = Span(start=5, stop=ROWS, first_row=5, rows=ROWS - 5, size=0)
    for rows in ParquetFormat().read(source, span, schema, BATCH):
        found.append(rows)
        if after and len(found) == after:
            os.ftruncate(opened[0].fileno(), 0)
    assert len(opened) == 1
    assert "wide.unwritable" in caplog.text
    assert np.concatenate([rows.numbers for rows in found]).tolist() == list(range(5, ROWS))
    rows_found = pa.Table.from_batches([rows.batch for rows in found])
    for name in table.column_names:
        assert bits(rows_found[name]).equals(bits(table[name].slice(5))), name


@pytest.mark.usefixtures("on_disk")
def test_columns_that_stay_in_memory_limit_the_rows_of_a_window(tmp_path: Path) -> None:
    texts = pa.table({f"t{number}": [f"{row:0100}" for row in range(ROWS)] for number in range(3)})
    store, source = put(tmp_path, texts)
    formats = ParquetFormat()
    formats.survey(source)
    store.asked = 0
    read(formats, source, 0, ROWS, texts.schema)
    assert store.asked >= 4 * source.size  # windows of a MiB, and not one of 6 MB


def test_fewer_rows_than_the_footer_says_are_an_error() -> None:
    batches = iter([pa.record_batch({"x": [1, 2]})])
    opened: Any = SimpleNamespace(iter_batches=lambda *_, **__: batches)
    with pytest.raises(pa.ArrowInvalid, match="it has 3 fewer rows than its footer says"):
        windows._first_rows(opened, 0, ["x"], 5)


def test_a_window_has_at_least_one_row_however_large_rows_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WINDOW_BYTES", "MAX_WINDOW_BYTES"):
        monkeypatch.setattr(row_groups, name, 64)
    table = numbers(5)  # each row takes 128 bytes of memory
    _, source = put(tmp_path, table)
    found = read(ParquetFormat(), source, 0, 5, table.schema)
    assert pa.Table.from_batches([rows.batch for rows in found]).equals(table)
