"""Which of an estimator's methods are called, and what their results are called.

| method | columns |
|---|---|
| predict | ``prediction``; with several targets ``prediction_0`` ... |
| predict_proba | ``proba_<class>`` |
| predict_log_proba | ``log_proba_<class>`` |
| decision_function | ``decision``; with several values a row ``decision_<class>`` |
| score_samples | ``score`` |
| transform | the names of ``get_feature_names_out``, else ``transform_0`` ... |
"""

from __future__ import annotations

from typing import Any

import numpy as np

from storage.errors import ScoringError
from storage.models.manifest import Outputs

MAX_COLUMNS = 10_000
"""Of a transformer: a text vectorizer has more, and its rows are no table."""


def choose(name: str, offered: Outputs, method: str | None) -> tuple[str, ...]:
    """Return the methods to call: the one that is asked for, else what users expect of that kind of estimator.

    Classifiers predict, with probabilities where they have them; detectors of outliers predict, with their decision
    function; whatever else predicts predicts; a transformer that does not transforms; a density scores samples.

    Raises
    ------
    ScoringError
        The model does not offer it.
    """
    if method is not None:
        if method not in offered.methods:
            raise ScoringError(f"model {name!r} has no {method}: it offers {', '.join(offered.methods)}")
        return (method,)
    usual = ["predict", "predict_proba"] if offered.kind != "outlier_detector" else ["predict", "decision_function"]
    found = tuple(item for item in usual if item in offered.methods)
    others = (item for item in ("transform", "score_samples", "decision_function") if item in offered.methods)
    return found or tuple(others)[:1] or offered.methods[:1]


def call(model: Any, method: str, x: Any, offered: Outputs, label_encoder: Any) -> dict[str, Any]:
    """Call a method of a model; returns its columns by name.

    Parameters
    ----------
    x : DataFrame or ndarray, shape (n_rows, n_features)
        At least one row.

    Returns
    -------
    dict of str to ndarray, shape (n_rows,)
    """
    result = getattr(model, method)(x)
    match method:
        case "predict":
            predicted = np.asarray(result)
            if label_encoder is not None and offered.classes is not None:
                predicted = label_encoder.inverse_transform(predicted)
            return _columns("prediction", predicted)
        case "predict_proba" | "predict_log_proba":
            if offered.classes is None:
                return {}
            prefix = method.removeprefix("predict_")
            values = np.asarray(result)
            return {f"{prefix}_{label}": column for label, column in zip(offered.classes, values.T, strict=True)}
        case "decision_function":
            values = np.asarray(result)
            if values.ndim == 2 and offered.classes is not None and len(offered.classes) == values.shape[1]:
                return {f"decision_{label}": column for label, column in zip(offered.classes, values.T, strict=True)}
            return _columns("decision", values)
        case "score_samples":
            return _columns("score", np.asarray(result))
        case _:
            return _transformed(model, result)


def _columns(name: str, values: Any) -> dict[str, Any]:
    if values.ndim == 1:
        return {name: values}
    return {f"{name}_{number}": column for number, column in enumerate(values.T)}


def _transformed(model: Any, result: Any) -> dict[str, Any]:
    """Name the columns of a transformer; a DataFrame and a sparse matrix are taken too."""
    if hasattr(result, "columns"):
        return {str(name): result[name].to_numpy() for name in result.columns}
    if result.shape[1] > MAX_COLUMNS:
        raise ScoringError(
            f"transform gives {result.shape[1]:,} columns, and a table may have {MAX_COLUMNS:,}: put a step after it "
            "that has fewer"
        )
    values = result.toarray() if hasattr(result, "toarray") else np.asarray(result)
    try:
        names = [str(name) for name in model.get_feature_names_out()]
    except (AttributeError, ValueError, TypeError):
        names = []
    if len(names) != values.shape[1]:
        names = [f"transform_{number}" for number in range(values.shape[1])]
    return dict(zip(names, values.T, strict=True))
