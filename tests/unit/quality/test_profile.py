"""Profiles are exact, and the same however their rows are divided."""

from __future__ import annotations

import json
import math
import struct
import tracemalloc
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scoreline.storage.errors import DocumentCorrupt
from scoreline.tasks.quality.profiles.column_profile import ColumnProfile
from scoreline.tasks.quality.profiles.exact_sums import ExactSum
from scoreline.tasks.quality.profiles.histograms import MAX_BUCKETS, MAX_LEVEL, MIN_LEVEL, Histogram, bucket_of
from scoreline.tasks.quality.profiles.number_counts import ArrayCounts, middles_of
from scoreline.tasks.quality.profiles.profile import MAX_SEGMENTS, Profile
from scoreline.tasks.quality.profiles.values import Values

FINITE = st.floats(allow_nan=False, allow_infinity=False)
FLOATS = st.lists(FINITE, max_size=40)
TEXTS = st.lists(st.text(max_size=4), max_size=40)


def column(numbers: list[float], texts: list[str], limit: int = 8) -> ColumnProfile:
    return ColumnProfile(
        name="x",
        kind="feature",
        type="mixed" if numbers and texts else "number" if numbers else "text" if texts else "empty",
        rows=len(numbers) + len(texts),
        minimum=min(numbers, default=None),
        maximum=max(numbers, default=None),
        sum=ExactSum.of(numbers),
        histogram=Histogram.of(numbers, limit),
        values=Values.of(texts, limit, 16),
    )


def profile(numbers: list[float], texts: list[str]) -> Profile:
    of_column = column(numbers, texts)
    return Profile(rows=of_column.rows, counted=of_column.rows, columns={"x": of_column})


@given(FLOATS)
def test_a_sum_is_exact(values: list[float]) -> None:
    assert ExactSum.of(values).value() == sum(map(Fraction, values))
    assert ExactSum.from_json(json.loads(json.dumps(ExactSum.of(values).to_json()))) == ExactSum.of(values)


@given(FINITE, st.integers(MIN_LEVEL, MAX_LEVEL))
def test_a_number_lies_within_the_edges_of_its_bucket(value: float, level: int) -> None:
    low, high = Histogram(level=level).edges(bucket_of(value, level))
    assert low <= value <= high
    assert value == 0 or abs(value) != max(abs(low), abs(high))


@given(FLOATS, st.integers(MIN_LEVEL, MAX_LEVEL))
def test_the_middle_of_a_bucket_lies_halfway_between_its_edges_or_at_the_finite_one(
    values: list[float], level: int
) -> None:
    buckets = [bucket_of(value, level) for value in [*values, 1.7e308, -1.7e308, 0.0]]
    for (low, high), middle in zip(
        map(Histogram(level=level).edges, buckets), middles_of(np.array(buckets), level), strict=True
    ):
        if math.isfinite(low) and math.isfinite(high):
            assert middle == low / 2 + high / 2
        else:
            assert middle == (low if math.isfinite(low) else high)


@given(FLOATS, st.integers(3, 12))
def test_a_histogram_has_the_highest_level_at_which_its_buckets_fit(values: list[float], limit: int) -> None:
    found = Histogram.of(values, limit)
    assert found.counts == Counter(bucket_of(value, found.level) for value in values)
    assert len(found.counts) <= limit
    if found.level < MAX_LEVEL:
        assert len({bucket_of(value, found.level + 1) for value in values}) > limit


@given(st.lists(st.tuples(FLOATS, TEXTS), min_size=3, max_size=3))
def test_profiles_are_merged_in_any_order(parts: list[tuple[list[float], list[str]]]) -> None:
    one, two, three = (profile(*part) for part in parts)
    whole = profile([x for numbers, _ in parts for x in numbers], [text for _, texts in parts for text in texts])
    merged = one.merge(two).merge(three)
    assert merged == one.merge(two.merge(three)) == three.merge(one).merge(two)
    assert json.dumps(merged.to_dict()) == json.dumps(three.merge(two).merge(one).to_dict())
    assert merged == whole


@given(TEXTS, st.integers(1, 6))
def test_as_many_values_are_held_as_fit(texts: list[str], limit: int) -> None:
    found = Values.of(texts, limit, 12)
    counts = Counter(texts)
    assert found.total == len(texts)
    assert dict(found.counts) == {text: counts[text] for text in found.counts}
    if not found.level:
        assert found.distinct == len(counts)
    else:
        assert len(counts) > limit or sum(len(text.encode()) for text in counts) > 12


def test_the_number_of_distinct_values_is_estimated_if_there_are_too_many() -> None:
    found = Values.of(f"customer {number}" for number in range(100_000))
    assert not found.is_exact
    assert abs(found.distinct / 100_000 - 1) < 0.1


