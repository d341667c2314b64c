"""An Arrow object is read to its last byte, or an error says which bytes were not read."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from scoreline.storage.errors import UnreadableInput
from scoreline.storage.kept_memory import MEMORY
from scoreline.storage.tables import arrow, arrow_layout, read_ahead
from scoreline.storage.tables.arrow import ArrowFormat
from scoreline.storage.tables.formats import Tables
from scoreline.storage.tables.options import ReadOptions
from scoreline.storage.tables.ranged import RangedFile
from scoreline.storage.tables.read_ahead import ReadAheadFile
from scoreline.storage.tables.views import has_plain_types
from tests.support.text_tables import Put, counted

TABLE = pa.table(
    {
        "id": range(1_000),
        "text": [f"value {number}" for number in range(1_000)],
        "kind": pa.array(["a", "b"] * 500).dictionary_encode(),
        "zeros": [0] * 1_000,
    }
)
V4 = pa.ipc.IpcWriteOptions(metadata_version=pa.ipc.MetadataVersion.V4, use_legacy_format=True)


def ipc(table: pa.Table, new: Callable[..., Any], options: Any = None) -> bytes:
    body = io.BytesIO()
    with new(body, table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=300)
    return body.getvalue()


def stream(table: pa.Table = TABLE, options: Any = None) -> bytes:
    return ipc(table, pa.ipc.new_stream, options)


def file(table: pa.Table = TABLE, options: Any = None) -> bytes:
    return ipc(table, pa.ipc.new_file, options)


def polars(method: str, **options: Any) -> bytes:
    body = io.BytesIO()
    frame = pl.DataFrame({"id": range(1_000), "kind": pl.Series(["a", "b"] * 500, dtype=pl.Categorical)})
    getattr(frame, method)(body, **options)
    return body.getvalue()


def feather() -> bytes:
    body = io.BytesIO()
    pd.DataFrame({"id": range(1_000)}).to_feather(body)
    return body.getvalue()


def rows(put: Put, data: bytes) -> int:
    source = put(data, "in.arrow")
    survey = ArrowFormat().survey(source)
    read = [rows for span in survey.spans for rows in ArrowFormat().read(source, span, survey.schema, 128)]
    assert sum(piece.batch.num_rows for piece in read) == sum(span.rows for span in survey.spans)
    return sum(span.rows for span in survey.spans)


@pytest.mark.parametrize(
    ("data", "count"),
    [
        (stream(), 1_000),
        (stream(options=V4), 1_000),
        (stream(TABLE.slice(0, 0)), 0),
        (file(), 1_000),
        (file(options=V4), 1_000),
        (file(options=pa.ipc.IpcWriteOptions(compression="zstd")), 1_000),
        (file(TABLE.slice(0, 0)), 0),
        (feather(), 1_000),
        (polars("write_ipc"), 1_000),
        (polars("write_ipc", compression="zstd"), 1_000),
        (polars("write_ipc_stream"), 1_000),
    ],
)
def test_every_row_of_a_complete_object_is_read(put: Put, data: bytes, count: int) -> None:
    assert rows(put, data) == count


def test_a_stream_that_is_followed_by_other_bytes_is_refused(put: Put) -> None:
    for more in (stream(), b"rubbish", b"\0"):
        with pytest.raises(
            UnreadableInput, match=rf"in\.arrow has {len(more):,} bytes after the end of its Arrow stream"
        ):
            rows(put, stream() + more)


def test_a_stream_that_is_cut_between_two_messages_is_refused(put: Put) -> None:
    data = stream()
    one = len(stream(TABLE.slice(0, 300))) - 8  # the schema, the categories and the first batch
    for cut in (data[:-8], data[:one]):
        with pytest.raises(UnreadableInput, match="ends without the end marker of an Arrow stream"):
            rows(put, cut)


@pytest.mark.parametrize(
    "data",
    [file() + file(), file() + file(TABLE.slice(0, 0)), feather() * 2, polars("write_ipc") * 2],
    ids=["files", "an empty file at the end", "feather", "polars"],
)
def test_files_that_were_joined_are_refused(put: Put, data: bytes) -> None:
    with pytest.raises(UnreadableInput, match="bytes that its footer does not list: it may be several files joined"):
        rows(put, data)


def plain(rows: int = 1_000) -> pa.Table:
    return pa.table(
        {
            "id": pa.array([None if n % 7 == 0 else n for n in range(rows)], pa.int64()),
            "flag": pa.array([n % 3 == 0 if n % 5 else None for n in range(rows)]),
            "text": [f"v{n}" * (n % 4) for n in range(rows)],
            "long": pa.array([None if n % 9 == 0 else "x" * n for n in range(rows)], pa.large_string()),
            "x": pa.array(range(rows), pa.float32()),
            "at": pa.array(range(rows), pa.timestamp("us", "UTC")),
            "price": pa.array(range(rows), pa.decimal128(9, 2)),
        }
    )


def one_batch(table: pa.Table, options: Any = None) -> bytes:
    body = io.BytesIO()
    with pa.ipc.new_file(body, table.schema, options=options) as writer:
        writer.write_table(table)
    return body.getvalue()


@pytest.fixture
def sliced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make batches of every size be read in slices, as large batches are."""
    monkeypatch.setattr(arrow, "MIN_BYTES", 0)
    monkeypatch.setattr(arrow, "SLICE_BYTES", 20_000)
    monkeypatch.setattr(arrow, "_LEAST_KEPT_BYTES", 1_000)


