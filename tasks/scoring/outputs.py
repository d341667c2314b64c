"""Turns the results of a model into named columns.

========================  ===================================================================================
method                    columns
========================  ===================================================================================
``predict``               ``prediction``; ``prediction_<i>`` for each of several targets or labels
``predict_proba``         ``proba_<class>``; ``proba_<i>_<class>`` for each target's classes
``predict_log_proba``     ``log_proba_<class>``; ``log_proba_<i>_<class>``
``decision_function``     ``decision``; ``decision_<class>``; ``decision_<i>_<class>``
``score_samples``         ``score``
``transform``             the transformer's own names (``get_feature_names_out``), or ``transform_<i>``
========================  ===================================================================================

If a model with several targets returns one number for each target, the number belongs to the last class of the target,
which is the positive class. Columns that belong to no class (components of a mixture, pairs of classes) are numbered:
``proba_<i>``, ``decision_<i>``. Numbers start at 0. If a bundle has several models, each column is prefixed with its
model's name and ``_``.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from scoreline.storage.errors import ScoringError
from scoreline.storage.models.bundle import Bundle
from scoreline.storage.models.manifest import Outputs
from scoreline.storage.wording import plural
from scoreline.tasks.scoring.array_likes import AmbiguousShape, to_rows
from scoreline.tasks.scoring.shared_computation import computed_once, last_step

MAX_COLUMNS = 10_000
"""Maximum number of columns in a transformer's result. A result with more columns is not usable as a table."""

_COLUMN_NAMES = {
    "predict": "prediction",
    "predict_proba": "proba",
    "predict_log_proba": "log_proba",
    "decision_function": "decision",
    "score_samples": "score",
}

NamedColumns = Iterator[tuple[str, Any]]


def outputs(bundle: Bundle, x: Any, method: str | None) -> dict[str, Any]:
    """Call the models of a bundle and name the columns that they return.

    Parameters
    ----------
    x : DataFrame or ndarray, shape (n_rows, n_features) or (n_rows,)
        Features, in the form that the bundle's first step expects. There must be at least one row.
    method : str, optional
        One of `scoreline.storage.models.manifest.METHODS`; by default, the usual methods of each model
        (`Outputs.default_methods`).

    Returns
    -------
    dict of str to ndarray or Series, shape (n_rows,)
        Columns with rows in the order of `x`, named as in the module's table.

    Raises
    ------
    ScoringError
        A model lacks the method, or its result does not fit into the columns of a table.
    """
    rows = len(x)
    x = bundle.prepare(x)
    columns: list[tuple[str, Any]] = []
    for name, model in bundle.models.items():
        prefix = "" if len(bundle.models) == 1 else f"{name}_"
        offered = bundle.manifest.outputs[name]
        if method is not None and method not in offered.methods:
            raise ScoringError(f"model {name!r} has no {method}: it offers {', '.join(offered.methods)}")
        methods = (method,) if method else offered.default_methods
        estimator, inputs = last_step(model, x) if len(methods) > 1 else (model, x)
        with computed_once(estimator, inputs):
            for chosen in methods:
                result = _call(bundle, estimator, offered, chosen, inputs)
                columns += ((f"{prefix}{column}", value) for column, value in result)
    if not columns:
        raise ScoringError(
            f"{bundle.manifest.ref} returns no columns: check that its feature selection keeps at least one"
        )
    duplicates = [name for name, times in Counter(name for name, _ in columns).items() if times > 1]
    if duplicates:
        raise ScoringError(
            f"several columns of the result would be named {duplicates[0]!r}: choose one method with --method, or "
            "publish the models under other names"
        )
    for name, column in columns:
        if len(column) != rows:
            raise ScoringError(
                f"{name!r} has {plural(len(column), 'value')} for {plural(rows, 'row')}: publish a "
                "model that returns one for each row"
            )
    return dict(columns)


def column_to_arrow(name: str, column: Any) -> pa.Array:
    """Convert a column of the result to Arrow.

    NaN stays NaN in a column of numbers, and becomes null in a column of texts or objects.

    Raises
    ------
    ScoringError
        Parquet has no type for the column.
    """
    if isinstance(column, pd.Series):
        kind = column.dtype
        if isinstance(kind, pd.CategoricalDtype):  # the categories may differ from batch to batch
            column = column.astype(kind.categories.dtype)
        if isinstance(column.dtype, np.dtype | pd.SparseDtype):
            column = column.to_numpy()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            if isinstance(column, pd.Series):
                return pa.array(column)
            return pa.array(
                column.astype(str) if column.dtype.kind == "U" else column, from_pandas=column.dtype.kind == "O"
            )
    except (pa.ArrowException, NotImplementedError, TypeError) as error:
        raise ScoringError(
            f"{name!r} has the type {column.dtype}, which cannot be written as Parquet: have the model return numbers, "
            f"texts, booleans or times ({error})"
        ) from error


