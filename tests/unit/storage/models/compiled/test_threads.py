"""Large ensembles are compiled and compared in two threads, with the same result."""

from __future__ import annotations

import threading
import warnings
from typing import Any

import numpy as np
import pytest
from sklearn.ensemble import ExtraTreesClassifier, RandomForestRegressor

pytest.importorskip("scoreline.storage.models.compiled._walk", reason="there was no compiler to build the extension")

from scoreline.storage.models.compiled import comparing, threads, tree_ensembles
from scoreline.storage.models.compiled.extension import compile_estimators
from scoreline.storage.models.compiled.nodes import PackedTrees
from scoreline.storage.models.compiled.probes import probe_rows
from scoreline.storage.models.compiled.threads import in_threads

X = np.random.default_rng(0).normal(size=(300, 6))
Y = X[:, 0] * X[:, 1]
FORESTS = [RandomForestRegressor(7, random_state=0).fit(X, Y), ExtraTreesClassifier(7, random_state=0).fit(X, Y > 0)]


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "LARGE", 1)


def fail_at_odd(number: int) -> int:
    if number % 2:
        raise ValueError(str(number))
    return number * number


@pytest.mark.parametrize("n_nodes", [threads.LARGE - 1, threads.LARGE])
def test_results_have_the_order_of_the_items_and_the_first_error_is_raised(n_nodes: int) -> None:
    assert in_threads(fail_at_odd, range(0, 40, 2), n_nodes) == [number**2 for number in range(0, 40, 2)]
    with pytest.raises(ValueError, match=r"^3$"):
        in_threads(fail_at_odd, [2, 3, 4, 5, 6], n_nodes)


def test_two_threads_share_the_items_of_large_ensembles_only() -> None:
    both = threading.Barrier(2, timeout=30)
    in_threads(lambda _: both.wait(), range(2), threads.LARGE)
    names = in_threads(lambda _: threading.current_thread().name, range(2), threads.LARGE - 1)
    assert set(names) == {threading.current_thread().name}


@pytest.mark.parametrize("forest", FORESTS, ids=lambda forest: type(forest).__name__)
def test_trees_are_packed_in_threads_as_without(forest: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def packed() -> PackedTrees:
        (method,) = tree_ensembles.compile_ensemble(forest).methods.values()
        return next(cell.cell_contents for cell in method.__closure__ if isinstance(cell.cell_contents, PackedTrees))

    alone = packed()
    monkeypatch.setattr(threads, "LARGE", 1)
    shared = packed()
    for name, array in vars(alone.form).items():
        np.testing.assert_array_equal(getattr(shared.form, name), array)


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("most_results", [comparing._MAX_RESULTS, 0])
def test_a_large_forest_is_compared_and_filters_of_warnings_are_restored(
    most_results: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparing, "_MAX_RESULTS", most_results)
    before = list(warnings.filters)
    for forest in FORESTS:
        assert [one.reason for one in compile_estimators([("model", forest)]).found] == [None]
    assert list(warnings.filters) == before


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("part", range(4))
def test_a_large_forest_is_refused_if_any_part_of_the_rows_differs(part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = list(comparing._parts(probe_rows(tree_ensembles.compile_ensemble(FORESTS[0]).trees, 6, wide=False), ()))
    own = PackedTrees.add_to

    def differ(self: PackedTrees, sums: Any, x: Any, **scale: float) -> None:
        own(self, sums, x, **scale)
        if np.array_equal(x, rows[part][1], equal_nan=True):
            sums[-1, -1] += 1.0

    monkeypatch.setattr(PackedTrees, "add_to", differ)
    (one,) = compile_estimators([("model", FORESTS[0])]).found
    assert one.reason == f"its results for rows with {rows[part][0]} differ from those of scikit-learn"
