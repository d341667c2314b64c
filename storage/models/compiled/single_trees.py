"""Compiles single decision trees.

For a single tree, scikit-learn's validation takes longer than the walk: it copies all values, and reads the copy again
to find values that are not finite. Here, plain rows are converted, looked at and walked block by block. If anything
about the rows might be refused or give a warning, scikit-learn validates them as always.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import is_classifier
from sklearn.utils.validation import check_is_fitted

from scoreline.storage.models.compiled import _single
from scoreline.storage.models.compiled.compiled_estimators import Uses
from scoreline.storage.models.compiled.nodes import Nodes, pack_single
from scoreline.storage.models.compiled.plain_rows import Rows, plain_rows, shape_of
from scoreline.storage.models.compiled.replacing import own_method
from scoreline.storage.models.compiled.validated import Compiled, is_dense, tree_arrays

_NO_LEAVES = np.empty(0, np.uint32)


@dataclass(frozen=True)
class PackedTree:
    """A tree through which rows of float32 or float64 walk."""

    n_features: int
    _form: Nodes
    _values: npt.NDArray[np.float64]

    @property
    def nbytes(self) -> int:
        """Memory in addition to that of the estimator, in bytes."""
        return self._form.nodes.nbytes

    def values(
        self, x: Rows, *, checked: bool = False, missing_allowed: bool = False
    ) -> npt.NDArray[np.float64] | None:
        """Return the values of the leaf of each row, shape (n_rows, n_values).

        Parameters
        ----------
        checked : bool
            Whether scikit-learn has accepted the values. Otherwise, None is returned if it might refuse one.
        missing_allowed : bool
            Whether scikit-learn accepts missing values.
        """
        found = np.empty((shape_of(x)[0], self._values[0].size))
        return found if self._find(x, checked, missing_allowed, _NO_LEAVES, found) else None

    def leaves(self, x: Rows, *, missing_allowed: bool) -> npt.NDArray[np.uint32] | None:
        """Return the number of the leaf of each row, or None if scikit-learn might refuse a value."""
        found = np.empty(shape_of(x)[0], np.uint32)
        return found if self._find(x, False, missing_allowed, found, np.empty((0, 1))) else None

    def _find(self, x: Rows, checked: bool, missing_allowed: bool, leaves: Any, values: Any) -> bool:
        shape = shape_of(x)
        if len(shape) != 2 or shape[1] != self.n_features:
            raise ValueError(f"expected {self.n_features} columns, got {shape}")
        Uses.count += 1
        address = self._values.__array_interface__["data"][0]  # a copy of this tree has its own values
        first, more, _ = self._form.steps[0].tolist()
        walk = x, self._form.nodes, self._form.shift, first, more
        return _single.find_leaves(*walk, checked, missing_allowed, leaves, address, self._values.strides[0], values)


class CompiledTree:
    """Replaces the ``tree_`` of a decision tree.

    Attributes that this class does not define are those of the ``tree_``.
    """

    def __init__(self, tree: Any, packed: PackedTree) -> None:
        self._tree = tree
        self._packed = packed

    def predict(self, x: Any) -> npt.NDArray[np.float64]:
        """Return the values of the leaf of each row.

        The shape is (n_rows, n_outputs, n_classes), or (n_rows, n_classes) if there is a single output.
        """
        found = None
        if is_dense(x, np.float32, self._packed.n_features) and x.flags.aligned:
            found = self._packed.values(x, checked=True)
        if found is None:
            own: npt.NDArray[np.float64] = self._tree.predict(x)
            return own
        shape = self._tree.value.shape[1:]
        return found.reshape(len(x), *shape) if self._tree.n_outputs > 1 else found.reshape(len(x), shape[-1])

    def __getattr__(self, name: str) -> Any:
        if name == "_tree" or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._tree, name)

    def __reduce__(self) -> Any:
        """Pickle and copy the original ``tree_``, because a copy may be used after the batch."""
        return self._tree.__reduce__()


def decision_tree(model: Any) -> Compiled:
    """Compile a single tree: its ``tree_``, and the methods that score plain rows of a single output."""
    arrays = tree_arrays(model, model.n_features_in_)
    form = pack_single(arrays, model.n_features_in_)
    packed = PackedTree(model.n_features_in_, form, arrays.values)
    methods: dict[str, Any] = {"tree_": CompiledTree(model.tree_, packed)}
    nbytes = packed.nbytes
    names = ["predict_proba", "predict"] if is_classifier(model) else ["predict"]
    kinds: tuple[type[np.number[Any]], ...] = (np.float32, np.float64) if model.n_outputs_ == 1 else (np.float32,)
    compared = [(name, kind) for name in names for kind in kinds]
    if model.n_outputs_ == 1:
        if is_classifier(model):
            classes = _smallest(np.argmax(arrays.values[:, 0, :], axis=1), int(model.n_classes_))
            nbytes += classes.nbytes
            methods["predict_proba"] = _quick_method(model, "predict_proba", _probabilities(model, packed))
            methods["predict"] = _quick_method(model, "predict", _labels(model, packed, classes))
        else:
            methods["predict"] = _quick_method(model, "predict", _numbers(packed))
    return Compiled(methods, nbytes, [arrays], model.n_features_in_, wide=False, compared=compared)


def _smallest(numbers: npt.NDArray[np.int64], n: int) -> npt.NDArray[Any]:
    return numbers.astype(np.min_scalar_type(n))


Quick = Callable[[Rows, bool], Any]
"""Scores plain rows, given whether values may be missing. Returns None if scikit-learn might refuse a value."""


def _probabilities(model: Any, packed: PackedTree) -> Quick:
    def probabilities(x: Rows, missing_allowed: bool) -> Any:
        found = packed.values(x, missing_allowed=missing_allowed)
        return None if found is None else found[:, : model.n_classes_]

    return probabilities


def _labels(model: Any, packed: PackedTree, classes: npt.NDArray[Any]) -> Quick:
    def labels(x: Rows, missing_allowed: bool) -> Any:
        found = packed.leaves(x, missing_allowed=missing_allowed)
        return None if found is None else model.classes_.take(classes.take(found), axis=0)

    return labels


def _numbers(packed: PackedTree) -> Quick:
    def numbers(x: Rows, missing_allowed: bool) -> Any:
        found = packed.values(x, missing_allowed=missing_allowed)
        return None if found is None else found[:, 0]

    return numbers


def _quick_method(model: Any, name: str, quick: Quick) -> Callable[..., Any]:
    """Return a method of an estimator that scores plain rows quickly, and all others as scikit-learn does."""

    def compiled(X: Any, check_input: bool = True) -> Any:
        if check_input:
            check_is_fitted(model)
            x = plain_rows(model, X)
            found = None if x is None else quick(x, model._support_missing_values(x))
            if found is not None:
                return found
        return own_method(model, name)(X, check_input)

    return compiled
