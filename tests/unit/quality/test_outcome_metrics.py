"""Metrics on labels that arrived later, against numbers computed by hand and against scikit-learn."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from sklearn.metrics import (
    brier_score_loss,
    log_loss,
    mean_absolute_error,
    r2_score,
    roc_auc_score,
    root_mean_squared_error,
)

from scoreline.tasks.quality.outcomes.outcome_metrics import (
    auc_of_many,
    auc_of_two,
    brier_scores,
    calibration_of,
    calibration_places,
    deciles_of,
    log_losses,
    mean_of,
    regression_of,
)
from scoreline.tasks.quality.outcomes.run_outcomes import Group, RunOutcomes, pooled


def bootstrap(statistic: object, *columns: np.ndarray, seed: int = 1, times: int = 400) -> float:
    """Return the standard error of a statistic from samples with replacement."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(times):
        rows = rng.integers(0, len(columns[0]), len(columns[0]))
        found.append(statistic(*(column[rows] for column in columns)))  # type: ignore[operator]
    return float(np.std(found, ddof=1))


def test_auc_and_delongs_variance_by_hand() -> None:
    # positives 0.8, 0.6, 0.4; negatives 0.5, 0.4. Share of negatives below each positive: 1, 1, (0 + 1/2) / 2 = 1/4.
    # Share of positives above each negative: of 0.5 two of three; of 0.4 two and a half of three.
    found = auc_of_two(np.array([True, True, True, False, False]), np.array([0.8, 0.6, 0.4, 0.5, 0.4]))
    assert found is not None
    assert found.value == pytest.approx((1 + 1 + 0.25) / 3)
    of_positive = np.var([1, 1, 0.25], ddof=1) / 3
    of_negative = np.var([2 / 3, 2.5 / 3], ddof=1) / 2
    assert found.error == pytest.approx(math.sqrt(of_positive + of_negative))
    assert found.weight == 6


@pytest.mark.parametrize("digits", [1, 2, 9])
def test_auc_of_two_classes_is_that_of_scikit_learn_also_with_ties(digits: int) -> None:
    rng = np.random.default_rng(digits)
    score = rng.random(800).round(digits)
    positive = rng.random(800) < score
    found = auc_of_two(positive, score)
    assert found is not None
    assert found.value == pytest.approx(roc_auc_score(positive, score), abs=1e-12)
    assert found.error == pytest.approx(bootstrap(roc_auc_score, positive, score), rel=0.15)
    assert found.low == pytest.approx(found.value - 1.96 * found.error, abs=1e-4)


def test_auc_of_many_classes_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(3)
    proba = rng.dirichlet([1, 1, 1], 900)
    codes = np.array([rng.choice(3, p=row) for row in proba])
    found = auc_of_many(codes, proba)

    def area(codes: np.ndarray, proba: np.ndarray) -> float:
        return float(roc_auc_score(codes, proba, multi_class="ovr"))

    assert found is not None
    assert found.value == pytest.approx(area(codes, proba), abs=1e-12)
    assert found.error == pytest.approx(bootstrap(area, codes, proba), rel=0.2)


def test_auc_of_many_classes_with_two_is_near_delongs() -> None:
    rng = np.random.default_rng(4)
    score = rng.random(500)
    codes = (rng.random(500) < score).astype(int)
    two, many = auc_of_two(codes == 1, score), auc_of_many(codes, np.column_stack([1 - score, score]))
    assert two is not None
    assert many is not None
    assert many.value == pytest.approx(two.value)
    assert many.error == pytest.approx(two.error, rel=0.01)


def test_auc_of_a_single_class_is_not_defined_and_of_few_rows_proves_little() -> None:
    assert auc_of_two(np.array([True, True]), np.array([0.1, 0.2])) is None
    assert auc_of_many(np.array([0, 1]), np.full((2, 3), 1 / 3)) is None
    single = auc_of_two(np.array([True, False, False]), np.array([0.9, 0.1, 0.2]))
    assert single is not None
    assert (single.value, single.low, single.high) == (1.0, 0.0, 1.0)
    apart = auc_of_two(np.arange(20) >= 10, np.arange(20.0))
    assert apart is not None
    assert (apart.value, round(apart.low, 3), round(apart.high, 3)) == (1.0, 0.722, 1.0)  # Wilson's of 10 of 10


def test_losses_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(5)
    for classes in (2, 3):
        proba = rng.dirichlet([0.4] * classes, 500)
        proba[0] = np.eye(classes)[0]  # a certain prediction that is wrong
        codes = np.array([classes - 1, *(rng.choice(classes, p=row) for row in proba[1:])])
        losses, scores = log_losses(codes, proba), brier_scores(codes, proba)
        assert losses.mean() == pytest.approx(log_loss(codes, proba, labels=range(classes)), rel=1e-9)
        expected = brier_score_loss(codes, proba[:, 1] if classes == 2 else proba)
        assert scores.mean() == pytest.approx(expected, rel=1e-9)
        found = mean_of("log_loss", 500, losses.sum(), (losses**2).sum())
        assert found.error == pytest.approx(losses.std(ddof=1) / math.sqrt(500))


