"""Compiles the estimators within models, and compares each with scikit-learn before its use."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import sklearn
from threadpoolctl import threadpool_limits

from scoreline.storage.models.compiled.comparing import compare_ensemble, compare_scaler, compare_vectorizer
from scoreline.storage.models.compiled.compiled_estimators import CompiledEstimators, FoundEstimator
from scoreline.storage.models.compiled.finding import is_fitted, own_estimators, trees_within
from scoreline.storage.models.compiled.replacing import Replacement
from scoreline.storage.models.compiled.scalers import compile_scaler, is_scaler
from scoreline.storage.models.compiled.tree_ensembles import compile_ensemble, is_tree_ensemble
from scoreline.storage.models.compiled.trees import NotPackable
from scoreline.storage.models.compiled.vectorizers import compile_vectorizer, is_vectorizer

KNOWN_VERSIONS = ("1.9.",)
"""The versions of scikit-learn whose internals are as this package expects."""
_TIME_LIMIT = "billiard.exceptions.SoftTimeLimitExceeded"
"""What Celery raises anywhere in a task that takes too long. It is known by its name, because storage does not need
Celery."""


def compile_all(models: Iterable[tuple[str, Any]]) -> CompiledEstimators:
    """Compile the ensembles, vectorizers and scalers within fitted models (see `extension.compile_estimators`)."""
    found, replacements, nbytes = [], [], 0
    waiting = own_estimators(models, lambda value: _kind(value) is not None)[::-1]
    while waiting:
        place, estimator = waiting.pop()
        one = FoundEstimator(place=place, name=type(estimator).__name__, kind=_kind(estimator) or FoundEstimator.kind)
        try:
            if not is_fitted(estimator):
                continue
            if not sklearn.__version__.startswith(KNOWN_VERSIONS):
                raise NotPackable(f"the internals of scikit-learn {sklearn.__version__} are not known")
            _refuse_replaced_methods(estimator)
            replacement, more_bytes = _KINDS[one.kind][1](estimator)
        except Exception as error:  # code of the user may raise anything on rows that it does not know
            if _is_interruption(error):
                raise
            found.append(replace(one, reason=_reason(error)))
            waiting += trees_within(place, estimator)
            continue
        found.append(one)
        replacements.append(replacement)
        nbytes += more_bytes
    return CompiledEstimators(found=tuple(found), nbytes=nbytes, replacements=tuple(replacements))


def _kind(value: Any) -> str | None:
    """Return what an object is, as in `FoundEstimator.kind`, or None if it is never compiled."""
    return next((kind for kind, (is_of_kind, _) in _KINDS.items() if is_of_kind(value)), None)


def _refuse_replaced_methods(estimator: Any) -> None:
    """Raise `NotPackable` if the user has set a method on the estimator itself."""
    for name in vars(estimator):
        if callable(getattr(type(estimator), name, None)):
            raise NotPackable(f"its method {name} was replaced")


def _is_interruption(error: Exception) -> bool:
    """Return whether an error interrupts the task that loads the model, and says nothing about the comparison."""
    return any(f"{kind.__module__}.{kind.__name__}" == _TIME_LIMIT for kind in type(error).__mro__)


def _reason(error: Exception) -> str:
    """Return why an estimator is not compiled, after "because"."""
    if isinstance(error, NotPackable):
        return str(error)
    return f"comparing failed ({type(error).__name__}: {str(error).partition('\n')[0]})"


def _compiled_ensemble(estimator: Any) -> tuple[Replacement, int]:
    """Return what replaces methods of an ensemble after it was compared, and the memory that it takes."""
    compiled = compile_ensemble(estimator)
    replacement = Replacement.of(estimator, compiled.methods)
    with threadpool_limits(1):  # a process that loads models before it forks must not start threads of OpenMP
        compare_ensemble(replacement, compiled)
    return replacement, compiled.nbytes


def _compiled_vectorizer(vectorizer: Any) -> tuple[Replacement, int]:
    """Return what replaces methods of a vectorizer after it was compared, and the memory that it takes."""
    methods, counter = compile_vectorizer(vectorizer)
    replacement = Replacement.of(vectorizer, methods)
    before = dict(vars(vectorizer))
    try:
        with threadpool_limits(1):
            compare_vectorizer(replacement, counter)
    finally:  # scikit-learn notes that it has checked the stop words, and would not warn again
        vars(vectorizer).clear()
        vars(vectorizer).update(before)
    return replacement, counter.nbytes


def _compiled_scaler(scaler: Any) -> tuple[Replacement, int]:
    """Return what replaces methods of a scaler after it was compared, and the memory that it takes."""
    methods, scalings = compile_scaler(scaler)
    replacement = Replacement.of(scaler, methods)
    compare_scaler(replacement, scalings)
    return replacement, sum(scaling.nbytes for scaling in scalings.values())


_KINDS: dict[str, tuple[Callable[[Any], bool], Callable[[Any], tuple[Replacement, int]]]] = {
    "text vectorizer": (is_vectorizer, _compiled_vectorizer),
    "scaler": (is_scaler, _compiled_scaler),
    FoundEstimator.kind: (is_tree_ensemble, _compiled_ensemble),
}
"""What is compiled: for each kind, whether an object is of this kind, and what compiles and compares it."""
