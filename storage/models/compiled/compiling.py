"""Finds the ensembles of trees within models, compiles them, and compares the results with scikit-learn's own."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from sklearn.exceptions import NotFittedError
from sklearn.feature_selection import SelectFromModel, SequentialFeatureSelector
from sklearn.utils.validation import check_is_fitted
from threadpoolctl import threadpool_limits

from scoreline.storage.models.compiled.ensembles import CompiledEnsembles, Ensemble, replaced
from scoreline.storage.models.compiled.estimators import compile_estimator, is_known
from scoreline.storage.models.compiled.probes import MAX_FEATURES, probe_rows, variants
from scoreline.storage.models.compiled.trees import NotPackable
from scoreline.storage.models.compiled.validated import Compiled
from scoreline.storage.models.compiled.wholes import is_whole

_MAX_OBJECTS = 100_000
"""Maximum number of objects within models that are looked at."""

_TIME_LIMIT = "billiard.exceptions.SoftTimeLimitExceeded"
"""What Celery raises anywhere in a task that takes too long. It is known by its name, because storage does not need
Celery."""
_FITTED_COPIES = {"estimators_", "best_estimator_", "calibrated_classifiers_"}
_TEMPLATES = {"estimator", "estimator_", "estimators", "scorer_"}
"""What an object with `_FITTED_COPIES` has copied to fit them, and does not call."""


def compile_all(models: Iterable[tuple[str, Any]]) -> CompiledEnsembles:
    """Compile the ensembles within fitted models (see `extension.compile_ensembles`)."""
    found, methods, nbytes = [], [], 0
    waiting = _own_ensembles(models)[::-1]
    while waiting:
        place, estimator = waiting.pop()
        name = type(estimator).__name__
        try:
            if not _is_fitted(estimator):
                continue
            compiled = compile_estimator(estimator)
            with threadpool_limits(1):  # a process that loads models before it forks must not start threads of OpenMP
                _compare(estimator, compiled)
        except NotPackable as problem:
            found.append(Ensemble(place=place, name=name, reason=str(problem)))
            waiting += _single_trees(place, estimator)
            continue
        except Exception as error:  # code of the user may raise anything on rows that it does not know
            if _is_interruption(error):
                raise
            message = str(error).partition("\n")[0]
            found.append(
                Ensemble(place=place, name=name, reason=f"comparing failed ({type(error).__name__}: {message})")
            )
            waiting += _single_trees(place, estimator)
            continue
        found.append(Ensemble(place=place, name=name))
        methods.append((estimator, compiled.methods))
        nbytes += compiled.nbytes
    return CompiledEnsembles(found=tuple(found), nbytes=nbytes, methods=tuple(methods))


def _is_interruption(error: Exception) -> bool:
    """Return whether an error interrupts the task that loads the model, and says nothing about the comparison."""
    return any(f"{kind.__module__}.{kind.__name__}" == _TIME_LIMIT for kind in type(error).__mro__)


def _single_trees(place: str, estimator: Any) -> list[tuple[str, Any]]:
    """Return the trees of bagging or AdaBoost, which can be compiled each on its own; the last one first."""
    if not is_whole(estimator):
        return []
    return [(f"{place}.estimators_[{number}]", tree) for number, tree in enumerate(estimator.estimators_)][::-1]


def _compare(estimator: Any, compiled: Compiled) -> None:
    """Compare a compiled ensemble with scikit-learn. Raises `NotPackable` if any result differs."""
    if compiled.n_features > MAX_FEATURES:
        raise NotPackable(f"rows of so many features ({compiled.n_features:,}) are not compared")
    rows = probe_rows(compiled.trees, compiled.n_features, wide=compiled.wide, categorical=compiled.categorical)
    compared = False
    for what, x in variants(rows, compiled.categorical):
        for part in (x, x[:1], x[: len(x) // 3 + 3]):
            expected, refusal = _outcome(estimator, compiled, part)
            with replaced(estimator, compiled.methods):
                got, refused = _outcome(estimator, compiled, part)
            if refusal != refused or not _equal(expected, got):
                raise NotPackable(f"its results for rows with {what} differ from those of scikit-learn")
            compared = compared or refusal is None
            if refusal is not None:
                break
    if not compared:
        raise NotPackable("scikit-learn refuses the rows with which it would be compared")


def _outcome(estimator: Any, compiled: Compiled, x: Any) -> tuple[list[np.ndarray[Any, Any]], str | None]:
    """Return the results of an estimator as arrays, and None; or no results and the error if it refuses the rows."""
    if compiled.evaluate is not None:
        return [compiled.evaluate(x)], None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for method in ("predict_proba", "score_samples", "predict"):
            call: Callable[[Any], Any] | None = getattr(estimator, method, None)
            if call is None:
                continue
            try:
                result = call(x)
            except ValueError as error:
                return [], str(error)
            return list(result) if isinstance(result, list) else [result], None
    return [], None


def _equal(expected: list[np.ndarray[Any, Any]], got: list[np.ndarray[Any, Any]]) -> bool:
    return len(expected) == len(got) and all(
        a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
        for a, b in zip(expected, got, strict=True)
    )


def _own_ensembles(models: Iterable[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Return the ensembles of known classes within the models, without trees that belong to another ensemble.

    Gradient boosting gives its trees to functions that accept nothing else, so none of its trees may be replaced.
    """
    known = list(_known_ensembles(models))
    owned: set[int] = set()
    for _, ensemble in known:
        trees = vars(ensemble).get("estimators_")  # an array in gradient boosting, otherwise a list
        if isinstance(trees, np.ndarray | list):
            owned.update(id(tree) for tree in (trees if isinstance(trees, list) else trees.ravel()))
    return [(place, one) for place, one in known if id(one) not in owned]


def _known_ensembles(models: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """Yield the ensembles of known classes within the models, but no ensembles inside an ensemble of a known class.

    Only objects of scikit-learn's own classes are searched. How objects of other classes use their ensembles is not
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


def _is_fitted(estimator: Any) -> bool:
    """Return whether an estimator is fitted.

    An estimator that is not fitted is a template, for example for the trees of an ensemble.
    """
    try:
        check_is_fitted(estimator)
    except NotFittedError:
        return False
    return True
