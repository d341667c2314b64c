"""Says which rows scikit-learn's validation would accept after looking at nothing but their values."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn import get_config

Rows = npt.NDArray[Any] | list[npt.NDArray[Any]]
"""A matrix of float32 or float64, or its columns."""


def shape_of(x: Rows) -> tuple[int, ...]:
    """Return the shape of the matrix, which columns would have as well."""
    return (len(x[0]), len(x)) if isinstance(x, list) else x.shape


def plain_rows(model: Any, X: Any) -> Rows | None:
    """Return rows if scikit-learn's validation looks at nothing but whether the values are finite.

    Such rows are an array, or a table with the names of the model, of float32 or float64.
    """
    names = getattr(model, "feature_names_in_", None)
    x = X if names is None and type(X) is np.ndarray else _table(X, names)
    columns = x if isinstance(x, list) else [x]
    if not columns or not all(type(one) is np.ndarray and one.flags.aligned for one in columns):
        return None
    shape = shape_of(x)
    if columns[0].dtype not in (np.float32, np.float64):
        return None
    if len(shape) != 2 or not shape[0] or shape[1] != model.n_features_in_ or np.geterr()["under"] != "ignore":
        return None
    config = get_config()
    return None if config["assume_finite"] or config["array_api_dispatch"] else x


def _table(X: Any, names: npt.NDArray[Any] | None) -> Any:
    """Return the values or the columns of a DataFrame that has the names of the model, otherwise None."""
    pandas = sys.modules.get("pandas")
    if pandas is None or type(X) is not pandas.DataFrame:
        return None
    if names is None:
        if type(X.columns) is not pandas.RangeIndex:
            return None
    else:
        own = X.columns.tolist()
        if own != names.tolist() or set(map(type, own)) != {str}:
            return None
    column_of = getattr(X, "_get_column_array", None)
    if column_of is None:  # a version of pandas with other internals
        return None
    columns = [column_of(number) for number in range(X.shape[1])]
    if any(type(one) is not np.ndarray or one.dtype != columns[0].dtype for one in columns):
        return None
    # a matrix of all columns would be a copy, unless the rows of the table are stored one after the other
    return columns if all(one.strides[0] == one.itemsize for one in columns) else X.to_numpy()
