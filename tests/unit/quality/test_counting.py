"""Columns are counted as pandas counts them, and the same in any number of batches."""

from __future__ import annotations

import datetime as dt
import weakref
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scoreline.tasks.quality.profiles import number_counts
from scoreline.tasks.quality.profiles.counting import ColumnCounts, GroupCounts, profile_of
from scoreline.tasks.quality.profiles.exact_sums import ExactSum
from scoreline.tasks.quality.profiles.histograms import MAX_BUCKETS, Histogram
from scoreline.tasks.quality.profiles.number_counts import NumpyCounter
from scoreline.tasks.quality.profiles.profile import ColumnProfile
from scoreline.tasks.quality.profiles.stable_hash import hash_bytes
from scoreline.tasks.quality.profiles.text_counts import TextCounts, hashes_of
from scoreline.tasks.quality.profiles.values import Values

COUNTERS: list[Any] = [NumpyCounter, *([number_counts.counts.Counter] if number_counts.counts is not None else [])]


def counted(column: Any, *cuts: int) -> ColumnProfile:
    array = column if isinstance(column, pa.Array) else pa.array(column)
    counts = ColumnCounts("x", "feature")
    for start, stop in zip((0, *cuts), (*cuts, len(array)), strict=True):
        counts.add(array.slice(start, stop - start))
    return counts.profile()


BOUNDED = st.floats(-1e3, 1e3)
NUMBERS = st.lists(st.one_of(st.floats(), BOUNDED, st.sampled_from([0.0, -0.0, 5e-324, 1e154, 1.5e154])), max_size=60)


@pytest.mark.parametrize("counter", COUNTERS)
@given(values=NUMBERS, limit=st.integers(3, 20), repeat=st.integers(1, 40))
def test_numbers_are_counted_exactly(counter: Any, values: list[float], limit: int, repeat: int) -> None:
    counts = counter(limit)
    for start in range(0, len(values), 7):
        counts.add(np.array(values[start : start + 7] * repeat))
    finite = [value + 0.0 for value in values if np.isfinite(value)]
    squares = [value * value for value in finite]
    assert counts.sum_units == repeat * ExactSum.of(finite).units
    assert counts.square_units == repeat * ExactSum.of([square for square in squares if np.isfinite(square)]).units
    assert counts.sums() == (ExactSum(counts.sum_units).to_json(), ExactSum(counts.square_units).to_json())
    assert counts.overflows == repeat * sum(np.isinf(square) for square in squares)
    assert (counts.level, dict(buckets_of(counts))) == in_buckets(finite * repeat, limit)
    assert (counts.minimum, counts.maximum) == (min(finite, default=None), max(finite, default=None))
    assert counts.nan == repeat * sum(np.isnan(value) for value in values)
    assert counts.positive_infinities == repeat * values.count(np.inf)
    assert counts.negative_infinities == repeat * values.count(-np.inf)


def buckets_of(counter: Any) -> list[tuple[int, int]]:
    buckets, counts = (np.frombuffer(array, np.int64).tolist() for array in counter.buckets())
    return sorted(zip(buckets, counts, strict=True))


def in_buckets(values: list[float], limit: int) -> tuple[int, dict[int, int]]:
    found = Histogram.of(values, limit)
    return found.level, dict(found.counts)


LARGE = np.random.default_rng(7)
ARRAYS = {
    "normal": LARGE.normal(size=5_000),
    "wide": LARGE.normal(size=5_000) * 10.0 ** LARGE.integers(-300, 300, 5_000),
    "three steps": LARGE.normal(size=5_000) * 10.0 ** LARGE.integers(-12, 1, 5_000),
    "large": LARGE.normal(size=5_000) * 1e300,
    "small": LARGE.normal(size=5_000) * 1e-310,
    "few": LARGE.integers(-3, 3, 5_000).astype(float),
    "first close, then wide": np.concatenate(
        [LARGE.normal(size=3_000), LARGE.normal(size=900) * 10.0 ** LARGE.integers(-300, 300, 900), np.arange(3_000.0)]
    ),
    "first few, then many": np.concatenate([np.zeros(1_030), np.full(1_000, -2.5), np.arange(-700.0, 700.0)]),
    "two clusters": np.concatenate([LARGE.uniform(1, 1.001, 3_000), LARGE.uniform(1e200, 1.001e200, 3_000)]),
    "missing": np.where(LARGE.random(5_000) < 0.3, np.nan, LARGE.normal(size=5_000)),
    "float32": LARGE.normal(size=5_000).astype(np.float32),
    "every second": LARGE.normal(size=5_000)[::2],
    **{
        kind: LARGE.integers(np.iinfo(kind).min, np.iinfo(kind).max, 5_000, kind, endpoint=True)
        for kind in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
    },
}


