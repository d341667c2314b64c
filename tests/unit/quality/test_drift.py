from __future__ import annotations

import math
import weakref
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy.spatial.distance import jensenshannon
from scipy.stats import ks_2samp, wasserstein_distance

from scoreline.tasks.quality.checks.drift import drift_of_numbers, drift_of_values
from scoreline.tasks.quality.checks.measures import Measure, exceeded
from scoreline.tasks.quality.profiles.column_profile import ColumnProfile
from scoreline.tasks.quality.profiles.counting import profile_of
from scoreline.tasks.quality.profiles.values import Values

LIMITS = {"psi": 0.1, "js": 0.1, "ks": 0.1, "wasserstein": 0.1}
ROWS = 10_000


def counted(values: Any) -> ColumnProfile:
    return profile_of(pa.table({"x": pa.array(values)})).columns["x"]


def measures(before: Any, now: Any) -> dict[str, Measure]:
    a, b = counted(before), counted(now)
    found = drift_of_numbers(a.histogram, b.histogram, a.std)
    return {measure.name: measure for measure in found}


def normal(seed: int, rows: int = ROWS, mean: float = 0.0, std: float = 1.0) -> Any:
    return np.random.default_rng(seed).normal(mean, std, rows)


SAMPLES = {
    "normal": (normal(1), normal(2, mean=0.4)),
    "far from zero": (normal(1, mean=1000), normal(2, mean=1000.5)),
    "integers": (np.floor(normal(1, std=5)), np.floor(normal(2, std=6))),
    "skewed": (np.exp(normal(1)), np.exp(normal(2, mean=0.3))),
    "many zeros": (np.maximum(normal(1), 0), np.maximum(normal(2, mean=0.5), 0)),
}


@pytest.mark.parametrize("sample", SAMPLES)
def test_measures_on_histograms_are_close_to_those_of_the_values(sample: str) -> None:
    before, now = SAMPLES[sample]
    found = measures(before, now)
    assert found["ks"].value == pytest.approx(ks_2samp(before, now).statistic, abs=0.005)
    assert found["wasserstein"].value == pytest.approx(
        wasserstein_distance(before, now) / before.std(ddof=1), rel=0.02, abs=0.002
    )


def test_the_index_is_that_over_deciles() -> None:
    before, now = SAMPLES["normal"]
    edges = np.quantile(before, np.linspace(0, 1, 11)[1:-1])
    a, b = (np.bincount(np.searchsorted(edges, x), minlength=10) / ROWS for x in (before, now))
    assert measures(before, now)["psi"].value == pytest.approx(float(((b - a) * np.log(b / a)).sum()), rel=0.05)


def test_the_distance_of_categories_is_that_of_scipy() -> None:
    before, now = Values.of_counts({"a": 500, "b": 300, "c": 200}, 1000), Values.of_counts({"a": 300, "b": 700}, 1000)
    found = {measure.name: measure.value for measure in drift_of_values(before, now)}
    assert found["js"] == pytest.approx(jensenshannon([0.5, 0.3, 0.2], [0.3, 0.7, 0.0], base=2))


def test_a_constant_that_becomes_another_constant_has_drifted() -> None:
    for before, now in ((5.0, 7.0), (5.0, 3.0), (0.0, 1.0)):
        found = measures(np.full(ROWS, before), np.full(ROWS, now))
        assert found["ks"].value == 1
        assert found["psi"].value > 1
        assert found["js"].value == pytest.approx(1)


def test_a_unit_that_changes_by_a_thousand_has_drifted_by_every_measure() -> None:
    before = np.exp(normal(1))
    assert {measure.name for measure, _ in exceeded([*measures(before, before * 1000).values()], LIMITS)} == set(LIMITS)


@pytest.mark.parametrize("rows", [100, 1_000, 10_000])
def test_two_samples_of_the_same_values_have_not_drifted_from_a_hundred_rows_on(rows: int) -> None:
    raised = 0
    for seed in range(60):
        for draw in (
            normal,
            lambda seed, rows: np.exp(normal(seed, rows)),
            lambda seed, rows: np.floor(normal(seed, rows, std=3)),
        ):
            found = measures(draw(2 * seed, rows), draw(2 * seed + 1, rows))
            raised += len(exceeded([*found.values()], LIMITS))
        generator = np.random.default_rng(seed)
        one, other = (Values.of(generator.choice(list("abcdefgh"), rows).tolist()) for _ in range(2))
        raised += len(exceeded(drift_of_values(one, other), LIMITS))
    assert raised == 0


def test_without_the_noise_small_samples_would_raise_false_alarms() -> None:
    found = measures(normal(1, 60), normal(2, 60))
    assert found["psi"].value > 0.1
    assert found["psi"].value < found["psi"].noise


def test_a_small_shift_is_found_in_many_rows() -> None:
    found = measures(normal(1, 100_000), normal(2, 100_000, mean=0.12))
    assert [measure.name for measure, _ in exceeded([*found.values()], LIMITS)] == ["wasserstein"]


def test_a_limit_that_is_switched_off_is_not_exceeded() -> None:
    found = [*measures(normal(1), normal(2, mean=3)).values()]
    assert [measure.name for measure, _ in exceeded(found, {"ks": 0.1})] == ["ks"]


@pytest.mark.parametrize(("before", "now"), [([], [1.0]), ([1.0], []), ([], [])])
def test_without_values_nothing_is_measured(before: list[float], now: list[float]) -> None:
    assert measures(np.array(before), np.array(now)) == {}
    assert drift_of_values(Values.of(map(str, before)), Values.of(map(str, now))) == []


def test_extreme_values_do_not_break_a_measure() -> None:
    large = [1e308, -1e308, 5e-324, 0.0] * 100
    for measure in measures(np.array(large), np.array([1.0] * 400)).values():
        assert math.isfinite(measure.value)


def test_a_column_with_too_many_values_to_hold_is_compared_on_the_values_that_are_held() -> None:
    generator = np.random.default_rng(5)
    texts = [f"v{number}" for number in generator.zipf(1.5, 50_000) % 30_000]
    one, other = Values.of(texts[::2]), Values.of(texts[1::2])
    assert exceeded(drift_of_values(one, other), LIMITS) == []


def test_a_measured_drift_is_that_of_its_own_arguments() -> None:
    a, b, other = counted(normal(1)), counted(normal(2, mean=0.4)), counted(normal(3, mean=2.0))
    first = drift_of_numbers(a.histogram, b.histogram, 1.0)
    found = list(first)
    first.clear()  # a caller may change what it gets
    assert drift_of_numbers(a.histogram, b.histogram, 1.0) == found
    wider = drift_of_numbers(a.histogram, b.histogram, 2.0)
    assert wider == drift_of_numbers(counted(normal(1)).histogram, counted(normal(2, mean=0.4)).histogram, 2.0) != found
    assert drift_of_numbers(other.histogram, b.histogram, 1.0) != found


def test_what_was_measured_does_not_keep_the_histograms_of_earlier_jobs() -> None:
    before, now = (counted(normal(seed)).histogram for seed in (1, 2))
    assert drift_of_numbers(before, now, 1.0)
    earlier = weakref.ref(before)
    del before
    assert earlier() is None
    assert drift_of_numbers(counted(normal(1, mean=2.0)).histogram, now, 1.0)[0].value > 1  # perhaps in its memory
