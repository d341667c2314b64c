"""Packs trees into compact arrays, for `_select` if they are small, and otherwise for `_walk`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from scoreline.storage.models.compiled import _select, _walk
from scoreline.storage.models.compiled.columns import Columns, columns_of
from scoreline.storage.models.compiled.compiled_estimators import Uses
from scoreline.storage.models.compiled.threads import THREADS, in_threads
from scoreline.storage.models.compiled.trees import (
    WORDS_OF_CATEGORIES,
    NotPackable,
    TreeArrays,
    check_lengths,
    check_values,
    lay_out,
    working_memory,
)

NODE = np.dtype([("threshold", np.uint32), ("packed", np.uint32)])
"""A node through which rows walk. The packed integer consists of the left child, a bit that says whether a missing
value goes right, and the column, in the lowest bits. The right child is the node after the left one. A leaf leads to
itself, and its threshold is larger than any key and contains its row in the values of the tree. If the node splits
categories, the threshold is its row in the table of splits."""
SPLIT = np.dtype(
    [
        ("threshold", np.uint32),
        ("column", np.uint32),
        ("left", np.uint8),
        ("right", np.uint8),
        ("missing_right", np.uint8),
        ("by_category", np.uint8),
    ]
)
"""A split of a small tree. A side is the number of a leaf, or, from `_FIRST_SPLIT` on, of a split of the same tree."""

MAX_LEAVES = 64
"""Maximum number of leaves of a small tree. Rows walk through larger trees in less time than all splits take."""
_FIRST_SPLIT = 64
"""A side of a split is a split, and not a leaf, from this number on."""
_MAX_RANKS = 254
"""Maximum number of thresholds of a column whose ranks are stored in a byte, which can also say that one is missing."""
_BLOCK_BYTES = 1 << 19
"""Memory of the keys of the rows that walk through one tree before they walk through the next."""
_MAX_BLOCK_ROWS = 16_384
_SINGLE_BLOCK_ROWS = 128
"""Minimum number of rows that walk side by side through a single tree, unless it has too many nodes."""
_LEAF_NUMBER = np.uint32(0x003FFFFF)


@dataclass(frozen=True)
class Nodes:
    """Trees through which rows walk."""

    nodes: npt.NDArray[np.uint8]
    roots: npt.NDArray[np.int64]
    steps: npt.NDArray[np.int32]
    shift: int


@dataclass(frozen=True)
class Splits:
    """Small trees, every split of which is decided for every row."""

    splits: npt.NDArray[np.uint8]
    roots: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int32]
    """The row of each leaf in the values of its tree."""


@dataclass(frozen=True)
class PackedTrees:
    """Trees whose leaves are added up, in the order of the trees."""

    wide: bool
    n_features: int
    n_columns: int
    form: Nodes | Splits
    _columns: Columns
    _categories: npt.NDArray[np.uint32]
    _targets: npt.NDArray[np.int32]
    _values: tuple[npt.NDArray[np.float64], ...]
    _width: int

    @property
    def nbytes(self) -> int:
        """Memory in addition to that of the estimator, in bytes."""
        own = {id(values): values for values in self._values if values.base is None}.values()
        arrays: list[Any] = [value for value in vars(self.form).values() if isinstance(value, np.ndarray)]
        return sum(array.nbytes for array in [*arrays, *own, self._columns, self._categories, self._targets])

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
        Uses.count += 1
        if not (x.flags.f_contiguous and x.flags.aligned):  # as columns of tables are in memory
            x = np.ascontiguousarray(x)
        # read at each call, because a copy of these trees, perhaps in another process, has its own values
        addresses = np.array([values.__array_interface__["data"][0] for values in self._values], dtype=np.int64)
        values = addresses, self._values[0].strides[0], self._width
        columns, form = self._columns, self.form
        compared = self._categories, columns.first_category, columns.used, columns.thresholds, columns.offsets
        if isinstance(form, Splits):
            _select.add_small(x, form.splits, *compared, form.roots, form.rows, *values, self._targets, scale, sums)
            return
        rows = min(_MAX_BLOCK_ROWS, _BLOCK_BYTES // (4 * max(1, len(columns.used))), len(x))
        walk = x, form.nodes, *compared, form.roots, form.steps, *values, form.shift
        _walk.add_leaves(*walk, self._targets, scale, sums, max(1, rows))


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
        Number of columns of the rows to be scored.
    columns : sequence of int
        For each tree, the column of the sums to which the first value of its leaves is added.
    wide : bool
        Whether the values of rows are float64; otherwise they are float32.
    categories : ndarray of uint32, shape (n_splits, 8), optional
        The table of splits by category: for each, a bit for each category that goes right, and the last bit for
        missing values. Only float64 has categories.

    Raises
    ------
    NotPackable
        There are no trees, the arrays do not describe trees, or a tree is too large.
    """
    if not 0 < n_features <= 1 << 24:
        raise NotPackable(f"it has {n_features:,} features")
    width = check_values(trees)
    if categories is None:
        categories = np.empty((0, WORDS_OF_CATEGORIES), np.uint32)
    for tree in trees:
        check_lengths(tree)
    used = columns_of(trees, n_features, ranked=wide)
    most = max(len(tree.left) for tree in trees) // 2 + 1
    nodes = _nodes(trees, used, n_features, wide, len(categories))
    small = most <= MAX_LEAVES and used.most_ranks <= _MAX_RANKS
    return PackedTrees(
        wide=wide,
        n_features=n_features,
        n_columns=max(columns) + width,
        form=_splits(nodes, used, wide) if small else nodes,
        _columns=used,
        _categories=np.ascontiguousarray(categories),
        _targets=np.array(columns, dtype=np.int32),
        _values=tuple(tree.values for tree in trees),
        _width=width,
    )


