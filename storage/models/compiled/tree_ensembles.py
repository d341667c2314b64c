"""Compiles fitted ensembles of scikit-learn: for each class, which methods a compiled ensemble replaces.

The methods call scikit-learn's own validation first, so that every refusal and its message stay as they are. Estimators
of other classes, for example of a subclass, are not compiled.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    IsolationForest,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.utils.validation import check_is_fitted

from scoreline.storage.models.compiled.nodes import pack
from scoreline.storage.models.compiled.single_trees import decision_tree
from scoreline.storage.models.compiled.trees import MAX_CATEGORIES, WORDS_OF_CATEGORIES, NotPackable, TreeArrays
from scoreline.storage.models.compiled.validated import (
    TREES,
    Compiled,
    is_dense,
    is_sparse,
    tree_arrays,
    with_features,
)
from scoreline.storage.models.compiled.wholes import WHOLES, is_whole


def compile_ensemble(estimator: Any) -> Compiled:
    """Compile a fitted estimator of a class that `is_tree_ensemble`.

    Raises
    ------
    NotPackable
        The estimator cannot be compiled. The message says why, after "because".
    """
    try:
        return _COMPILERS[type(estimator)](estimator)
    except (AttributeError, TypeError, ValueError, IndexError, KeyError, OverflowError) as error:
        raise NotPackable(f"its fitted state is not as expected ({type(error).__name__}: {error})") from error


def _forest_classifier(model: Any) -> Compiled:
    n_classes = [int(number) for number in np.atleast_1d(model.n_classes_)]
    widest = max(n_classes)

    def result(means: npt.NDArray[np.float64]) -> Any:
        if len(n_classes) == 1:
            return means
        outputs = means.reshape(len(means), len(n_classes), widest)
        return [np.ascontiguousarray(outputs[:, number, :n]) for number, n in enumerate(n_classes)]

    return _forest(model, "predict_proba", len(n_classes) * widest, result)


def _forest_regressor(model: Any) -> Compiled:
    return _forest(model, "predict", model.n_outputs_, lambda means: means if model.n_outputs_ > 1 else means[:, 0])


def _forest(model: Any, method: str, n_columns: int, result: Callable[[npt.NDArray[np.float64]], Any]) -> Compiled:
    """Compile a forest. Its method returns the `result` of the means over its trees, of shape (n_rows, n_columns)."""
    trees = [tree_arrays(tree, model.n_features_in_) for tree in model.estimators_]
    packed = pack(trees, model.n_features_in_, [0] * len(trees), wide=False)
    n_trees = len(trees)
    if packed.n_columns != n_columns:
        raise NotPackable("its trees have another number of outputs or classes")

    def compiled(X: Any) -> Any:
        own = getattr(type(model), method)
        if is_sparse(X):
            return own(model, X)
        check_is_fitted(model)
        x = model._validate_X_predict(X)
        if not is_dense(x, np.float32, packed.n_features):
            return own(model, X)
        sums = np.zeros((len(x), n_columns))
        packed.add_to(sums, x)
        sums /= n_trees
        return result(sums)

    return replace(Compiled.of({method: compiled}, packed, trees), in_threads=True)


def _gradient_boosting(model: Any) -> Compiled:
    stages, outputs = model.estimators_.shape
    trees = [tree_arrays(tree, model.n_features_in_) for tree in model.estimators_.ravel()]
    packed = pack(trees, model.n_features_in_, list(range(outputs)) * stages, wide=False)
    if packed.n_columns != outputs:
        raise NotPackable("its trees have several outputs")

    def raw_predict(X: Any) -> Any:
        if not is_dense(X, np.float32, packed.n_features):
            return type(model)._raw_predict(model, X)
        check_is_fitted(model)
        sums = model._raw_predict_init(X)
        if sums.shape != (len(X), outputs) or sums.dtype != np.float64 or not sums.flags.c_contiguous:
            return type(model)._raw_predict(model, X)
        packed.add_to(sums, X, scale=model.learning_rate)
        return sums

    return Compiled.of({"_raw_predict": raw_predict}, packed, trees)


def _hist_gradient_boosting(model: Any) -> Compiled:
    predictors = model._predictors
    outputs = model.n_trees_per_iteration_
    known, places = model._bin_mapper.make_known_categories_bitsets()
    trees, splits = [], [np.empty((0, WORDS_OF_CATEGORIES), np.uint32)]
    n_splits = 0
    for predictor in (predictor for iteration in predictors for predictor in iteration):
        nodes = predictor.nodes
        leaf = nodes["is_leaf"].astype(bool)
        by_category = nodes["is_categorical"].astype(bool) & ~leaf
        numbers = None
        if by_category.any():
            splits.append(_right_categories(predictor, nodes[by_category], known, places))
            numbers = np.full(len(nodes), -1)
            numbers[by_category] = n_splits + np.arange(len(splits[-1]))
            n_splits += len(splits[-1])
        trees.append(
            TreeArrays(
                left=np.where(leaf, -1, nodes["left"].astype(np.int64)),
                right=np.where(leaf, -1, nodes["right"].astype(np.int64)),
                feature=nodes["feature_idx"].astype(np.int64),
                threshold=np.where(by_category, 0.0, nodes["num_threshold"].astype(np.float64)),
                missing_left=nodes["missing_go_to_left"].astype(bool),
                values=nodes["value"],
                splits=numbers,
            )
        )
    columns = [column for iteration in predictors for column in range(len(iteration))]
    packed = pack(trees, model._n_features, columns, wide=True, categories=np.concatenate(splits))
    if packed.n_columns != outputs or any(len(iteration) != outputs for iteration in predictors):
        raise NotPackable("its iterations have different numbers of trees")
    categorical = np.flatnonzero(model._bin_mapper.is_categorical_)

    def predict_iterations(X: Any, iterations: Any, raw_predictions: Any, is_binned: bool, n_threads: int) -> None:
        usable = iterations is predictors and not is_binned and raw_predictions.dtype == np.float64
        usable = usable and is_dense(X, np.float64, packed.n_features)
        if not usable or (n_splits and (X[:, categorical] >= MAX_CATEGORIES).any()):
            type(model)._predict_iterations(model, X, iterations, raw_predictions, is_binned, n_threads)
            return
        sums = np.ascontiguousarray(raw_predictions)
        packed.add_to(sums, X)
        if sums is not raw_predictions:
            raw_predictions[:] = sums

    def evaluate(x: Any) -> npt.NDArray[np.float64]:
        sums = np.zeros((len(x), outputs), order="F")
        model._predict_iterations(x, predictors, sums, False, 1)
        return sums

    return Compiled(
        methods={"_predict_iterations": predict_iterations},
        nbytes=packed.nbytes,
        trees=trees,
        n_features=packed.n_features,
        wide=True,
        categorical=categorical.tolist() if n_splits else (),
        evaluate=evaluate,
    )


def _right_categories(predictor: Any, nodes: Any, known: Any, places: Any) -> npt.NDArray[np.uint32]:
    """Return, for each node that splits categories, a bit for each category that goes right.

    Categories that are not known go where missing values go. Only these have the last bit.
    """
    left = predictor.raw_left_cat_bitsets[nodes["bitset_idx"]]
    if left.shape[1:] != (WORDS_OF_CATEGORIES,):  # scikit-learn would read memory behind the array
        raise NotPackable("a tree has another number of categories")
    known = known[places[nodes["feature_idx"]]]
    unknown_goes_right = np.where(nodes["missing_go_to_left"].astype(bool), np.uint32(0), np.uint32(0xFFFFFFFF))
    found: npt.NDArray[np.uint32] = ~left & (known | unknown_goes_right[:, np.newaxis])
    found[:, -1] = (found[:, -1] & np.uint32(0x7FFFFFFF)) | (unknown_goes_right & np.uint32(0x80000000))
    return found


def _isolation_forest(model: Any) -> Compiled:
    trees = []
    for number, (tree, features) in enumerate(zip(model.estimators_, model.estimators_features_, strict=True)):
        if model._max_features == model.n_features_in_:  # scikit-learn then gives each tree all columns as they are
            features = np.arange(model.n_features_in_)
        arrays = with_features(tree_arrays(tree, len(features)), features)
        depths = model._decision_path_lengths[number] + model._average_path_length_per_tree[number] - 1.0
        trees.append(replace(arrays, values=np.ascontiguousarray(depths, np.float64)))
    packed = pack(trees, model.n_features_in_, [0] * len(trees), wide=False)
    own = type(model)._compute_score_samples

    def compute_score_samples(X: Any, subsample_features: bool) -> Any:
        if not is_dense(X, np.float32, packed.n_features):
            return own(model, X, subsample_features)
        sums = np.zeros((len(X), 1))
        packed.add_to(sums, X)
        return _scores_from_depths(model, sums[:, 0])

    return Compiled.of({"_compute_score_samples": compute_score_samples}, packed, trees)


def _scores_from_depths(model: Any, depths: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Turn depths into scores as `IsolationForest` does."""
    from sklearn.ensemble._iforest import _average_path_length  # a private function: it is absent in other versions

    denominator = len(model.estimators_) * _average_path_length([model._max_samples])
    scores: npt.NDArray[np.float64] = 2 ** (
        -np.divide(depths, denominator, out=np.ones_like(depths), where=denominator != 0)
    )
    return scores


def is_tree_ensemble(value: Any) -> bool:
    """Return whether objects of this class can be compiled."""
    return type(value) in _COMPILERS and (type(value) not in WHOLES or is_whole(value))


_COMPILERS: dict[type, Callable[[Any], Compiled]] = {
    **WHOLES,
    **dict.fromkeys(TREES, decision_tree),
    RandomForestClassifier: _forest_classifier,
    ExtraTreesClassifier: _forest_classifier,
    RandomForestRegressor: _forest_regressor,
    ExtraTreesRegressor: _forest_regressor,
    GradientBoostingClassifier: _gradient_boosting,
    GradientBoostingRegressor: _gradient_boosting,
    HistGradientBoostingClassifier: _hist_gradient_boosting,
    HistGradientBoostingRegressor: _hist_gradient_boosting,
    IsolationForest: _isolation_forest,
}