@pytest.mark.usefixtures("sliced")
@pytest.mark.parametrize("wanted", [None, range(1), range(3, 17), range(8, 16), range(990, 1_000), range(299, 601)])
@pytest.mark.parametrize("data", [one_batch(plain()), file(plain())], ids=["one batch", "several"])
def test_rows_are_the_same_if_only_those_that_are_wanted_are_read(put: Put, data: bytes, wanted: range | None) -> None:
    source, names = put(data, "in.arrow"), ["x", "id", "long", "flag", "price"]
    survey = ArrowFormat().survey(source)
    assert sum(span.rows for span in survey.spans) == 1_000
    assert {field.name for field in survey.schema if field.nullable} == {"id", "flag", "long"}
    schema = pa.schema([survey.schema.field(name) for name in names])
    last = survey.spans[-1]
    span = replace(survey.spans[0], stop=last.stop, rows=1_000, wanted=wanted)
    found = list(ArrowFormat().read(source, span, schema, 64))
    numbers = [number for rows in found for number in rows.numbers.tolist()]
    assert numbers == list(wanted or range(1_000))
    read = pa.Table.from_batches([rows.batch for rows in found])
    assert read.equals(plain().select(names).slice(numbers[0], len(numbers)))
    assert max(rows.batch.num_rows for rows in found) <= 64


