"""Packed trees lead each row to the leaf to which scikit-learn's own tree leads it."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.tree import DecisionTreeRegressor

pytest.importorskip("scoreline.storage.models.compiled._walk", reason="there was no compiler to build the extension")

from scoreline.storage.models.compiled import _select, nodes
from scoreline.storage.models.compiled import trees as checks
from scoreline.storage.models.compiled.columns import float32_at_or_below
from scoreline.storage.models.compiled.nodes import Nodes, PackedTrees, Splits, pack
from scoreline.storage.models.compiled.trees import NotPackable, TreeArrays
from tests.support.random_trees import SPECIAL, leaf_of, random_tree

N_FEATURES = 5


@pytest.fixture(params=[True, False], ids=["wide vectors", "narrow vectors"])
def vectors(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run a test with each of the instructions that processors have for small trees."""
    if _select.use_wide_vectors(request.param) != request.param:
        pytest.skip("this processor has no wide vectors")
    yield
    _select.use_wide_vectors(True)


def arrays_of(model: DecisionTreeRegressor) -> TreeArrays:
    tree = model.tree_
    return TreeArrays(
        left=tree.children_left,
        right=tree.children_right,
        feature=tree.feature,
        threshold=tree.threshold,
        missing_left=tree.missing_go_to_left.astype(bool),
        values=tree.value,
    )


def fitted(seed: int, *, rows: int = 400, missing: bool = False, depth: int | None = None) -> DecisionTreeRegressor:
    random = np.random.default_rng(seed)
    x = random.normal(size=(rows, N_FEATURES))
    if missing:
        x[random.random(x.shape) < 0.2] = np.nan
    return DecisionTreeRegressor(random_state=seed, max_depth=depth).fit(x, random.normal(size=rows))


def at_thresholds(trees: list[TreeArrays]) -> np.ndarray:
    """Return rows whose values are thresholds, or the next float32 above or below a threshold."""
    random = np.random.default_rng(1)
    inner = np.concatenate([float32_at_or_below(tree.threshold[tree.left >= 0]) for tree in trees])
    inner = inner if len(inner) else np.zeros(1, np.float32)
    values = np.concatenate([inner, np.nextafter(inner, np.float32(np.inf)), np.nextafter(inner, np.float32(-np.inf))])
    return random.choice(values, size=(3_000, N_FEATURES))


@pytest.mark.usefixtures("vectors")
@pytest.mark.parametrize("most_leaves", [64, 0])
@pytest.mark.parametrize("depth", [0, 1, 3, 8, None])
@pytest.mark.parametrize("rows", [1, 15, 16, 17, 255, 257, 3_000])
def test_every_row_gets_the_values_of_its_leaves(
    depth: int | None, rows: int, most_leaves: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nodes, "MAX_LEAVES", most_leaves)
    models = [fitted(seed, depth=depth or None, rows=400 if depth != 0 else 1) for seed in range(11)]
    trees = [arrays_of(model) for model in models]
    x = at_thresholds(trees)[:rows]
    sums = np.zeros((rows, 1))
    packed = pack(trees, N_FEATURES, [0] * 11, wide=False)
    assert isinstance(packed.form, Splits if depth in (0, 1, 3) and most_leaves else Nodes)
    packed.add_to(sums, x, scale=0.1)
    expected = np.zeros(rows)
    for model in models:  # in this order, and each product is rounded
        expected += 0.1 * model.predict(x)
    assert sums[:, 0].tobytes() == expected.tobytes()