def pack_single(tree: TreeArrays, n_features: int) -> Nodes:
    """Check a tree and pack it for `_single`, whose nodes name the features themselves.

    Raises
    ------
    NotPackable
        The arrays do not describe a tree, or the tree is too large.
    """
    if not 0 < n_features <= 1 << 24:
        raise NotPackable(f"it has {n_features:,} features")
    check_values([tree])
    check_lengths(tree)
    nothing = np.empty(0)
    every = Columns(np.arange(n_features, dtype=np.int32), n_features, nothing, np.zeros(1, np.int64), 0)
    # the place of a key in a block has these bits, and the bit after them selects one of the two sides
    wanted = (_SINGLE_BLOCK_ROWS * n_features - 1).bit_length() + 1
    return _nodes([tree], every, n_features, False, 0, least_shift=min(wanted, 31 - (len(tree.left) - 1).bit_length()))


def _nodes(
    trees: Sequence[TreeArrays], columns: Columns, n_features: int, wide: bool, n_splits: int, least_shift: int = 0
) -> Nodes:
    shift = max(1, (len(columns.used) - 1).bit_length(), least_shift - 1) + 1
    sizes = np.array([len(tree.left) for tree in trees], dtype=np.int64)
    roots = np.cumsum(sizes) - sizes
    nodes = np.empty(sizes.sum() * NODE.itemsize, np.uint8)
    steps = np.empty((len(trees), 3), np.int32)
    column_of = np.full(n_features, -1, np.int32)
    column_of[columns.used] = np.arange(len(columns.used))
    ranks = (columns.thresholds, columns.offsets) if wide else None

    def write(numbers: Sequence[int]) -> None:
        work = working_memory(sizes[numbers].max())
        for number in numbers:
            root, size = roots[number], sizes[number]
            if size > 1 << (32 - shift):
                raise NotPackable(f"a tree of {size:,} nodes is too large for {len(columns.used):,} features")
            own = nodes[root * NODE.itemsize : (root + size) * NODE.itemsize]
            depth, mean = lay_out(
                trees[number], own, work, n_splits=n_splits, columns=column_of, ranks=ranks, shift=shift
            )
            steps[number] = *_steps(depth, mean), depth

    every = range(len(trees))
    shares = [every[first::THREADS] for first in range(min(THREADS, len(trees)))]
    in_threads(write, shares, int(sizes.sum()))
    return Nodes(nodes, roots, steps, shift)


def _steps(depth: int, mean_depth: float) -> tuple[int, int]:
    """Return the steps of a walk: those of all rows, and then those between two looks."""
    if depth <= 1.3 * mean_depth + 1:
        return depth, 0
    return round(0.95 * mean_depth), max(2, round(mean_depth / 5))


def _splits(nodes: Nodes, columns: Columns, wide: bool) -> Splits:
    """Return the splits of all trees, whose nodes become splits and leaves that are numbered apart in each tree."""
    packed, threshold = nodes.nodes.view(NODE)["packed"], nodes.nodes.view(NODE)["threshold"]
    sizes = np.diff(np.append(nodes.roots, len(packed)))
    first = np.repeat(nodes.roots, sizes)  # of the tree of each node
    left = first + (packed >> np.uint32(nodes.shift))
    leaf = left == np.arange(len(packed))
    inner = ~leaf
    before = np.concatenate([[0], np.cumsum(inner)])  # the splits before each node
    number = before[:-1] - before[first]
    number = np.where(inner, _FIRST_SPLIT + number, np.arange(len(packed)) - first - number)
    column = packed[inner] & np.uint32((1 << (nodes.shift - 1)) - 1)
    splits = np.zeros(before[-1], SPLIT)
    splits["threshold"] = threshold[inner] if wide else _bits_of(threshold[inner])
    splits["column"] = column
    splits["left"], splits["right"] = number[left[inner]], number[left[inner] + 1]
    splits["missing_right"] = packed[inner] >> np.uint32(nodes.shift - 1) & np.uint32(1)
    splits["by_category"] = column >= columns.first_category
    rows = (threshold[leaf] & _LEAF_NUMBER).astype(np.int32)
    return Splits(splits.view(np.uint8), before[np.append(nodes.roots, len(packed))], rows)


def _bits_of(keys: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """Return the bits of the float32 that have these keys."""
    return keys ^ np.where(keys >> np.uint32(31), np.uint32(0x80000000), np.uint32(0xFFFFFFFF))
