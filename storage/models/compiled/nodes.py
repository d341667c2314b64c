"""Packs the nodes of trees into a compact array. The extension `_walk` walks rows through this array."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from scoreline.storage.models.compiled import _walk

NODE = np.dtype([("threshold", np.float32), ("packed", np.uint32)])
"""A node for values in float32. The packed integer consists of the left child, a bit that says whether a missing value
goes right, and the feature, in the lowest bits. The right child is the node after the left child. The left child of a
leaf is the leaf itself. The threshold of a leaf is a NaN that contains the number of the leaf."""
WIDE_NODE = np.dtype([("threshold", np.float64), ("left", np.uint32), ("feature", np.uint32)])
"""A node for values in float64. The highest bit of the feature says whether a missing value goes right. The next bit
says whether the node splits categories; if so, the threshold is a NaN that contains the number of the split."""

MAX_CATEGORIES = 256

_BLOCK_ROWS = 16_384
_SMALL_BLOCK_ROWS = 1_024
_SMALL_TREE_BYTES = 1 << 12
_MISSING_RIGHT = np.uint32(1 << 31)
_SPLITS_CATEGORIES = np.uint32(1 << 30)
_MAX_NODES = 1 << 22
"""Maximum number of nodes of a tree: the largest number of a leaf must fit into the free bits of a NaN in float32."""
_MAX_DEPTH = 512
"""Maximum depth of a tree. Rows walk slowly through chains of nodes, and rows for a comparison are made slowly."""
_NAN_BITS = np.uint32(0x7FC00000)
_WIDE_NAN_BITS = np.uint64(0x7FF8000000000000)


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
    """For each node that splits categories, its row in the table of splits; for other nodes, -1. None if no node splits
    categories."""


@dataclass(frozen=True)
class PackedTrees:
    """Trees whose leaves are added up, in the order of the trees."""

    wide: bool
    n_features: int
    n_columns: int
    _nodes: npt.NDArray[np.uint8]
    _categories: npt.NDArray[np.uint32]
    _roots: npt.NDArray[np.int64]
    _steps: npt.NDArray[np.int32]
    _columns: npt.NDArray[np.int32]
    _values: tuple[npt.NDArray[np.float64], ...]
    _width: int
    _shift: int
    _block: int

    @property
    def nbytes(self) -> int:
        """Number of bytes that the packed trees take in addition to the estimator."""
        own = [values for values in self._values if values.base is None]
        arrays: list[npt.NDArray[Any]] = [self._nodes, self._categories, self._roots, self._steps, *own]
        return sum(array.nbytes for array in [*arrays, self._columns])

    def add_to(self, sums: npt.NDArray[np.float64], x: npt.NDArray[Any], *, scale: float = 1.0) -> None:
        """Add ``scale`` times the leaf of each row to `sums`, of shape (n_rows, n_columns).

        Parameters
        ----------
        x : ndarray, shape (n_rows, n_features)
            Values of the type for which the trees were packed, float32 or float64.
        """
        expected = np.float64 if self.wide else np.float32
        if x.dtype != expected or x.ndim != 2 or x.shape[1] != self.n_features:
            raise ValueError(f"expected {self.n_features} columns of {expected.__name__}, got {x.shape} of {x.dtype}")
        if sums.shape != (len(x), self.n_columns):
            raise ValueError(f"expected sums of shape {(len(x), self.n_columns)}, got {sums.shape}")
        x = np.ascontiguousarray(x)
        # read at each call, because a copy of these trees, perhaps in another process, has its own values
        addresses = np.array([values.__array_interface__["data"][0] for values in self._values], dtype=np.int64)
        missing = bool(np.isnan(x.min(initial=np.inf)))  # NaN if any value is
        _walk.add_leaves(
            x,
            missing,
            self._nodes,
            self._categories,
            self._roots,
            self._steps,
            addresses,
            self._values[0].strides[0],
            self._width,
            self._shift,
            self._columns,
            scale,
            sums,
            max(1, min(self._block, len(x))),
        )


def pack(
    trees: Sequence[TreeArrays],
    n_features: int,
    columns: Sequence[int],
    *,
    wide: bool,
    categories: npt.NDArray[np.uint32] | None = None,
) -> PackedTrees:
    """Check trees and pack them.

    Parameters
    ----------
    n_features : int
        Number of columns of the rows that will walk.
    columns : sequence of int
        For each tree, the column of the sums to which the first value of its leaves is added.
    wide : bool
        Whether the values of rows are float64; otherwise they are float32.
    categories : ndarray of uint32, shape (n_splits, 8), optional
        The table of splits by category: for each split, a bit for each category that goes right.

    Raises
    ------
    NotPackable
        There are no trees, the arrays do not describe trees, or a tree is too large.
    """
    if not trees:
        raise NotPackable("it has no trees")
    if not 0 < n_features <= 1 << 24:
        raise NotPackable(f"it has {n_features:,} features")
    shift = max(1, (n_features - 1).bit_length()) + 1
    if categories is None:
        categories = np.empty((0, MAX_CATEGORIES // 32), np.uint32)
    strides = {tree.values.strides[0] for tree in trees}
    widths = {int(np.prod(tree.values.shape[1:], dtype=int)) for tree in trees}
    if len(strides) > 1 or len(widths) > 1 or not all(_are_values(tree.values) for tree in trees):
        raise NotPackable("the values of its trees have different or unknown shapes")
    width = widths.pop()
    sizes = np.array([len(tree.left) for tree in trees], dtype=np.int64)
    roots = np.cumsum(sizes) - sizes
    nodes = np.empty(sizes.sum(), WIDE_NODE if wide else NODE)
    steps = np.empty((len(trees), 2), np.int32)
    for number, (tree, root) in enumerate(zip(trees, roots, strict=True)):
        target = nodes[root : root + len(tree.left)]
        steps[number] = _pack_tree(tree, target, n_features, None if wide else shift, len(categories))
    small = max(sizes) * nodes.dtype.itemsize <= _SMALL_TREE_BYTES
    return PackedTrees(
        wide=wide,
        n_features=n_features,
        n_columns=max(columns) + width,
        _nodes=nodes.view(np.uint8),
        _categories=np.ascontiguousarray(categories),
        _roots=roots,
        _steps=steps,
        _columns=np.array(columns, dtype=np.int32),
        _values=tuple(tree.values for tree in trees),
        _width=width,
        _shift=shift,
        _block=_SMALL_BLOCK_ROWS if small else _BLOCK_ROWS,
    )


def _are_values(values: npt.NDArray[Any]) -> bool:
    """Return whether the extension can read the values of a node as consecutive and aligned float64."""
    return (
        values.ndim >= 1
        and values.dtype == np.float64
        and values.flags.aligned
        and values[:1].size > 0
        and values[0].flags.c_contiguous
    )


def float32_at_or_below(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Return the largest float32 that is not above each value.

    Any float32 is above the returned number if and only if it is above the given value.
    """
    with np.errstate(over="ignore"):
        nearest = values.astype(np.float32)
    above = nearest.astype(np.float64) > values
    nearest[above] = np.nextafter(nearest[above], np.float32(-np.inf))
    return nearest


