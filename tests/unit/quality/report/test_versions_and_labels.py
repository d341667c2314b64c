"""The page shows the comparison with a challenger, and what late labels say, as soon as their documents exist."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest

from scoreline.storage import keys
from scoreline.tasks.quality.challengers.compared_columns import (
    BUCKETS,
    LabelComparison,
    ScoreComparison,
    SegmentComparison,
)
from scoreline.tasks.quality.challengers.comparison import ChallengerFailure, Comparison, encode
from scoreline.tasks.quality.challengers.joint_histograms import JointHistogram
from scoreline.tasks.quality.outcomes.estimates import estimate
from scoreline.tasks.quality.outcomes.read_outcomes import Outcomes
from scoreline.tasks.quality.outcomes.run_outcomes import Group, RunOutcomes
from scoreline.tasks.quality.profiles.exact_sums import ExactSum
from scoreline.tasks.quality.profiles.histograms import Histogram
from scoreline.tasks.quality.report.html import render
from scoreline.testing import EagerClient
from tests.unit.quality.report.conftest import SOUND
from tests.unit.quality.report.test_page import HOSTILE, parsed, text_of

FOLDER = f"churn/job_id={SOUND}/"
PAIRS = [(number / 100, number / 120) for number in range(100)]
COMPARISON = Comparison(
    champion="churn@1",
    challenger="churn@2",
    champion_sha256="0" * 64,
    challenger_sha256="1" * 64,
    rows=100,
    champion_only=3,
    labels={"prediction": LabelComparison(agreed=90, pairs={("a", "a"): 90, ("a", "b"): 10})},
    scores={
        "score": ScoreComparison(
            pairs=len(PAIRS),
            champion=Histogram.of((one for one, _ in PAIRS), BUCKETS),
            challenger=Histogram.of((other for _, other in PAIRS), BUCKETS),
            joint=JointHistogram.of(PAIRS),
            champion_sum=ExactSum.of(one for one, _ in PAIRS),
            challenger_sum=ExactSum.of(other for _, other in PAIRS),
            absolute_sum=ExactSum.of(abs(one - other) for one, other in PAIRS),
            largest=0.2,
        )
    },
    only_of_challenger=("extra",),
    segment="region",
    segments={"north": SegmentComparison(rows=100, flips={"prediction": 10}, pairs={"score": 100})},
    champion_us=1_000_000,
    challenger_us=2_500_000,
    parts=1,
    failed_parts=1,
    failures=(ChallengerFailure(part=1, reason="out of memory"),),
)


@pytest.fixture
def with_comparison(churn: EagerClient) -> Iterator[EagerClient]:
    churn.buckets.main.put(keys.comparison(FOLDER), encode(COMPARISON))
    yield churn
    churn.buckets.main.delete(keys.comparison(FOLDER))


def test_the_challenger_is_compared_in_sentences_tables_and_pictures(with_comparison: EagerClient) -> None:
    found = with_comparison.report(SOUND)
    assert found.to_dict()["comparison"]["challenger"] == "churn@2"
    text = text_of(parsed(render(found)))
    for words in (
        "churn@2 scored 100 rows that churn@1 scored, too.",
        "Both give the same class to 90% of them.",
        "times as long for a row.",
        "3 rows could only be scored by churn@1.",
        "The challenger did not score 1 part of the job, the first because of this: out of memory.",
        "Only churn@2 has the column extra.",
        "prediction: 90% of the rows get the same class, 10 rows another",
        "Rank correlation",
        "By region",
    ):
        assert words in text, words


def test_a_comparison_of_hostile_names_is_text(with_comparison: EagerClient) -> None:
    label = LabelComparison(agreed=0, pairs={(HOSTILE, "b"): 1})
    hostile = dataclasses.replace(
        COMPARISON,
        labels={HOSTILE: label},
        segments={HOSTILE: SegmentComparison(rows=1)},
        failures=(ChallengerFailure(part=1, reason=HOSTILE),),
    )
    page = render(dataclasses.replace(with_comparison.report(SOUND), comparison=hostile))
    assert not parsed(page).findall(".//script")
    assert text_of(parsed(page)).count("<script>alert(1)</script>") >= 4


def test_a_damaged_comparison_is_a_note(with_comparison: EagerClient) -> None:
    with_comparison.buckets.main.put(keys.comparison(FOLDER), b"{}")
    found = with_comparison.report(SOUND)
    assert found.comparison is None
    assert found.notes[0].startswith("The comparison with the challenger is missing: s3://")
    with_comparison.buckets.main.put(keys.comparison(FOLDER), encode(COMPARISON))


def run(job_id: str, day: int, auc: float) -> RunOutcomes:
    whole = Group(rows=2_000, labels=1_000, metrics={"auc": estimate("auc", auc, 0.01, 100.0)}, base=0.5)
    part = Group(segment="north", rows=800, labels=400, metrics={}, base=0.5)
    at = f"2026-11-{day:02}T00:00:00+00:00"
    return RunOutcomes(
        job_id=job_id, model="churn@1", kind="classifier", at=at, groups=(whole, part), segment="region", positive="yes"
    )


def test_late_labels_are_shown_for_the_job_its_segments_each_version_and_over_time(churn: EagerClient) -> None:
    found = Outcomes(
        key=("customer",),
        target="left",
        updated="2026-11-29T00:00:00+00:00",
        labels=3_000,
        runs=(run("a", 1, 0.9), run("b", 2, 0.85), run(SOUND, 3, 0.7)),
    )
    churn.buckets.main.put(keys.outcomes("churn/"), found.to_json())
    try:
        report = churn.report(SOUND)
    finally:
        churn.buckets.main.delete(keys.outcomes("churn/"))
    page = render(report)
    tree = parsed(page)
    text = text_of(tree)
    for words in (
        "What happened later",
        "is known by now for 3,000 keys",
        "This job",
        "0.7 (0.6804 to 0.7196)",
        "AUC over time",
    ):
        assert words in text, words
    assert 'aria-label="Line of points: AUC of the latest 3 runs with labels, 0.9 at first and 0.7 at last' in page
    assert "None of them belongs to this job." not in text
    assert report.to_dict()["outcomes"]["target"] == "left"
    other = text_of(parsed(render(dataclasses.replace(report, job_id="another"))))
    assert "None of them belongs to this job." in other
    nothing = Outcomes(key=("customer",), target="left", updated=found.updated, labels=0)
    assert "What happened later" not in render(dataclasses.replace(report, outcomes=nothing))