@pytest.mark.usefixtures("sliced")
def test_only_the_wanted_rows_and_columns_of_a_large_batch_are_requested(
    put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = pa.table({f"x{number}": np.arange(100_000.0) for number in range(10)})
    source = put(one_batch(table), "in.arrow")
    monkeypatch.setattr(arrow, "_BUFFER_BYTES", 4_096)
    asked = counted(source, monkeypatch)
    objects = ArrowFormat()
    survey = objects.survey(source)
    assert asked == [RangedFile._END_BYTES] * 2, "numbers need not be validated"
    asked.clear()
    span = replace(survey.spans[0], wanted=range(50_000, 60_000))
    read = objects.read(source, span, pa.schema([("x3", pa.float64())]), 2_000)
    found = pa.Table.from_batches([rows.batch for rows in read])
    assert found.equals(table.select(["x3"]).slice(50_000, 10_000))
    assert sum(asked) < 81_000, "both ends of the object are known"


@pytest.mark.usefixtures("sliced")
def test_the_memory_of_slices_is_kept_until_a_text_is_read(put: Put) -> None:
    rows = {"numbers": np.arange(50_000.0), "texts": pa.array(map(str, range(50_000)))}
    text, tables, options = put("x\n1\n", "in.csv"), Tables(), ReadOptions()
    lines = tables.survey(text, options)
    for name, column in rows.items():
        source = put(one_batch(pa.table({"x": column})), f"{name}.arrow")
        MEMORY.release()
        survey = tables.survey(source, options)
        assert bool(MEMORY.unused_bytes) == (name == "texts")  # which are validated
        if name == "numbers":
            assert list(tables.read(source, survey.spans[0], survey.schema, 1_000, options))
        assert MEMORY.unused_bytes
        assert list(tables.read(text, lines.spans[0], lines.schema, 1_000, options))
        assert not MEMORY.unused_bytes


@pytest.mark.usefixtures("sliced")
def test_the_ends_of_another_object_are_not_used(put: Put) -> None:
    objects = ArrowFormat()
    tables = [pa.table({name: np.arange(50_000.0) + shift}) for name, shift in (("x", 0), ("x", 7), ("y", 0))]
    for table in tables:
        source = put(one_batch(table), "in.arrow")
        survey = objects.survey(source)
        assert survey.schema.names == table.column_names
        found = [rows.batch for span in survey.spans for rows in objects.read(source, span, survey.schema, 1_000)]
        assert pa.Table.from_batches(found).cast(table.schema).equals(table)


@pytest.mark.parametrize(
    "data",
    [
        one_batch(plain(), pa.ipc.IpcWriteOptions(compression="zstd")),
        one_batch(TABLE),
        one_batch(pa.table({"x": pa.array([[1], [2, 3]])})),
        stream(plain()),
    ],
    ids=["compressed", "dictionary", "lists", "stream"],
)
@pytest.mark.usefixtures("sliced")
def test_batches_that_cannot_be_sliced_are_read_whole(put: Put, data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrow, "read_rows", None)
    assert rows(put, data) in (1_000, 2)


@pytest.mark.parametrize("seed", range(12))
def test_damage_in_a_large_batch_gives_the_same_error_as_in_a_small_one(
    put: Put, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    random = np.random.default_rng(seed)
    data = bytearray(one_batch(plain(200)))
    for place in random.integers(1_500, len(data) - 10, 30):
        data[place] ^= 1 << int(random.integers(8))

    def outcome() -> Any:
        source = put(bytes(data), "in.arrow")
        try:
            survey = ArrowFormat().survey(source)
            found = [rows for span in survey.spans for rows in ArrowFormat().read(source, span, survey.schema, 64)]
        except UnreadableInput as error:
            return str(error)
        return [(rows.batch.to_pydict(), rows.numbers.tolist()) for rows in found]

    small = repr_of(outcome)
    monkeypatch.setattr(arrow, "MIN_BYTES", 0)
    monkeypatch.setattr(arrow, "SLICE_BYTES", 20_000)
    assert repr_of(outcome) == small


@pytest.mark.parametrize("block", [(-5_000, 400, 60_000), (8, -400, 60_000), (-(1 << 62), 400, 1 << 61)])
def test_a_footer_with_impossible_positions_is_an_error_of_the_object(
    put: Put, monkeypatch: pytest.MonkeyPatch, block: tuple[int, int, int]
) -> None:
    data = one_batch(plain(5_000))
    (true,) = arrow_layout.record_batches(arrow_layout.read_footer(io.BytesIO(data), len(data)))
    place = data.rindex(struct.pack("<qi4xq", *true))
    hostile = data[:place] + struct.pack("<qi4xq", *block) + data[place + 24 :]
    monkeypatch.setattr(arrow, "MIN_BYTES", 0)
    monkeypatch.setattr(arrow, "unlisted_bytes", lambda *_: 0)
    monkeypatch.setattr(ReadAheadFile, "WHOLE_BYTES", 0)
    monkeypatch.setattr(read_ahead, "_LEAST_BYTES", 1_000)
    with pytest.raises(UnreadableInput):
        ArrowFormat().survey(put(hostile, "in.arrow"))


def repr_of(outcome: Callable[[], Any]) -> str:
    try:
        return repr(outcome())
    except UnicodeDecodeError as error:  # the reader leaves the check of UTF-8 to its caller
        return f"{type(error)}"


def test_only_columns_without_a_dictionary_need_no_look_at_their_values() -> None:
    category = pa.dictionary(pa.int32(), pa.string())
    assert has_plain_types(pa.schema([("x", pa.float64()), ("text", pa.string())]))
    for kind in (category, pa.string_view()):
        assert not has_plain_types(pa.schema([("x", pa.float64()), ("y", kind)]))
