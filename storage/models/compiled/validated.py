"""What the compilers of all classes share: their result, the arrays of scikit-learn's trees, and checks of rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from scipy.sparse import issparse
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor, ExtraTreeClassifier, ExtraTreeRegressor
from sklearn.tree._tree import Tree

from scoreline.storage.models.compiled.nodes import PackedTrees
from scoreline.storage.models.compiled.trees import NotPackable, TreeArrays

Methods = Mapping[str, Any]
"""Attributes of an estimator by name, to be set on the instance for the time of a batch."""


@dataclass(frozen=True)
class Compiled:
    """What a compiled ensemble replaces in an estimator."""

    methods: Methods
    nbytes: int
    trees: Sequence[TreeArrays]
    """The trees, with the features of the whole ensemble."""
    n_features: int
    wide: bool
    categorical: Sequence[int] = ()
    """Features whose values are categories, as numbers from 0."""
    evaluate: Callable[[Any], npt.NDArray[np.float64]] | None = None
    """Computes the results that are compared with those of scikit-learn. By default, methods of the estimator do."""
    compared: Sequence[tuple[str, type[np.number[Any]]]] = ()
    """The methods that are compared, each on rows of a type. By default, the first of those that an estimator has."""
    in_threads: bool = False
    """Whether threads may call the methods at once, because they call no code but scikit-learn's own."""

    @classmethod
    def of(cls, methods: Methods, packed: PackedTrees, trees: Sequence[TreeArrays]) -> Self:
        """Return what replaces `methods` in an ensemble whose packed trees are compared by these methods."""
        return cls(methods, packed.nbytes, trees, packed.n_features, packed.wide)


TREES = (DecisionTreeClassifier, DecisionTreeRegressor, ExtraTreeClassifier, ExtraTreeRegressor)


def tree_arrays(estimator: Any, n_features: int) -> TreeArrays:
    """Return the arrays of a fitted tree. Raises `NotPackable` if it is not one of scikit-learn's own."""
    if type(estimator) not in TREES or type(estimator.tree_) is not Tree:
        raise NotPackable(f"a {type(estimator).__name__} is not one of scikit-learn's trees")
    tree = estimator.tree_
    if tree.n_features != n_features:
        raise NotPackable("a tree has another number of features")
    return TreeArrays(
        left=tree.children_left,
        right=tree.children_right,
        feature=tree.feature,
        threshold=tree.threshold,
        missing_left=tree.missing_go_to_left,
        values=tree.value,
    )


def with_features(arrays: TreeArrays, features: Any) -> TreeArrays:
    """Return the arrays of a tree that was given some of the columns, with the features of the whole rows."""
    splits = arrays.left >= 0
    if not np.isin(arrays.feature[splits], np.arange(len(features))).all():
        raise NotPackable("a tree asks for a feature that the rows do not have")
    feature = np.where(splits, np.asarray(features)[np.where(splits, arrays.feature, 0)], 0)
    return replace(arrays, feature=feature)


def is_sparse(x: Any) -> bool:
    """Return whether scikit-learn validates rows as sparse ones, which a table of sparse columns is, too.

    The method of a forest validates them itself, and would give each warning again if they had been validated before.
    """
    return issparse(x) or hasattr(x, "sparse")


def is_dense(x: Any, dtype: Any, n_features: int) -> bool:
    """Return whether rows are an array of this type with so many columns."""
    return type(x) is np.ndarray and x.dtype == dtype and x.ndim == 2 and x.shape[1] == n_features
