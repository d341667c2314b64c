"""Rows are put in the order of their keys, and rows with equal keys keep theirs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from scoreline.tasks.databases.part_rows import PartRows
from scoreline.tasks.databases.tables import Mapped, Table


@pytest.mark.parametrize(
    "keys",
    [
        pa.array([3, -1, 2, 3, -1], pa.int64()),
        pa.array([127, -128, 0, -128], pa.int8()),
        pa.array([2**63 - 1, -(2**63), 0, 2**63 - 1], pa.int64()),  # too far from each other to be packed
        pa.array([2**61, 2**61 - 1, 2**61 + 5], pa.int64()),
        pa.array([2**64 - 1, 0, 2**63], pa.uint64()),
        pa.array([2**32 - 1, 0, 7], pa.uint32()),
        pa.array([5, None, 1, None], pa.int64()),
        pa.array(["b", "a", "é", "b"], pa.string()),
    ],
)
def test_rows_are_in_the_order_of_their_keys(keys: pa.Array) -> None:
    file = pa.record_batch({"id": keys, "n": range(len(keys))})

    def batches(columns: Any = None) -> Iterator[pa.RecordBatch]:
        yield file

    rows = PartRows(
        batches=batches,
        schema=file.schema,
        columns=Mapped(pairs=(("id", "id"), ("n", "n")), key=("id",)),
        table=Table(oid=1, schema="public", name="t", types={"id": "int8", "n": "int8"}),
    )
    expected = pc.sort_indices(file, [("id", "ascending")]).to_pylist()
    ((found, numbers),) = rows.by_key()
    assert (found.column("n").to_pylist(), numbers.tolist()) == (expected, expected)
