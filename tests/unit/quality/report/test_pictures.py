"""Values of a job and of its baseline are put onto the same bins, on which people can compare them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from scoreline.tasks.quality.profiles.column_profile import ColumnProfile
from scoreline.tasks.quality.profiles.histograms import Histogram
from scoreline.tasks.quality.profiles.values import Values
from scoreline.tasks.quality.report.pictures import MAX_BARS, MAX_BINS, Bars, Bins, picture_of, picture_of_histograms

RNG = np.random.default_rng(0)


def numbers(values: Sequence[float] | np.ndarray, buckets: int = 512) -> ColumnProfile:
    floats = [float(value) for value in values]
    histogram = Histogram.of(floats).coarsened(buckets)
    return ColumnProfile(
        name="x",
        kind="feature",
        type="number",
        rows=len(floats),
        minimum=min(floats),
        maximum=max(floats),
        histogram=histogram,
    )


def texts(values: Sequence[str]) -> ColumnProfile:
    lengths = Histogram.of(float(len(value)) for value in values)
    return ColumnProfile(
        name="x", kind="feature", type="text", rows=len(values), values=Values.of(values), lengths=lengths
    )


def bins(now: ColumnProfile, before: ColumnProfile | None = None) -> Bins:
    found = picture_of(now, before)
    assert isinstance(found, Bins)
    return found


def bars(now: ColumnProfile, before: ColumnProfile | None = None) -> Bars:
    found = picture_of(now, before)
    assert isinstance(found, Bars)
    return found


def test_both_histograms_have_the_same_bins_at_round_numbers() -> None:
    found = bins(numbers(RNG.normal(25, 1, 5_000)), numbers(RNG.normal(20, 1, 5_000)))
    assert found.before is not None
    assert found.scale == "linear"
    assert len(found.now) == len(found.before) == len(found.edges) - 1 <= MAX_BINS
    assert all(edge == pytest.approx(round(edge * 2) / 2) for edge in found.edges)
    assert found.edges[0] <= 17
    assert found.edges[-1] >= 28
    assert sum(found.now) == pytest.approx(1)
    assert sum(found.before) == pytest.approx(1)
    middle = [start for start, share in zip(found.edges, found.before, strict=False) if share > 0.1]
    assert 18 < min(middle) < max(middle) < 22


def test_whole_numbers_have_whole_bins() -> None:
    found = bins(numbers(RNG.integers(18, 91, 5_000)))
    assert found.scale == "whole"
    assert {b - a for a, b in itertools.pairwise(found.edges)} == {3.0}
    assert max(found.now) < 2 * min(found.now[1:-1]), "a bin has more numbers than another"
    assert bins(numbers([0, 1, 1, 1])).now == (0.25, 0.75)


def test_a_column_with_a_single_value_has_one_bin() -> None:
    assert bins(numbers([7.5] * 10)).now == (1.0,)
    assert bins(numbers([0.0] * 10), numbers([0.0])).before == (1.0,)


def test_a_long_tail_is_noted_and_does_not_squeeze_the_bars() -> None:
    found = bins(numbers([*RNG.normal(100, 10, 10_000), 9e9, -5e6]))
    assert sum(share > 0.01 for share in found.now) > 12
    below, above = found.outside
    assert (below.side, above.side) == ("below", "above")
    assert (below.farthest, above.farthest) == (-5e6, 9e9)
    assert sum(found.now) + below.now + above.now == pytest.approx(1)
    assert above.now < 0.01


def test_a_changed_unit_is_drawn_on_relative_bins() -> None:
    values = np.exp(RNG.normal(8, 0.5, 4_000))
    found = bins(numbers(values * 1_000), numbers(values))
    assert found.scale == "log"
    assert found.before is not None
    assert found.outside == ()
    assert sum(share > 0.01 for share in found.now) > 5 < sum(share > 0.01 for share in found.before)


def test_probabilities_are_drawn_from_0_to_1_even_if_most_are_tiny() -> None:
    found = bins(numbers(RNG.beta(0.05, 5, 4_000)), numbers(RNG.beta(5, 5, 4_000)))
    assert found.scale == "linear"
    assert found.edges[0] == 0


def test_a_coarse_baseline_looks_like_the_job_if_nothing_has_changed() -> None:
    found = bins(numbers(RNG.normal(50, 10, 200_000)), numbers(RNG.normal(50, 10, 200_000), buckets=24))
    assert found.before is not None
    assert max(abs(a - b) for a, b in zip(found.now, found.before, strict=True)) < 0.005


@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=50),
    st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=50),
)
@example(now=[1.0], before=[1.7976931348622105e308])  # ten to the power of its rounded logarithm is no float
def test_no_value_is_lost_whatever_the_numbers_are(now: list[float], before: list[float]) -> None:
    found = bins(numbers(now), numbers(before))
    assert found.before is not None
    assert all(a < b for a, b in itertools.pairwise(found.edges))
    assert len(found.now) <= MAX_BINS + 4
    assert sum(found.now) + sum(end.now for end in found.outside) == pytest.approx(1)
    assert sum(found.before) + sum(end.before or 0 for end in found.outside) == pytest.approx(1)


def test_categories_are_the_most_frequent_first_and_the_rest_is_one_bar() -> None:
    values = [f"v{number}" for number in range(20) for _ in range(40 - number)]
    found = bars(texts(values), texts(values))
    assert [bar.value for bar in found.bars] == [f"v{number}" for number in range(MAX_BARS)]
    assert found.others is not None
    assert found.others_count == 12
    assert sum(bar.now for bar in (*found.bars, found.others)) == pytest.approx(1)
    assert sum(bar.before or 0 for bar in (*found.bars, found.others)) == pytest.approx(1)


def test_a_category_that_has_vanished_or_is_new_is_drawn_although_it_is_rare_now() -> None:
    common = [f"v{number}" for number in range(12) for _ in range(20)]
    found = bars(texts([*common, "new"] + ["fresh"] * 30), texts([*common] + ["gone"] * 60))
    drawn = {bar.value: bar for bar in found.bars}
    assert drawn["gone"].now == 0
    assert drawn["fresh"].before == 0
    assert found.bars[-1].value == "gone"


def test_the_share_of_a_category_that_the_baseline_does_not_list_is_unknown() -> None:
    old = texts([f"v{number}" for number in range(30) for _ in range(40 - number)])
    hidden = ColumnProfile(name="x", kind="feature", type="text", rows=old.rows, values=old.values.shortened(3))
    found = bars(texts(["v0", "v20", "v20"]), hidden)
    assert {bar.value: bar.before is None for bar in found.bars} == {"v0": False, "v1": False, "v2": False, "v20": True}


def test_free_texts_are_drawn_by_their_length() -> None:
    found = bins(texts([f"a note of customer {number}" for number in range(400)]))
    assert found.of == "lengths"


def test_a_baseline_without_values_or_of_another_type_is_not_drawn() -> None:
    now = numbers([1.0, 2.0, 3.0])
    hidden = ColumnProfile(name="x", kind="feature", type="number", rows=3, histogram=now.histogram.coarsened(1))
    assert bins(now, hidden).before is None
    assert bins(now, texts(["a"])).before is None
    assert picture_of(ColumnProfile(name="x", kind="feature")) is None


def test_two_histograms_without_extremes_are_drawn_from_edge_to_edge() -> None:
    found = picture_of_histograms(Histogram.of([-2.0, -1.0, 3.0]), Histogram.of([0.0, 1.0]))
    assert found is not None
    assert (found.edges[0], found.edges[-1]) == (-2.5, 3.5)
    assert picture_of_histograms(Histogram(), Histogram.of([1.0])) is None


def test_shares_are_right_for_numbers_whose_sums_overflow() -> None:
    huge = np.random.default_rng(1).normal(size=20_000) * 1e307
    picture = bins(numbers(huge, 64), numbers(huge[10_000:], 64))
    assert picture.before is not None
    outside = [(end.now, end.before or 0.0) for end in picture.outside]
    assert sum(picture.now) + sum(now for now, _ in outside) == pytest.approx(1)
    assert sum(picture.before) + sum(before for _, before in outside) == pytest.approx(1)
