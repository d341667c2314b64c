"""Each row gets its own values from the result of a model, whatever type of array or list the model returns."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import scipy.sparse as sp
from sklearn.base import BaseEstimator
from sklearn.preprocessing import LabelEncoder

from scoreline.storage.errors import ScoringError
from scoreline.tasks.scoring.array_likes import to_rows
from scoreline.tasks.scoring.score import score_batch
from tests.support.bundles import batch, bundle, scored

VALUES = [0.0, 1.5, 3.0, 4.5]


class Returning(BaseEstimator):
    """Predicts the result of a function of its first column."""

    def __init__(self, makes: Callable[[Any], Any], classes: Any = None) -> None:
        self.makes = makes
        if classes is not None:
            self.classes_ = classes

    def fit(self, x: Any, y: Any = None) -> Returning:
        return self

    def predict(self, x: Any) -> Any:
        return self.makes(np.asarray(x)[:, 0])

    def predict_proba(self, x: Any) -> Any:
        return self.makes(np.asarray(x)[:, 0])


@pytest.mark.parametrize(
    "makes",
    [
        list,
        tuple,
        deque,
        iter,
        lambda v: (float(item) for item in v),
        lambda v: dict.fromkeys(v).keys(),
        lambda v: v.reshape(-1, 1),
        lambda v: v.reshape(-1, 1).tolist(),
        lambda v: [row.reshape(1, 1) for row in v],
        np.asmatrix,
        lambda v: np.asmatrix(v).T,
        pd.Series,
        lambda v: pd.Series(v, index=[f"row {n}" for n in range(len(v))]),
        lambda v: pd.DataFrame({"score": v}),
        pd.Index,
        lambda v: pd.array(v, dtype="Float64"),
        pl.Series,
        lambda v: pl.DataFrame({"score": v}),
        pa.array,
        lambda v: pa.chunked_array([pa.array(v)]),
        lambda v: sp.csr_matrix(v.reshape(-1, 1)),
        lambda v: sp.coo_array(v.reshape(-1, 1)),
        lambda v: np.ma.masked_array(v),
        lambda v: {"score": v.tolist()},
    ],
)
@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")  # numpy's warning about matrices
@pytest.mark.parametrize("values", [VALUES, VALUES[:1], VALUES[:2]], ids=["4", "1", "2"])
def test_one_value_for_each_row_is_one_column_in_any_container(makes: Any, values: list[float]) -> None:
    if makes is np.asmatrix and len(values) > 1:
        pytest.skip("a row vector is one row of several columns")
    assert scored(Returning(makes), "predict", x=values).table.to_pydict() == {"prediction": values}


@pytest.mark.parametrize(
    ("makes", "expected"),
    [
        (lambda v: ["high" if n > 1 else "low" for n in v], ["low", "high", "high", "high"]),
        (lambda v: ["high" if n > 1 else None for n in v], [None, "high", "high", "high"]),
        (lambda v: ["high" if n > 1 else float("nan") for n in v], [None, "high", "high", "high"]),
        (lambda v: [bool(n > 1) for n in v], [False, True, True, True]),
        (lambda v: [int(n) for n in v], [0, 1, 3, 4]),
        (lambda v: [n if n > 1 else None for n in v], [None, 1.5, 3.0, 4.5]),
        (lambda v: [Decimal(str(n)) for n in v], [Decimal(str(n)) for n in VALUES]),
        (lambda v: np.ma.masked_array(v, mask=v < 1), [pytest.approx(float("nan"), nan_ok=True), 1.5, 3.0, 4.5]),
        (lambda v: np.ma.masked_array(v.astype(int), mask=v < 1), [None, 1, 3, 4]),
        (lambda v: np.ma.masked_array(np.full(len(v), "a"), mask=v < 1), [None, "a", "a", "a"]),
    ],
)
def test_values_in_a_list_keep_their_type(makes: Any, expected: list[Any]) -> None:
    assert scored(Returning(makes), "predict", x=VALUES).table["prediction"].to_pylist() == expected


def pairs(v: Any) -> list[list[float]]:
    return [[float(n), -float(n)] for n in v]


@pytest.mark.parametrize(
    "makes",
    [
        pairs,
        lambda v: tuple(map(tuple, pairs(v))),
        lambda v: [np.array(pair) for pair in pairs(v)],  # one array for each row
        lambda v: [np.array([pair]) for pair in pairs(v)],
        lambda v: [v, -v],  # one array for each target
        lambda v: (v, -v),
        lambda v: [v.reshape(-1, 1), -v.reshape(-1, 1)],
        lambda v: pd.DataFrame(pairs(v)),
        lambda v: sp.csc_array(np.array(pairs(v))),
        lambda v: {"a": v, "b": -v},
    ],
)
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_rows_and_targets_are_distinguished_for_any_number_of_rows(makes: Any, count: int) -> None:
    found = scored(Returning(makes), "predict", x=VALUES[:count]).table.to_pydict()
    assert found == {"prediction_0": VALUES[:count], "prediction_1": [-n for n in VALUES[:count]]}


def test_each_column_of_rows_with_mixed_types_keeps_its_type() -> None:
    found = scored(Returning(lambda v: [["high" if n > 1 else "low", int(n)] for n in v]), "predict", x=VALUES).table
    assert found.to_pydict() == {"prediction_0": ["low", "high", "high", "high"], "prediction_1": [0, 1, 3, 4]}


@pytest.mark.parametrize(
    "makes",
    [
        lambda v: [[0.25, 0.75] for _ in v],
        lambda v: pd.DataFrame({"no": 0.25, "yes": 0.75}, index=range(len(v))),
        # the columns are not in the order of the classes
        lambda v: pd.DataFrame({"yes": 0.75, "no": 0.25}, index=range(len(v))),
        lambda v: {"yes": 0.75 + 0 * v, "no": 0.25 + 0 * v},
    ],
)
@pytest.mark.parametrize("count", [1, 2, 4])
def test_probabilities_belong_to_their_classes(makes: Any, count: int) -> None:
    model = Returning(makes, classes=np.array(["no", "yes"]))
    found = scored(model, "predict_proba", x=VALUES[:count]).table.to_pydict()
    assert found == {"proba_no": [0.25] * count, "proba_yes": [0.75] * count} or list(found) == [
        "proba_yes",
        "proba_no",
    ]
    assert (found["proba_no"], found["proba_yes"]) == ([0.25] * count, [0.75] * count)


@pytest.mark.parametrize("makes", [lambda v: [int(n) % 2 for n in v], lambda v: pd.Series(v.astype(int) % 2)])
def test_a_label_encoder_decodes_predictions_in_any_container(makes: Any) -> None:
    loaded = bundle(Returning(makes, classes=np.array([0, 1])))
    encoded = type(loaded)(
        models=loaded.models,
        label_encoder=LabelEncoder().fit(["no", "yes"]),
        manifest=loaded.manifest,
        manifest_sha256="",
    )
    done = score_batch(encoded, batch(x=VALUES), features=["x"], keep=[], method="predict")
    assert done.table["prediction"].to_pylist() == ["no", "yes", "yes", "no"]


@pytest.mark.parametrize(
    ("result", "said"),
    [
        (None, "predict returns nothing for 3 rows"),
        (1.0, "predict returns a single float for 3 rows"),
        ("high", "predict returns a single str for 3 rows"),
        ({1.0, 2.0, 3.0}, "predict returns a single set for 3 rows"),
        ([[1.0, 2.0]], "predict returns a list of 1 items for 3 rows"),
        ([[1.0], [1.0, 2.0], [3.0]], "predict returns lists of 1 to 2 values"),
        (sp.csr_matrix((3, 1_000)), "the result is sparse and has 1,000 columns"),
    ],
)
def test_a_result_without_a_row_for_each_input_row_is_refused_with_the_reason(result: Any, said: str) -> None:
    with pytest.raises(ScoringError, match=said):
        to_rows(result, 3, "predict")
