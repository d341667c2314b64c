"""Trees as scikit-learn stores them, and the checks before they are packed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from scoreline.storage.models.compiled import _walk

MAX_CATEGORIES = 255
"""Categories are less than this, so that one byte can also say that a value is missing."""
WORDS_OF_CATEGORIES = 8
"""Number of integers of 32 bits with a bit for each category, and one for a missing value."""
_MAX_NODES = 1 << 22
"""Maximum number of nodes of a tree: the bits of the threshold of a leaf that say which leaf it is."""
_MAX_DEPTH = 512
"""Maximum depth of a tree. Rows walk slowly through chains of nodes, and rows for a comparison are made slowly."""


class NotPackable(Exception):
    """Raised for trees that cannot be packed; the message says why."""


@dataclass(frozen=True)
class TreeArrays:
    """One tree as scikit-learn stores it; all arrays have shape (n_nodes,), except that `values` has more dimensions.

    `left` is -1 at a leaf. `values` contains float64 and stays alive as long as the packed trees do.
    """

    left: npt.NDArray[np.int64]
    right: npt.NDArray[np.int64]
    feature: npt.NDArray[np.int64]
    threshold: npt.NDArray[np.float64]
    missing_left: npt.NDArray[np.bool_]
    values: npt.NDArray[np.float64]
    splits: npt.NDArray[np.int64] | None = None
    """The row in the table of splits of each node that splits categories, and -1 elsewhere. None if no node does."""
    rows: npt.NDArray[np.int64] | None = None
    """The row in `values` of each node. None if each node has its own."""


@dataclass(frozen=True)
class BreadthFirst:
    """The nodes of a checked tree, breadth first. The two children of a node are neighbours."""

    left: npt.NDArray[np.uint32]
    """The place of the left child; a leaf leads to itself."""
    leaf: npt.NDArray[np.bool_]
    feature: npt.NDArray[np.int64]
    threshold: npt.NDArray[np.float64]
    missing_right: npt.NDArray[np.bool_]
    split: npt.NDArray[np.int64]
    """The row in the table of splits, or -1."""
    rows: npt.NDArray[np.uint32]
    """The row in the values of the tree."""
    depth: int
    mean_depth: float
    """Mean of the depths of the leaves."""


def check_values(trees: Sequence[TreeArrays]) -> int:
    """Return the number of values of a node. Raises `NotPackable` if the extensions cannot read them."""
    if not trees:
        raise NotPackable("it has no trees")
    strides = {tree.values.strides[0] for tree in trees}
    widths = {int(np.prod(tree.values.shape[1:], dtype=int)) for tree in trees}
    if len(strides) > 1 or len(widths) > 1 or not all(_are_values(tree.values) for tree in trees):
        raise NotPackable("the values of its trees have different or unknown shapes")
    return widths.pop()


def _are_values(values: npt.NDArray[Any]) -> bool:
    """Return whether the extensions can read the values of a node as consecutive and aligned float64."""
    return (
        values.ndim >= 1
        and values.dtype == np.float64
        and values.flags.aligned
        and values[:1].size > 0
        and values[0].flags.c_contiguous
    )


def check_nodes(tree: TreeArrays, n_features: int, n_splits: int) -> None:
    """Raise `NotPackable` unless the numbers in the arrays of a tree are in range, except those of children."""
    n_nodes = len(tree.left)
    if not 0 < n_nodes <= _MAX_NODES:
        raise NotPackable(f"a tree has {n_nodes:,} nodes")
    arrays = [tree.right, tree.feature, tree.threshold, tree.missing_left]
    arrays += [array for array in (tree.splits, tree.rows) if array is not None]
    arrays += [tree.values] if tree.rows is None else []
    if any(len(array) != n_nodes for array in arrays):
        raise NotPackable("the arrays of a tree have different lengths")
    if np.any((tree.left < -1) | ((tree.left >= 0) & (tree.right < 0))):  # scikit-learn takes only -1 for a leaf
        raise NotPackable("the children of its nodes do not form a tree")
    inner = tree.left >= 0
    feature = tree.feature[inner]
    if np.any((feature < 0) | (feature >= n_features)):
        raise NotPackable("a tree asks for a feature that the rows do not have")
    numeric = inner if tree.splits is None else inner & (tree.splits < 0)
    if np.isnan(tree.threshold[numeric]).any():
        raise NotPackable("a threshold is not a number")
    if tree.splits is not None and tree.splits[inner].max(initial=-1) >= n_splits:
        raise NotPackable("a tree asks for categories that it does not have")
    if tree.rows is not None and np.any((tree.rows < 0) | (tree.rows >= len(tree.values))):
        raise NotPackable("a tree asks for values that it does not have")


def breadth_first(tree: TreeArrays) -> BreadthFirst:
    """Order the nodes of a tree that `check_nodes` accepted. Raises `NotPackable` if they do not form a tree."""
    n_nodes = len(tree.left)
    order, places = np.empty(n_nodes, np.int32), np.empty(n_nodes, np.int32)
    depth, depths = _walk.place_children(
        np.ascontiguousarray(tree.left, np.int64), np.ascontiguousarray(tree.right, np.int64), order, places
    )
    if depth < 0:
        raise NotPackable("the children of its nodes do not form a tree")
    if depth > _MAX_DEPTH:
        raise NotPackable(f"a tree is {depth:,} levels deep")
    left = tree.left[order]
    leaf = left < 0
    child = np.where(leaf, np.arange(n_nodes), places[np.where(leaf, 0, left)]).astype(np.uint32)
    rows = order if tree.rows is None else tree.rows[order]
    return BreadthFirst(
        left=child,
        leaf=leaf,
        feature=tree.feature[order],
        threshold=tree.threshold[order],
        missing_right=~leaf & ~tree.missing_left[order],
        split=np.full(n_nodes, -1) if tree.splits is None else np.where(leaf, -1, tree.splits[order]),
        rows=rows.astype(np.uint32),
        depth=depth,
        mean_depth=depths / leaf.sum(),
    )