@pytest.mark.parametrize("all_in_groups", [False, True])
@pytest.mark.parametrize("seed", range(10))
def test_rows_in_groups_arrive_where_few_rows_do(
    seed: int, all_in_groups: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given random trees, whose rows walk in groups if they are many: by shallow trees, at least three for each node
    monkeypatch.setattr(nodes, "MAX_LEAVES", 0)
    random = np.random.default_rng(seed)
    trees = [random_tree(random, int(random.integers(1, 30)), np.array(SPECIAL[:-4]), N_FEATURES) for _ in range(9)]
    packed = pack(trees, N_FEATURES, list(range(9)), wide=False)
    assert isinstance(packed.form, Nodes)
    in_groups = packed.form.steps[:, 1] == 0
    assert in_groups.any()
    if all_in_groups:
        trees = [tree for tree, shallow in zip(trees, in_groups, strict=True) if shallow]
        packed = pack(trees, N_FEATURES, list(range(len(trees))), wide=False)
    # and rows of which some contain infinities and missing values with either sign
    x = at_thresholds(trees)[: 200 + seed]
    for unusual in ([], [np.inf, -np.inf], [np.nan, -np.nan]):
        for value in unusual:
            x[random.random(x.shape) < 0.1] = value
        # When they walk at once, then they arrive where they do if too few for a group walk at a time
        found, expected = np.zeros((len(x), len(trees))), np.zeros((len(x), len(trees)))
        packed.add_to(found, x)
        for begin in range(0, len(x), 7):
            packed.add_to(expected[begin : begin + 7], x[begin : begin + 7])
        assert found.tobytes() == expected.tobytes()


def test_rows_of_more_columns_than_a_short_node_can_name_arrive_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a large tree with 8,191 splits, each of its own feature, and two small ones that split other features
    monkeypatch.setattr(nodes, "MAX_LEAVES", 0)
    n_features, own = 8_193, np.arange(16_383)
    left = np.where(own < 8_191, 2 * own + 1, -1)
    large = TreeArrays(
        left=left,
        right=np.where(left < 0, -1, left + 1),
        feature=own % 8_191,
        threshold=np.zeros(len(own)),
        missing_left=np.zeros(len(own), bool),
        values=np.zeros((len(own), 1, 1)),
    )
    leaves = np.array([0.0, 1.0, 2.0])[:, np.newaxis, np.newaxis]
    three = replace(large, threshold=np.zeros(3), missing_left=np.zeros(3, bool), values=leaves)
    three = replace(three, left=np.array([1, -1, -1]), right=np.array([2, -1, -1]))
    small = [replace(three, feature=np.array([feature, -2, -2])) for feature in (8_191, 8_192)]
    # When there are as many rows as walk through the small ones in groups if there are fewer columns
    x = np.random.default_rng(0).normal(size=(16, n_features)).astype(np.float32)
    sums = np.zeros((len(x), 3))
    pack([large, *small], n_features, [0, 1, 2], wide=False).add_to(sums, x)
    # Then each row arrives where its own value leads
    np.testing.assert_array_equal(sums[:, 1:], 1.0 + (x[:, 8_191:] > 0))


@pytest.mark.parametrize("copied", [lambda one: pickle.loads(pickle.dumps(one)), copy.deepcopy])
@pytest.mark.parametrize("wide", [True, False])
def test_a_copy_reads_the_values_of_its_own_arrays(copied: Callable[[PackedTrees], PackedTrees], wide: bool) -> None:
    # Given trees whose values are a column of a table, as in histogram gradient boosting
    trees = []
    for tree in (arrays_of(fitted(seed)) for seed in range(3)):
        table = np.zeros(len(tree.left), [("value", np.float64), ("number", np.int64)])
        table["value"] = tree.values[:, 0, 0]
        trees.append(replace(tree, values=table["value"]))
    packed = pack(trees, N_FEATURES, [0] * 3, wide=wide)
    x = at_thresholds(trees).astype(np.float64 if wide else np.float32)
    expected, found = np.zeros((len(x), 1)), np.zeros((len(x), 1))
    packed.add_to(expected, x)
    # When the trees are copied, and the values of the original trees are overwritten
    other = copied(packed)
    for tree in trees:
        tree.values[:] = np.nan
    # Then the copy has its own values
    other.add_to(found, x)
    assert found.tobytes() == expected.tobytes()
    assert np.isfinite(found).all()


@pytest.mark.usefixtures("vectors")
@pytest.mark.parametrize("wide", [True, False])
@pytest.mark.parametrize("depth", [3, None])
def test_missing_values_go_to_the_side_that_the_tree_chose(depth: int | None, wide: bool) -> None:
    models = [fitted(seed, missing=True, depth=depth) for seed in range(11)]
    trees = [arrays_of(model) for model in models]
    choices = np.concatenate([tree.missing_left[tree.left >= 0] for tree in trees])
    assert 0 < choices.sum() < len(choices)
    x = at_thresholds(trees)
    x[np.random.default_rng(2).random(x.shape) < 0.3] = np.nan
    sums = np.zeros((len(x), 1))
    packed = pack(trees, N_FEATURES, [0] * 11, wide=wide)
    assert isinstance(packed.form, Splits if depth else Nodes)
    packed.add_to(sums, np.asfortranarray(x.astype(np.float64)) if wide else x)
    assert sums[:, 0].tobytes() == sum(model.tree_.predict(x)[:, 0] for model in models).tobytes()


def test_values_of_float64_are_compared_in_float64() -> None:
    # Given a tree whose threshold lies between two neighbouring float32
    tree = TreeArrays(
        left=np.array([1, -1, -1]),
        right=np.array([2, -1, -1]),
        feature=np.array([0, 0, 0]),
        threshold=np.array([0.1, 0.0, 0.0]),
        missing_left=np.array([False, False, False]),
        values=np.array([0.0, 1.0, 2.0]),
    )
    x = np.array([[np.nextafter(0.1, 0)], [0.1], [np.nextafter(0.1, 1)], [np.inf], [-np.inf], [np.nan]])
    sums = np.zeros((6, 1))
    pack([tree], 1, [0], wide=True).add_to(sums, x)
    assert sums[:, 0].tolist() == [1.0, 1.0, 2.0, 2.0, 1.0, 2.0]


def test_the_float32_at_or_below_a_threshold_divides_all_float32_as_it_does() -> None:
    random = np.random.default_rng(3)
    values = np.concatenate(
        [random.normal(size=1_000), [0.1, 0.0, -0.0, 1e300, -1e300, 1e-300, -1e-300, 5e-46, -5e-46]]
    )
    found = float32_at_or_below(values)
    assert (found.astype(np.float64) <= values).all()
    with np.errstate(over="ignore"):
        assert (np.nextafter(found, np.float32(np.inf)).astype(np.float64) > values).all()


def cycle(tree: TreeArrays) -> TreeArrays:
    left = tree.left.copy()
    left[np.flatnonzero(left >= 0)[-1]] = 0
    return replace(tree, left=left)


def leaf_with_another_mark(tree: TreeArrays) -> TreeArrays:
    """Return a tree with a leaf at which scikit-learn does not stop, because only -1 marks a leaf."""
    left = tree.left.copy()
    left[np.flatnonzero(left == -1)[2]] = -2
    return replace(tree, left=left)


def child_on_the_left_alone(tree: TreeArrays) -> TreeArrays:
    right = tree.right.copy()
    right[np.flatnonzero(tree.left >= 0)[-1]] = -1
    return replace(tree, right=right)


def child_out_of_range(tree: TreeArrays) -> TreeArrays:
    right = tree.right.copy()
    right[0] = len(right)
    return replace(tree, right=right)


def children_of_two(tree: TreeArrays) -> TreeArrays:
    """Return nodes of which two share their children, and two others are not reached, so that the number is right."""
    left, right = np.array([1, 3, 3, -1, -1, -1, -1]), np.array([2, 4, 4, -1, -1, -1, -1])
    return TreeArrays(left, right, *(array[:7] for array in list(vars(tree).values())[2:6]))


def child_of_two(tree: TreeArrays) -> TreeArrays:
    return replace(tree, right=np.where(tree.left >= 0, tree.left, -1))


def feature_out_of_range(tree: TreeArrays) -> TreeArrays:
    feature = tree.feature.copy()
    feature[0] = N_FEATURES
    return replace(tree, feature=feature)


def negative_feature(tree: TreeArrays) -> TreeArrays:
    feature = tree.feature.copy()
    feature[0] = -1
    return replace(tree, feature=feature)


def threshold_that_is_no_number(tree: TreeArrays) -> TreeArrays:
    threshold = tree.threshold.copy()
    threshold[0] = np.nan
    return replace(tree, threshold=threshold)


def too_few_values(tree: TreeArrays) -> TreeArrays:
    return replace(tree, values=tree.values[:-1])


def no_nodes(tree: TreeArrays) -> TreeArrays:
    return TreeArrays(*(array[:0] for array in vars(tree).values() if array is not None))


@pytest.mark.parametrize(
    "damage",
    [
        cycle,
        leaf_with_another_mark,
        child_on_the_left_alone,
        child_out_of_range,
        child_of_two,
        children_of_two,
        feature_out_of_range,
        negative_feature,
        threshold_that_is_no_number,
        too_few_values,
        no_nodes,
    ],
)
def test_damaged_trees_are_refused_before_a_row_walks(damage: Callable[[TreeArrays], TreeArrays]) -> None:
    with pytest.raises(NotPackable):
        pack([damage(arrays_of(fitted(0)))], N_FEATURES, [0], wide=False)


@pytest.mark.usefixtures("vectors")
@pytest.mark.parametrize("most_leaves", [64, 0])
@pytest.mark.parametrize("threshold", [-1e-50, -0.0, 0.0, 1e-50])
def test_zeros_are_above_a_threshold_that_is_less_than_zero_by_less_than_a_float32(
    threshold: float, most_leaves: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nodes, "MAX_LEAVES", most_leaves)
    tree = chain(1)
    tree.threshold[0] = threshold
    x = np.array([[0.0], [-0.0], [1e-45], [-1e-45]], np.float32)
    sums = np.zeros((4, 1))
    pack([tree], 1, [0], wide=False).add_to(sums, x)
    assert sums[:, 0].tolist() == [tree.values[leaf_of(tree, row)] for row in x]


@pytest.mark.parametrize("mark", [1, 2, 255])
def test_a_missing_value_goes_left_for_every_mark_but_zero(mark: int) -> None:
    tree = replace(chain(1), missing_left=np.array([mark, 0, 0], np.uint8))
    sums = np.zeros((1, 1))
    pack([tree], 1, [0], wide=False).add_to(sums, np.array([[np.nan]], np.float32))
    assert sums[0, 0] == tree.values[tree.left[0]]


@pytest.mark.parametrize("first", ["number", "category"])
def test_a_feature_that_is_a_number_in_one_tree_and_a_category_in_another_is_refused(first: str) -> None:
    trees = [chain(1), replace(chain(1), splits=np.array([0, -1, -1]))]
    categories = np.zeros((1, checks.WORDS_OF_CATEGORIES), np.uint32)
    with pytest.raises(NotPackable, match=r"^a feature is compared as a number and as a category$"):
        pack(trees if first == "number" else trees[::-1], 1, [0, 0], wide=True, categories=categories)
    with pytest.raises(NotPackable, match=r"^a tree asks for categories that it does not have$"):
        pack(trees[1:], 1, [0], wide=True)


def test_rows_of_another_type_or_width_are_refused() -> None:
    packed = pack([arrays_of(fitted(0))], N_FEATURES, [0], wide=False)
    with pytest.raises(ValueError, match="expected 5 columns of float32"):
        packed.add_to(np.zeros((2, 1)), np.zeros((2, N_FEATURES)))
    with pytest.raises(ValueError, match="expected 5 columns of float32"):
        packed.add_to(np.zeros((2, 1)), np.zeros((2, N_FEATURES - 1), np.float32))
    with pytest.raises(ValueError, match="expected sums of shape"):
        packed.add_to(np.zeros((3, 1)), np.zeros((2, N_FEATURES), np.float32))


def chain(depth: int) -> TreeArrays:
    """Return a tree each of whose nodes has a leaf on the right, and whose deepest leaf has this depth."""
    number = np.arange(2 * depth + 1)
    inner = (number % 2 == 0) & (number < 2 * depth)
    return TreeArrays(
        left=np.where(inner, number + 2, -1),
        right=np.where(inner, number + 1, -1),
        feature=np.zeros(len(number), np.int64),
        threshold=-number.astype(np.float64),
        missing_left=np.zeros(len(number), bool),
        values=number.astype(np.float64),
    )


@pytest.mark.parametrize("wide", [True, False])
def test_trees_are_compiled_up_to_a_depth(wide: bool) -> None:
    sums = np.zeros((3, 1))
    x = np.array([[0.5], [-99.0], [-2e9]], np.float64 if wide else np.float32)
    pack([chain(512)], 1, [0], wide=wide).add_to(sums, x)
    assert sums[:, 0].tolist() == [1, 101, 1024]
    with pytest.raises(NotPackable, match=r"^a tree is 513 levels deep$"):
        pack([chain(512), chain(513)], 1, [0, 0], wide=wide)


def perfect(depth: int) -> TreeArrays:
    """Return a tree all of whose leaves have this depth, and each of whose nodes compares another feature with 0."""
    number = np.arange(2 ** (depth + 1) - 1)
    inner = number < 2**depth - 1
    return TreeArrays(
        left=np.where(inner, 2 * number + 1, -1),
        right=np.where(inner, 2 * number + 2, -1),
        feature=np.where(inner, number, 0),
        threshold=np.zeros(len(number)),
        missing_left=np.zeros(len(number), bool),
        values=number.astype(np.float64),
    )


def test_trees_are_compiled_up_to_the_number_of_nodes_that_the_integer_of_a_node_can_tell_apart() -> None:
    # Given so many features that 16 bits are left for the child
    tree = perfect(15)
    sums = np.zeros((2, 1))
    pack([tree], 1 << 16, [0], wide=False).add_to(sums, np.array([[-1], [1]], np.float32).repeat(1 << 16, axis=1))
    assert sums[:, 0].tolist() == [2**15 - 1, 2**16 - 2]
    with pytest.raises(NotPackable, match=r"^a tree of 131,071 nodes is too large for 65,535 features$"):
        pack([perfect(16)], 1 << 16, [0], wide=False)


@pytest.mark.parametrize("wide", [True, False])
def test_trees_are_compiled_up_to_a_number_of_nodes(wide: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    assert checks._MAX_NODES == 1 << 22  # the bits of the threshold of a leaf that no key has
    monkeypatch.setattr(checks, "_MAX_NODES", 9)
    pack([chain(4)], 1, [0], wide=wide)
    with pytest.raises(NotPackable, match=r"^a tree has 11 nodes$"):
        pack([chain(5)], 1, [0], wide=wide)


def test_trees_are_compiled_up_to_a_number_of_features() -> None:
    pack([chain(63)], 1 << 24, [0], wide=False)
    for n_features in (0, (1 << 24) + 1):
        with pytest.raises(NotPackable, match=f"^it has {n_features:,} features$"):
            pack([chain(63)], n_features, [0], wide=True)


def test_rows_reach_every_feature_that_a_node_can_name() -> None:
    # Given trees that split by the last feature
    for n_features in (1, 2, 3, 4, 5, 8, 9, 255, 256, 257):
        tree = chain(1)
        tree.feature[0] = n_features - 1
        for wide in (True, False):
            x = np.full((2, n_features), -5, np.float64 if wide else np.float32)
            x[1, -1] = 5
            sums = np.zeros((2, 1))
            pack([tree], n_features, [0], wide=wide).add_to(sums, x)
            assert sums[:, 0].tolist() == [2, 1]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    sizes=st.one_of(
        st.lists(st.integers(0, 63), min_size=1, max_size=11), st.lists(st.integers(0, 80), min_size=1, max_size=6)
    ),
    rows=st.sampled_from([1, 2, 15, 16, 17, 40]),
    wide=st.booleans(),
    missing=st.booleans(),
    walked=st.booleans(),
    wide_vectors=st.booleans(),
    order=st.sampled_from(["C", "F"]),
)
def test_rows_reach_the_leaves_of_random_trees(
    seed: int, sizes: list[int], rows: int, wide: bool, missing: bool, walked: bool, wide_vectors: bool, order: Any
) -> None:
    random = np.random.default_rng(seed)
    pool = np.concatenate([random.normal(size=12), SPECIAL])
    trees = [random_tree(random, size, pool, N_FEATURES) for size in sizes]
    kind = np.float64 if wide else np.float32
    with np.errstate(over="ignore"):
        near = np.concatenate([pool.astype(kind), float32_at_or_below(pool).astype(kind)])
        near = np.concatenate([near, np.nextafter(near, kind(np.inf)), np.nextafter(near, kind(-np.inf))])
    x = random.choice(near, (rows, N_FEATURES))
    if missing:
        x[random.random(x.shape) < 0.3] = np.nan
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nodes, "MAX_LEAVES", 0 if walked else 64)
        packed = pack(trees, N_FEATURES, [0] * len(trees), wide=wide)
    sums, expected = np.zeros((rows, 1)), np.zeros(rows)
    _select.use_wide_vectors(wide_vectors)
    packed.add_to(sums, np.asarray(x, order=order), scale=0.1)
    _select.use_wide_vectors(True)
    for tree in trees:
        expected += 0.1 * tree.values[[leaf_of(tree, row) for row in x]]
    assert sums[:, 0].tobytes() == expected.tobytes()


