"""Compiles bagging and AdaBoost whose estimators are all single trees, each ensemble as a whole.

scikit-learn validates the rows, copies columns and creates results for each of these trees. Here they are validated
once, and again by scikit-learn's own trees if one of them might refuse them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from joblib import effective_n_jobs
from sklearn.ensemble import AdaBoostClassifier, AdaBoostRegressor, BaggingClassifier, BaggingRegressor
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor, ExtraTreeClassifier, ExtraTreeRegressor
from sklearn.utils.validation import check_is_fitted, validate_data

from scoreline.storage.models.compiled.nodes import pack
from scoreline.storage.models.compiled.trees import NotPackable, TreeArrays
from scoreline.storage.models.compiled.validated import Compiled, is_sparse, tree_arrays, with_features

_CLASSIFIERS = (DecisionTreeClassifier, ExtraTreeClassifier)
_REGRESSORS = (DecisionTreeRegressor, ExtraTreeRegressor)
_TREES_OF: dict[type, tuple[type, ...]] = {
    BaggingClassifier: _CLASSIFIERS,
    BaggingRegressor: _REGRESSORS,
    AdaBoostClassifier: _CLASSIFIERS,
    AdaBoostRegressor: _REGRESSORS,
}

_PREDICTIONS_BYTES = 1 << 20
"""Memory of the predictions of all trees for some rows. They stay in the cache until their median has been taken."""
_VOTES_BYTES = 1 << 20
"""Memory that the votes of AdaBoost may take even if that is more than a third of the memory of the trees."""


def is_whole(value: Any) -> bool:
    """Return whether an object is an ensemble of single trees that this module compiles."""
    trees = vars(value).get("estimators_") if type(value) in _TREES_OF else None
    return isinstance(trees, list) and bool(trees) and all(type(tree) in _TREES_OF[type(value)] for tree in trees)


class _Rows:
    """Decides which rows none of the trees refuses."""

    def __init__(self, model: Any) -> None:
        self._allows_nan = all(tree._support_missing_values(np.empty((1, 1))) for tree in model.estimators_)

    def accepted(self, x: Any) -> npt.NDArray[np.float32] | None:
        """Return validated rows in float32, or None if scikit-learn's trees must say whether they accept them."""
        if type(x) is not np.ndarray or x.dtype.kind not in "fiu" or x.ndim != 2:
            return None
        with np.errstate(over="ignore"):
            rows = np.ascontiguousarray(x, np.float32)
        refused = np.isinf(rows) if self._allows_nan else ~np.isfinite(rows)
        return None if refused.any() else rows


def bagging(model: Any) -> Compiled:
    """Compile bagging of trees."""
    from sklearn.ensemble._bagging import _parallel_predict_proba, _parallel_predict_regression

    is_classifier = isinstance(model, BaggingClassifier)
    method = "predict_proba" if is_classifier else "predict"
    if is_classifier and any(tree.n_outputs_ > 1 or tree.n_classes_ != model.n_classes_ for tree in model.estimators_):
        raise NotPackable("its trees know different classes")
    trees = [
        with_features(tree_arrays(tree, len(features)), features)
        for tree, features in zip(model.estimators_, model.estimators_features_, strict=True)
    ]
    packed = pack(trees, model.n_features_in_, [0] * len(trees), wide=False)
    outputs = model.n_classes_ if is_classifier else model.estimators_[0].n_outputs_
    if packed.n_columns != outputs or model.n_estimators != len(trees):
        raise NotPackable("its trees have another number of outputs or classes")
    own, check = getattr(type(model), method), _Rows(model)

    def slow(x: Any) -> Any:
        if is_classifier:
            return _parallel_predict_proba(model.estimators_, model.estimators_features_, x, model.n_classes_)
        return 0 + _parallel_predict_regression(model.estimators_, model.estimators_features_, x, {})

    def compiled(X: Any, **params: Any) -> Any:
        if params or is_sparse(X) or effective_n_jobs(model.n_jobs) != 1:
            return own(model, X, **params)
        check_is_fitted(model)
        x = validate_data(
            model, X, accept_sparse=["csr", "csc"], dtype=None, ensure_all_finite=False, reset=False
        )  # as scikit-learn does
        rows = check.accepted(x)
        if rows is None:
            return slow(x) / model.n_estimators
        sums = np.zeros((len(rows), outputs))
        packed.add_to(sums, rows)
        sums /= model.n_estimators
        return sums if is_classifier or outputs > 1 else sums[:, 0]

    return Compiled.of({method: compiled}, packed, trees)


