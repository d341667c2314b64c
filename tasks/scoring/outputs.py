"""What a model says, as columns with names.

========================  ===================================================================================
method                    columns
========================  ===================================================================================
``predict``               ``prediction``; ``prediction_<i>`` for each of several targets or labels
``predict_proba``         ``proba_<class>``; ``proba_<i>_<class>`` for each target's classes
``predict_log_proba``     ``log_proba_<class>``; ``log_proba_<i>_<class>``
``decision_function``     ``decision``; ``decision_<class>``; ``decision_<i>_<class>``
``score_samples``         ``score``
``transform``             the transformer's own names (``get_feature_names_out``), else ``transform_<i>``
========================  ===================================================================================

Where a model gives one number for each of several targets, that number is of the target's last class, the positive one.
What stands for no class (components of a mixture, pairs of classes) is numbered: ``proba_<i>``, ``decision_<i>``.
All numbers count from 0. Where a bundle has several models, each column is preceded by the model's name and ``_``.
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
from scoreline.tasks.scoring.shared_computation import computed_once, last_step

MAX_COLUMNS = 10_000
"""Of a transformer: more are no table."""
MAX_DENSE_COLUMNS = 512
"""Columns of a sparse result that are written out: 256 MiB in float64 for a batch of 65,536 rows."""

_WORDS = {
    "predict": "prediction",
    "predict_proba": "proba",
    "predict_log_proba": "log_proba",
    "decision_function": "decision",
    "score_samples": "score",
}

Named = Iterator[tuple[str, Any]]


def outputs(bundle: Bundle, x: Any, method: str | None) -> dict[str, Any]:
    """Score features that fit in memory.

    Parameters
    ----------
    x : DataFrame or ndarray, shape (n_rows, n_features) or (n_rows,)
        At least one row.
    method : str, optional
        Of `scoreline.storage.models.manifest.METHODS`; by default what is usual for the kind of each model.

    Returns
    -------
    dict of str to ndarray or Series, shape (n_rows,)
        Named as the table above says.

    Raises
    ------
    ScoringError
        A model lacks the method, or gives what are no columns of a table.
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
        estimator, taken = last_step(model, x) if len(methods) > 1 else (model, x)
        with computed_once(estimator, taken):
            for chosen in methods:
                found = _of(bundle, estimator, offered, chosen, taken)
                columns += ((f"{prefix}{column}", value) for column, value in found)
    if not columns:
        raise ScoringError(f"{bundle.manifest.ref} gives no columns: does it select no feature?")
    twice = [name for name, times in Counter(name for name, _ in columns).items() if times > 1]
    if twice:
        raise ScoringError(f"several columns of the result would be named {twice[0]!r}: choose with --method")
    for name, column in columns:
        if len(column) != rows:
            raise ScoringError(f"{name!r} has {len(column)} values for {rows} rows: the model drops or adds some")
    return dict(columns)


def column_to_arrow(name: str, column: Any) -> pa.Array:
    """Convert one column; NaN stays NaN among numbers, and is null among texts and objects.

    Raises
    ------
    ScoringError
        Parquet has no type for it.
    """
    if isinstance(column, pd.Series):
        kind = column.dtype
        if isinstance(kind, pd.CategoricalDtype):  # batches differ in their categories
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
        raise ScoringError(f"{name!r} is of {column.dtype}, which cannot be written as Parquet: {error}") from error


def _of(bundle: Bundle, model: Any, offered: Outputs, method: str, x: Any) -> Named:
    said = getattr(model, method)(x)
    if method == "transform":
        return _transformed(model, said)
    if method == "predict":
        if bundle.label_encoder is not None and offered.classes is not None:
            said = bundle.label_encoder.inverse_transform(np.asarray(said))
        return _named(_WORDS[method], said, None)
    pairs = method == "decision_function" and _says_pairs(model)
    return _named(_WORDS[method], said, None if pairs else offered.classes)


def _named(word: str, said: Any, classes: Any) -> Named:
    several = bool(classes) and isinstance(classes[0], tuple)
    if isinstance(said, list):  # an array for each target
        for target, (array, labels) in enumerate(zip_longest(said, classes if several else ())):
            yield from _named(f"{word}_{target}", np.asarray(array).reshape(len(array), -1), labels or ("",))
        return
    values = said if isinstance(said, pd.Series) else _dense(said)
    if values.ndim == 1:
        yield word, values
    elif values.ndim > 2:
        raise ScoringError(f"{word} would have the shape {values.shape}: there are no columns for that")
    elif classes and len(classes) == values.shape[1]:
        for number, (label, column) in enumerate(zip(classes, values.T, strict=True)):
            yield (f"{word}_{number}_{label[-1]}" if several else f"{word}_{label}"), column
    elif values.shape[1] == 1:
        yield word, values[:, 0]
    else:
        yield from ((f"{word}_{number}", column) for number, column in enumerate(values.T))


def _transformed(model: Any, said: Any) -> Named:
    if not isinstance(said, pd.DataFrame) and hasattr(said, "to_pandas"):  # set_output(transform="polars")
        said = said.to_pandas()
    if isinstance(said, pd.DataFrame):
        for number, name in enumerate(said.columns):
            yield str(name), said.iloc[:, number]
        return
    values = _dense(said)
    if values.ndim > 2:
        raise ScoringError(f"{type(model).__name__}.transform() gives {values.ndim} dimensions: there are no columns")
    values = values.reshape(len(values), -1)
    if values.shape[1] > MAX_COLUMNS:
        raise ScoringError(
            f"transform gives {values.shape[1]:,} columns, and a table may have {MAX_COLUMNS:,}: put a step after it "
            "that has fewer"
        )
    try:
        names = [str(name) for name in model.get_feature_names_out()]
    except (AttributeError, NotImplementedError, ValueError, TypeError):  # some steps have no names
        names = []
    if len(names) != values.shape[1]:
        names = [f"transform_{number}" for number in range(values.shape[1])]
    yield from zip(names, values.T, strict=True)


def _dense(said: Any) -> Any:
    if not hasattr(said, "toarray"):
        return np.asarray(said)
    if said.shape[1] > MAX_DENSE_COLUMNS:
        raise ScoringError(
            f"the result is sparse and has {said.shape[1]:,} columns; more than {MAX_DENSE_COLUMNS} are not written "
            "out: have the model give fewer, or publish it as the preprocessor of another"
        )
    return said.toarray()


def _says_pairs(model: Any) -> bool:
    """Whether the decisions are between pairs of classes, whose number may be that of the classes."""
    while True:
        if hasattr(model, "best_estimator_"):
            model = model.best_estimator_
        elif isinstance(getattr(model, "steps", None), list):
            model = model.steps[-1][1]
        else:
            return getattr(model, "decision_function_shape", None) == "ovo"
