"""The features with which trees compare, and what is compared instead of the numbers themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from scoreline.storage.models.compiled.trees import NotPackable, TreeArrays, mark_features


@dataclass(frozen=True)
class Columns:
    """The columns that nodes name: the features that any node uses, those with categories last.

    Values of float64 are compared by rank: a value is above a threshold if and only if more thresholds are below the
    value than below the threshold.
    """

    used: npt.NDArray[np.int32]
    first_category: int
    thresholds: npt.NDArray[np.float64]
    """The sorted thresholds of each column, and infinity up to one less than a power of two. Empty for float32."""
    offsets: npt.NDArray[np.int64]
    """Where the thresholds of each column begin, and where the last ones end."""
    most_ranks: int
    """The largest number of finite thresholds of a column."""

    @property
    def nbytes(self) -> int:
        """Memory of the arrays."""
        return self.used.nbytes + self.thresholds.nbytes + self.offsets.nbytes


def columns_of(trees: Sequence[TreeArrays], n_features: int, *, ranked: bool) -> Columns:
    """Return the columns that trees use.

    Raises
    ------
    NotPackable
        A feature is compared as a number and as a category.
    """
    numeric, categorical = np.zeros(n_features, bool), np.zeros(n_features, bool)
    # without categories, no node is looked at once every feature has been seen
    missing = n_features + any(tree.splits is not None for tree in trees)
    for tree in trees:
        missing = mark_features(tree, numeric, categorical, missing)
    if np.any(numeric & categorical):
        raise NotPackable("a feature is compared as a number and as a category")
    numbers, categories = np.flatnonzero(numeric), np.flatnonzero(categorical)
    used = np.concatenate([numbers, categories]).astype(np.int32)
    thresholds: list[npt.NDArray[np.float64]] = []
    most = 0
    if ranked:
        feature = np.concatenate([tree.feature for tree in trees])
        threshold = np.concatenate([_numeric_thresholds(tree) for tree in trees])
        for number in numbers:
            found = threshold[feature == number]
            found = np.unique(found[found < np.inf])
            most = max(most, len(found))
            thresholds.append(np.append(found, np.full((1 << len(found).bit_length()) - 1 - len(found), np.inf)))
    sizes = [len(one) for one in thresholds] + [0] * (len(used) - len(thresholds))
    return Columns(
        used=used,
        first_category=len(numbers),
        thresholds=np.concatenate([*thresholds, np.empty(0)]),
        offsets=np.cumsum([0, *sizes], dtype=np.int64),
        most_ranks=most,
    )


def _numeric_thresholds(tree: TreeArrays) -> npt.NDArray[np.float64]:
    """Return the threshold of each node that compares numbers, and NaN for the others."""
    numeric = tree.left >= 0
    if tree.splits is not None:
        numeric = numeric & (tree.splits < 0)
    return np.where(numeric, tree.threshold, np.nan)


def float32_at_or_below(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Return the largest float32 that is not above each value.

    A float32 is above the one if and only if it is above the other.
    """
    with np.errstate(over="ignore"):
        nearest = values.astype(np.float32)
    above = nearest.astype(np.float64) > values
    nearest[above] = np.nextafter(nearest[above], np.float32(-np.inf))
    return nearest
