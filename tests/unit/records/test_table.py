from __future__ import annotations

import io
import math
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from scoreline.storage.errors import InvalidRequest
from scoreline.tasks.records.submit import pack_records
from scoreline.tasks.records.table import MAX_BYTES, MAX_RESULTS_BYTES, decode, encode, pack, table_of, unpack

MIXED = {
    "whole": [1, -(2**63), None],
    "number": [0.1, math.inf, None],
    "both": [1, 2.5, -math.inf],
    "text": ["é\n\u2028", "", None],
    "truth": [True, False, None],
    "day": [date(2026, 11, 25), None, date(1999, 1, 1)],
    "time": [datetime(2026, 11, 25, 6, 24, 9, 123456), None, datetime(1960, 1, 1)],
    "moment": [datetime(2026, 11, 25, tzinfo=UTC), None, datetime(2026, 11, 25, tzinfo=timezone(timedelta(hours=1)))],
    "nothing": [None, None, None],
}


def test_every_type_survives_its_encoding() -> None:
    table = decode(unpack(pack(encode(table_of(MIXED)))))
    assert table.columns == MIXED
    assert [type(value) for value in table.columns["both"]] == [float] * 3
    assert list(table.types.values()) == [
        "int64",
        "double",
        "double",
        "string",
        "bool",
        "date32",
        "timestamp",
        "timestamp_utc",
        "double",
    ]
    assert table.records()[2]["moment"].utcoffset() == timedelta(0)


def test_records_have_the_same_values_and_types_as_json_and_as_parquet() -> None:
    # Given a column with a null and an integer that float64 cannot represent, and values without a type in pandas
    mixed = MIXED | {"whole": [1, 2**53 + 1, None], "id": [UUID(int=number) for number in range(3)]}
    records = [dict(zip(mixed, row, strict=True)) for row in zip(*mixed.values(), strict=True)]
    many = [*records, records[0] | {"text": "a" * MAX_BYTES}]
    # When the records are packed
    key, before, columns = pack_records("many", many)
    # Then the Parquet file has the same values
    assert key.startswith("jobs/many/bulk-")
    assert [name for name, _ in columns] == list(mixed)
    (written,) = before.values()
    assert pq.read_table(io.BytesIO(written)).to_pylist() == table_of(many).records()


def test_dicts_lists_and_frames_of_the_same_values_encode_to_the_same_bytes() -> None:
    columns = {"id": [7, 8], "x": [0.5, math.nan], "name": ["a", None], "at": [datetime(2026, 1, 2, 3), None]}
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    arrays = {
        "id": np.array([7, 8]),
        "x": np.array([0.5, np.nan], np.float32),
        "name": ("a", None),
        "at": np.array(["2026-01-02T03", "NaT"], "datetime64[ns]"),
    }
    frame = pd.DataFrame(columns, index=[40, 41])
    nullable = frame.convert_dtypes()
    given = (columns, rows, iter(rows), arrays, frame, nullable)
    assert {encode(table_of(records)) for records in given} == {encode(table_of(columns))}


def test_rows_of_several_blocks_stay_in_order() -> None:
    table = decode(encode(table_of({"x": range(2_500)})))
    assert (table.rows, list(table.columns["x"])) == (2_500, list(range(2_500)))


def test_values_of_django_and_numpy_become_json_values() -> None:
    given = [Decimal("1.5"), np.float32(0.5), np.int64(3), np.float64("nan"), pd.NA, 2]
    assert table_of({"x": given}).columns["x"] == [1.5, 0.5, 3.0, None, None, 2.0]
    key = UUID(int=5)
    assert table_of([{"id": key, "ok": np.bool_(True)}]).columns == {"id": [str(key)], "ok": [True]}


@pytest.mark.parametrize(
    ("records", "said"),
    [
        ([], "there are no records"),
        ({}, "there are no records"),
        ([{}], "there are no records"),
        (pd.DataFrame({"x": []}), "there are no records"),
        ("x,y", "not a value of type str"),
        (7, "not a value of type int"),
        ([{"x": 1}, ["x"]], "record 1 is a list, not a dict"),
        ([{"x": 1, "y": 2}, {"x": 1}], r"record 1 lacks 'y', which record 0 has: write None"),
        ([{"x": 1}, {"x": 1, "z": 2}], r"record 1 has 'z', which record 0 has not"),
        ([{1: 2}], "column 1 has a name that is not a text"),
        ({"x": [1, 2], "y": [1]}, "not equally long: 'x' has 2, 'y' has 1"),
        ({"x": 1}, "column 'x' is a int, not a list"),
        ({"x": "abc"}, "column 'x' is a str, not a list"),
        ([{"x": 1}, {"x": {"y": 1}}], "record 1 has 'x' of type dict"),
        ([{"x": 2**63}], r"record 0 has 'x' of type int.*64 bits"),
        ([{"x": timedelta(1)}], "record 0 has 'x' of type timedelta"),
        ([{"x": np.timedelta64(1, "D")}], "record 0 has 'x' of type timedelta64"),
        ([{"x": 1}, {"x": None}, {"x": "1"}], "'x' mixes types: a whole number in record 0, a text in record 2"),
        ([{"x": True}, {"x": 1}], "'x' mixes types"),
        ([{"x": datetime(2026, 1, 1)}, {"x": datetime(2026, 1, 1, tzinfo=UTC)}], "'x' mixes types"),
        (pd.DataFrame([[1, 2, 3]], columns=["x", "y", "x"]), "the column 'x' twice"),
    ],
)
def test_a_record_that_cannot_be_scored_is_named_with_its_column(records: Any, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        table_of(records)


def test_records_that_cannot_be_encoded_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="not Unicode"):
        encode(table_of([{"x": "\ud800"}]))
    with pytest.raises(InvalidRequest, match="the 2 records take more than 8 MiB as JSON: write them as Parquet"):
        encode(table_of([{"x": "a" * (MAX_BYTES // 2)}] * 2))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        pack(b"[]"),
        pack(b'{"format":2}\n'),
        pack(b"0" * (MAX_RESULTS_BYTES + 1)),
        pack(encode(table_of({"x": [1]})))[:30],
        pack(b'{"format":1,"columns":[["x","int64"]],"rows":2,"rejected":[]}\n[[1]]\n'),
    ],
    ids=["empty", "no gzip", "no header", "another format", "too large", "cut short", "rows that lack"],
)
def test_damaged_bytes_are_refused(data: bytes) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        decode(unpack(data))
