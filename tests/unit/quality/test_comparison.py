"""Comparisons are exact, the same however their rows are divided, and refuse damage."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scoreline.storage.errors import DocumentCorrupt
from scoreline.tasks.quality.challengers import comparing
from scoreline.tasks.quality.challengers.compared_columns import (
    BUCKETS,
    MAX_PAIRS,
    LabelComparison,
    ScoreComparison,
    SegmentComparison,
    with_few_pairs,
)
from scoreline.tasks.quality.challengers.comparison import MAX_FAILURES, ChallengerFailure, Comparison, encode
from scoreline.tasks.quality.challengers.joint_histograms import MAX_CELLS, JointHistogram
from scoreline.tasks.quality.profiles.exact_sums import ExactSum
from scoreline.tasks.quality.profiles.histograms import Histogram
from scoreline.tasks.quality.profiles.profile import MAX_SEGMENTS

FINITE = st.floats(-1e300, 1e300)
PAIRS = st.lists(st.tuples(FINITE, FINITE), max_size=30)
LABELS = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abc")), max_size=30)


def scores(pairs: list[tuple[float, float]]) -> ScoreComparison:
    return ScoreComparison(
        pairs=len(pairs),
        champion=Histogram.of((one for one, _ in pairs), BUCKETS),
        challenger=Histogram.of((other for _, other in pairs), BUCKETS),
        joint=JointHistogram.of(pairs),
        champion_sum=ExactSum.of(one for one, _ in pairs),
        challenger_sum=ExactSum.of(other for _, other in pairs),
        absolute_sum=ExactSum.of(abs(one - other) for one, other in pairs),
        largest=max((abs(one - other) for one, other in pairs), default=0.0),
    )


def labels(pairs: list[tuple[str, str]]) -> LabelComparison:
    counts = {pair: pairs.count(pair) for pair in sorted(set(pairs))}
    return LabelComparison(agreed=sum(one == other for one, other in pairs), pairs=counts)


def comparison(
    numbers: list[tuple[float, float]], named: list[tuple[str, str]] | None = None, **more: Any
) -> Comparison:
    segment = SegmentComparison(
        rows=len(numbers),
        flips={"prediction": 0},
        pairs={"score": len(numbers)},
        differences={"score": ExactSum.of(other - one for one, other in numbers)},
    )
    return Comparison(
        champion="churn@1",
        challenger="churn@2",
        champion_sha256="0" * 64,
        challenger_sha256="1" * 64,
        rows=len(numbers),
        labels={"prediction": labels(named or [])},
        scores={"score": scores(numbers)},
        segment="region",
        segments={"north": segment},
        parts=1,
        **more,
    )


@given(st.lists(st.tuples(PAIRS, LABELS), min_size=3, max_size=3))
def test_comparisons_are_merged_in_any_order(parts: list[tuple[Any, Any]]) -> None:
    one, other, third = (comparison(*part) for part in parts)
    merged = one.merge(other).merge(third)
    assert merged == third.merge(one.merge(other)) == other.merge(third).merge(one)
    whole = comparison(*([item for part in parts for item in part[side]] for side in (0, 1)))
    assert merged.scores["score"] == whole.scores["score"]
    assert merged.labels == whole.labels
    assert (merged.rows, merged.parts) == (whole.rows, 3)


@given(PAIRS, LABELS)
def test_a_comparison_is_read_as_it_was_written(numbers: Any, named: Any) -> None:
    failed = {"failed_parts": 1, "failures": (ChallengerFailure(part=3, reason="ValueError: no"),)}
    written = comparison(numbers, named, only_of_challenger=("proba_x",), champion_us=5, **failed)
    raw = json.loads(encode(written))
    assert Comparison.from_dict(raw) == written
    assert encode(Comparison.from_dict(raw)) == encode(written)


def test_the_cells_of_a_joint_histogram_do_not_depend_on_how_it_was_merged() -> None:
    rng = np.random.default_rng(0)
    pairs = [(float(a), float(b)) for a, b in rng.normal(size=(5_000, 2))]
    whole = JointHistogram.of(pairs)
    cut = JointHistogram()
    for start in (*range(1_000, 5_000, 700), 0):
        stop = 1_000 if start == 0 else min(start + 700, 5_000)
        cut = cut.merge(JointHistogram.of(pairs[start:stop]))
    assert cut == whole
    assert MAX_CELLS / 4 < len(whole.cells) <= MAX_CELLS


@pytest.mark.parametrize("noise", [0.0, 0.05, 0.5, 5.0])
@pytest.mark.parametrize("shape", ["probabilities", "rare probabilities", "normal", "amounts"])
def test_the_rank_correlation_is_close_to_that_of_the_values(shape: str, noise: float) -> None:
    rng = np.random.default_rng(1)
    one = rng.normal(size=50_000)
    other = one + noise * rng.normal(size=50_000)
    if "probabilities" in shape:
        by = 4 if "rare" in shape else 0
        one, other = 1 / (1 + np.exp(by - one)), 1 / (1 + np.exp(by - other))
    elif shape == "amounts":
        one, other = np.exp(2 * one), np.exp(2 * other)
    expected = float(pd.Series(one).corr(pd.Series(other), method="spearman"))
    found = JointHistogram.of(zip(one.tolist(), other.tolist(), strict=True), probabilities="probabilities" in shape)
    assert found.rank_correlation() == pytest.approx(expected, abs=0.01)


def test_scores_that_are_all_equal_have_no_rank_correlation() -> None:
    assert JointHistogram.of([(1.0, 2.0), (1.0, 3.0)]).rank_correlation() is None
    assert JointHistogram().rank_correlation() is None
    assert JointHistogram.of([(1.0, 3.0), (2.0, 2.0), (3.0, 1.0)]).rank_correlation() == -1.0


def test_the_first_pairs_of_labels_are_kept_and_the_others_counted() -> None:
    pairs = {(f"{number:04}", "x"): 2 for number in range(MAX_PAIRS + 5)}
    found = with_few_pairs(LabelComparison(agreed=0, pairs=pairs))
    assert (len(found.pairs), found.other_pairs, found.rows) == (MAX_PAIRS, 10, 2 * (MAX_PAIRS + 5))
    halves = [dict(list(pairs.items())[start::2]) for start in (0, 1)]
    one, other = (with_few_pairs(LabelComparison(agreed=0, pairs=half)) for half in halves)
    assert one.merge(other) == other.merge(one) == found


def test_the_first_segments_are_kept_and_the_others_counted() -> None:
    made = [
        replace(comparison([(1.0, 2.0)]), segments={f"{number:03}": SegmentComparison(rows=1)})
        for number in range(MAX_SEGMENTS + 3)
    ]
    found, backwards = made[0], made[-1]
    for item in made[1:]:
        found = found.merge(item)
    for item in made[-2::-1]:
        backwards = backwards.merge(item)
    assert found == backwards
    assert len(found.segments) == MAX_SEGMENTS
    assert found.other_segments == SegmentComparison(rows=3)


def test_the_failures_of_the_first_parts_are_listed() -> None:
    empty = comparison([])
    failed = [
        replace(empty, failed_parts=1, failures=(ChallengerFailure(part=part, reason="x"),))
        for part in range(MAX_FAILURES + 5, -1, -1)
    ]
    found = failed[0]
    for item in failed[1:]:
        found = found.merge(item)
    assert [failure.part for failure in found.failures] == list(range(MAX_FAILURES))
    assert found.failed_parts == MAX_FAILURES + 6
    assert not found.is_complete


def test_comparisons_of_other_versions_are_not_merged() -> None:
    with pytest.raises(ValueError, match="different versions"):
        comparison([]).merge(replace(comparison([]), challenger="churn@3"))


def test_speed_agreement_and_differences_follow_from_the_counts() -> None:
    found = comparison([(0.0, 1.0), (1.0, 3.0)], [("a", "a"), ("a", "b")])
    found = replace(found, champion_us=2_000_000, challenger_us=9_000_000, challenger_only=1)
    assert (found.champion_seconds_per_row, found.challenger_seconds_per_row) == (1.0, 3.0)
    assert found.agreement == 0.5
    assert found.scores["score"].mean_difference == found.scores["score"].mean_absolute_difference == 1.5
    assert found.scores["score"].largest == 2.0
    assert found.segments["north"].mean_difference("score") == 1.5
    assert found.scores["score"].drift.keys() == {"psi", "js", "ks"}
    assert replace(found, rows=0, labels={}).agreement is None


def damaged(change: Any) -> Any:
    raw = json.loads(encode(comparison([(0.0, 1.0)], [("a", "b")])))
    change(raw)
    return raw


@pytest.mark.parametrize(
    "change",
    [
        lambda raw: raw.pop("champion"),
        lambda raw: raw.update(rows=-1),
        lambda raw: raw.update(rows=True),
        lambda raw: raw.update(labels=[]),
        lambda raw: raw.update(failures=[{"part": "1", "reason": "x"}]),
        lambda raw: raw["labels"]["prediction"].update(agreed=7),
        lambda raw: raw["labels"]["prediction"].update(pairs=[["a", "b", 1], ["a", "b", 1]]),
        lambda raw: raw["labels"]["prediction"].update(pairs=[["a", 1, 1]]),
        lambda raw: raw["scores"]["score"].update(pairs=2),
        lambda raw: raw["scores"]["score"]["champion"].update(limit=64),
        lambda raw: raw["scores"]["score"]["joint"].update(counts=[1, 1]),
        lambda raw: raw["scores"]["score"]["joint"].update(counts=[0]),
        lambda raw: raw["scores"]["score"]["joint"].update(level=99),
        lambda raw: raw["scores"]["score"]["joint"].update(first=[1 << 60]),
        lambda raw: raw["segments"]["north"].update(flips={"prediction": 9}),
        lambda raw: raw["segments"].update({f"s{n}": raw["segments"]["north"] for n in range(60)}),
    ],
)
def test_a_damaged_comparison_is_refused(change: Any) -> None:
    with pytest.raises(DocumentCorrupt, match="the comparison is damaged"):
        Comparison.from_dict(damaged(change))


def test_the_memory_for_pairs_of_labels_is_bounded_while_they_are_counted() -> None:
    # Given numbers that are compared with texts, so that each row has labels of its own
    numbers = pa.chunked_array([np.arange(3 * MAX_PAIRS) + 0.5])
    texts = pa.chunked_array([["a", "b", "c"] * MAX_PAIRS])
    whole, batches = comparing._Labels(), comparing._Labels()
    whole.add(numbers, texts)
    for start in range(0, 3 * MAX_PAIRS, 100):
        batches.add(numbers.slice(start, 100), texts.slice(start, 100))
        assert len(batches.comparison.pairs) <= MAX_PAIRS
    assert batches.comparison == whole.comparison
    assert whole.comparison.rows == 3 * MAX_PAIRS