@pytest.mark.skipif(number_counts.counts is None, reason="the extension is not built")
@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("limit", [3, 64, 512])
@pytest.mark.parametrize("size", [100, 2_049])
def test_the_extension_counts_as_numpy_does(name: str, limit: int, size: int) -> None:
    values = ARRAYS[name]
    one, other = (counter(limit) for counter in COUNTERS)
    for start in range(0, len(values), size):
        one.add(values[start : start + size])
        other.add(values[start : start + size])
    assert buckets_of(one) == buckets_of(other)
    for field in STATE:
        assert getattr(one, field) == getattr(other, field), field
    assert one.packed() == other.packed()
    assert one.sums() == other.sums()


@pytest.mark.parametrize("counter", COUNTERS)
@pytest.mark.parametrize("name", ["normal", "missing", "float32", "every second", "uint8"])
def test_some_rows_are_counted_as_a_table_of_these_rows(counter: Any, name: str) -> None:
    values = ARRAYS[name]
    rows = np.flatnonzero(np.random.default_rng(1).random(len(values)) < 0.6)
    one, other = counter(64), counter(64)
    one.add(values, rows)
    one.add(values, rows[:0])
    other.add(np.ascontiguousarray(values[rows]))
    assert buckets_of(one) == buckets_of(other)
    for field in STATE:
        assert getattr(one, field) == getattr(other, field), field


@pytest.mark.parametrize("counter", COUNTERS)
def test_a_row_that_is_not_there_is_an_error(counter: Any) -> None:
    for row in (3, 1 << 40):
        with pytest.raises(IndexError):
            counter(8).add(np.arange(3.0), np.array([0, row]))


@pytest.mark.parametrize(
    "column", [pa.array([1.5, None, 2.0, 3.0]), pa.array(["a", None, "b", "b"]), pa.array([1, 2, 3, 4])]
)
def test_some_rows_of_a_column_are_counted(column: pa.Array) -> None:
    counts, rows = ColumnCounts("x", "feature"), np.array([1, 3])
    counts.add(column, rows)
    counts.add(pa.chunked_array([column[:3], column[3:]]), rows)
    assert counts.profile() == counted(pa.concat_arrays([column.take(pa.array(rows))] * 2))


STATE = (
    *("level", "sum_units", "square_units", "minimum", "maximum"),
    *("nan", "positive_infinities", "negative_infinities", "overflows"),
)


def test_a_batch_without_counted_rows_says_nothing_of_the_type() -> None:
    counts = ColumnCounts("x", "feature")
    counts.add(pa.array([1, 2]), np.empty(0, np.int64))
    counts.add(pa.array([None, 3]), np.array([0]))
    assert (counts.profile().type, counts.profile().rows) == ("empty", 1)


def test_counts_are_released_one_after_another_when_the_last_profile_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def group() -> tuple[GroupCounts, list[weakref.ref[ColumnCounts]]]:
        counts = GroupCounts()
        counts.add({"feature": pa.table({name: [1.0, 2.5] for name in "abc"})}, 2)
        return counts, [weakref.ref(counts._columns["feature", name]) for name in "abc"]

    kept, of_kept = group()
    profile = kept.profile()
    assert all(item() for item in of_kept)
    counts, found = group()
    left: list[int] = []
    make = ColumnCounts.profile

    def watched(self: ColumnCounts) -> ColumnProfile:
        left.append(sum(item() is not None for item in found))
        return make(self)

    monkeypatch.setattr(ColumnCounts, "profile", watched)
    assert counts.profile(last=True) == profile
    assert left == [3, 2, 1]


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
    counts = TextCounts(8, 40)
    array = pa.array(texts, pa.large_string())
    for start in range(0, len(texts), size):
        counts.add(array.slice(start, size))
    assert counts.values.values() == Values.of(texts, 8, 40)


