"""The document with the metrics of runs on labels that arrived later."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scoreline.storage.errors import DocumentCorrupt
from scoreline.storage.objects.directory import DirectoryStore
from scoreline.tasks.quality.outcomes.estimates import Estimate, change, estimate, share
from scoreline.tasks.quality.outcomes.read_outcomes import LabelFile, Outcomes, read_outcomes
from scoreline.tasks.quality.outcomes.run_outcomes import Bin, Group, RunOutcomes, pooled

AUC = estimate("auc", 0.8, 0.05, 100.0)
DECILES = tuple(Bin(rows=1.0, predicted=0.9 - n / 10, observed=float(n < 5), low=0.0, high=1.0) for n in range(10))
RUN = RunOutcomes(
    job_id="a",
    model="churn@20261101T120000Z-0a1b2",
    kind="classifier",
    at="2026-11-02T00:00:00+00:00",
    groups=(
        Group(
            rows=20,
            labels=10,
            metrics={"auc": AUC},
            base=0.5,
            calibration=(Bin(rows=10, predicted=0.4, observed=0.5, low=0.2, high=0.8, start=0.4, stop=0.5),),
            deciles=DECILES,
        ),
        Group(segment="north", rows=5, labels=0, metrics={}),
    ),
    segment="region",
    positive="yes",
)
FOUND = Outcomes(
    key=("id",),
    target="churned",
    updated="2026-11-03T00:00:00+00:00",
    labels=10,
    files=(LabelFile(name="labels-1.parquet", rows=10, bytes=100, sha256="0" * 64),),
    runs=(RUN,),
)


def test_what_is_written_is_read_again() -> None:
    assert Outcomes.from_dict(json.loads(FOUND.to_json())) == FOUND


@pytest.mark.parametrize(
    ("change_it", "says"),
    [
        (lambda raw: raw.update(format=2), "its format is not 1"),
        (lambda raw: raw.pop("target"), "target is missing"),
        (lambda raw: raw.update(updated="yesterday"), "updated is not a time"),
        (lambda raw: raw["runs"][0].update(groups=[]), "no group of all rows"),
        (lambda raw: raw["runs"][0]["groups"][0].update(labels=21), "more labels than rows"),
        (lambda raw: raw["runs"][0]["groups"][0]["deciles"].pop(), "9 deciles"),
        (lambda raw: raw["runs"][0]["groups"][0]["metrics"].update(auc=0.8), "not an object"),
        (lambda raw: raw["runs"][0].update(kind="clusterer"), "none of 'classifier', 'regressor'"),
    ],
)
def test_a_damaged_document_is_refused(change_it: Any, says: str, tmp_path: Path) -> None:
    raw = json.loads(FOUND.to_json())
    change_it(raw)
    store = DirectoryStore(tmp_path, "data")
    store.put("scores/_outcomes/outcomes.json", json.dumps(raw).encode())
    with pytest.raises(DocumentCorrupt, match=says):
        read_outcomes(store, "scores/")


def test_an_output_without_labels_has_no_outcomes(tmp_path: Path) -> None:
    assert read_outcomes(DirectoryStore(tmp_path, "data"), "scores/") is None


def test_runs_of_a_version_are_pooled_by_their_weights() -> None:
    other = replace(
        RUN,
        job_id="b",
        at="2026-11-09T00:00:00+00:00",
        groups=(
            replace(
                RUN.whole,
                rows=30,
                labels=30,
                base=0.1,
                metrics={"auc": estimate("auc", 0.6, 0.02, 300.0), "rmse": estimate("rmse", 3.0, 0.1, 30.0)},
            ),
        ),
    )
    first = replace(RUN, groups=(replace(RUN.whole, metrics={"auc": AUC, "rmse": estimate("rmse", 1.0, 0.1, 10.0)}),))
    found = pooled([other, first]).whole
    assert (found.rows, found.labels) == (50, 40)
    assert found.base == pytest.approx((10 * 0.5 + 30 * 0.1) / 40)
    assert found.metrics["auc"].value == pytest.approx(0.65)
    assert found.metrics["auc"].error == pytest.approx(((100 * 0.05) ** 2 + (300 * 0.02) ** 2) ** 0.5 / 400)
    assert found.metrics["rmse"].value == pytest.approx(((10 * 1 + 30 * 9) / 40) ** 0.5)
    assert found.calibration[0].rows == 20
    assert found.coverage.value == 0.8


def test_runs_without_probabilities_do_not_change_the_base_of_a_version() -> None:
    plain = Group(rows=90, labels=90, metrics={"accuracy": share(80, 90)})
    found = pooled([RUN, replace(RUN, job_id="b", groups=(plain,))]).whole
    assert (found.labels, found.base) == (100, 0.5)
    assert found.lift(0) == 2.0


def test_versions_stand_in_order_of_their_latest_run() -> None:
    newer = replace(RUN, job_id="b", model="churn@20261105T120000Z-ffffff", at="2026-11-06T00:00:00+00:00")
    last = replace(RUN, job_id="c", at="2026-11-09T00:00:00+00:00")
    versions = replace(FOUND, runs=(RUN, newer, last)).versions()
    assert [(version.model, version.runs) for version in versions] == [(newer.model, 1), (RUN.model, 2)]


def test_wilsons_interval_is_that_of_the_literature() -> None:
    # Newcombe (1998), table I: 81 of 263, 15 of 148, 0 of 20 and 1 of 29
    for count, of, low, high in [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ]:
        found = share(count, of)
        assert (round(found.low, 4), round(found.high, 4)) == (low, high)


def test_a_change_that_may_be_chance_is_none() -> None:
    before = Estimate(value=0.80, low=0.7412, high=0.8588, error=0.03, weight=1)
    assert change("auc", before, replace(before, value=0.72)) is None  # 1.89 standard errors
    assert change("auc", before, replace(before, value=0.71)) == pytest.approx(-0.09)  # 2.12


def test_a_single_row_or_a_share_of_1_among_few_proves_no_change() -> None:
    many = share(9_500, 10_000)
    assert change("accuracy", share(1, 1), many) is None
    assert change("accuracy", share(20, 20), many) is None
    assert change("accuracy", share(2_000, 2_000), many) == pytest.approx(-0.05)
    assert change("mae", estimate("mae", 3.0, 0.0, 1.0), estimate("mae", 2.0, 0.01, 1_000.0)) is None
    assert change("r2", estimate("r2", 0.9, 0.01, 0.5), estimate("r2", 0.5, 0.01, 0.5)) == pytest.approx(-0.4)