def ada_boost_classifier(model: Any) -> Compiled:
    """Compile AdaBoost of classification trees. Each leaf adds the weight of the tree to the class for which it votes.

    The values of a tree are therefore one row for each class that one of its nodes votes for.
    """
    n_classes, classes = model.n_classes_, model.classes_
    if n_classes < 2:
        raise NotPackable("it knows one class only")
    trees = []
    # If boosting ended early, there are more weights than trees; the others are 0
    if len(model.estimator_weights_) < len(model.estimators_):
        raise NotPackable("it has more trees than weights")
    for tree, weight in zip(model.estimators_, model.estimator_weights_, strict=False):
        arrays = tree_arrays(tree, model.n_features_in_)
        place = np.searchsorted(classes, tree.classes_)
        if tree.n_outputs_ > 1 or not np.array_equal(classes[np.minimum(place, n_classes - 1)], tree.classes_):
            raise NotPackable("its trees know different classes")
        voted, votes = np.unique(
            place[np.argmax(tree.tree_.value[:, 0, : tree.n_classes_], axis=1)], return_inverse=True
        )
        weights = np.where(np.arange(n_classes) == voted[:, np.newaxis], weight, -1 / (n_classes - 1) * weight)
        trees.append(_with_values(arrays, weights, votes))
    if sum(tree.values.nbytes for tree in trees) > max(_VOTES_BYTES, _tree_bytes(model.estimators_) // 3):
        raise NotPackable("the votes of its trees would take more than a third of its memory")
    packed = pack(trees, model.n_features_in_, [0] * len(trees), wide=False)
    own, check = type(model).decision_function, _Rows(model)

    def slow(x: Any) -> Any:
        return sum(
            np.where((tree.predict(x) == classes[:, np.newaxis]).T, weight, -1 / (n_classes - 1) * weight)
            for tree, weight in zip(model.estimators_, model.estimator_weights_, strict=False)
        )

    def decision_function(X: Any) -> Any:
        if is_sparse(X):
            return own(model, X)
        check_is_fitted(model)
        x = model._check_X(X)
        rows = check.accepted(x)
        if rows is None:
            sums = slow(x)
        else:
            sums = np.zeros((len(rows), n_classes))
            packed.add_to(sums, rows)
            sums = np.asfortranarray(sums)  # as in scikit-learn: the layout affects how later sums are rounded
        sums /= model.estimator_weights_.sum()
        if n_classes == 2:
            sums[:, 0] *= -1
            return sums.sum(axis=1)
        return sums

    return Compiled.of({"decision_function": decision_function}, packed, trees)


def ada_boost_regressor(model: Any) -> Compiled:
    """Compile AdaBoost of regression trees, whose median is taken as in scikit-learn."""
    trees = [tree_arrays(tree, model.n_features_in_) for tree in model.estimators_]
    n_trees = len(trees)
    rows_of_block = max(1, _PREDICTIONS_BYTES // (np.dtype(np.float64).itemsize * n_trees))
    packed = pack(trees, model.n_features_in_, list(range(n_trees)), wide=False)
    if packed.n_columns != n_trees:
        raise NotPackable("its trees have several outputs")
    own, check = type(model)._get_median_predict, _Rows(model)

    def get_median_predict(X: Any, limit: int) -> Any:
        rows = check.accepted(X)
        if rows is None or limit != n_trees:
            return own(model, X, limit)
        medians = np.empty(len(rows))
        for begin in range(0, len(rows), rows_of_block):
            block = slice(begin, begin + rows_of_block)
            medians[block] = medians_of(rows[block])
        return medians

    def medians_of(rows: npt.NDArray[np.float32]) -> Any:
        predictions = np.full((len(rows), n_trees), -0.0)  # unlike 0.0, it also leaves a value of -0.0 as it is
        packed.add_to(predictions, rows)
        order = np.argsort(predictions, axis=1)
        weights = np.cumsum(np.take(model.estimator_weights_, order), axis=1)
        median = (weights >= 0.5 * weights[:, -1][:, np.newaxis]).argmax(axis=1)
        every = np.arange(len(rows))
        return predictions[every, order[every, median]]

    return Compiled.of({"_get_median_predict": get_median_predict}, packed, trees)


def _tree_bytes(trees: Sequence[Any]) -> int:
    """Return the memory of the nodes and values of trees."""
    return sum(tree.tree_.__getstate__()["nodes"].nbytes + tree.tree_.value.nbytes for tree in trees)


def _with_values(arrays: TreeArrays, values: npt.NDArray[np.float64], rows: npt.NDArray[np.int64]) -> TreeArrays:
    return replace(arrays, values=np.ascontiguousarray(values, np.float64), rows=rows)


WHOLES: dict[type, Callable[[Any], Compiled]] = {
    BaggingClassifier: bagging,
    BaggingRegressor: bagging,
    AdaBoostClassifier: ada_boost_classifier,
    AdaBoostRegressor: ada_boost_regressor,
}