@pytest.mark.parametrize("missing", [[], [0], [6], [7], [13, 14], [40], [29, 30]])
@pytest.mark.parametrize("rows_of_block", [1, 7, 16, 19])
@pytest.mark.parametrize("wide", [True, False])
def test_missing_values_in_some_blocks_do_not_affect_the_rows_of_others(
    missing: list[int], rows_of_block: int, wide: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(7)
    pool = random.normal(size=12)
    trees = [random_tree(random, size, pool, N_FEATURES) for size in (80, 3, 130)]
    monkeypatch.setattr(nodes, "_BLOCK_BYTES", 4 * N_FEATURES * rows_of_block)
    x = random.choice(pool, (41, N_FEATURES)).astype(np.float64 if wide else np.float32)
    x[missing, random.integers(0, N_FEATURES, len(missing))] = np.nan
    sums = np.zeros((len(x), 1))
    packed = pack(trees, N_FEATURES, [0] * len(trees), wide=wide)
    assert isinstance(packed.form, Nodes)
    assert len(packed._columns.used) == N_FEATURES
    packed.add_to(sums, x)
    expected = np.zeros(len(x))
    for tree in trees:
        expected += tree.values[[leaf_of(tree, row) for row in x]]
    assert sums[:, 0].tobytes() == expected.tobytes()
