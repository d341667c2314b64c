"""Finds tree ensembles and text vectorizers in models, and compares each with scikit-learn before it is used."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted
from threadpoolctl import threadpool_limits

from scoreline.storage.models.compiled.ensembles import CompiledEnsembles, Ensemble, replaced
from scoreline.storage.models.compiled.estimators import Compiled, compile_estimator, is_known
from scoreline.storage.models.compiled.nodes import NotPackable
from scoreline.storage.models.compiled.probe_documents import probe_documents
from scoreline.storage.models.compiled.probes import MAX_FEATURES, probe_rows, variants
from scoreline.storage.models.compiled.vectorizers import WordCounter, compile_vectorizer, is_vectorizer

_MAX_OBJECTS = 100_000
"""Maximum number of objects within models that are looked at."""


def compile_all(models: Iterable[tuple[str, Any]]) -> CompiledEnsembles:
    """Compile the ensembles and vectorizers within fitted models (see `extension.compile_ensembles`)."""
    found, methods, nbytes = [], [], 0
    for place, estimator in _own_ensembles(models):
        kind = "text vectorizer" if is_vectorizer(estimator) else "tree ensemble"
        one = Ensemble(place=place, name=type(estimator).__name__, kind=kind)
        try:
            if not _is_fitted(estimator):
                continue
            compiled = _compiled_vectorizer(estimator) if is_vectorizer(estimator) else _compiled_ensemble(estimator)
        except NotPackable as problem:
            found.append(replace(one, reason=str(problem)))
            continue
        except Exception as error:  # noqa: BLE001 - code of the user may raise anything on rows that it does not know
            message = str(error).partition("\n")[0]
            found.append(replace(one, reason=f"comparing failed ({type(error).__name__}: {message})"))
            continue
        found.append(one)
        methods.append((estimator, compiled[0]))
        nbytes += compiled[1]
    return CompiledEnsembles(found=tuple(found), nbytes=nbytes, methods=tuple(methods))


def _compiled_ensemble(estimator: Any) -> tuple[Mapping[str, Any], int]:
    """Return the methods of an ensemble after they were compared, and the memory that they take."""
    compiled = compile_estimator(estimator)
    with threadpool_limits(1):  # a process that loads models before it forks must not start threads of OpenMP
        _compare(estimator, compiled)
    return compiled.methods, compiled.nbytes


def _compiled_vectorizer(vectorizer: Any) -> tuple[Mapping[str, Any], int]:
    """Return the methods of a vectorizer after they were compared, and the memory that they take."""
    methods, counter = compile_vectorizer(vectorizer)
    before = dict(vars(vectorizer))
    try:
        with threadpool_limits(1):
            _compare_vectorizer(vectorizer, methods, counter)
    finally:  # scikit-learn notes that it has checked the stop words, and would not warn again
        vars(vectorizer).clear()
        vars(vectorizer).update(before)
    return methods, counter.nbytes


def _compare_vectorizer(vectorizer: Any, methods: Mapping[str, Any], counter: WordCounter) -> None:
    """Compare a compiled vectorizer with scikit-learn. Raises `NotPackable` if any matrix differs."""
    probes = probe_documents(counter.columns or (), vectorizer.get_stop_words() or ())
    documents = [document for document in probes if _can_decode(vectorizer, document)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for part in (documents, documents[:1], documents[::-3]):
            expected = vectorizer.transform(part)
            with replaced(vectorizer, methods):
                found = vectorizer.transform(part)
            if not same_matrix(expected, found):
                raise NotPackable("its results for some documents differ from those of scikit-learn")


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
    """Return what the methods of an estimator return, as arrays, and its refusal if it refuses the rows."""
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
    """Return the ensembles and vectorizers within the models whose class is known, without the trees of ensembles.

    Gradient boosting gives its trees to functions that accept nothing else, so none of them may be replaced.
    """
    known = list(_known_ensembles(models))
    owned: set[int] = set()
    for _, ensemble in known:
        trees = vars(ensemble).get("estimators_")  # an array of gradient boosting, and a list of others
        if isinstance(trees, np.ndarray | list):
            owned.update(id(tree) for tree in (trees if isinstance(trees, list) else trees.ravel()))
    return [(place, one) for place, one in known if id(one) not in owned]


def _known_ensembles(models: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """Yield the ensembles and vectorizers within the models whose class is known. Those inside of others are left out.

    Only objects of scikit-learn's own classes are searched. How another class uses what it contains is not known.
    """
    seen: set[int] = set()
    waiting = list(models)[::-1]
    while waiting and len(seen) < _MAX_OBJECTS:
        place, value = waiting.pop()
        if id(value) in seen or isinstance(value, str | bytes | int | float | type):
            continue
        seen.add(id(value))
        if is_known(value) or is_vectorizer(value):
            yield place, value
        elif isinstance(value, dict):
            waiting += [(f"{place}[{key!r}]", item) for key, item in value.items()]
        elif isinstance(value, list | tuple):
            waiting += [(f"{place}[{number}]", item) for number, item in enumerate(value)]
        elif isinstance(value, np.ndarray):
            if value.dtype == object and value.size <= _MAX_OBJECTS:
                waiting += [(f"{place}[{number}]", item) for number, item in enumerate(value.ravel())]
        elif type(value).__module__.startswith("sklearn.") and hasattr(value, "__dict__"):
            waiting += [(f"{place}.{name}", item) for name, item in vars(value).items()]


def _is_fitted(estimator: Any) -> bool:
    """Return whether an estimator is fitted. Those that are not are templates, for example of an ensemble."""
    try:
        check_is_fitted(estimator)
    except NotFittedError:
        return False
    return True
