"""Columns are counted as pandas counts them, and the same in any number of batches."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scoreline.tasks.quality.counting import ColumnCounts, profile_of
from scoreline.tasks.quality.exact_sums import ExactSum
from scoreline.tasks.quality.histograms import Histogram
from scoreline.tasks.quality.number_counts import NumberCounts
from scoreline.tasks.quality.profile import ColumnProfile
from scoreline.tasks.quality.stable_hash import hash_bytes
from scoreline.tasks.quality.text_counts import hashes_of
from scoreline.tasks.quality.values import Values


def counted(column: Any, *cuts: int) -> ColumnProfile:
    array = column if isinstance(column, pa.Array) else pa.array(column)
    counts = ColumnCounts("x", "feature")
    for start, stop in zip((0, *cuts), (*cuts, len(array)), strict=True):
        counts.add(array.slice(start, stop - start))
    return counts.profile()


@given(st.lists(st.floats(), max_size=60), st.integers(3, 20))
def test_numbers_are_counted_exactly(values: list[float], limit: int) -> None:
    counts = NumberCounts(limit)
    for start in range(0, len(values), 7):
        counts.add(np.array(values[start : start + 7]))
    finite = [value + 0.0 for value in values if np.isfinite(value)]
    squares = [value * value for value in finite]
    assert counts.sum == ExactSum.of(finite)
    assert counts.sum_squares == ExactSum.of([square for square in squares if np.isfinite(square)])
    assert counts.overflows == sum(np.isinf(square) for square in squares)
    assert counts.histogram() == Histogram.of(finite, limit)
    assert (counts.minimum, counts.maximum) == (min(finite, default=None), max(finite, default=None))
    assert counts.nan == sum(np.isnan(value) for value in values)
    assert counts.positive_infinities == values.count(np.inf)
    assert counts.negative_infinities == values.count(-np.inf)


def test_a_column_is_counted_as_by_pandas() -> None:
    rng = np.random.default_rng(5)
    values = pd.Series(rng.normal(40, 12, 20_000)).mask(rng.random(20_000) < 0.1)
    found = counted(pa.array(values, from_pandas=True), 3, 9_000)
    assert found.nulls == values.isna().sum()
    assert found.null_share == values.isna().mean()
    assert found.mean == pytest.approx(values.mean(), rel=1e-14)
    assert found.std == pytest.approx(values.std(), rel=1e-12)
    assert (found.minimum, found.maximum) == (values.min(), values.max())
    for share in (0.01, 0.25, 0.5, 0.9):
        assert found.quantile(share) == pytest.approx(values.quantile(share), rel=2.0**-found.histogram.level)
    for bucket, count in found.histogram.counts.items():
        low, high = found.histogram.edges(bucket)
        inside = (values >= low) & (values < high) if bucket > 0 else (values > low) & (values <= high)
        assert count == inside.sum()


def test_texts_are_counted_as_by_pandas() -> None:
    texts = pd.Series(["de", "fr", None, "ä" * 300, "de", ""] * 50)
    found = counted(pa.array(texts, pa.string(), from_pandas=True), 1, 100)
    counts = texts.value_counts()
    assert found.values.counts["de"] == counts["de"] == 100
    assert found.values.distinct == texts.nunique()
    assert found.nulls == texts.isna().sum()
    assert found.lengths == Histogram.of([float(len(text)) for text in texts.dropna()])
    assert found.type == "text"


@given(st.lists(st.text(max_size=30), max_size=30), st.integers(0, 3))
def test_numpy_hashes_texts_as_python_does(texts: list[str], start: int) -> None:
    array = pa.array(texts, pa.large_string()).slice(start)
    assert hashes_of(array).tolist() == [hash_bytes(text.encode()) for text in texts[start:]]


@given(st.lists(st.sampled_from([f"value {number}" for number in range(40)]), max_size=80), st.integers(1, 79))
def test_many_values_are_held_alike_in_any_number_of_batches(texts: list[str], size: int) -> None:
    from scoreline.tasks.quality.text_counts import TextCounts

    counts = TextCounts(8, 40)
    array = pa.array(texts, pa.large_string())
    for start in range(0, len(texts), size):
        counts.add(array.slice(start, size))
    assert counts.values() == Values.of(texts, 8, 40)


DAY = dt.date(2026, 11, 29)
MOMENT = dt.datetime(2026, 11, 29, 12, 30, 15, 123_456, dt.UTC)


@pytest.mark.parametrize(
    ("column", "type_", "mean"),
    [
        (pa.array([1, 2, None], pa.int8()), "number", 1.5),
        (pa.array([2**64 - 1], pa.uint64()), "number", 2.0**64),
        (pa.array([Decimal("1.25")], pa.decimal128(5, 2)), "number", 1.25),
        (pa.array([0.5, 1.5], pa.float16()), "number", 1.0),
        (pa.array([7, 7]).dictionary_encode(), "number", 7.0),
        (pa.array([DAY]), "time", 86_400.0 * (DAY - dt.date(1970, 1, 1)).days),
        (pa.array([DAY], pa.date64()), "time", 86_400.0 * (DAY - dt.date(1970, 1, 1)).days),
        (pa.array([MOMENT]), "time", MOMENT.timestamp()),
        (pa.array([MOMENT], pa.timestamp("ns", "UTC")), "time", MOMENT.timestamp()),
        (pa.array([dt.time(0, 1, 2)]), "time", 62.0),
        (pa.array([dt.time(0, 1, 2)], pa.time32("s")), "time", 62.0),
        (pa.array([None, None]), "empty", None),
        (pa.array([[1], [2]]), "other", None),
        (pa.array([b"a"]), "other", None),
    ],
)
def test_each_type_is_counted(column: pa.Array, type_: str, mean: float | None) -> None:
    found = counted(column)
    assert (found.type, found.mean, found.rows) == (type_, mean, len(column))
    assert found.nulls == column.null_count


def test_booleans_and_categories_are_counted_by_value() -> None:
    assert counted([True, None, False, True], 1).values.counts == {"false": 1, "true": 2}
    categories = pa.array(["b", "a", None, "b"]).dictionary_encode()
    assert counted(categories, 2).values == counted(categories.dictionary_decode()).values


def test_a_frame_is_counted_as_its_table() -> None:
    frame = pd.DataFrame({"age": [30.0, np.nan], "country": ["de", "fr"]})
    found = profile_of(frame, pa.table({"prediction": [1]}), pa.table({"id": [1, 2]}))
    assert [(column.name, column.kind, column.rows) for column in found.columns.values()] == [
        ("age", "feature", 2),
        ("country", "feature", 2),
        ("id", "kept", 2),
        ("prediction", "score", 1),
    ]
    assert found.columns["age"].null_share == 0.5