@given(
    st.lists(st.sampled_from(["", "ä", "x" * 199, "x" * 201, *(f"{number}" + "ü" * 250 for number in range(9))])),
    st.sampled_from([(3, 10_000), (10_000, 250), (10_000, 700)]),
)
def test_long_texts_are_held_by_the_size_of_what_is_kept_of_them(texts: list[str], limits: tuple[int, int]) -> None:
    counts = TextCounts(*limits)
    counts.add(pa.array(texts, pa.large_string()))
    assert counts.values.values() == Values.of(texts, *limits)


def test_a_value_that_a_dictionary_contains_twice_is_held_once() -> None:
    texts = pa.DictionaryArray.from_arrays(pa.array([0, 1, 2, 3, 3]), pa.array(["de", "fr", "de", "fr"]))
    counts = TextCounts(limit=2, limit_bytes=4)
    counts.add(texts)
    assert counts.values.values() == Values.of(["de", "fr", "de", "fr", "fr"], 2, 4)


def test_python_hashes_only_a_few_of_many_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[bytes] = []

    def noted(data: bytes) -> int:
        hashed.append(data)
        return hash_bytes(data)

    monkeypatch.setattr("scoreline.tasks.quality.profiles.values.hash_bytes", noted)
    counts, texts = TextCounts(limit=50), [f"text {number}" for number in range(10_000)]
    counts.add(pa.array(texts))
    assert len(hashed) <= 100
    assert counts.values.values() == Values.of(texts, 50)


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


@pytest.mark.skipif(number_counts.counts is None, reason="the extension was not built")
@pytest.mark.parametrize("most_in_row", [0, 700, 5_000, (1 << 32) - 1])
def test_buckets_that_leave_a_row_for_counts_of_64_bits_keep_their_counts(most_in_row: int) -> None:
    counts: Any = number_counts.counts
    compiled, expected = counts.Counter(64, most_in_row), NumpyCounter(64)
    for values in np.random.default_rng(0).normal(size=(12, 900)):
        compiled.add(values)
        expected.add(values)
        assert compiled.level == expected.level
        assert sorted(buckets_of(compiled)) == buckets_of(expected)


@pytest.mark.skipif(number_counts.counts is None, reason="the extension was not built")
def test_no_count_of_32_bits_can_overflow() -> None:
    counts: Any = number_counts.counts
    values = np.random.default_rng(0).normal(size=2_000)
    row, early, never = counts.Counter(64, 3_999), counts.Counter(64, 1_999), counts.Counter(64, 0)
    for counter in (row, early, never):
        counter.add(values[:1_999])
    assert [counter.count_bits for counter in (row, early, never)] == [32, 32, 64]
    for counter in (row, early, never):
        counter.add(values)
    assert [counter.count_bits for counter in (row, early, never)] == [32, 64, 64]
    row.add(values[:1])
    assert row.count_bits == 64
    assert (row.level, dict(buckets_of(row))) == in_buckets([*values[:1_999], *values, values[0]], 64)
    many = counts.Counter(64, 64)
    many.add(np.arange(65.0))  # the last value is the first for which there is no slot
    assert many.count_bits == 64
    with pytest.raises(ValueError, match="32 bits"):
        counts.Counter(64, 1 << 32)


@pytest.mark.parametrize("step", [-1, 3, -2])
def test_values_that_do_not_follow_each_other_are_counted(step: int) -> None:
    packed = np.zeros(9, [("a", "<f8"), ("b", "<i4")])
    packed["a"], packed["b"] = np.arange(9) + 0.25, np.arange(9)
    for values in (packed["a"], packed["b"], packed["a"].copy(), np.arange(9, dtype=np.int32)):
        counts, expected = number_counts.NumberCounts(), NumpyCounter(MAX_BUCKETS)
        counts.add(values[::step])
        expected.add(np.array(values[::step], np.float64))
        assert dict(buckets_of(counts.counter)) == dict(buckets_of(expected))
        assert counts.sum.units == expected.sum_units


@pytest.mark.skipif(number_counts.counts is None, reason="the extension was not built: make setup")
def test_values_between_others_are_refused_rather_than_misread() -> None:
    assert number_counts.counts is not None
    values = np.frombuffer(bytes(24), np.uint8).view(np.dtype({"names": ["a"], "formats": ["<f8"], "itemsize": 12}))
    with pytest.raises(ValueError, match="whole number of values"):
        number_counts.counts.Counter(3).add(values["a"])
