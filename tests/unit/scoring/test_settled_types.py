"""A job has one type for each column, even if the types in its objects differ."""

from __future__ import annotations

from datetime import datetime
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from scoreline.tasks.scoring import settled_types
from scoreline.tasks.scoring.features import to_features
from scoreline.tasks.scoring.settled_types import common_type, describe_types, settle, settled_feature

CATEGORY = pa.dictionary(pa.int32(), pa.string())


@pytest.mark.parametrize(
    ("one", "other", "common"),
    [
        (pa.int64(), pa.int64(), pa.int64()),
        (pa.int32(), pa.int64(), pa.int64()),
        (pa.uint8(), pa.int8(), pa.int16()),
        (pa.uint64(), pa.int64(), pa.float64()),
        (pa.int64(), pa.float64(), pa.float64()),
        (pa.float32(), pa.float64(), pa.float64()),
        (pa.decimal128(9, 2), pa.int64(), pa.float64()),
        (pa.bool_(), pa.int64(), pa.float64()),
        (pa.null(), pa.int64(), pa.int64()),
        (pa.string(), pa.large_string(), pa.string()),
        (CATEGORY, pa.string(), pa.string()),
        (CATEGORY, pa.dictionary(pa.int8(), pa.string()), CATEGORY),
        (pa.timestamp("s"), pa.timestamp("us"), pa.timestamp("us")),
        (pa.timestamp("s"), pa.timestamp("s", "UTC"), None),
        (pa.date32(), pa.date64(), pa.date64()),
        (pa.string(), pa.int64(), None),
    ],
    ids=str,
)
def test_two_types_have_one_in_which_their_values_are_scored_alike(
    one: pa.DataType, other: pa.DataType, common: pa.DataType | None
) -> None:
    assert common_type(one, other) == common
    if common != CATEGORY:
        assert common_type(other, one) == common


@pytest.mark.parametrize(
    ("kind", "missing", "columns", "dtype"),
    [
        (pa.int64(), False, [pa.array([1, 2], pa.int32()), pa.array([3, 4], pa.int64())], "int64"),
        (pa.int64(), True, [pa.array([1, 2]), pa.array([3, None])], "float64"),
        (pa.float64(), False, [pa.array([1, 2]), pa.array([3.0, 4.0]), pa.array([1, 2], pa.float32())], "float64"),
        (pa.bool_(), True, [pa.array([True, False]), pa.array([None, True])], "float64"),
        (pa.string(), False, [pa.array(["a", "b"]), pa.array(["c", "d"]).dictionary_encode()], "str"),
        (pa.int64(), True, [pa.nulls(2), pa.array([1, 2])], "float64"),
    ],
    ids=["widths", "missing in one", "integers and floats", "booleans", "categories", "nothing in one"],
)
def test_every_object_is_scored_in_the_type_of_the_job(
    kind: pa.DataType, missing: bool, columns: list[pa.Array], dtype: str
) -> None:
    reads = pa.schema([settled_feature("x", kind, missing=missing), settled_feature("t", pa.string(), missing=False)])
    for column in columns:
        batch = settle(pa.record_batch({"x": column, "t": ["text"] * 2}), reads)
        x, rejected = to_features(batch, ["x", "t"], form="frame", named=True)
        assert (str(x["x"].dtype), rejected) == (dtype, {})


def test_an_integer_that_the_float_of_the_job_cannot_hold_is_rejected_not_rounded() -> None:
    reads = pa.schema([settled_feature("x", pa.float64(), missing=False)])
    batch = settle(pa.record_batch({"x": [1, 2**53 + 1]}), reads)
    assert list(to_features(batch, ["x"], form="frame", named=True)[1]) == [1]


def test_the_plan_of_an_earlier_release_leaves_the_types_to_each_batch() -> None:
    reads = pa.schema([pa.field("x", pa.int64(), metadata={"feature": "1"})])
    for values, dtype in (([1, 2], "int64"), ([1, None], "float64")):
        batch = settle(pa.record_batch({"x": pa.array(values, pa.int64())}), reads)
        assert str(to_features(batch, ["x"], form="array", named=False)[0].dtype) == dtype


def test_types_are_described_for_people() -> None:
    reads: Any = pa.schema(
        [
            settled_feature("a", pa.int64(), missing=True),
            settled_feature("b", pa.int64(), missing=False),
            settled_feature("c", pa.float64(), missing=True),
        ]
    )
    assert describe_types(reads, ["b", "a", "c"]) == {
        "b": "int64",
        "a": "float64 (int64 with missing values)",
        "c": "float64",
    }


def test_a_time_keeps_its_unit_if_the_finer_unit_cannot_hold_it() -> None:
    far = datetime(9999, 12, 31)  # without a zone
    reads = pa.schema([settled_feature("x", pa.timestamp("ns"), missing=False)])
    batch = settle(pa.record_batch({"x": pa.array([far], pa.timestamp("us"))}), reads)
    assert batch.column("x").to_pylist() == [far]


def test_a_category_that_the_float_of_the_job_cannot_hold_is_rejected() -> None:
    reads = pa.schema([settled_feature("x", pa.float64(), missing=False)])
    batch = settle(pa.record_batch({"x": pa.array([1, 2**53 + 1]).dictionary_encode()}), reads)
    x, rejected = to_features(batch, ["x"], form="frame", named=True)
    assert (list(rejected), x["x"][0]) == ([1], 1.0)


@pytest.mark.parametrize("metadata", [None, {"origin": "plan"}])
def test_batches_of_the_types_of_the_job_have_its_schema_without_metadata(
    metadata: dict[str, str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[pa.Schema] = []

    class Noted(pa.RecordBatch):
        @classmethod
        def from_arrays(cls, columns: Any, *, schema: pa.Schema) -> pa.RecordBatch:
            given.append(schema)
            return pa.RecordBatch.from_arrays(columns, schema=schema)

    plain = pa.schema([settled_feature("x", pa.int64(), missing=False)])
    reads = plain if metadata is None else plain.with_metadata(metadata)
    with monkeypatch.context() as patched:
        patched.setattr(settled_types, "pa", SimpleNamespace(RecordBatch=Noted))
        assert settle(pa.record_batch({"x": [1, 2]}), reads).schema.equals(plain, check_metadata=True)
    assert (given[0] is reads) == (metadata is None)  # one schema for all batches is compared at once


def test_a_batch_that_has_the_schema_of_the_job_is_not_made_again() -> None:
    reads = pa.schema([settled_feature("x", pa.int64(), missing=False)])
    batch = pa.record_batch({"x": [1, 2]}, schema=reads)
    assert settle(batch, reads.with_metadata({"origin": "plan"})) is batch
