"""A model scores each row independently of the others if all its steps but the last are known to do so."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import TransformedTargetRegressor, make_column_selector, make_column_transformer
from sklearn.ensemble import BaggingRegressor, GradientBoostingClassifier, StackingRegressor, VotingRegressor
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline, make_pipeline, make_union
from sklearn.preprocessing import FunctionTransformer, LabelEncoder, OneHotEncoder, StandardScaler

from scoreline.storage.models.row_order import keeps_rows_apart

X = pd.DataFrame({"a": np.linspace(0.1, 1.0, 40), "b": np.linspace(1.0, 0.1, 40)})
Y = np.arange(40) % 2


def own(x: Any) -> Any:
    return x


class OwnStep(TransformerMixin, BaseEstimator):
    def fit(self, x: Any, y: Any = None) -> OwnStep:
        self.fitted_ = True
        return self

    def transform(self, x: Any) -> Any:
        return x

    def predict(self, x: Any) -> Any:
        return np.zeros(len(x))


class OwnPipeline(Pipeline):
    """A subclass of scikit-learn's pipeline that inherits all methods."""


def scaled(step: Any) -> Any:
    return make_pipeline(step, Ridge())


STEPS: dict[str, Any] = {
    "pipeline": lambda step: make_pipeline(StandardScaler(), step, Ridge()),
    "pipeline of another class": lambda step: OwnPipeline([("a", step), ("b", Ridge())]),
    "columns": lambda step: make_pipeline(make_column_transformer((step, ["a"]), remainder="passthrough"), Ridge()),
    "remainder": lambda step: make_pipeline(
        make_column_transformer((StandardScaler(), ["a"]), remainder=step), Ridge()
    ),
    "union": lambda step: make_pipeline(make_union(StandardScaler(), step), Ridge()),
    "search": lambda step: GridSearchCV(scaled(step), {"ridge__alpha": [1.0]}, cv=2),
    "calibration": lambda step: CalibratedClassifierCV(make_pipeline(step, LogisticRegression()), cv=2),
    "stacking": lambda step: StackingRegressor([("a", scaled(step)), ("b", Ridge())], cv=2),
    "voting": lambda step: VotingRegressor([("a", scaled(step)), ("b", Ridge())]),
    "bagging": lambda step: BaggingRegressor(scaled(step), n_estimators=2),
    "transformed target": lambda step: TransformedTargetRegressor(scaled(step)),
    "last pipeline": lambda step: make_pipeline(StandardScaler(), scaled(step)),
}


def alone(model: Any, label_encoder: Any = None) -> bool:
    return keeps_rows_apart([], [model], label_encoder)


@pytest.mark.parametrize("around", STEPS)
def test_a_step_of_the_users_own_is_found_anywhere_in_a_model(around: str) -> None:
    make = STEPS[around]
    assert alone(make(StandardScaler()).fit(X, Y)) == (around != "pipeline of another class")
    assert alone(make(FunctionTransformer(np.tanh)).fit(X, Y)) == (around != "pipeline of another class")
    assert not alone(make(OwnStep()).fit(X, Y))
    assert not alone(make(FunctionTransformer(own)).fit(X, Y))


@pytest.mark.parametrize("function", [None, np.log, np.sqrt, expit, np.nan_to_num])
def test_functions_that_treat_each_value_keep_rows_apart(function: Any) -> None:
    assert alone(scaled(FunctionTransformer(function)).fit(X, Y))


@pytest.mark.parametrize("function", [own, np.cumsum, np.flip, np.sort, np.vectorize(own), lambda x: x])
def test_other_functions_may_mix_rows(function: Any) -> None:
    assert not alone(scaled(FunctionTransformer(function)))


def test_arguments_of_functions_may_mix_rows() -> None:
    assert not alone(scaled(FunctionTransformer(np.nan_to_num, kw_args={"own": own})))


def test_the_last_step_may_be_of_any_class_unless_a_label_encoder_follows() -> None:
    model = make_pipeline(StandardScaler(), OwnStep()).fit(X, Y)
    assert alone(model)
    assert alone(OwnStep().fit(X))
    assert not alone(model, LabelEncoder().fit(["a", "b"]))


def test_preprocessors_come_before_the_last_step() -> None:
    assert keeps_rows_apart([StandardScaler().fit(X)], [Ridge()], None)
    assert not keeps_rows_apart([OwnStep().fit(X)], [Ridge()], None)


def test_functions_for_fitting_and_for_single_documents_do_not_count() -> None:
    text = make_pipeline(TfidfVectorizer(tokenizer=str.split, preprocessor=own, token_pattern=None), Ridge())
    assert alone(text.fit(["a b", "c d"], [0, 1]))
    columns = make_column_transformer(
        (SimpleImputer(), make_column_selector("a")), (OneHotEncoder(), lambda frame: ["b"])
    )
    assert alone(make_pipeline(columns, Ridge()).fit(X, Y))
    assert alone(GridSearchCV(Ridge(), {"alpha": [1.0]}, cv=2, scoring=lambda model, x, y: 0.0).fit(X, Y))


def test_an_ensemble_of_scikit_learn_keeps_rows_apart() -> None:
    assert alone(make_pipeline(StandardScaler(), GradientBoostingClassifier(n_estimators=3)).fit(X, Y))
