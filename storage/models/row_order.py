"""Finds out whether the steps of a bundle before the last process each row independently of the others.

Estimators of scikit-learn do not mix the rows of a call, and keep their order. A custom step or function may mix rows,
for example average each row with the previous row. If a later step then fails, its traceback does not show the custom
step.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set
from typing import Any

import numpy as np
from sklearn.compose import TransformedTargetRegressor
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer

ORDERLY = frozenset(
    {"scoreline", "sklearn", "numpy", "scipy", "pandas", "joblib", "narwhals", "threadpoolctl", "contextlib"}
)
"""Packages whose estimators pass on the rows of each call in their original order."""

_METHODS = ("predict", "predict_proba", "predict_log_proba", "decision_function", "score_samples", "transform")
_OF_VALUES: tuple[Any, ...] = (np.nan_to_num, np.clip, np.round, np.around)
"""NumPy functions, besides ufuncs, that process each value independently. Other functions, such as ``np.cumsum``, do
not."""
_WHILE_FITTING = frozenset(
    {
        "best_params_",
        "cv",
        "cv_results_",
        "feature_names_out",
        "param_distributions",
        "param_grid",
        "refit",
        "scorer_",
        "scoring",
        "vocabulary_",
    }
)
"""Attributes whose functions scikit-learn calls only while fitting."""
_UNUSED = _WHILE_FITTING | {"analyzer", "preprocessor", "tokenizer"}
"""Attributes whose functions scikit-learn calls only while fitting, or separately for each document."""


def keeps_rows_apart(preprocessors: Iterable[Any], models: Iterable[Any], label_encoder: Any) -> bool:
    """Return whether all steps that pass results to other steps are known to process rows independently, and in order.

    The last step of a model may have any class, because the traceback of its error shows its code.
    """
    steps = [*preprocessors, *([] if label_encoder is None else [label_encoder])]
    for model in models:
        steps += [model] if label_encoder is not None else _before_last(model)
    return all(_is_orderly(step, set()) for step in steps)


def may_be_tried(preprocessors: Iterable[Any], models: Iterable[Any]) -> bool:
    """Return whether an additional call of a bundle leaves all later results unchanged.

    All steps, including the last, must be of scikit-learn or of another known library, and none may draw random
    numbers, as ``IterativeImputer(sample_posterior=True)`` does.
    """
    return all(
        _is_known(type(step)) and _is_orderly(step, set()) and not _holds_generator(step, set())
        for step in [*preprocessors, *models]
    )


def calls_own_code(preprocessors: Iterable[Any], models: Iterable[Any]) -> bool:
    """Return whether scoring may call a function that is not of a known library, such as the user's tokenizer."""
    return not all(_is_orderly(step, set(), _WHILE_FITTING) for step in [*preprocessors, *models])


def _holds_generator(item: Any, seen: set[int]) -> bool:
    """Return whether an object, or any object within it, contains a generator of random numbers."""
    if item is None or isinstance(item, str | bytes | int | float | type) or id(item) in seen:
        return False
    seen.add(id(item))
    if isinstance(item, np.random.RandomState | np.random.Generator):
        return True
    if isinstance(item, Mapping):
        return any(_holds_generator(value, seen) for value in item.values())
    if isinstance(item, list | tuple) or (isinstance(item, np.ndarray) and item.dtype == object):
        values: Any = item.ravel() if isinstance(item, np.ndarray) else item
        return any(_holds_generator(value, seen) for value in values)
    return any(_holds_generator(value, seen) for value in getattr(item, "__dict__", {}).values())


def _before_last(model: Any) -> Iterator[Any]:
    """Yield the parts of a model whose results may become the input of other steps."""
    if type(model) is Pipeline and model.steps:
        yield from (step for _, step in model.steps[:-1])
        yield from _before_last(model.steps[-1][1])
    elif _is_known(type(model)) and hasattr(model, "best_estimator_"):
        yield from _before_last(model.best_estimator_)
    elif _is_known(type(model)) or any(_is_known(owner) for owner in _owners(type(model))):
        yield model


def _owners(kind: type) -> Iterator[type]:
    """Yield the classes in which a class or its bases define the scoring methods."""
    for method in _METHODS:
        owner = next((base for base in kind.__mro__ if method in vars(base)), None)
        if owner is not None:
            yield owner


def _is_known(item: Any) -> bool:
    return str(getattr(item, "__module__", None) or "").partition(".")[0] in ORDERLY


def _is_orderly(item: Any, seen: set[int], unused: Set[str] = _UNUSED) -> bool:
    """Return whether an object, and all objects within it except `unused` attributes, process rows independently."""
    if item is None or isinstance(item, str | bytes | int | float | type) or id(item) in seen:
        return True
    seen.add(id(item))
    if isinstance(item, Mapping):
        return all(_is_orderly(value, seen, unused) for value in item.values())
    if isinstance(item, list | tuple) or (isinstance(item, np.ndarray) and item.dtype == object):
        # A function in a list only selects the columns of a transformer during fit.
        values: Any = item.ravel() if isinstance(item, np.ndarray) else item
        return all(_is_orderly(value, seen, unused) for value in values if not _is_function(value))
    if _is_function(item):
        return isinstance(item, np.ufunc) or _is_known(item) or getattr(item, "__module__", None) == "builtins"
    if not _is_known(type(item)):
        return not any(hasattr(type(item), method) for method in (*_METHODS, "fit"))
    if isinstance(item, FunctionTransformer | TransformedTargetRegressor):
        functions = (item.func, item.inverse_func)
        if not all(function is None or _treats_values(function) for function in functions):
            return False
    held = getattr(item, "__dict__", {})
    return all(_is_orderly(value, seen, unused) for name, value in held.items() if name not in unused)


def _is_function(item: Any) -> bool:
    return callable(item) and not isinstance(item, type) and not any(hasattr(type(item), method) for method in _METHODS)


def _treats_values(function: Any) -> bool:
    """Return whether a function is known to compute each result from a single value, or from a single row."""
    if isinstance(function, np.ufunc):
        return function.signature is None
    package = str(getattr(function, "__module__", None) or "").partition(".")[0]
    return package == "scoreline" or any(function is known for known in _OF_VALUES)