def _pack_tree(
    tree: TreeArrays, nodes: npt.NDArray[Any], n_features: int, shift: int | None, n_splits: int
) -> tuple[int, int]:
    """Write the nodes of a tree.

    Return the number of steps that all rows take, and then the number of steps between two checks for rows that have
    arrived.
    """
    n_nodes = len(tree.left)
    if not 0 < n_nodes <= _MAX_NODES:
        raise NotPackable(f"a tree has {n_nodes:,} nodes")
    if any(
        len(array) != n_nodes for array in (tree.right, tree.feature, tree.threshold, tree.missing_left, tree.values)
    ):
        raise NotPackable("the arrays of a tree have different lengths")
    if np.any((tree.left < -1) | ((tree.left >= 0) & (tree.right < 0))):  # scikit-learn takes only -1 for a leaf
        raise NotPackable("the children of its nodes do not form a tree")
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
    inner = ~leaf
    feature = tree.feature[order]
    if np.any((feature[inner] < 0) | (feature[inner] >= n_features)):
        raise NotPackable("a tree asks for a feature that the rows do not have")
    threshold = tree.threshold[order]
    if np.isnan(threshold[inner]).any():
        raise NotPackable("a threshold is not a number")
    child = np.where(leaf, np.arange(n_nodes), places[np.where(leaf, 0, left)]).astype(np.uint32)
    feature = np.where(leaf, 0, feature).astype(np.uint32)
    missing_right = inner & ~tree.missing_left[order]
    numbers = order.astype(np.uint32)
    if shift is None:
        nodes["threshold"] = threshold
        nodes["left"] = child
        nodes["feature"] = feature | np.where(missing_right, _MISSING_RIGHT, np.uint32(0))
        bits = np.where(leaf, _WIDE_NAN_BITS | numbers, nodes["threshold"].view(np.uint64))
        if tree.splits is not None:
            split = np.where(leaf, -1, tree.splits[order])
            if len(tree.splits) != n_nodes or split.max() >= n_splits:
                raise NotPackable("a tree asks for categories that it does not have")
            bits = np.where(split >= 0, _WIDE_NAN_BITS | np.maximum(split, 0).astype(np.uint64), bits)
            nodes["feature"] |= np.where(split >= 0, _SPLITS_CATEGORIES, np.uint32(0))
        nodes["threshold"] = bits.view(np.float64)
    else:
        if n_nodes > 1 << (32 - shift):
            raise NotPackable(f"a tree of {n_nodes:,} nodes is too large for {n_features:,} features")
        below = float32_at_or_below(threshold).view(np.uint32)
        nodes["threshold"] = np.where(leaf, _NAN_BITS | numbers, below).view(np.float32)
        flags = missing_right.astype(np.uint32) << np.uint32(shift - 1)
        nodes["packed"] = (child << np.uint32(shift)) | flags | feature
    mean = depths / leaf.sum()
    if depth <= 1.3 * mean + 1:
        return depth, 0
    return round(0.95 * mean), max(2, round(mean / 5))
