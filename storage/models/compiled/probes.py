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

from scoreline.storage.models.compiled import _pack
from scoreline.storage.models.compiled.columns import float32_at_or_below
from scoreline.storage.models.compiled.trees import MAX_CATEGORIES, TreeArrays, strided

MAX_ROWS = 16_384
MIN_ROWS = 64
MAX_CELLS = 1 << 21
"""Maximum number of values in all rows, which are dense."""
MAX_ROWS_AND_NODES = 2 << 31
"""Maximum product of the number of rows and the number of nodes of all trees, except that each tree has rows. It bounds
the time of a comparison, because each row walks through all trees, the more slowly the larger they are. `_pack` proves
each threshold for all values, so few rows are enough."""
MAX_FEATURES = 4_096
"""Maximum number of features of rows. An ensemble with more features mostly scores sparse rows, for which compiled
trees are not used."""
_ROWS_OF_LEAF = 4
"""Number of rows for each leaf, if there may be so many."""
_SEED = 20_260_817


def most_rows(trees: Sequence[TreeArrays], n_features: int) -> int:
    """Return the maximum number of rows with `n_features` features for a comparison of trees."""
    n_nodes = sum(len(tree.left) for tree in trees)
    bounded = max(MAX_ROWS_AND_NODES // n_nodes, _ROWS_OF_LEAF * len(trees))
    return max(MIN_ROWS, min(MAX_ROWS, MAX_CELLS // n_features, bounded))


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
    most = most_rows(trees, n_features)
    share = max(_ROWS_OF_LEAF, most // len(trees))
    aimed = trees[: most // _ROWS_OF_LEAF]
    targets = [_some(tree.left, random, share, leaves=True) for tree in aimed]
    counts = [max(len(leaves), min(share, _ROWS_OF_LEAF * len(leaves)), 4) for leaves in targets]
    low = np.full((min(most, sum(counts)), n_features), -np.inf)  # a value must be above the low end
    high = np.full(low.shape, np.inf)  # and at most the high end
    choice, others = np.empty(low.shape, np.int8), np.empty(low.shape)
    ends = np.minimum(np.cumsum(counts), len(low))
    for tree, leaves, begin, end in zip(aimed, targets, [0, *ends[:-1]], ends, strict=True):
        _pack.boxes(*strided(tree), np.resize(leaves, end - begin), low[begin:end], high[begin:end])
        again = np.arange(end - begin)[:, np.newaxis] // len(leaves)  # the next row of a leaf has the next values
        first = random.integers(0, 3, (len(leaves), n_features), np.int8)
        choice[begin:end] = (np.resize(first, (end - begin, n_features)) + again) % 3
        others[begin:end] = _thresholds(tree, random, share, (end - begin, n_features))
    rows = _between(low, high, choice, others, np.dtype(np.float64 if wide else np.float32))
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


def _thresholds(
    tree: TreeArrays, random: np.random.Generator, most: int, shape: tuple[int, int]
) -> npt.NDArray[np.float64]:
    """Return thresholds of a tree, drawn at random."""
    pool = tree.threshold[_some(tree.left, random, most, leaves=False)]
    pool = pool[np.isfinite(pool)]
    return random.choice(pool, shape) if len(pool) else np.zeros(shape)


def _between(
    low: npt.NDArray[np.float64],
    high: npt.NDArray[np.float64],
    choice: npt.NDArray[np.int8],
    others: npt.NDArray[np.float64],
    kind: np.dtype[Any],
) -> npt.NDArray[Any]:
    """Return one of three values of each interval, or one of the others where the interval has no end."""
    low, high, others = (_comparable(values, kind) for values in (low, high, others))
    with np.errstate(over="ignore", invalid="ignore"):
        smallest = np.nextafter(low, kind.type(np.inf))
        below = np.maximum(np.nextafter(high, kind.type(-np.inf)), smallest)
    rows = np.where(choice == 0, high, np.where(choice == 1, smallest, below))
    rows = np.where(np.isinf(low) & np.isinf(high), others, rows)
    bound = np.finfo(kind).max
    return np.clip(rows, -bound, bound)


def _some(
    left: npt.NDArray[np.int64], random: np.random.Generator, most: int, *, leaves: bool
) -> npt.NDArray[np.int64]:
    """Return all leaves or all splits of a tree, or `most` of them if there are more."""
    if len(left) > 8 * most:  # then draw, instead of looking at all nodes; half of them are leaves
        places = np.unique(random.integers(0, len(left), 4 * most))
        found = places[(left[places] < 0) == leaves]
        if len(found) >= most:
            return random.choice(found, most, replace=False)
    found = np.flatnonzero((left < 0) == leaves)
    return random.choice(found, most, replace=False) if len(found) > most else found


def _comparable(values: npt.NDArray[np.float64], kind: np.dtype[Any]) -> npt.NDArray[Any]:
    """Return numbers of the type of rows that divide such numbers as the given ones do."""
    return values if kind == np.float64 else float32_at_or_below(values)
