"""Features, outputs and names are read correctly from fitted estimators of any library."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import numpy as np
import pandas as pd
import pytest
from lightgbm import LGBMClassifier, LGBMRegressor
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import RandomForestRegressor, VotingRegressor
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import GridSearchCV
from sklearn.multioutput import MultiOutputRegressor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from scoreline.storage.models.categories import known_categories
from scoreline.storage.models.introspection import describe_features, describe_outputs, replaces_blanks
from scoreline.storage.models.thread_limits import limit_to_one_thread

FRAME = pd.DataFrame(np.random.default_rng(0).normal(size=(60, 2)), columns=["store number", "paid amount"])
Y = FRAME["store number"]


class Cat(BaseEstimator):
    """A model that describes itself as an unpickled CatBoost model does."""

    def __init__(self, names: Any = ("a", "b"), count: int | None = 0) -> None:
        self.names = names
        self.count = count

    @property
    def feature_names_(self) -> list[str]:
        return list(self.names)

    @property
    def n_features_in_(self) -> int:
        if self.count is None:
            raise AttributeError("n_features_in_")
        return self.count

    def fit(self, x: Any, y: Any = None) -> Self:
        return self

    def predict(self, x: Any) -> Any:
        return np.asarray(x)[:, 0]


def grid(model: Any) -> Any:
    search = GridSearchCV(model, {}, cv=2, scoring="r2")
    search.best_estimator_ = model
    return search


@pytest.mark.parametrize("wrap", [lambda model: model, grid, make_pipeline])
@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (Cat(), (("a", "b"), 2)),
        (Cat(count=None), (("a", "b"), 2)),
        (Cat(count=2), (("a", "b"), 2)),
        (Cat(names=["0", "1"]), (None, 2)),
        (Cat(names=[]), (None, None)),
        (Cat(names=["a", "b", "c"], count=2), (None, 2)),
    ],
)
def test_the_features_of_catboost_are_read_from_its_own_names(wrap: Any, model: Any, expected: Any) -> None:
    assert describe_features({"model": wrap(model)}) == expected


def test_a_regressor_of_catboost_has_no_classes() -> None:
    model = Cat()
    model.classes_ = []
    assert describe_outputs(model, None).classes is None


def test_names_that_a_transformer_gives_to_its_output_are_not_those_of_its_input() -> None:
    class Names(TransformerMixin, BaseEstimator):
        feature_names_ = ("out",)

        def fit(self, x: Any, y: Any = None) -> Self:
            return self

        def transform(self, x: Any) -> Any:
            return x

    assert describe_features({"model": Names()}) == (None, None)


def light() -> LGBMRegressor:
    return LGBMRegressor(n_estimators=2, verbose=-1)


@pytest.mark.parametrize(
    "fit",
    [
        lambda: light().fit(FRAME, Y),
        lambda: GridSearchCV(light(), {"num_leaves": [3]}, cv=2).fit(FRAME, Y),
        lambda: Pipeline([("none", None), ("model", light())]).fit(FRAME, Y),
        lambda: VotingRegressor([("a", light()), ("b", light())]).fit(FRAME, Y),
        lambda: TransformedTargetRegressor(light()).fit(FRAME, Y),
        lambda: MultiOutputRegressor(light()).fit(FRAME, FRAME.to_numpy()),
        lambda: CalibratedClassifierCV(LGBMClassifier(n_estimators=2, verbose=-1), cv=2).fit(FRAME, Y > 0),
    ],
    ids=["alone", "search", "pipeline", "voting", "transformed target", "several outputs", "calibrated"],
)
def test_lightgbm_is_recognized_within_other_estimators(fit: Callable[[], Any]) -> None:
    model = fit()
    assert replaces_blanks(model)
    assert describe_features({"model": model}) == (("store_number", "paid_amount"), 2)


@pytest.mark.parametrize(
    "fit",
    [
        lambda: LinearRegression().fit(FRAME, Y),
        lambda: make_pipeline(StandardScaler(), light()).fit(FRAME, Y),
    ],
    ids=["linear", "pipeline"],
)
def test_other_models_keep_the_names_of_their_features(fit: Callable[[], Any]) -> None:
    model = fit()
    assert not replaces_blanks(model)
    assert describe_features({"model": model}) == (("store number", "paid amount"), 2)


def test_lightgbm_fitted_on_an_array_has_no_names() -> None:
    assert describe_features({"model": light().fit(FRAME.to_numpy(), Y)}) == (None, 2)


class Raises(BaseEstimator):
    """A model that raises an error for every attribute that is read, as a lazy model does before its first use."""

    def fit(self, x: Any, y: Any = None) -> Self:
        return self

    def predict(self, x: Any) -> Any:
        return np.zeros(len(x))

    def _raise(self) -> Any:
        raise RuntimeError("not loaded yet")

    classes_ = feature_names_in_ = n_features_in_ = steps = estimators_ = _estimator_type = property(_raise)
    categories_ = transformers_ = transformer_list = best_estimator_ = estimator = property(_raise)

    def __sklearn_tags__(self) -> Any:
        raise RuntimeError("no tags")


def test_an_estimator_may_raise_anything_when_it_is_described() -> None:
    assert describe_features({"model": Raises()}) == (None, None)
    assert describe_outputs(Raises(), None).methods == ("predict",)
    assert known_categories(Raises(), ["a"]) == {}


class Renamed(TransformerMixin, BaseEstimator):
    """An estimator that cannot be cloned or list its parameters, because it stores its argument under another name."""

    def __init__(self, cols: Any, n_jobs: int = 8) -> None:
        self.columns = cols
        self.n_jobs = n_jobs

    def fit(self, x: Any, y: Any = None) -> Self:
        return self

    def transform(self, x: Any) -> Any:
        return x


def test_every_step_has_one_thread_even_if_one_cannot_list_its_parameters() -> None:
    # Given a pipeline with a step that cannot list its parameters, and fitted estimators that are only in attributes
    forest = RandomForestRegressor(2, n_jobs=4)
    voting = VotingRegressor([("forest", forest)]).fit(FRAME, Y)
    model = Pipeline([("renamed", Renamed(["a"])), ("voting", voting)])
    # When the pipeline is prepared for a worker
    assert limit_to_one_thread(model) is model
    # Then all its estimators use one thread
    assert model.steps[0][1].n_jobs == voting.estimators_[0].n_jobs == voting.estimators[0][1].n_jobs == 1


def test_a_model_of_an_older_release_is_loaded_although_it_lacks_a_parameter() -> None:
    old = LinearRegression(n_jobs=4).fit(FRAME, Y)
    del old.tol  # models that scikit-learn 1.5 saved lack this attribute
    assert limit_to_one_thread(old) is old
    assert old.n_jobs == 1


def test_a_model_that_contains_itself_is_prepared_once() -> None:
    model = Renamed(["a"])
    model.self = [model]
    assert limit_to_one_thread(model).n_jobs == 1


def test_objects_that_are_not_estimators_are_left_unchanged() -> None:
    assert limit_to_one_thread({"n_jobs": 4}) == {"n_jobs": 4}
    assert limit_to_one_thread(None) is None