def moments(target: np.ndarray, predicted: np.ndarray, centre: float) -> dict[str, float]:
    e, u = target - predicted, target - centre
    values = {"n": np.ones(len(e)), "abs": np.abs(e), "e2": e**2, "e4": e**4, "e2u1": e**2 * u, "e2u2": e**2 * u**2}
    values |= {f"u{power}": u**power for power in (1, 2, 3, 4)}
    return {name: float(value.sum()) for name, value in values.items()}


def test_regression_metrics_by_hand() -> None:
    # errors 1, -1, 2: the squares have mean 2; the target has mean 2 and spread 2 / 3
    found = regression_of(moments(np.array([1.0, 2.0, 3.0]), np.array([0.0, 3.0, 1.0]), 0.0))
    assert found["rmse"].value == pytest.approx(math.sqrt(2))
    assert found["mae"].value == pytest.approx(4 / 3)
    assert found["r2"].value == pytest.approx(1 - 2 / (2 / 3))


@pytest.mark.parametrize("centre", [0.0, 1e3])
def test_regression_metrics_are_those_of_scikit_learn(centre: float) -> None:
    rng = np.random.default_rng(6)
    target = rng.normal(size=2_000) + centre
    predicted = target + rng.standard_t(8, size=2_000) * 0.7
    found = regression_of(moments(target, predicted, centre + 0.1))
    assert found["rmse"].value == pytest.approx(root_mean_squared_error(target, predicted))
    assert found["mae"].value == pytest.approx(mean_absolute_error(target, predicted))
    assert found["r2"].value == pytest.approx(r2_score(target, predicted))
    for name, statistic in (("rmse", root_mean_squared_error), ("mae", mean_absolute_error), ("r2", r2_score)):
        assert found[name].error == pytest.approx(bootstrap(statistic, target, predicted), rel=0.15)


def test_a_constant_target_has_no_r2() -> None:
    assert "r2" not in regression_of(moments(np.full(5, 3.0), np.arange(5.0), 3.0))


def test_a_constant_target_of_a_segment_has_no_r2_either_although_its_sums_are_rounded() -> None:
    for value, rows in itertools.product([0.1, 5.3, 12.34, 1e6 + 0.1], range(2, 200)):
        found = regression_of(moments(np.full(rows, value), np.arange(float(rows)), 0.3))
        assert "r2" not in found, (value, rows)


def test_an_almost_constant_target_has_the_r2_of_scikit_learn() -> None:
    rng = np.random.default_rng(9)
    target = 1_000 + rng.normal(size=300) * 0.01
    predicted = target + rng.normal(size=300) * 0.005
    found = regression_of(moments(target, predicted, 0.0))["r2"]
    assert found.value == pytest.approx(r2_score(target, predicted), rel=1e-4)


@pytest.mark.parametrize("happened", [True, False])
def test_tenths_in_which_everything_or_nothing_happened_can_be_shown_and_pooled(happened: bool) -> None:
    for rows in range(1, 200):
        deciles = deciles_of(np.arange(rows) / rows, np.full(rows, happened), is_share=True)
        assert [item.observed for item in deciles] == pytest.approx([float(happened)] * 10)
        assert all(0 <= item.observed <= 1 for item in deciles)
        group = Group(rows=rows, labels=rows, metrics={}, base=float(happened), deciles=deciles)
        run = RunOutcomes(job_id="a", model="m@1", kind="classifier", at="2026-11-02T00:00:00+00:00", groups=(group,))
        pooled_deciles = pooled([run, run]).whole.deciles
        assert [item.observed for item in pooled_deciles] == pytest.approx([float(happened)] * 10)


def test_deciles_do_not_depend_on_the_order_of_rows() -> None:
    rng = np.random.default_rng(7)
    score = rng.integers(0, 4, 1_003) / 4
    came_true = rng.random(1_003) < score
    order = rng.permutation(1_003)
    found = deciles_of(score, came_true, is_share=True)
    assert [item.observed for item in found] == pytest.approx(
        [item.observed for item in deciles_of(score[order], came_true[order], is_share=True)]
    )
    assert sum(item.rows * item.observed for item in found) == pytest.approx(came_true.sum())
    assert sum(item.rows * item.predicted for item in found) == pytest.approx(score.sum())
    assert sum(item.rows for item in found) == pytest.approx(1_003)


def test_deciles_of_distinct_scores_are_tenths_of_the_sorted_rows() -> None:
    rng = np.random.default_rng(8)
    score = rng.permutation(200).astype(float)
    target = score * 2 + rng.normal(size=200)
    found = deciles_of(score, target, is_share=False)
    tenths = np.split(target[np.argsort(-score)], 10)
    assert [item.observed for item in found] == pytest.approx([tenth.mean() for tenth in tenths])
    half = 1.96 * tenths[3].std() / math.sqrt(20)
    assert found[3].high - found[3].observed == pytest.approx(half, rel=1e-4)


def test_a_calibration_table_counts_what_came_true() -> None:
    places = calibration_places(np.array([0.0, 0.1, 0.1000001, 0.95, 1.0]))
    assert places.tolist() == [0, 0, 1, 9, 9]
    found = calibration_of([4, 0, 2], [0.2, 0, 0.5], [1, 0, 2])
    assert [(item.start, item.stop, item.rows, item.predicted, item.observed) for item in found] == [
        (0.0, 0.1, 4.0, 0.05, 0.25),
        (0.2, 0.3, 2.0, 0.25, 1.0),
    ]
    assert (round(found[0].low, 3), round(found[0].high, 3)) == (0.046, 0.699)
