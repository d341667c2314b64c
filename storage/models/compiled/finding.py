"""Finds the estimators within models that can be compiled (see `compiling` for the kinds of them)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from sklearn.exceptions import NotFittedError
from sklearn.feature_selection import SelectFromModel, SequentialFeatureSelector
from sklearn.utils.validation import check_is_fitted

from scoreline.storage.models.compiled.wholes import is_whole

_MAX_OBJECTS = 100_000
"""Maximum number of objects within models that are looked at."""
_FITTED_COPIES = {"estimators_", "best_estimator_", "calibrated_classifiers_", "regressor_", "transformers_"}
_TEMPLATES = {"estimator", "estimator_", "estimators", "final_estimator", "regressor", "scorer_", "transformers"}
"""What an object with `_FITTED_COPIES` has copied to fit them, and does not call."""


def own_estimators(models: Iterable[tuple[str, Any]], is_known: Callable[[Any], bool]) -> list[tuple[str, Any]]:
    """Return what can be compiled within the models, but no trees of another ensemble.

    Gradient boosting gives its trees to functions that accept nothing else, so none of its trees may be replaced.

    Parameters
    ----------
    models : iterable of tuple of (str, Any)
        Places and models.
    is_known : callable
        Returns whether objects of the class of an object can be compiled.
    """
    known = list(_known_estimators(models, is_known))
    owned: set[int] = set()
    for _, ensemble in known:
        trees = vars(ensemble).get("estimators_")  # an array in gradient boosting, otherwise a list
        if isinstance(trees, np.ndarray | list):
            owned.update(id(tree) for tree in (trees if isinstance(trees, list) else trees.ravel()))
    return [(place, one) for place, one in known if id(one) not in owned]


def _known_estimators(models: Iterable[tuple[str, Any]], is_known: Callable[[Any], bool]) -> Iterator[tuple[str, Any]]:
    """Yield the objects of known classes within the models, but none inside an ensemble.

    Only objects of scikit-learn's own classes are searched. How objects of other classes use what they contain is not
    known.
    """
    seen: set[int] = set()
    waiting = list(models)[::-1]
    while waiting and len(seen) < _MAX_OBJECTS:
        place, value = waiting.pop()
        if id(value) in seen or isinstance(value, str | bytes | int | float | type):
            continue
        seen.add(id(value))
        if is_known(value):
            yield place, value
        elif isinstance(value, dict):
            waiting += [(f"{place}[{key!r}]", item) for key, item in value.items()]
        elif isinstance(value, list | tuple):
            waiting += [(f"{place}[{number}]", item) for number, item in enumerate(value)]
        elif isinstance(value, np.ndarray):
            if value.dtype == object and value.size <= _MAX_OBJECTS:
                waiting += [(f"{place}[{number}]", item) for number, item in enumerate(value.ravel())]
        elif type(value).__module__.startswith("sklearn.") and hasattr(value, "__dict__"):
            waiting += [(f"{place}.{name}", item) for name, item in _used_attributes(value)]


def _used_attributes(value: Any) -> list[tuple[str, Any]]:
    """Return the attributes of an object of scikit-learn, except estimators that it does not call to score rows."""
    attributes = vars(value)
    if isinstance(value, SelectFromModel | SequentialFeatureSelector):  # only choose columns
        return []
    templates = _TEMPLATES if attributes.keys() & _FITTED_COPIES else set()
    return [(name, item) for name, item in attributes.items() if name not in templates]


def trees_within(place: str, estimator: Any) -> list[tuple[str, Any]]:
    """Return the trees of bagging or AdaBoost, which can be compiled each on its own; the last one first."""
    if not is_whole(estimator):
        return []
    return [(f"{place}.estimators_[{number}]", tree) for number, tree in enumerate(estimator.estimators_)][::-1]


def is_fitted(estimator: Any) -> bool:
    """Return whether an estimator is fitted.

    An estimator that is not fitted is a template, for example for the trees of an ensemble.
    """
    try:
        check_is_fitted(estimator)
    except NotFittedError:
        return False
    return True
