"""Compares compiled estimators with scikit-learn before they are used."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from itertools import batched
from typing import Any

import numpy as np

from scoreline.storage.models.compiled.compiled_estimators import Uses
from scoreline.storage.models.compiled.probe_documents import probe_documents
from scoreline.storage.models.compiled.probe_values import containers, probe_values
from scoreline.storage.models.compiled.probes import MAX_FEATURES, probe_rows, variants
from scoreline.storage.models.compiled.replacing import Replacement
from scoreline.storage.models.compiled.scalers import Scaling
from scoreline.storage.models.compiled.threads import in_threads
from scoreline.storage.models.compiled.trees import NotPackable
from scoreline.storage.models.compiled.validated import Compiled
from scoreline.storage.models.compiled.vectorizers import WordCounter

_PARTS = 5
"""Number of parts of the rows of a comparison, each of which is scored by one call."""
_MAX_RESULTS = 1 << 20
"""Maximum number of results of scikit-learn that are kept until they are compared. If there are more, each part is
compared before the next part is scored."""


def compare_ensemble(replacement: Replacement, compiled: Compiled) -> None:
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


def compare_vectorizer(replacement: Replacement, counter: WordCounter) -> None:
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
            if not _same_matrix(expected, found):
                raise NotPackable("its results for some documents differ from those of scikit-learn")


def compare_scaler(replacement: Replacement, scalings: Mapping[np.dtype[Any], Scaling]) -> None:
    """Compare a compiled scaler with scikit-learn. Raises `NotPackable` if any row differs."""
    scaler = replacement.estimator
    names = getattr(scaler, "feature_names_in_", None)
    for kind, scaling in scalings.items():
        for x in containers(probe_values(scaling, kind), names):
            expected, uses = scaler.transform(x), Uses()
            with replacement.in_use():
                found = scaler.transform(x)
            same = type(found) is type(expected) and _equal([np.asarray(expected)], [np.asarray(found)])
            if not (uses and same):
                raise NotPackable(f"its results for rows of {kind} differ from those of scikit-learn")


def _can_decode(vectorizer: Any, document: str | bytes) -> bool:
    try:
        vectorizer.decode(document)
    except (UnicodeError, LookupError):
        return False
    return True


def _same_matrix(one: Any, other: Any) -> bool:
    """Return whether two sparse matrices are equal in every bit and in what they note about their order."""
    if type(one) is not type(other) or one.shape != other.shape:
        return False
    if one.has_sorted_indices != other.has_sorted_indices or one.has_canonical_format != other.has_canonical_format:
        return False
    return _equal([one.indptr, one.indices, one.data], [other.indptr, other.indices, other.data])


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
