"""Parquet is read by spans of any size, across row groups and inside them."""

from __future__ import annotations

import io
import struct
import weakref
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scoreline.storage.errors import UnreadableInput
from scoreline.storage.objects.directory import DirectoryStore
from scoreline.storage.tables import forward, parquet, parquet_held, row_groups
from scoreline.storage.tables.base import Pinned, Span
from scoreline.storage.tables.parquet_opening import refuse_unsound_columns
from scoreline.storage.tables.ranged import RangedFile
from tests.support.waiting import wait_until

ROWS = 1_000


@pytest.fixture(params=[ROWS, 137, 10], ids=lambda size: f"groups of {size}")
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Pinned:
    store = DirectoryStore(tmp_path, "bucket")
    sink = io.BytesIO()
    pq.write_table(pa.table({"id": range(ROWS), "x": [n / 8 for n in range(ROWS)]}), sink, row_group_size=request.param)
    info = store.put("a.parquet", sink.getvalue())
    return Pinned(store=store, key=info.key, size=info.size, etag=info.etag)


def read(source: Pinned, span: Span, batch_rows: int = 64) -> list[tuple[int, int]]:
    """Return the number and the id of each row."""
    rows = parquet.ParquetFormat().read(source, span, pa.schema([("id", pa.int64())]), batch_rows)
    return [
        pair for item in rows for pair in zip(item.numbers.tolist(), item.batch.column("id").to_pylist(), strict=True)
    ]


def test_row_numbers_do_not_depend_on_where_a_span_begins_and_ends(source: Pinned) -> None:
    for start, stop in ((0, ROWS), (0, 1), (136, 138), (130, 500), (999, 1_000), (401, 402)):
        span = Span(start=start, stop=stop, first_row=start, rows=stop - start, size=0)
        assert read(source, span) == [(row, row) for row in range(start, stop)]


def test_a_row_group_of_any_size_is_a_span_and_so_are_any_of_its_rows(source: Pinned) -> None:
    spans = parquet.ParquetFormat().survey(source).spans
    assert {(span.rows, span.by_rows) for span in spans[:-1]} <= {(spans[0].rows, True)}
    assert spans[0].rows in (ROWS, 137, 10)
    assert [pair for span in spans for pair in read(source, span)] == [(row, row) for row in range(ROWS)]


