"""Rows that are decoded in advance are exactly those that the bytes of the object give."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Sequence
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scoreline.storage.errors import UnreadableInput
from scoreline.storage.tables.base import Pinned, Rows
from scoreline.storage.tables.held_rows import hold_rows
from scoreline.storage.tables.parquet import ParquetFormat
from scoreline.storage.tables.small_objects import Kept, KeptObjects, hold
from scoreline.storage.tables.spool import Spool
from tests.support.text_tables import Put

ROWS = 100


def frame() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "id": range(ROWS),
            "x": [None if row % 7 == 0 else row / 3 for row in range(ROWS)],
            "name": [f"row {row}" for row in range(ROWS)],
            "when": pd.date_range("2026-01-01", periods=ROWS, tz="UTC"),
            "yes": [row % 2 == 0 for row in range(ROWS)],
        }
    )


def encoded(table: Any, **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return sink.getvalue()


def decoded(source: Pinned, features: tuple[str, ...] = ()) -> pa.RecordBatch | None:
    survey = ParquetFormat().survey(source, features)
    assert survey.decode is not None
    return survey.decode()


def read(source: Pinned, columns: list[str], batch_rows: int) -> list[Rows]:
    formats, survey = ParquetFormat(), ParquetFormat().survey(source)
    schema = pa.schema([survey.schema.field(name) for name in columns])
    return [rows for span in survey.spans for rows in formats.read(source, span, schema, batch_rows)]


@pytest.mark.parametrize("batch_rows", [1, 7, 64, 1_000])
@pytest.mark.parametrize("columns", [["x", "id"], ["id", "x", "name", "when", "yes"]])
def test_they_are_read_in_the_same_batches(put: Put, columns: list[str], batch_rows: int) -> None:
    source = hold(put(encoded(pa.Table.from_pandas(frame())), "a.parquet"))
    rows = decoded(source)
    assert rows is not None
    expected = read(source, columns, batch_rows)
    survey = ParquetFormat().survey(source)
    schema = pa.schema([survey.schema.field(name) for name in columns])
    held = hold_rows(source, rows)
    found = [item for span in survey.spans for item in ParquetFormat().read(held, span, schema, batch_rows)]
    assert [len(item.numbers) for item in found] == [len(item.numbers) for item in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.batch.equals(other.batch)
        assert one.batch.schema.equals(other.batch.schema, check_metadata=True)
        assert one.numbers.tolist() == other.numbers.tolist()


@pytest.mark.parametrize(
    ("table", "options"),
    [
        (pa.table({"x": pa.array(["a"] * ROWS).dictionary_encode()}), {}),
        (pa.table({"x": [[1.0]] * ROWS}), {}),
        (pa.table({"x": range(ROWS)}), {"row_group_size": 30}),
        (pa.table({"x": ["long " * 20_000] * ROWS}), {}),
        (pa.table({f"x{number}": [1.0] for number in range(11)}), {}),
    ],
    ids=["categories", "lists", "row groups", "repeated text", "columns"],
)
def test_other_objects_are_left_to_the_parts(put: Put, table: pa.Table, options: dict[str, Any]) -> None:
    source = hold(put(encoded(table, **options), "a.parquet"))
    assert decoded(source, ("x0",)) is None


def test_a_damaged_object_is_left_to_the_part_that_names_it(put: Put) -> None:
    data = bytearray(encoded(pa.table({"x": [float(row) for row in range(ROWS)]}), compression=None))
    data[10:60] = bytes(50)
    source = hold(put(bytes(data), "broken.parquet"))
    assert decoded(source) is None
    with pytest.raises(UnreadableInput, match=r"broken\.parquet"):
        read(source, ["x"], ROWS)


def test_few_objects_wait_in_memory_if_they_are_much_larger_than_their_rows(
    put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns = {f"a column with a long name, number {number}": pa.array([1], pa.int8()) for number in range(1_000)}
    source = hold(put(encoded(pa.table(columns)), "a.parquet"))
    assert source.size > 200_000
    together: list[int] = []

    def noted(_: Spool, objects: Sequence[tuple[Pinned, int]], rows: pa.RecordBatch) -> bool:
        together.append(len(objects))
        return True

    monkeypatch.setattr(Spool, "add_rows", noted)
    with tempfile.TemporaryFile(buffering=0) as file:
        kept = KeptObjects(for_parts=True, spool=Spool([file], 0, limit_bytes=1 << 30))
        kept.begin([source] * 20)
        for _ in range(20):
            kept.add(source, ParquetFormat().survey(source), kept.reserve(source) & Kept.IN_SPOOL)
        kept.hand_on()
    assert sum(together) == 20
    assert max(together) * source.size <= (1 << 20) + source.size
