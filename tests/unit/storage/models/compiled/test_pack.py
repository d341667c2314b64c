"""The arrays that `_pack` writes are equal to those of a second packing, written in Python from their description."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("scoreline.storage.models.compiled._pack", reason="there was no compiler to build the extension")

from scoreline.storage.models.compiled import _pack
from scoreline.storage.models.compiled.nodes import Nodes, PackedTrees, Splits, pack
from scoreline.storage.models.compiled.trees import NotPackable, TreeArrays
from tests.support.random_trees import SPECIAL, random_tree

INT64 = np.iinfo(np.int64)
LEAF_KEY = 0xFFC00000
MOST_SMALL_LEAVES = 64
MOST_RANKS = 254


class Refused(Exception):
    """Raised by the second packing for arrays that are not those of a tree."""


@dataclass(frozen=True)
class Ordered:
    """A node of a tree in breadth-first order; `left` is its own place if it is a leaf."""

    number: int
    left: int
    depth: int


def breadth_first(tree: TreeArrays) -> list[Ordered]:
    """Order the nodes of a tree one after another, and refuse whatever does not reach each node once."""
    n = len(tree.left)
    order, depths, places = [0], [0], []
    seen = {0}
    for place, number in enumerate(order):  # the list grows meanwhile
        a, b = int(tree.left[number]), int(tree.right[number])
        if a == -1:
            places.append(place)
            continue
        if not (0 <= a < n and 0 <= b < n) or a == b or a in seen or b in seen:
            raise Refused("no tree")
        places.append(len(order))
        seen |= {a, b}
        order += [a, b]
        depths += [depths[place] + 1] * 2
    if len(order) != n:
        raise Refused("some nodes are not reached")
    return [Ordered(*one) for one in zip(order, places, depths, strict=True)]


def number_of(tree: TreeArrays, node: int) -> int:
    """Return the row of a node in the table of splits, or -1 if it compares numbers."""
    return -1 if tree.splits is None else max(-1, int(tree.splits[node]))


def check(tree: TreeArrays, n_features: int, n_splits: int) -> None:
    for node in np.flatnonzero(tree.left != -1).tolist():
        if not 0 <= tree.feature[node] < n_features or number_of(tree, node) >= n_splits:
            raise Refused("a feature or a split that does not exist")
        if number_of(tree, node) < 0 and np.isnan(tree.threshold[node]):
            raise Refused("a threshold that is no number")


def key_of(threshold: float) -> int:
    """Return the key of the largest float32 that is not above a threshold."""
    with np.errstate(over="ignore"):
        number = np.float32(threshold)
    if float(number) > threshold:
        number = np.nextafter(number, np.float32(-np.inf))
    bits = int((number + np.float32(0)).view(np.uint32))
    return bits ^ (0xFFFFFFFF if bits >> 31 else 0x80000000)


@dataclass(frozen=True)
class Expected:
    """What the second packing makes of trees, in the names of `PackedTrees`."""

    used: list[int]
    first_category: int
    thresholds: np.ndarray[Any, Any]
    offsets: list[int]
    shift: int
    nodes: bytes
    roots: list[int]
    steps: list[tuple[int, int, int]]
    splits: bytes
    split_roots: list[int]
    leaf_rows: list[int]
    small: bool


def pack_again(trees: Sequence[TreeArrays], n_features: int, *, wide: bool, n_splits: int = 0) -> Expected:
    """Pack trees, node by node."""
    orders = []
    for tree in trees:
        check(tree, n_features, n_splits)
        orders.append(breadth_first(tree))
    inner = [(tree, int(node)) for tree in trees for node in np.flatnonzero(tree.left != -1)]
    numeric = {int(tree.feature[node]) for tree, node in inner if number_of(tree, node) < 0}
    categorical = {int(tree.feature[node]) for tree, node in inner if number_of(tree, node) >= 0}
    if numeric & categorical:
        raise Refused("a feature is compared as a number and as a category")
    used = [*sorted(numeric), *sorted(categorical)]
    ranks: list[list[float]] = []
    for feature in sorted(numeric) if wide else ():
        found = {
            float(tree.threshold[node])
            for tree, node in inner
            if tree.feature[node] == feature and number_of(tree, node) < 0 and tree.threshold[node] < np.inf
        }
        length = 1
        while length < len(found) + 1:
            length *= 2
        ranks.append([*sorted(found), *[np.inf] * (length - 1 - len(found))])
    shift = max(1, (len(used) - 1).bit_length()) + 1
    nodes, roots, steps = bytearray(), [], []
    splits, split_roots, leaf_rows = bytearray(), [0], []
    for tree, order in zip(trees, orders, strict=True):
        roots.append(len(nodes) // 8)
        leaves = [one for one in order if tree.left[one.number] == -1]
        depth, mean = max(one.depth for one in leaves), sum(one.depth for one in leaves) / len(leaves)
        together = depth <= 1.3 * mean + 1
        steps.append((depth, 0, depth) if together else (round(0.95 * mean), max(2, round(mean / 5)), depth))
        sides, counts = [], Counter[bool]()  # a side is the number of a leaf or of a split of its tree
        for one in order:
            is_leaf = bool(tree.left[one.number] == -1)
            sides.append(counts[is_leaf] if is_leaf else 64 + counts[is_leaf])
            counts[is_leaf] += 1
        for one in order:
            if tree.left[one.number] == -1:
                row = one.number if tree.rows is None else int(tree.rows[one.number])
                nodes += np.array([LEAF_KEY | row, one.left << shift], np.uint32).tobytes()
                leaf_rows.append(row)
                continue
            threshold, split = float(tree.threshold[one.number]), number_of(tree, one.number)
            column = used.index(int(tree.feature[one.number]))
            missing_right = int(not tree.missing_left[one.number])
            if split >= 0:
                key = split
            elif wide:
                key = sum(value < threshold for value in ranks[column])
            else:
                key = key_of(threshold)
            nodes += np.array([key, one.left << shift | missing_right << (shift - 1) | column], np.uint32).tobytes()
            bits = key if wide else key ^ (0x80000000 if key >> 31 else 0xFFFFFFFF)
            splits += np.array([bits, column], np.uint32).tobytes()
            # only those of small trees are compared, whose sides fit into a byte
            splits += bytes(side & 0xFF for side in (sides[one.left], sides[one.left + 1], missing_right, split >= 0))
        split_roots.append(len(splits) // 12)
    sizes = [*map(len, ranks), *[0] * (len(used) - len(ranks))]
    return Expected(
        used=used,
        first_category=len(numeric),
        thresholds=np.concatenate([np.empty(0), *map(np.array, ranks)]),
        offsets=[sum(sizes[:number]) for number in range(len(sizes) + 1)],
        shift=shift,
        nodes=bytes(nodes),
        roots=roots,
        steps=steps,
        splits=bytes(splits),
        split_roots=split_roots,
        leaf_rows=leaf_rows,
        small=max(len(tree.left) for tree in trees) // 2 + 1 <= MOST_SMALL_LEAVES
        and all(sum(value < np.inf for value in column) <= MOST_RANKS for column in ranks),
    )


def assert_equal(packed: PackedTrees, expected: Expected) -> None:
    columns, form = packed._columns, packed.form
    assert (columns.used.tolist(), columns.first_category) == (expected.used, expected.first_category)
    assert columns.offsets.tolist() == expected.offsets
    assert (columns.thresholds + 0.0).tobytes() == (expected.thresholds + 0.0).tobytes()  # either zero will do
    assert isinstance(form, Splits) == expected.small
    if isinstance(form, Nodes):
        assert form.shift == expected.shift
        assert form.nodes.tobytes() == expected.nodes
        assert form.roots.tolist() == expected.roots
        assert list(map(tuple, form.steps.tolist())) == expected.steps
    else:
        assert form.splits.tobytes() == expected.splits
        assert form.roots.tolist() == expected.split_roots
        assert form.rows.tolist() == expected.leaf_rows


def random_ensemble(
    random: np.random.Generator, sizes: Sequence[int], *, n_features: int, wide: bool
) -> tuple[list[TreeArrays], np.ndarray[Any, Any]]:
    """Return trees, some of which split categories or have values elsewhere, and the table of splits."""
    pool = np.concatenate([random.normal(size=random.choice([1, 12, 3_000])), SPECIAL])
    trees = [random_tree(random, size, pool, n_features) for size in sizes]
    n_splits = 0
    if wide and random.random() < 0.5:
        by_category = random.random(n_features) < 0.4
        for number, tree in enumerate(trees):
            here = by_category[tree.feature] & (tree.left >= 0)
            splits = np.where(here, random.integers(0, 1_000, len(here)), -1)
            n_splits = max(n_splits, int(splits.max()) + 1)
            trees[number] = replace(tree, splits=splits, threshold=np.where(here, np.nan, tree.threshold))
    if random.random() < 0.3:
        trees = [replace(tree, rows=random.permutation(len(tree.left))) for tree in trees]
    return [in_another_layout(random, tree) for tree in trees], np.zeros((n_splits, 8), np.uint32)


def in_another_layout(random: np.random.Generator, tree: TreeArrays) -> TreeArrays:
    """Return the same tree as fields of a table, as scikit-learn has it, or as arrays that cannot be written."""
    names = ["left", "right", "feature", "threshold"]
    arrays = {name: getattr(tree, name) for name in names}
    if random.random() < 0.5:
        table = np.zeros(len(tree.left), [(name, array.dtype) for name, array in arrays.items()])
        for name, array in arrays.items():
            table[name] = array
        arrays = {name: table[name] for name in names}
    for array in arrays.values():
        array.setflags(write=False)
    marks = tree.missing_left.astype(np.uint8) * random.integers(1, 256, len(tree.left)).astype(np.uint8)
    return replace(tree, **arrays, missing_left=marks if random.random() < 0.5 else tree.missing_left)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    sizes=st.lists(st.sampled_from([0, 1, 2, 7, 30, 63, 64, 150]), min_size=1, max_size=8),
    n_features=st.sampled_from([1, 2, 3, 5, 8, 9, 300]),
    wide=st.booleans(),
)
def test_random_ensembles_are_packed_as_described(seed: int, sizes: list[int], n_features: int, wide: bool) -> None:
    trees, categories = random_ensemble(np.random.default_rng(seed), sizes, n_features=n_features, wide=wide)
    packed = pack(trees, n_features, [0] * len(trees), wide=wide, categories=categories)
    assert_equal(packed, pack_again(trees, n_features, wide=wide, n_splits=len(categories)))


def test_every_threshold_of_float32_has_the_key_of_the_number_that_decides_as_it_does() -> None:
    # Given a chain of splits at every special number and at those next to it, in float64 and in float32
    random = np.random.default_rng(4)
    numbers = np.concatenate([SPECIAL, random.normal(size=300), 2.0 ** np.arange(-160, 130, 7)])
    with np.errstate(over="ignore"):
        single = numbers.astype(np.float32).astype(np.float64)
    numbers = np.concatenate([numbers, -numbers, single, (single + np.nextafter(single, np.inf)) / 2])
    numbers = np.concatenate([numbers, np.nextafter(numbers, np.inf), np.nextafter(numbers, -np.inf)])
    numbers = numbers[~np.isnan(numbers)]
    for wide in (False, True):
        for start in range(0, len(numbers), 500):
            tree = random_tree(random, len(numbers[start : start + 500]), numbers, 1)
            tree.threshold[tree.left >= 0] = numbers[start : start + 500]
            assert_equal(pack([tree], 1, [0], wide=wide), pack_again([tree], 1, wide=wide))


@pytest.mark.parametrize("threshold", [*SPECIAL, -0.1, 1 / 3, 2.0**-130])
def test_the_proof_of_a_key_accepts_no_other_key(threshold: float) -> None:
    key = key_of(threshold)
    assert _pack.divides_as(key, threshold)
    assert not _pack.divides_as(key - 1, threshold)
    assert not _pack.divides_as(key + 1, threshold)


NAMES = ["left", "right", "feature", "threshold", "splits"]


def damaged(random: np.random.Generator, tree: TreeArrays, n_features: int) -> TreeArrays:
    """Return a tree in whose arrays some numbers were replaced."""
    n = len(tree.left)
    numbers = [INT64.min, -2, -1, 0, 1, n - 1, n, n + 1, n_features, 1 << 31, 1 << 32, INT64.max]
    numbers += random.integers(0, n, 24).tolist()  # nodes that exist, so that two share a child or a path is a cycle
    for _ in range(random.integers(1, 4)):
        name = NAMES[random.choice([0, 0, 1, 1, 2, 3, 4])]
        if getattr(tree, name) is None:
            continue
        changed = np.array(getattr(tree, name))
        place = random.integers(n)
        changed[place] = random.choice([np.nan, np.inf]) if name == "threshold" else random.choice(numbers)
        tree = replace(tree, **{name: changed})
    return tree


def test_damaged_arrays_are_refused_exactly_if_they_are_not_those_of_trees() -> None:
    verdicts = Counter[bool]()
    random = np.random.default_rng(5)
    for number in range(300):
        n_features = int(random.choice([1, 3, 9]))
        sizes = random.choice([1, 2, 5, 20, 80], random.integers(1, 4)).tolist()
        trees, categories = random_ensemble(random, sizes, n_features=n_features, wide=bool(number % 2))
        place = random.integers(len(trees))
        trees[place] = damaged(random, trees[place], n_features)
        try:
            expected = pack_again(trees, n_features, wide=bool(number % 2), n_splits=len(categories))
        except Refused:
            expected = None
        try:
            packed = pack(trees, n_features, [0] * len(trees), wide=bool(number % 2), categories=categories)
        except NotPackable:
            packed = None
        assert (packed is None) == (expected is None)
        verdicts[packed is None] += 1
        if packed is not None and expected is not None:
            assert_equal(packed, expected)
    assert min(verdicts.values()) > 50


def box_of(tree: TreeArrays, leaf: int, n_features: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends of the intervals that lead to a leaf, from the leaf to the root."""
    low, high = np.full(n_features, -np.inf), np.full(n_features, np.inf)
    above = {int(child): node for side in (tree.left, tree.right) for node, child in enumerate(side) if child >= 0}
    while leaf in above:
        node = above[leaf]
        feature, threshold = tree.feature[node], tree.threshold[node]
        if tree.left[node] == leaf:
            high[feature] = min(high[feature], threshold)
        else:
            low[feature] = max(low[feature], threshold)
        leaf = node
    return low, high


