"""Packed histograms add up to the histogram of all values, and no damaged one is added."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scoreline.tasks.quality.profiles import histogram_sums
from scoreline.tasks.quality.profiles.histogram_sums import (
    NumpyHistogramSum,
    check_with_numpy,
    histogram_of,
    pack_histogram,
    read_packed,
)
from scoreline.tasks.quality.profiles.histograms import MAX_BUCKETS, Histogram

HAS_EXTENSION = histogram_sums.sums is not None
SUMS: list[Any] = [NumpyHistogramSum, *([histogram_sums.sums.HistogramSum] if HAS_EXTENSION else [])]
CHECKS: list[Any] = [check_with_numpy, *([histogram_sums.sums.check_packed] if HAS_EXTENSION else [])]
VALUES = st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=12)


def packed(histogram: Histogram) -> Any:
    arrays = [b"before"]
    described = pack_histogram(arrays, histogram)
    data = b"".join([*arrays, b"behind"])
    found, end = read_packed(described, data, len(b"before"), histogram.limit)
    assert end == len(data) - len(b"behind")
    return found


@pytest.mark.parametrize("kind", SUMS)
@given(st.lists(VALUES, min_size=1, max_size=4), st.integers(3, 9))
def test_packed_histograms_add_up_to_the_histogram_of_all_values(
    kind: Any, parts: list[list[float]], limit: int
) -> None:
    added, halves = kind(limit), (kind(limit), kind(limit))
    for number, values in enumerate(parts):
        added.add_packed(*packed(Histogram.of(values, limit)))
        halves[number % 2].add_packed(*packed(Histogram.of(values, limit)))
    halves[1].add_sum(halves[0])
    expected = Histogram.of([value for values in parts for value in values], limit)
    assert histogram_of(added) == histogram_of(halves[1]) == expected


@pytest.mark.parametrize("kind", SUMS)
def test_counts_of_each_width_are_added(kind: Any) -> None:
    histogram = Histogram(counts={-(1 << 32): 1, -5: 1 << 40, 0: 1 << 20, 7: 1 << 10})
    added = kind(MAX_BUCKETS)
    for _ in range(2):
        added.add_packed(*packed(histogram))
    assert histogram_of(added).counts == {bucket: 2 * count for bucket, count in histogram.counts.items()}


@pytest.mark.skipif(not HAS_EXTENSION, reason="the extension is not built")
def test_the_extension_adds_full_histograms_as_numpy_does() -> None:
    rng = np.random.default_rng(2)
    sums = [kind(MAX_BUCKETS) for kind in SUMS]
    for spread in (1, 9, 40, 3, 0.1):
        histogram = Histogram.of((rng.normal(size=2_000) * 10 ** (spread * rng.normal(size=2_000))).tolist())
        for added in sums:
            added.add_packed(*packed(histogram))
    assert (sums[0].level, sums[0].size, sums[0].arrays()) == (sums[1].level, sums[1].size, sums[1].arrays())


DAMAGED = {
    "beginning behind the end": (b"\1\1\1\1\1", 6, 20, 1, 0),
    "without distance": (b"\0\1\1\1\1", 0, 20, 3, 0),
    "without count": (b"\1\1\1\0\1", 0, 20, 3, 0),
    "too high": (b"\1\1\1\1\1", 0, 20, 3, (1 << 32) - 1),
    "too low": (b"\1\1\1\1\1", 0, 20, 3, -(1 << 32) - 1),
    "too high for its level": (b"\1\1\1\1\1", 0, 0, 3, (1 << 12) - 1),
    "too low for its level": (b"\1\1\1\1\1", 0, 0, 3, -(1 << 12) - 1),
}


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("what", DAMAGED)
def test_a_damaged_histogram_is_refused(check: Any, what: str) -> None:
    assert check(b"\1\1\1\1\1", 0, 20, 3, (1 << 32) - 2, 1, 1) == 5
    assert check(b"\1\1\1\1\1", 0, 0, 3, (1 << 12) - 2, 1, 1) == 5
    with pytest.raises(ValueError, match=r"histogram|buffer|offset"):
        check(*DAMAGED[what], 1, 1)


@pytest.mark.parametrize("check", CHECKS)
def test_arrays_that_are_cut_off_are_refused(check: Any) -> None:
    with pytest.raises(ValueError, match=r"cut off|buffer is smaller"):
        check(b"\1\1\1\1", 0, 20, 3, 0, 1, 1)


@pytest.mark.parametrize("check", CHECKS)
def test_numbers_of_64_bits_that_overflow_are_refused(check: Any) -> None:
    one, most = (1).to_bytes(8, "little"), b"\xff" * 8
    assert check(one + one + one, 0, 20, 2, 0, 8, 8) == 24
    for data in (most + one + one, one + one + most):
        with pytest.raises(ValueError, match="histogram"):
            check(data, 0, 20, 2, 0, 8, 8)
    around = (1 << 62).to_bytes(8, "little") * 4 + one * 5  # four distances whose sum is 0 in 64 bits
    with pytest.raises(ValueError, match="buckets of a histogram"):
        check(around, 0, 20, 5, 0, 8, 8)


@pytest.mark.parametrize("kind", SUMS)
def test_a_sum_of_damaged_histograms_is_bounded_in_size(kind: Any) -> None:
    added, ones = kind(MAX_BUCKETS), b"\1" * 2 * MAX_BUCKETS
    for first in range(0, 40 * MAX_BUCKETS, MAX_BUCKETS):
        with pytest.raises(ValueError, match="buckets of a histogram"):
            read_packed(described(-11, first), ones, 0, MAX_BUCKETS)
        added.add_packed(*read_packed(described(20, first), ones, 0, MAX_BUCKETS)[0])
    assert added.size <= MAX_BUCKETS


def described(level: int, first: int) -> dict[str, int]:
    return {"level": level, "size": MAX_BUCKETS, "first": first, "distance_bytes": 1, "count_bytes": 1}


@pytest.mark.parametrize("kind", SUMS)
def test_counts_that_somebody_made_up_overflow_alike(kind: Any) -> None:
    added, most = kind(3), ((1 << 63) - 1).to_bytes(8, "little")
    for _ in range(3):
        added.add_packed(b"\1" * 3 + most * 4, 0, 20, 4, 1, 1, 8)
    assert (added.level, np.frombuffer(added.arrays()[1], np.int64).tolist()) == (19, [-6, -6])


@pytest.mark.skipif(not HAS_EXTENSION, reason="the extension is not built")
def test_the_extension_adds_no_more_buckets_than_it_has_room_for() -> None:
    added, ones = histogram_sums.sums.HistogramSum(MAX_BUCKETS), b"\1" * 2 * MAX_BUCKETS
    for first in range(0, 8192, MAX_BUCKETS):  # not checked, and too far from 0 for their level
        added.add_packed(ones, 0, -11, MAX_BUCKETS, first, 1, 1)
    with pytest.raises(ValueError, match="too many buckets"):
        added.add_packed(ones, 0, -11, MAX_BUCKETS, 8192, 1, 1)
    assert added.size == 8192
