"""Finds tree ensembles, text vectorizers and scalers in models, and compares each with scikit-learn before its use."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import batched
from typing import Any

import numpy as np
import sklearn
from sklearn.exceptions import NotFittedError
from sklearn.feature_selection import SelectFromModel, SequentialFeatureSelector
from sklearn.utils.validation import check_is_fitted
from threadpoolctl import threadpool_limits

from scoreline.storage.models.compiled.compiled_estimators import CompiledEstimators, FoundEstimator, Uses
from scoreline.storage.models.compiled.probe_documents import probe_documents
from scoreline.storage.models.compiled.probe_values import containers, probe_values
from scoreline.storage.models.compiled.probes import MAX_FEATURES, probe_rows, variants
from scoreline.storage.models.compiled.replacing import Replacement
from scoreline.storage.models.compiled.scalers import compile_scaler, is_scaler
from scoreline.storage.models.compiled.threads import in_threads
from scoreline.storage.models.compiled.tree_ensembles import compile_ensemble, is_tree_ensemble
from scoreline.storage.models.compiled.trees import NotPackable
from scoreline.storage.models.compiled.validated import Compiled
from scoreline.storage.models.compiled.vectorizers import WordCounter, compile_vectorizer, is_vectorizer
from scoreline.storage.models.compiled.wholes import is_whole

KNOWN_VERSIONS = ("1.9.",)
"""The versions of scikit-learn whose internals are as this package expects."""
_MAX_OBJECTS = 100_000
"""Maximum number of objects within models that are looked at."""

_PARTS = 5
"""Number of parts of the rows of a comparison, each of which is scored by one call."""
_MAX_RESULTS = 1 << 20
"""Maximum number of results of scikit-learn that are kept until they are compared. If there are more, each part is
compared before the next part is scored."""
_TIME_LIMIT = "billiard.exceptions.SoftTimeLimitExceeded"
"""What Celery raises anywhere in a task that takes too long. It is known by its name, because storage does not need
Celery."""
_FITTED_COPIES = {"estimators_", "best_estimator_", "calibrated_classifiers_", "transformers_"}
_TEMPLATES = {"estimator", "estimator_", "estimators", "scorer_", "transformers"}
"""What an object with `_FITTED_COPIES` has copied to fit them, and does not call."""


def compile_all(models: Iterable[tuple[str, Any]]) -> CompiledEstimators:
    """Compile the ensembles, vectorizers and scalers within fitted models (see `extension.compile_estimators`)."""
    found, replacements, nbytes = [], [], 0
    waiting = _own_estimators(models)[::-1]
    while waiting:
        place, estimator = waiting.pop()
        one = FoundEstimator(place=place, name=type(estimator).__name__, kind=_kind(estimator) or FoundEstimator.kind)
        try:
            if not _is_fitted(estimator):
                continue
            if not sklearn.__version__.startswith(KNOWN_VERSIONS):
                raise NotPackable(f"the internals of scikit-learn {sklearn.__version__} are not known")
            _refuse_replaced_methods(estimator)
            replacement, more_bytes = _KINDS[one.kind][1](estimator)
        except NotPackable as problem:
            found.append(replace(one, reason=str(problem)))
            waiting += _single_trees(place, estimator)
            continue
        except Exception as error:  # code of the user may raise anything on rows that it does not know
            if _is_interruption(error):
                raise
            message = str(error).partition("\n")[0]
            found.append(replace(one, reason=f"comparing failed ({type(error).__name__}: {message})"))
            waiting += _single_trees(place, estimator)
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


def _single_trees(place: str, estimator: Any) -> list[tuple[str, Any]]:
    """Return the trees of bagging or AdaBoost, which can be compiled each on its own; the last one first."""
    if not is_whole(estimator):
        return []
    return [(f"{place}.estimators_[{number}]", tree) for number, tree in enumerate(estimator.estimators_)][::-1]


def _compiled_ensemble(estimator: Any) -> tuple[Replacement, int]:
    """Return what replaces methods of an ensemble after it was compared, and the memory that it takes."""
    compiled = compile_ensemble(estimator)
    replacement = Replacement.of(estimator, compiled.methods)
    with threadpool_limits(1):  # a process that loads models before it forks must not start threads of OpenMP
        _compare(compiled, replacement)
    return replacement, compiled.nbytes


def _compiled_vectorizer(vectorizer: Any) -> tuple[Replacement, int]:
    """Return what replaces methods of a vectorizer after it was compared, and the memory that it takes."""
    methods, counter = compile_vectorizer(vectorizer)
    replacement = Replacement.of(vectorizer, methods)
    before = dict(vars(vectorizer))
    try:
        with threadpool_limits(1):
            _compare_vectorizer(replacement, counter)
    finally:  # scikit-learn notes that it has checked the stop words, and would not warn again
        vars(vectorizer).clear()
        vars(vectorizer).update(before)
    return replacement, counter.nbytes


def _compare_vectorizer(replacement: Replacement, counter: WordCounter) -> None:
    """Compare a compiled vectorizer with scikit-learn. Raises `NotPackable` if any matrix differs."""
    vectorizer = replacement.estimator
    probes = probe_documents(counter.columns or (), vectorizer.get_stop_words() or ())
    documents = [document for document in probes if _can_decode(vectorizer, document)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for part in (documents, documents[:1], documents[::-3]):
            expected = vectorizer.transform(part)
            with replacement.in_use():
                found = vectorizer.transform(part)
            if not same_matrix(expected, found):
                raise NotPackable("its results for some documents differ from those of scikit-learn")


def _compiled_scaler(scaler: Any) -> tuple[Replacement, int]:
    """Return what replaces methods of a scaler after it was compared, and the memory that it takes."""
    methods, scalings = compile_scaler(scaler)
    replacement = Replacement.of(scaler, methods)
    names = getattr(scaler, "feature_names_in_", None)
    for kind, scaling in scalings.items():
        for x in containers(probe_values(scaling, kind), names):
            expected, uses = scaler.transform(x), Uses()
            with replacement.in_use():
                found = scaler.transform(x)
            same = type(found) is type(expected) and _equal([np.asarray(expected)], [np.asarray(found)])
            if not (uses and same):
                raise NotPackable(f"its results for rows of {kind} differ from those of scikit-learn")
    return replacement, sum(scaling.nbytes for scaling in scalings.values())


def _can_decode(vectorizer: Any, document: str | bytes) -> bool:
    try:
        vectorizer.decode(document)
    except (UnicodeError, LookupError):
        return False
    return True


def same_matrix(one: Any, other: Any) -> bool:
    """Return whether two sparse matrices are equal in every bit and in what they note about their order."""
    if type(one) is not type(other) or one.shape != other.shape:
        return False
    if one.has_sorted_indices != other.has_sorted_indices or one.has_canonical_format != other.has_canonical_format:
        return False
    return _equal([one.indptr, one.indices, one.data], [other.indptr, other.indices, other.data])


def _compare(compiled: Compiled, replacement: Replacement) -> None:
    """Compare a compiled ensemble with scikit-learn. Raises `NotPackable` if any result differs."""
    estimator = replacement.estimator
    if compiled.n_features > MAX_FEATURES:
        raise NotPackable(f"rows of so many features ({compiled.n_features:,}) are not compared")
    rows = probe_rows(compiled.trees, compiled.n_features, wide=compiled.wide, categorical=compiled.categorical)
    n_nodes = sum(len(tree.left) for tree in compiled.trees) if compiled.in_threads else 0
    few = len(rows) * compiled.trees[0].values[0].size <= _MAX_RESULTS
    together = _PARTS if n_nodes and few else 1
    compared = False
    for parts in batched(_parts(rows, compiled.categorical), together):
        with warnings.catch_warnings():  # which is for all threads
            warnings.simplefilter("ignore")
            outcomes = in_threads(lambda part: _outcome(estimator, compiled, part[1]), parts, n_nodes)
            with replacement.in_use():
                found = in_threads(lambda part: _outcome(estimator, compiled, part[1]), parts, n_nodes)
        for (what, _), (expected, refusal), (got, refused) in zip(parts, outcomes, found, strict=True):
            if refusal != refused or not _equal(expected, got):
                raise NotPackable(f"its results for rows with {what} differ from those of scikit-learn")
            compared = compared or refusal is None
    if not compared:
        raise NotPackable("scikit-learn refuses the rows with which it would be compared")


def _parts(rows: Any, categorical: Sequence[int]) -> Iterator[tuple[str, Any]]:
    """Yield the rows that are compared in one call, and what they contain."""
    for what, x in variants(rows, categorical):
        third = len(x) // 3 + 3
        if what != "numbers":
            yield what, x[:third]
            continue
        yield what, x[:-third] if len(x) > third else x
        by_column = np.asfortranarray(x[-third:])  # as tables are in memory
        yield what, by_column
        yield what, x[:1]


def _outcome(estimator: Any, compiled: Compiled, x: Any) -> tuple[list[np.ndarray[Any, Any]], str | None]:
    """Return the results of an estimator as arrays, and None; or no results and the error if it refuses the rows."""
    if compiled.evaluate is not None:
        return [compiled.evaluate(x)], None
    results: list[np.ndarray[Any, Any]] = []
    try:
        for method, kind in compiled.compared or _first_method(estimator, x.dtype.type):
            result = getattr(estimator, method)(x.astype(kind, copy=False))
            results += result if isinstance(result, list) else [result]
    except ValueError as error:
        return [], str(error)
    return results, None


def _first_method(estimator: Any, kind: Any) -> list[tuple[str, Any]]:
    """Return the method of an estimator that is nearest to the sums over trees themselves."""
    methods = ("score_samples", "decision_function", "predict_proba", "predict")
    return [(method, kind) for method in methods if hasattr(estimator, method)][:1]


def _equal(expected: list[np.ndarray[Any, Any]], got: list[np.ndarray[Any, Any]]) -> bool:
    return len(expected) == len(got) and all(
        a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes() and _layout(a) == _layout(b)
        for a, b in zip(expected, got, strict=True)
    )


def _layout(array: np.ndarray[Any, Any]) -> tuple[bool, bool]:
    """Return the layout of an array in memory, which affects how scikit-learn rounds sums over it."""
    return array.flags.c_contiguous, array.flags.f_contiguous


def _own_estimators(models: Iterable[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Return what can be compiled within the models, but no trees of another ensemble.

    Gradient boosting gives its trees to functions that accept nothing else, so none of its trees may be replaced.
    """
    known = list(_known_estimators(models))
    owned: set[int] = set()
    for _, ensemble in known:
        trees = vars(ensemble).get("estimators_")  # an array in gradient boosting, otherwise a list
        if isinstance(trees, np.ndarray | list):
            owned.update(id(tree) for tree in (trees if isinstance(trees, list) else trees.ravel()))
    return [(place, one) for place, one in known if id(one) not in owned]


def _known_estimators(models: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
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
        if _kind(value) is not None:
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


_KINDS: dict[str, tuple[Callable[[Any], bool], Callable[[Any], tuple[Replacement, int]]]] = {
    "text vectorizer": (is_vectorizer, _compiled_vectorizer),
    "scaler": (is_scaler, _compiled_scaler),
    FoundEstimator.kind: (is_tree_ensemble, _compiled_ensemble),
}
"""What is compiled: for each kind, whether an object is of this kind, and what compiles it."""