def depth_first(tree: TreeArrays) -> TreeArrays:
    """Number the nodes of a tree as scikit-learn does."""
    order, waiting = [], [0]
    while waiting:
        node = waiting.pop()
        order.append(node)
        waiting += [int(tree.right[node]), int(tree.left[node])] if tree.left[node] >= 0 else []
    place = np.append(np.argsort(order), -1)
    return replace(
        tree,
        left=place[tree.left[order]],
        right=place[tree.right[order]],
        feature=tree.feature[order],
        threshold=tree.threshold[order],
    )


@pytest.mark.parametrize("seed", range(20))
def test_the_box_of_a_leaf_has_the_thresholds_above_it_however_nodes_are_numbered(seed: int) -> None:
    random = np.random.default_rng(seed)
    own = random_tree(random, int(random.integers(0, 60)), np.array(SPECIAL[:-2]), 3)
    for tree in (own, depth_first(own)):
        leaves = random.permutation(np.flatnonzero(tree.left < 0))
        low, high = np.full((len(leaves), 3), -np.inf), np.full((len(leaves), 3), np.inf)
        _pack.boxes(tree.left, tree.right, tree.feature, tree.threshold, leaves, low, high)
        for leaf, *ends in zip(leaves, low, high, strict=True):
            np.testing.assert_array_equal(ends, box_of(tree, int(leaf), 3))
