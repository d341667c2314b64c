"""The known categories of a model's features are read from its encoders."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor, make_column_transformer
from sklearn.ensemble import VotingClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler, TargetEncoder

from scoreline.storage.models.categories import Categories, known_categories

TEXTS = Categories(are_texts=True)
ROWS = pd.DataFrame(
    {
        "size": np.arange(8.0),
        "town": np.array(["Rome", "Oslo"] * 4, dtype=object),
        "flag": np.array([True, False] * 4, dtype=object),
    }
)
Y = np.array([0, 1] * 4)
IMPUTED = make_pipeline(SimpleImputer(strategy="most_frequent"), OrdinalEncoder())


def encoder(columns: Any = ("town",)) -> ColumnTransformer:
    return make_column_transformer((OneHotEncoder(), columns if isinstance(columns, slice) else list(columns)))


@pytest.mark.parametrize(
    "model",
    [
        make_pipeline(encoder(), LinearRegression()),
        make_pipeline(encoder(), StandardScaler(with_mean=False), LinearRegression()),
        make_pipeline("passthrough", encoder(), LinearRegression()),
        make_pipeline(encoder(slice(1, 2)), LinearRegression()),
        make_pipeline(encoder([1]), LinearRegression()),
        make_pipeline(encoder([False, True, False]), LinearRegression()),
        make_pipeline(FeatureUnion([("a", encoder()), ("b", encoder())]), LinearRegression()),
        make_pipeline(
            make_column_transformer(
                (make_pipeline(SimpleImputer(strategy="most_frequent"), OrdinalEncoder()), ["town"])
            ),
            LinearRegression(),
        ),
        make_pipeline(make_column_transformer((TargetEncoder(cv=2), ["town"])), LinearRegression()),
        TransformedTargetRegressor(make_pipeline(encoder(), LinearRegression())),
        GridSearchCV(make_pipeline(encoder(), LinearRegression()), {}, cv=2),
        CalibratedClassifierCV(make_pipeline(encoder(), LogisticRegression()), cv=2),
        VotingClassifier([("a", make_pipeline(encoder(), LogisticRegression()))]),
    ],
    ids=lambda model: type(model).__name__,
)
def test_an_encoder_is_found_anywhere_in_a_model(model: Any) -> None:
    known = known_categories(model.fit(ROWS, Y), list(ROWS.columns))
    assert (list(known), known["town"].are_texts) == (["town"], True)


def test_booleans_and_kinds_of_missing_values_are_distinguished() -> None:
    def of(values: list[Any]) -> Categories:
        fitted = OneHotEncoder().fit(np.array(values, dtype=object)[:, None])
        return known_categories(fitted, ["x"])["x"]

    assert of(["a", "b"]) == TEXTS
    assert of(["a", None]) == Categories(are_texts=True, has_none=True)
    assert of(["a", np.nan]) == Categories(are_texts=True, has_nan=True)
    assert of([True, None]) == Categories(has_booleans=True, has_none=True)
    assert of([1, 2]) == Categories()


def test_an_imputer_says_what_a_missing_value_is() -> None:
    rows = pd.DataFrame({"town": np.array(["Rome", np.nan, "Oslo"], dtype=object)})
    model = make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder()).fit(rows)
    assert known_categories(model, ["town"]) == {"town": Categories(are_texts=True, has_nan=True)}


def test_nothing_is_known_of_columns_that_reach_no_encoder_unchanged() -> None:
    model = make_pipeline(StandardScaler(), LinearRegression()).fit(ROWS[["size"]], Y)
    assert known_categories(model, ["size"]) == {}
    assert known_categories(make_pipeline(StandardScaler(), OneHotEncoder()).fit(ROWS[["size"]]), ["size"]) == {}
    assert known_categories(lambda rows: rows, ["x"]) == {}
