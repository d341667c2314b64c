"""The size of a batch is limited by the memory that its rows take, for columns of all types."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from scoreline.storage.tables.base import MalformedRow, Rows
from scoreline.tasks.job.plan import BATCH_BYTES
from scoreline.tasks.scoring import batch_size
from scoreline.tasks.scoring.batch_size import BatchSize

SCORES = pa.schema([("prediction", pa.float64())])


def size_of(limit_bytes: int = BATCH_BYTES, rows: int = 65_536, **columns: pa.DataType) -> BatchSize:
    reads = pa.schema(list(columns.items()))
    features = [name for name in columns if name.startswith("x")]
    return BatchSize(reads, features, SCORES, rows=rows, limit_bytes=limit_bytes)


@pytest.mark.parametrize(
    ("columns", "kind", "rows"),
    [
        (5, pa.float64(), 65_536),
        (20, pa.float64(), 65_536),
        (50, pa.float64(), 65_536),
        (2_000, pa.float32(), 4_160),
        (10_000, pa.float32(), 832),
        (10_000_000, pa.float32(), 1),
    ],
)
def test_wide_rows_are_read_in_fewer_rows(columns: int, kind: pa.DataType, rows: int) -> None:
    if columns == 10_000_000:
        assert size_of(limit_bytes=7, x=pa.float64()).rows_to_read == 1
        return
    assert size_of(**{f"x{number}": kind for number in range(columns)}).rows_to_read == rows


def test_features_count_in_the_type_of_the_widest_of_them() -> None:
    size = size_of(x0=pa.float64(), x1=pa.int8(), x2=pa.bool_(), id=pa.int32())
    batch = pa.record_batch(
        {"x0": [0.5], "x1": pa.array([1], pa.int8()), "x2": [True], "id": pa.array([1], pa.int32())}
    )
    # bytes of the columns as read: 8 + 1 + 1 + 4; as features: 8 + 8 + 8; of the copied id: 4; of the score: 8
    assert size.measure(batch) == 14 + 24 + 4 + 8


TEXTS = pa.array(["t" * (1_000 if number % 3 else 10) for number in range(90)])


@pytest.mark.parametrize(
    "column",
    [
        TEXTS,
        TEXTS.cast(pa.large_string()),
        TEXTS.dictionary_encode(),
        pa.array([[text] for text in TEXTS.to_pylist()]),
        pa.array([{"a": text, "b": [1]} for text in TEXTS.to_pylist()]),
        pa.array([text.encode() for text in TEXTS.to_pylist()]),
        pa.array(np.zeros(90)),
    ],
    ids=str,
)
def test_rows_are_split_within_the_limit_and_none_is_lost(column: Any) -> None:
    size = size_of(limit_bytes=5_000, x=column.type)
    batch = pa.record_batch({"x": column})
    malformed = tuple(MalformedRow(row=row, column=None, message="", raw=None) for row in (5, 100, 280))
    found = list(size.split(Rows(batch=batch, numbers=np.arange(0, 270, 3) + 1, malformed=malformed)))
    assert all(taken == size.measure(rows.batch) for rows, taken in found)
    assert all(taken <= 5_000 or rows.batch.num_rows == 1 for rows, taken in found)
    assert pa.Table.from_batches([rows.batch for rows, _ in found]) == pa.Table.from_batches([batch])
    assert [number for rows, _ in found for number in rows.numbers] == list(range(1, 271, 3))
    assert [item for rows, _ in found for item in rows.malformed] == list(malformed)
    for (rows, _), (after, _) in pairwise(found):
        assert all(item.row < after.numbers[0] for item in rows.malformed)


def test_rows_are_divided_where_linear_algebra_computes_them_alike() -> None:
    batch = pa.record_batch({"x": ["t" * 100] * 1_000})
    found = [
        rows.numbers[0] for rows, _ in size_of(40_000, x=pa.string()).split(Rows(batch=batch, numbers=np.arange(1_000)))
    ]
    assert len(found) > 4
    assert all(number % 64 == 0 for number in found)


def test_one_large_row_is_a_batch_by_itself() -> None:
    batch = pa.record_batch({"x": ["t", "t" * 1_000_000, "t"]})
    found = [
        rows.batch.num_rows for rows, _ in size_of(5_000, x=pa.string()).split(Rows(batch=batch, numbers=np.arange(3)))
    ]
    assert found == [1, 1, 1]


def test_a_large_dictionary_does_not_make_each_row_a_batch() -> None:
    column = pa.array([f"{number:01000}" for number in range(90)]).dictionary_encode()
    rows = Rows(batch=pa.record_batch({"x": column}), numbers=np.arange(90))
    found = list(size_of(20_000, x=column.type).split(rows))
    assert all(taken <= 20_000 for _, taken in found)
    assert min(rows.batch.num_rows for rows, _ in found) >= 5


def test_few_rows_of_texts_are_read_at_a_time() -> None:
    assert size_of(x=pa.string()).rows_to_read == 8_192
    assert size_of(x=pa.float64(), rows=100).rows_to_read == 100


def test_the_work_for_a_schema_grows_with_its_columns_and_not_with_their_square(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compared = 0

    def counted_max(*values: Any, **options: Any) -> Any:
        nonlocal compared
        compared += len(values[0]) if len(values) == 1 else len(values)
        return max(*values, **options)

    monkeypatch.setattr(batch_size, "max", counted_max, raising=False)
    size = size_of(**{f"x{number}": pa.float32() for number in range(499)}, x=pa.float64())
    assert size.row_bytes(pa.schema([("x", pa.float64())])) == 8 + 499 * 4 + 2 * 8
    assert compared < 20 * 500
