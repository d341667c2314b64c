"""Rejected rows can be read like a mapping, although they are stored as arrays."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scoreline.storage.tables.base import MalformedRow, Rows
from scoreline.tasks.rejects.table import rejects_table
from scoreline.tasks.scoring.features import Rejection
from scoreline.tasks.scoring.rejected_rows import RejectedRows, RowsAlike

STAGES: list[Literal["schema", "predict"]] = ["schema", "predict"]
REASONS = st.builds(
    Rejection, stage=st.sampled_from(STAGES), column=st.sampled_from([None, "x", "y"]), message=st.sampled_from("abc")
)
REJECTED = st.dictionaries(st.integers(0, 40), REASONS, max_size=30)


@given(REJECTED, st.integers(0, 41), st.integers(0, 41))
def test_a_mapping_becomes_arrays_and_keeps_its_items_in_order(
    rejected: dict[int, Rejection], start: int, stop: int
) -> None:
    found = RejectedRows.of(rejected)
    assert list(found.items()) == sorted(rejected.items())
    assert found == rejected
    assert RejectedRows.of(found) is found
    between = {row - start: why for row, why in sorted(rejected.items()) if start <= row < stop}
    assert list(found.between(start, stop).items()) == list(between.items())


def test_groups_are_joined_in_order_of_their_rows() -> None:
    one = RowsAlike(np.array([5, 1]), np.array([0, 1]), "schema", "x", ["late", "early"])
    other = RowsAlike(np.array([3]), np.array([0]), "predict", None, ["between"])
    found = RejectedRows.joined([one, other, one._replace(rows=one.rows[:0], codes=one.codes[:0])])
    assert [(row, str(why), why.column) for row, why in found.items()] == [
        (1, "early", "x"),
        (3, "between", None),
        (5, "late", "x"),
    ]
    with pytest.raises(KeyError):
        found[2]
    assert RejectedRows.joined([]) == {}


@given(REJECTED)
def test_the_table_of_rejects_has_the_values_and_the_reason_of_each_row(rejected: dict[int, Rejection]) -> None:
    batch = pa.record_batch({"x": np.arange(41.0), "message": [f"own {row}" for row in range(41)]})
    broken = MalformedRow(row=15, column="x", message="no number", raw="n/a")
    rows = Rows(batch=batch, numbers=100 + np.arange(41), malformed=(broken,))
    found = rejects_table(rows, rejected, "s3://a").to_pylist()
    expected = {"source": "s3://a", "row": 15, "stage": "decode", "column": "x", "message": None, "x": None}
    assert found[0] == expected | {"record": "n/a", "_message": "no number"}
    assert found[1:] == [
        {
            "x": float(row),
            "message": f"own {row}",
            "source": "s3://a",
            "row": 100 + row,
            "stage": why.stage,
            "column": why.column,
            "_message": why.message,
            "record": None,
        }
        for row, why in sorted(rejected.items())
    ]
