"""Trees of any form, and how scikit-learn walks through them, in plain Python."""

from __future__ import annotations

from typing import Any

import numpy as np

from scoreline.storage.models.compiled.trees import TreeArrays

SPECIAL = [0.0, -0.0, 5e-324, -5e-324, 1e-45, -1e-45, 1e-310, 0.1, 3.4e38, -3.4e38, 1e300, -1e300, np.inf, -np.inf]
"""Thresholds at which float32 and float64 decide differently if one of them is rounded to the wrong side."""


def random_tree(random: np.random.Generator, n_splits: int, pool: np.ndarray[Any, Any], n_features: int) -> TreeArrays:
    """Return a tree of any form: a leaf drawn at random becomes a split, again and again."""
    left, right, leaves = [-1], [-1], [0]
    for _ in range(n_splits):
        place = leaves.pop(random.integers(len(leaves)))
        left[place], right[place] = len(left), len(left) + 1
        leaves += [len(left), len(left) + 1]
        left += [-1, -1]
        right += [-1, -1]
    order = random.permutation(len(left) - 1) + 1  # nodes in any order, except for the root
    places = np.concatenate([[0], order])
    children = np.array([[places[child] if child >= 0 else -1 for child in side] for side in (left, right)])
    arranged = np.empty_like(children)
    arranged[:, places] = children
    n = len(left)
    return TreeArrays(
        left=arranged[0],
        right=arranged[1],
        feature=random.integers(0, n_features, n),
        threshold=random.choice(pool, n),
        missing_left=random.random(n) < 0.5,
        values=random.normal(size=n) * random.choice([1e-310, 1.0, 1e10], n),
    )


def leaf_of(tree: TreeArrays, row: np.ndarray[Any, Any]) -> int:
    """Walk as scikit-learn does."""
    node = 0
    while tree.left[node] >= 0:
        value = float(row[tree.feature[node]])
        goes_left = tree.missing_left[node] if np.isnan(value) else value <= tree.threshold[node]
        node = tree.left[node] if goes_left else tree.right[node]
    return int(node)