def test_a_span_is_read_without_looking_at_each_row_group_before_it(
    source: Pinned, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a reader that counts the row groups that it passes
    left: list[int] = []
    leave = forward.ForwardReader._leave_group

    def counted(reader: forward.ForwardReader) -> None:
        left.append(reader._number)
        leave(reader)

    monkeypatch.setattr(forward.ForwardReader, "_leave_group", counted)
    formats = parquet.ParquetFormat()
    for span in formats.survey(source).spans:
        left.clear()
        # When a span is read, then the reader passes at most two row groups
        rows = list(formats.read(source, span, pa.schema([("id", pa.int64())]), 64))
        assert [number for item in rows for number in item.numbers.tolist()] == list(range(span.start, span.stop))
        assert len(left) <= 2


def test_rows_between_empty_row_groups_are_found(tmp_path: Path) -> None:
    store, sink = DirectoryStore(tmp_path, "bucket"), io.BytesIO()
    with pq.ParquetWriter(sink, pa.schema([("id", pa.int64())])) as writer:
        for first, stop in ((0, 0), (0, 3), (3, 3), (3, 3), (3, 8), (8, 8)):
            writer.write_table(pa.table({"id": pa.array(range(first, stop), pa.int64())}))
    info = store.put("a.parquet", sink.getvalue())
    source = Pinned.of(store, info)
    for start in range(8):
        span = Span(start=start, stop=8, first_row=start, rows=8 - start, size=0)
        assert read(source, span) == [(row, row) for row in range(start, 8)]


def test_nothing_is_decoded_after_the_end_of_a_span() -> None:
    def batches() -> Iterator[pa.RecordBatch]:
        yield from pa.table({"id": range(20)}).to_batches(max_chunksize=10)
        pytest.fail("a third batch was asked for")

    assert [rows.numbers.tolist() for rows in parquet_held.rows_between(batches(), 100, 108, 120)] == [
        [108, 109],
        list(range(110, 120)),
    ]


@pytest.mark.parametrize("is_file", [True, False], ids=["directory", "bucket"])
@pytest.mark.parametrize(
    ("value", "rows"),
    [("t" * 2_000, 256), ("t" * 40_000, 8), ("t" * 900_000, 1), ([0.5] * 250, 256), (0.5, ROWS)],
    ids=["texts", "long texts", "texts larger than a batch", "lists", "numbers"],
)
def test_batches_of_texts_and_lists_take_few_bytes_however_long_these_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: Any, rows: int, is_file: bool
) -> None:
    # Given a row group of which 1,000 rows are to be read at a time, as many as types alone allow
    monkeypatch.setattr(row_groups, "VARYING_BATCH_BYTES", 600_000)
    monkeypatch.setattr(RangedFile, "WHOLE_BYTES", 0)
    if not is_file:
        monkeypatch.setattr(forward, "KeepsFiles", ())
    count = 20 if rows == 1 else ROWS
    table = pa.table({"id": range(count), "x": [value] * count})
    store, sink = DirectoryStore(tmp_path, "bucket"), io.BytesIO()
    pq.write_table(table, sink, use_dictionary=False)
    source = Pinned.of(store, store.put("a.parquet", sink.getvalue()))
    for start in (0, count // 3):
        span = Span(start=start, stop=count, first_row=start, rows=count - start, size=0)
        found = list(parquet.ParquetFormat().read(source, span, table.schema, ROWS))
        # Then batches have fewer rows, and end at multiples of their number
        ends = [start, *(int(item.numbers[-1]) + 1 for item in found)]
        assert ends == [start, *range((start // rows + 1) * rows, count, rows), count]
        assert pa.Table.from_batches([item.batch for item in found]).equals(table.slice(start))


def test_a_damaged_page_is_reported_even_if_it_can_be_decoded(tmp_path: Path) -> None:
    # Given a Parquet file with one changed number, which only a checksum reveals
    store = DirectoryStore(tmp_path, "bucket")
    sink = io.BytesIO()
    pq.write_table(
        pa.table({"id": [1, 2, 3], "x": [0.5, 7.25, 1.0]}),
        sink,
        compression="none",
        use_dictionary=False,
        write_statistics=False,
        write_page_checksum=True,
    )
    data = sink.getvalue()
    assert data.count(struct.pack("<d", 7.25)) == 1
    info = store.put("a.parquet", data.replace(struct.pack("<d", 7.25), struct.pack("<d", 7.75)))
    source, formats = Pinned.of(store, info), parquet.ParquetFormat()
    survey = formats.survey(source)
    # Then the row group with this number cannot be read
    with pytest.raises(UnreadableInput, match=r"s3://bucket/a\.parquet cannot be decoded in row group 0"):
        list(formats.read(source, survey.spans[0], survey.schema, 64))
    # And another column of the row group can still be read
    (rows,) = formats.read(source, survey.spans[0], pa.schema([("id", pa.int64())]), 64)
    assert rows.batch["id"].to_pylist() == [1, 2, 3]


def pinned(folder: Path, table: pa.Table, **options: Any) -> Pinned:
    store = DirectoryStore(folder, "bucket")
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    info = store.put("b.parquet", sink.getvalue())
    return Pinned(store=store, key=info.key, size=info.size, etag=info.etag)


@pytest.mark.parametrize("statistics", [True, False], ids=["from statistics", "from values"])
def test_a_survey_says_which_integers_and_booleans_are_never_missing(tmp_path: Path, statistics: bool) -> None:
    columns = {"full": [1, 2, 3], "some": pa.array([1, None, 3]), "flag": [True, False, True]}
    required = pa.field("required", pa.int64(), nullable=False)
    table = pa.table(columns).append_column(required, [pa.array([1, 2, 3])])
    source = pinned(tmp_path, table, write_statistics=statistics, row_group_size=2)
    schema = parquet.ParquetFormat().survey(source).schema
    assert {field.name: field.nullable for field in schema} == {
        "full": False,
        "some": True,
        "flag": False,
        "required": False,
    }


def test_times_of_int96_keep_their_year(tmp_path: Path) -> None:
    times = [datetime(1, 1, 1), datetime(9999, 12, 31, 23, 59, 59, 999_999), None]  # without a zone
    table = pa.table({"when": pa.array(times, pa.timestamp("us"))})
    source = pinned(tmp_path, table, use_deprecated_int96_timestamps=True, store_schema=False)
    tables = parquet.ParquetFormat()
    survey = tables.survey(source)
    (rows,) = tables.read(source, survey.spans[0], survey.schema, 9)
    assert rows.batch.column("when").to_pylist() == times
    assert survey.schema.field("when").type == rows.batch.schema.field("when").type == pa.timestamp("us")


def test_a_check_of_a_footer_keeps_no_variables_of_its_callers(source: Pinned) -> None:
    class Rows:
        pass

    def check() -> weakref.ref[Rows]:
        rows = Rows()
        refuse_unsound_columns(source, pq.read_metadata(io.BytesIO(source.store.get(source.key).data)))
        return weakref.ref(rows)

    allocated = pa.total_allocated_bytes()
    found = check()
    # A thread of Arrow may hold the file for a moment after the call
    wait_until(lambda: found() is None, "the variables to be freed")
    wait_until(lambda: pa.total_allocated_bytes() <= allocated, "the memory to be freed")


def encoded(first: int, rows: int = ROWS, **options: Any) -> bytes:
    body = io.BytesIO()
    pq.write_table(pa.table({"id": range(first, first + rows)}), body, use_dictionary=False, **options)
    return body.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        encoded(0, compression="none") + encoded(ROWS, compression="none"),
        encoded(0, write_page_index=True) + encoded(ROWS, write_page_index=True),
        encoded(0, rows=10) + encoded(ROWS),
        encoded(0) + encoded(ROWS, rows=0),
    ],
    ids=["of the same length", "with indexes", "the second longer", "the second empty"],
)
def test_files_that_were_joined_are_refused(tmp_path: Path, data: bytes) -> None:
    store = DirectoryStore(tmp_path, "bucket")
    info = store.put("a.parquet", data)
    with pytest.raises(UnreadableInput, match=r"a\.parquet consists of several Parquet files joined together"):
        parquet.ParquetFormat().survey(Pinned(store=store, key=info.key, size=info.size, etag=info.etag))


def test_a_file_with_indexes_is_read(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path, "bucket")
    info = store.put("a.parquet", encoded(0, write_page_index=True))
    survey = parquet.ParquetFormat().survey(Pinned(store=store, key=info.key, size=info.size, etag=info.etag))
    assert sum(span.rows for span in survey.spans) == ROWS


def test_a_small_file_with_indexes_is_surveyed_in_one_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = DirectoryStore(tmp_path, "data")
    store.put("a.parquet", encoded(0, write_page_index=True))
    source, requests, get = Pinned.of(store, store.head("a.parquet")), [], store.get

    def counted(key: str, **options: Any) -> Any:
        requests.append(key)
        return get(key, **options)

    monkeypatch.setattr(store, "get", counted)
    assert parquet.ParquetFormat().survey(source).schema.names
    assert requests == ["a.parquet"]
