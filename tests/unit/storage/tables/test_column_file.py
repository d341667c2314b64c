"""Rows in a file, of which any range can be read."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest

from scoreline.storage.reused_memory import ReusedMemory
from scoreline.storage.scratch_files import open_scratch
from scoreline.storage.tables import column_file
from scoreline.storage.tables.column_file import ColumnFile

ROWS = 1_003


def table(missing: float = 0.0) -> pa.Table:
    random = np.random.default_rng(5)
    numbers = random.normal(size=ROWS)
    mask = random.random(ROWS) < missing
    first = datetime(2026, 1, 1, tzinfo=UTC)
    return pa.table(
        {
            "flag": pa.array(numbers > 0, mask=mask),
            "small": pa.array(np.arange(ROWS) % 100, pa.int8(), mask=mask),
            "number": numbers,
            "price": [Decimal(row) / 100 for row in range(ROWS)],
            "time": [first + timedelta(minutes=row) for row in range(ROWS)],
            "single": pa.array(numbers, pa.float32(), mask=mask),
        }
    )


def written(rows: pa.Table) -> ColumnFile:
    columns = ColumnFile(open_scratch(), rows.schema, ReusedMemory(most_blocks=1))
    for name in reversed(rows.column_names):
        columns.add(name, rows.column(name))
    return columns


@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_any_rows_are_read_as_they_were_written(missing: float) -> None:
    rows = table(missing)
    columns = written(rows)
    for start, stop in ((0, ROWS), (0, 640), (640, ROWS), (13, 14), (7, 512), (8, 513), (8, 513), (1_002, ROWS)):
        found = columns.read(start, stop)
        found.validate(full=True)
        assert pa.Table.from_batches([found]).equals(rows.slice(start, stop - start))


def test_texts_stay_in_memory_beside_columns_in_the_file() -> None:
    rows = table().append_column("text", pa.array(map(str, range(ROWS))))
    assert pa.Table.from_batches([written(rows).read(5, 900)]).equals(rows.slice(5, 895))


@pytest.mark.parametrize("count", range(1, 7))
def test_the_first_column_begins_at_an_aligned_address(count: int) -> None:
    rows = table()
    columns = written(rows.select(rows.column_names[:count]))
    assert columns.read(0, 640).column("flag").buffers()[1].address % column_file._ALIGNMENT == 0


def test_columns_without_nulls_are_made_in_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """One call for each of a thousand columns takes more time than reading their values."""
    columns = written(table())
    columns.read(0, 640)
    monkeypatch.setattr(pa, "Array", None)
    assert columns.read(64, 704).num_rows == 640
