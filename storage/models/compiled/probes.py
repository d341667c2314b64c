"""Makes rows that visit the leaves of trees, to compare a compiled ensemble with scikit-learn's own.

The path to a leaf leaves an interval of values for each feature. From each interval, a row takes the largest value, the
value just below the largest, or the smallest value. A comparison that is wrong for a single float32 therefore sends the
row to another leaf.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from scoreline.storage.models.compiled.columns import float32_at_or_below
from scoreline.storage.models.compiled.trees import MAX_CATEGORIES, TreeArrays

MAX_ROWS = 16_384
MIN_ROWS = 64
MAX_CELLS = 1 << 21
"""Maximum number of values in all rows, which are dense."""
MAX_FEATURES = 4_096
"""Maximum number of features of rows. An ensemble with more features mostly scores sparse rows, for which compiled
trees are not used."""
_ROWS_OF_LEAF = 4
"""Number of rows for each leaf, if there may be so many."""
_SEED = 20_260_817


def most_rows(n_features: int) -> int:
    """Return the maximum number of rows with `n_features` features."""
    return max(MIN_ROWS, min(MAX_ROWS, MAX_CELLS // n_features))


def probe_rows(
    trees: Sequence[TreeArrays], n_features: int, *, wide: bool, categorical: Sequence[int] = ()
) -> npt.NDArray[Any]:
    """Return rows of shape (n_rows, n_features) that reach as many leaves as `most_rows` can, tree by tree.

    Parameters
    ----------
    wide : bool
        Whether the rows are float64; otherwise they are float32.
    categorical : sequence of int
        Features whose values are numbers of categories. They get random categories, including negative and unknown
        categories.
    """
    random = np.random.default_rng(_SEED)
    kind = np.dtype(np.float64 if wide else np.float32)
    most = most_rows(n_features)
    share = max(_ROWS_OF_LEAF, most // len(trees))
    blocks = [_rows_of(tree, n_features, kind, random, share) for tree in trees[: most // _ROWS_OF_LEAF]]
    rows = np.concatenate(blocks)[:most]
    for feature in categorical:
        categories = random.choice([4, 16, 64, MAX_CATEGORIES], len(rows))
        rows[:, feature] = random.integers(-1, categories)
    return rows[random.permutation(len(rows))]


def variants(rows: npt.NDArray[Any], categorical: Sequence[int] = ()) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    """Yield the rows as they are, and copies with missing and infinite values, which not every estimator accepts.

    Categories are not infinite.
    """
    yield "numbers", rows
    random = np.random.default_rng(_SEED)
    missing = rows.copy()
    missing[random.random(rows.shape) < 0.1] = np.nan
    missing[: max(1, len(rows) // 64)] = np.nan
    yield "missing values", missing
    infinite = rows.copy()
    infinite[random.random(rows.shape) < 0.05] = np.inf
    infinite[random.random(rows.shape) < 0.05] = -np.inf
    infinite[:, list(categorical)] = rows[:, list(categorical)]
    yield "infinities", infinite


def _rows_of(
    tree: TreeArrays, n_features: int, kind: np.dtype[Any], random: np.random.Generator, most: int
) -> npt.NDArray[Any]:
    left, right = np.asarray(tree.left), np.asarray(tree.right)
    inner = np.flatnonzero(left >= 0)
    parents = np.full(len(left), -1)
    parents[left[inner]] = parents[right[inner]] = inner
    thresholds = tree.threshold if kind == np.float64 else float32_at_or_below(tree.threshold)
    thresholds = np.asarray(thresholds, kind)
    leaves = np.flatnonzero(left < 0)
    if len(leaves) > most:
        leaves = random.choice(leaves, most, replace=False)
    n_rows = max(len(leaves), min(most, _ROWS_OF_LEAF * len(leaves)), 4)
    at = np.resize(leaves, n_rows)
    low = np.full((n_rows, n_features), -np.inf, kind)  # a value must be above the low end
    high = np.full((n_rows, n_features), np.inf, kind)  # and at most the high end
    every = np.arange(n_rows)
    while np.any(parents[at] >= 0):
        moving = every[parents[at] >= 0]
        node = parents[at[moving]]
        feature = tree.feature[node]
        is_left = left[node] == at[moving]
        goes, stays = moving[is_left], moving[~is_left]
        high[goes, feature[is_left]] = np.minimum(high[goes, feature[is_left]], thresholds[node[is_left]])
        low[stays, feature[~is_left]] = np.maximum(low[stays, feature[~is_left]], thresholds[node[~is_left]])
        at[moving] = node
    with np.errstate(over="ignore", invalid="ignore"):
        smallest = np.nextafter(low, kind.type(np.inf))
        below = np.maximum(np.nextafter(high, kind.type(-np.inf)), smallest)
    first = random.integers(0, 3, (len(leaves), n_features))
    choice = (np.resize(first, low.shape) + every[:, np.newaxis] // len(leaves)) % 3
    rows = np.where(choice == 0, high, np.where(choice == 1, smallest, below))
    pool = thresholds[inner][np.isfinite(thresholds[inner])] if len(inner) else np.zeros(1, kind)
    pool = pool if len(pool) else np.zeros(1, kind)
    free = ~np.isfinite(low) & ~np.isfinite(high)
    rows = np.where(free, random.choice(pool, low.shape), rows)
    bound = np.finfo(kind).max
    return np.clip(rows, -bound, bound).astype(kind)
