"""Converts the result of a model to an array with one row per scored row, even if the result is not an array.

Models of scikit-learn return arrays. Other models return lists, tuples, Series, DataFrames, sparse matrices, or a
mapping of names to columns. A list may contain one item per row, or one array per target. The lengths of the list and
its items show which of these applies.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from scoreline.storage.errors import ScoringError

MAX_DENSE_COLUMNS = 512
"""Maximum number of columns in a sparse result. The result is converted to a dense array, which takes up to 256 MiB of
float64 for a batch of 65,536 rows."""
_MAX_EXACT_INTEGER = 2**53


class AmbiguousShape(Exception):
    """Raised if a list has as many arrays as there are rows, and each array has that number of values, too.

    Either the arrays or their values may then be the rows.
    """


def to_rows(result: Any, n_rows: int, method: str) -> Any:
    """Convert the result of a model for `n_rows` rows.

    Returns
    -------
    ndarray, Series or DataFrame, with n_rows rows; or list of ndarray
        A list has one array per target. A result that is already an array keeps its shape.

    Raises
    ------
    AmbiguousShape
        The result may be a list of rows or of targets. Calling the model with another number of rows resolves the
        ambiguity.
    ScoringError
        The result does not fit into the columns of a table.
    """
    if hasattr(result, "to_pandas"):  # polars and pyarrow
        result = result.to_pandas()
    if isinstance(result, pd.Series | pd.DataFrame):
        return result
    if isinstance(result, pd.Index | pd.api.extensions.ExtensionArray):
        return pd.Series(result)
    if isinstance(result, np.ma.MaskedArray):
        if result.dtype.kind == "f":
            return result.filled(np.nan)
        objects = result.data.astype(object)
        objects[np.ma.getmaskarray(result)] = None
        return objects
    if hasattr(result, "toarray"):
        return _to_dense(result)
    if result is None or isinstance(result, str | bytes | set | frozenset):
        raise _unusable(result, n_rows, method)
    if isinstance(result, Mapping):
        return pd.DataFrame({name: to_rows(column, n_rows, method) for name, column in result.items()})
    if isinstance(result, Iterable) and not hasattr(result, "__array__") and not hasattr(result, "shape"):
        return _from_items(list(result), n_rows, method)
    array = np.asarray(result)
    if array.ndim == 0:
        raise _unusable(result, n_rows, method)
    return array


def _from_items(items: Sequence[Any], n_rows: int, method: str) -> Any:
    """Convert a list of rows or of targets."""
    if not items or np.ndim(items[0]) == 0 or isinstance(items[0], Mapping):
        return _from_scalars(items)
    items = [item.toarray() if hasattr(item, "toarray") else item for item in items]
    lengths = {len(item) for item in items}
    matrices = np.ndim(items[0]) > 1  # matrices with a single row each are rows
    are_rows = len(items) == n_rows and (not matrices or lengths == {1})
    are_targets = lengths == {n_rows}
    if are_rows and are_targets and n_rows > 1:
        raise AmbiguousShape(method)
    if are_targets and not (are_rows and len(items) == 1):
        return [np.asarray(item) for item in items]
    if not are_rows:
        raise ScoringError(
            f"{method} returns a list of {len(items)} items for {n_rows} rows: publish a model that returns one value "
            "or one list of values for each row"
        )
    if len(lengths) > 1:
        raise ScoringError(
            f"{method} returns lists of {min(lengths)} to {max(lengths)} values: publish a model that returns equally "
            "many for each row"
        )
    if matrices:
        return np.concatenate(items)
    if isinstance(items[0], np.ndarray):
        return np.stack(items)
    return pd.DataFrame([list(item) for item in items])  # a DataFrame lets each column have its own type


def _from_scalars(items: Sequence[Any]) -> Any:
    """Return an array of the values, with dtype object if NumPy would convert some values to another type."""
    array = np.asarray(items)
    texts = array.dtype.kind in "US" and not all(isinstance(item, str | bytes) for item in items)
    inexact = array.dtype.kind == "f" and any(isinstance(n, int) and abs(n) > _MAX_EXACT_INTEGER for n in items)
    if not texts and not inexact:
        return array
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return array


def _to_dense(result: Any) -> Any:
    """Return a sparse result as a dense array, if it has at most `MAX_DENSE_COLUMNS` columns."""
    if result.ndim > 1 and result.shape[1] > MAX_DENSE_COLUMNS:
        raise ScoringError(
            f"the result is sparse and has {result.shape[1]:,} columns; more than {MAX_DENSE_COLUMNS} are not written: "
            "have the model return fewer, or publish it as the preprocessor of another model"
        )
    return np.asarray(result.toarray())


def _unusable(result: Any, n_rows: int, method: str) -> ScoringError:
    kind = "nothing" if result is None else f"a single {type(result).__name__}"
    return ScoringError(
        f"{method} returns {kind} for {n_rows} row{'' if n_rows == 1 else 's'}: publish a model that returns an array "
        "with one value for each row"
    )