@given(st.lists(FLOATS, max_size=3), TEXTS)
def test_a_document_is_written_as_json_writes_the_whole(numbers: list[list[float]], texts: list[str]) -> None:
    segments = {str(number): profile(values, texts) for number, values in enumerate(numbers)}
    one = replace(
        profile([1.0, 2.5], ["ä", "\ud800"]), segment="x", segments=segments, other_segments=profile([], texts)
    )
    expected = json.dumps({"format": 1, **one.to_dict()}, ensure_ascii=False)
    assert one.encode({"format": 1}) == expected.encode("utf-8", "surrogatepass")


def test_a_document_of_many_columns_is_written_in_little_more_memory_than_it_takes() -> None:
    buckets = np.arange(MAX_BUCKETS) + (1 << 20)
    held = [ArrayCounts(buckets, buckets) for _ in range(200)]
    columns = {
        str(number): replace(column([1.0], []), name=str(number), histogram=Histogram(level=0, counts=counts))
        for number, counts in enumerate(held)
    }
    one = Profile(rows=1, counted=1, columns=columns)
    tracemalloc.start()
    try:
        body = one.encode({"format": 1})
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < 4 * len(body)  # lists of all numbers take 5 times as much, and dictionaries 8 times
    assert json.loads(body)["columns"][199]["histogram"]["counts"] == buckets.tolist() == list(held[0].values())


def test_long_values_are_cut_but_stay_different() -> None:
    found = Values.of(["x" * 500 + "a", "x" * 500 + "b", "x" * 500 + "a"])
    assert found.distinct == 2
    assert {len(key) for key in found.counts} == {200 + 2 + 16}
    assert found.merge(found).total == 6


def test_a_document_lists_the_most_frequent_values_and_counts_the_others() -> None:
    found = Values.of([*"aaabbc", *map(str, range(300))]).shortened()
    assert (len(found.counts), found.unlisted, found.distinct) == (200, 103, 303)
    assert found.top(3) == [("a", 3), ("b", 2), ("0", 1)]
    with pytest.raises(ValueError, match="most frequent"):
        found.merge(found)


def test_the_first_segments_are_kept_in_whichever_order_they_come() -> None:
    names = [f"s{number:03}" for number in range(MAX_SEGMENTS + 7)]
    parts = [Profile(rows=1, counted=1, segment="s", segments={name: profile([1.0], [])}) for name in names]
    forward, backward = Profile(), Profile()
    for part in parts:
        forward = forward.merge(part)
    for part in reversed(parts):
        backward = backward.merge(part)
    assert forward == backward
    assert list(forward.segments) == names[:MAX_SEGMENTS]
    assert forward.other_segments is not None
    assert forward.other_segments.rows == 7


def test_the_quantiles_of_few_values_are_exact() -> None:
    found = Histogram.of([float(number) for number in range(-50, 51)])
    assert [found.quantile(share) for share in (0, 0.25, 0.5, 1)] == [-50, -25, 0, 50]
    assert Histogram().quantile(0.5) is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: raw.pop("rows"),
        lambda raw: raw.update(columns=5),
        lambda raw: raw["columns"].append(raw["columns"][0]),
        lambda raw: raw["columns"][0].update(rows=-1),
        lambda raw: raw["columns"][0].update(kind="target"),
        lambda raw: raw["columns"][0].update(minimum=math.inf),
        lambda raw: raw["columns"][0].update(sum=["zz", 0]),
        lambda raw: raw["columns"][0].update(sum=["1", 10**9]),
        lambda raw: raw["columns"][0]["histogram"].update(level=21),
        lambda raw: raw["columns"][0]["histogram"]["buckets"].reverse(),
        lambda raw: raw["columns"][0]["histogram"]["counts"].pop(),
        lambda raw: raw["columns"][0]["values"].update(level=64),
        lambda raw: raw["columns"][0]["values"]["counts"].update(b=0.5),
    ],
)
def test_a_damaged_document_is_refused(damage: Any) -> None:
    raw = json.loads(json.dumps(profile([1.0, 2.0], ["a"]).to_dict()))
    assert Profile.from_dict(raw) == profile([1.0, 2.0], ["a"])
    damage(raw)
    with pytest.raises(DocumentCorrupt, match=r"^_profile\.json is damaged: "):
        Profile.from_dict(raw, "_profile.json")


def test_the_mean_and_the_deviation_are_rounded_once() -> None:
    numbers = [0.1, 0.2, 1e16, -1e16, 0.3]
    squares = [struct.unpack("<d", struct.pack("<d", x * x))[0] for x in numbers]
    found = ColumnProfile(
        name="x",
        kind="feature",
        sum=ExactSum.of(numbers),
        sum_squares=ExactSum.of(squares),
        histogram=Histogram.of(numbers),
    )
    assert found.mean == float(sum(map(Fraction, numbers)) / 5)
    variance = (sum(map(Fraction, squares)) - sum(map(Fraction, numbers)) ** 2 / 5) / 4
    assert found.std == math.sqrt(float(variance))