def _call(bundle: Bundle, model: Any, offered: Outputs, method: str, x: Any) -> NamedColumns:
    """Call one method of a model and name the columns of its result."""
    result = _result(model, method, x)
    if method == "transform":
        return _name_transformed(model, result)
    if method == "predict":
        if bundle.label_encoder is not None and offered.classes is not None:
            result = bundle.label_encoder.inverse_transform(np.asarray(result))
        return _name_columns(_COLUMN_NAMES[method], result, None)
    pairwise = method == "decision_function" and _is_one_vs_one(model)
    return _name_columns(_COLUMN_NAMES[method], result, None if pairwise else offered.classes)


def _result(model: Any, method: str, x: Any) -> Any:
    """Call a method of a model, and convert its result with `to_rows`."""
    rows = len(x) if not hasattr(x, "shape") else x.shape[0]  # len() fails for a sparse matrix
    try:
        return to_rows(getattr(model, method)(x), rows, method)
    except AmbiguousShape:
        again = [*range(rows), 0]  # with one more row, a list of rows and a list of targets have different shapes
        longer = x.iloc[again] if isinstance(x, pd.DataFrame) else np.asarray(x)[again]
        result = to_rows(getattr(model, method)(longer), rows + 1, method)
        return [target[:rows] for target in result] if isinstance(result, list) else result[:rows]


def _name_columns(stem: str, result: Any, classes: Any) -> NamedColumns:
    """Name the columns of a result by class, or by number if the model has no classes."""
    several = bool(classes) and isinstance(classes[0], tuple)
    if isinstance(result, list):  # one array for each target
        for target, (array, labels) in enumerate(zip_longest(result, classes if several else ())):
            yield from _name_columns(f"{stem}_{target}", np.asarray(array).reshape(len(array), -1), labels)
        return
    if isinstance(result, pd.DataFrame) and not several:
        yield from _name_frame(stem, result, classes)
        return
    values = result.to_numpy() if isinstance(result, pd.DataFrame) else result
    if values.ndim == 1:
        yield stem, values
    elif values.ndim > 2:
        raise ScoringError(
            f"{stem} has the shape {values.shape}, which does not fit into columns: publish a model that returns one "
            "or two dimensions"
        )
    elif classes and len(classes) == values.shape[1]:
        for number, (label, column) in enumerate(zip(classes, values.T, strict=True)):
            yield (f"{stem}_{number}_{label[-1]}" if several else f"{stem}_{label}"), column
    elif values.shape[1] == 1:
        yield stem, values[:, 0]
    else:
        yield from ((f"{stem}_{number}", column) for number, column in enumerate(values.T))


def _name_frame(stem: str, frame: pd.DataFrame, classes: Any) -> NamedColumns:
    """Name the columns of a DataFrame like the columns of an array.

    If the column names of the DataFrame are the classes, match columns and classes by name.
    """
    columns = [frame.iloc[:, number] for number in range(frame.shape[1])]
    own = [str(name) for name in frame.columns]
    if len(columns) == 1 and not classes:
        yield stem, columns[0]
        return
    labels = [str(label) for label in classes] if classes and len(classes) == len(columns) else range(len(columns))
    if classes and sorted(own) == sorted(map(str, classes)):
        labels = own
    yield from ((f"{stem}_{label}", column) for label, column in zip(labels, columns, strict=True))


def _name_transformed(model: Any, result: Any) -> NamedColumns:
    """Name the columns of a transformer's result by its own names, or by number if it has no names."""
    if isinstance(result, pd.DataFrame):
        for number, name in enumerate(result.columns):
            yield str(name), result.iloc[:, number]
        return
    if isinstance(result, list):
        result = np.column_stack(result)
    values = np.asarray(result)
    if values.ndim > 2:
        raise ScoringError(
            f"{type(model).__name__}.transform() returns {values.ndim} dimensions, which do not fit into columns: "
            "publish a model that returns one or two"
        )
    values = values.reshape(len(values), -1)
    if values.shape[1] > MAX_COLUMNS:
        raise ScoringError(
            f"transform gives {values.shape[1]:,} columns, and a table may have {MAX_COLUMNS:,}: append a step that "
            "selects or combines some of them"
        )
    try:
        names = [str(name) for name in model.get_feature_names_out()]
    except (AttributeError, NotImplementedError, ValueError, TypeError):  # the model cannot name its columns
        names = []
    if len(names) != values.shape[1]:
        names = [f"transform_{number}" for number in range(values.shape[1])]
    yield from zip(names, values.T, strict=True)


def _is_one_vs_one(model: Any) -> bool:
    """Return whether the model decides between pairs of classes (one-vs-one).

    The number of columns does not show this, because there are as many pairs as classes if there are three classes.
    """
    while True:
        if hasattr(model, "best_estimator_"):
            model = model.best_estimator_
        elif isinstance(getattr(model, "steps", None), list):
            model = model.steps[-1][1]
        else:
            return getattr(model, "decision_function_shape", None) == "ovo"
