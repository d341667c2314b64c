"""Trees as scikit-learn stores them, and the checks before they are packed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from scoreline.storage.models.compiled import _pack

MAX_CATEGORIES = 255
"""Categories are less than this, so that one byte can also say that a value is missing."""
WORDS_OF_CATEGORIES = 8
"""Number of integers of 32 bits with a bit for each category, and one for a missing value."""
_MAX_NODES = 1 << 22
"""Maximum number of nodes of a tree: the bits of the threshold of a leaf that say which leaf it is."""
_MAX_DEPTH = 512
"""Maximum depth of a tree. Rows walk slowly through chains of nodes, and rows for a comparison are made slowly."""


_WORK_BYTES = 24
"""Memory for each node while a tree is laid out, `WORK` in `_pack`."""
_PROBLEMS = {
    1: "the children of its nodes do not form a tree",
    2: "a tree asks for a feature that the rows do not have",
    3: "a threshold is not a number",
    4: "a tree asks for categories that it does not have",
    5: "its packed nodes decide differently from those of its trees",
}
"""What `_pack.lay_out` may find, by its number there."""


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
    missing_left: npt.NDArray[np.bool_ | np.uint8]
    """Whether a missing value goes left: any byte but 0 says so."""
    values: npt.NDArray[np.float64]
    splits: npt.NDArray[np.int64] | None = None
    """The row in the table of splits of each node that splits categories, and -1 elsewhere. None if no node does."""
    rows: npt.NDArray[np.int64] | None = None
    """The row in `values` of each node. None if each node has its own."""


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


def check_lengths(tree: TreeArrays) -> None:
    """Raise `NotPackable` unless the arrays of a tree have one length, and its rows are in range."""
    n_nodes = len(tree.left)
    if not 0 < n_nodes <= _MAX_NODES:
        raise NotPackable(f"a tree has {n_nodes:,} nodes")
    arrays = [tree.right, tree.feature, tree.threshold, tree.missing_left]
    arrays += [array for array in (tree.splits, tree.rows) if array is not None]
    arrays += [tree.values] if tree.rows is None else []
    if any(len(array) != n_nodes for array in arrays):
        raise NotPackable("the arrays of a tree have different lengths")
    if tree.rows is not None and np.any((tree.rows < 0) | (tree.rows >= len(tree.values))):
        raise NotPackable("a tree asks for values that it does not have")


def working_memory(n_nodes: int) -> npt.NDArray[np.uint8]:
    """Return memory in which trees of up to so many nodes are laid out. It is used again for the next tree."""
    return np.empty((n_nodes + 1) * _WORK_BYTES, np.uint8)


def lay_out(
    tree: TreeArrays,
    nodes: npt.NDArray[np.uint8],
    work: npt.NDArray[np.uint8],
    *,
    n_splits: int,
    columns: npt.NDArray[np.int32],
    ranks: tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]] | None,
    shift: int,
) -> tuple[int, float]:
    """Check a tree that `check_lengths` accepted, and write its packed nodes, breadth first.

    Parameters
    ----------
    nodes : array of bytes
        Receives the nodes (see `nodes.NODE`).
    work : array of bytes
        From `working_memory`, for trees of at least so many nodes.
    columns : array of int32, shape (n_features,)
        The column of each feature, or -1.
    ranks : tuple of arrays, optional
        The thresholds of the columns and where those of each begin, if thresholds are stored as ranks.
    shift : int
        Number of bits below the left child in a packed node.

    Returns
    -------
    depth : int
        Depth of the deepest leaf.
    mean_depth : float
        Mean of the depths of the leaves.

    Raises
    ------
    NotPackable
        The arrays do not describe a tree, or the tree is too deep.
    """
    left, right, feature, threshold = strided(tree)
    thresholds, offsets = ranks or (np.empty(0), np.empty(0, np.int64))
    problem, depth, depths = _pack.lay_out(
        left,
        right,
        feature,
        threshold,
        tree.missing_left.view(np.uint8),
        _numbers(tree.splits),
        _numbers(tree.rows),
        n_splits,
        columns,
        ranks is not None,
        thresholds,
        offsets,
        shift,
        nodes,
        work,
    )
    if problem:
        raise NotPackable(_PROBLEMS[problem])
    if depth > _MAX_DEPTH:
        raise NotPackable(f"a tree is {depth:,} levels deep")
    return depth, depths / (len(left) // 2 + 1)


def mark_features(
    tree: TreeArrays, numeric: npt.NDArray[np.bool_], categorical: npt.NDArray[np.bool_], missing: int
) -> int:
    """Mark the features that a tree compares as numbers or as categories. Others than those of the rows are ignored.

    At most `missing` features have no mark as a number yet. Return how many have none then. The search ends if it is 0.
    """
    left, _, feature, _ = strided(tree)
    marks = numeric.view(np.uint8), categorical.view(np.uint8)
    return _pack.mark_features(left, feature, _numbers(tree.splits), *marks, missing)


def strided(
    tree: TreeArrays,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return the children, features and thresholds of a tree, in the types that the extension reads."""
    children = np.asarray(tree.left, np.int64), np.asarray(tree.right, np.int64)
    return *children, np.asarray(tree.feature, np.int64), np.asarray(tree.threshold, np.float64)


def _numbers(array: npt.NDArray[np.int64] | None) -> npt.NDArray[np.int64]:
    return np.empty(0, np.int64) if array is None else np.asarray(array, np.int64)
