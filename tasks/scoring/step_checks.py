"""Repeats the checks of scikit-learn's steps for each value of the input, to find all values that a step refuses.

The function in which scikit-learn raises the error determines the check, which reads the local variables of this
function. A check returns the refused values by kind, because all rows with the same kind of value fail with the same
error. If a check raises an exception or returns nothing, the failing rows are found by scoring smaller and smaller
groups of rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType, MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse
from sklearn.utils._encode import _check_unknown  # the private function with which encoders find unknown categories

from scoreline.tasks.scoring.model_calls import first_line

type Locals = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Cells:
    """The refused values of one kind."""

    kind: str
    """The kind of value, such as ``NaN``. All rows of a kind fail for the same reason."""
    mask: Any
    """Whether a value is refused, shape (n_rows, n_columns); shape (n_rows,) if the column is not known."""
    values: Sequence[Any] = ()
    """The columns that were checked, each of shape (n_rows,); empty if they are not known."""
    first: int = 0
    """Position of the first checked column among the columns of the step."""
    say: Callable[[Any], list[str]] | None = None
    """Returns the error message of the step for each of some rows as a single row, if it depends on the row's values.
    Takes the positions of the rows, an ndarray of int."""
    says_first: bool = False
    """Whether `say` returns the same message for all rows whose first refused value is the same text in the same
    column."""


def _columns(array: Any) -> list[Any]:
    return [array] if array.ndim == 1 else list(array.T)


def _finite(local: Locals, frame: FrameType) -> list[Cells]:
    """Find NaN, infinity, and values that become infinite in the data type of the step."""
    x = local["X"]
    first = _position(frame)
    if x.dtype == object:
        found = {"NaN": x != x}
    else:
        found = {"infinity": np.isinf(x)} | ({} if local["allow_nan"] else {"NaN": np.isnan(x)})
        if "NaN" in found and found["NaN"].ndim == 2:  # a row with NaN and infinity is refused because of NaN
            found["infinity"] = found["infinity"] & ~found["NaN"].any(axis=1, keepdims=True)
        elif "NaN" in found:
            found["infinity"] = found["infinity"] & ~found["NaN"]
    return [Cells(kind=kind, mask=_matrix(mask), values=_columns(x), first=first) for kind, mask in found.items()]


def _position(frame: FrameType | None) -> int:
    """Return the position of the column that an encoder was checking in a loop over its columns."""
    while frame is not None and frame.f_globals.get("__name__", "").startswith("sklearn."):
        if frame.f_code.co_name == "_check_X" and isinstance(frame.f_locals.get("i"), int):
            return int(frame.f_locals["i"])
        frame = frame.f_back
    return 0


def _matrix(mask: Any) -> Any:
    return mask[:, np.newaxis] if mask.ndim == 1 else mask


def _finite_sparse(local: Locals, frame: FrameType) -> list[Cells]:
    """Find NaN and infinity in a sparse matrix, such as the output of a `OneHotEncoder` beside numbers."""
    matrix = local["sparse_container"].tocoo()
    found = {"NaN": np.isnan(matrix.data), "infinity": np.isinf(matrix.data)}
    if local["ensure_all_finite"] == "allow-nan":
        del found["NaN"]
    masks = {kind: np.bincount(matrix.row[cells], minlength=matrix.shape[0]) > 0 for kind, cells in found.items()}
    if "NaN" in masks:
        masks["infinity"] &= ~masks["NaN"]
    return [Cells(kind=kind, mask=mask) for kind, mask in masks.items()]


def _non_negative(local: Locals, frame: FrameType) -> list[Cells]:
    x = local["X"]
    if sparse.issparse(x):
        matrix = x.tocoo()
        negative = np.bincount(matrix.row[matrix.data < 0], minlength=matrix.shape[0]) > 0
        return [Cells(kind="negative", mask=negative)]
    return [Cells(kind="negative", mask=_matrix(x < 0), values=_columns(x))]


def _known_categories(local: Locals, frame: FrameType) -> list[Cells]:
    """Find the categories that a `OneHotEncoder` or `OrdinalEncoder` was not fitted on."""
    columns, known = local["X_list"], local["self"].categories_
    if local["handle_unknown"] != "error":
        return []
    failed = int(local["i"])  # the step accepted the earlier columns, and has a mask for this column
    mask = np.zeros((len(columns[failed]), len(columns)), dtype=bool)
    mask[:, failed] = ~local["valid_mask"]
    for later in range(failed + 1, len(columns)):
        mask[:, later] = _unknown(columns[later], known[later])
    first = mask.argmax(axis=1)

    def say(rows: Any) -> list[str]:
        cells = (
            (column, columns[column][row]) for row, column in zip(rows.tolist(), first[rows].tolist(), strict=True)
        )
        return [
            f"ValueError: Found unknown categories {[value]} in column {column} during transform"
            for column, value in cells
        ]

    return [Cells(kind="unknown", mask=mask, values=columns, say=say, says_first=True)]


def _unknown(x: Any, known: Any) -> Any:
    """Return a mask of the values that are not in `known`. To save time, equal objects are checked only once."""
    if x.dtype != object or pd.isna(x).any():  # pd.factorize does not distinguish None from NaN
        return ~_check_unknown(x, known, return_mask=True)[1]
    codes, values = pd.factorize(x)
    return ~_check_unknown(values, known, return_mask=True)[1][codes]


def _numbers(local: Locals, frame: FrameType) -> list[Cells]:
    """Find texts and other values that are not numbers."""
    array = local["array"]
    array = array.to_native() if hasattr(array, "to_native") else array
    dtype = np.dtype(local["new_dtype"] if "new_dtype" in local else local["dtype"])
    if dtype.kind not in "fiu" or not isinstance(array, pd.DataFrame | pd.Series | np.ndarray):
        return []
    if isinstance(array, pd.DataFrame):
        columns = [array.iloc[:, number] for number in range(array.shape[1])]
    else:
        columns = _columns(array.to_numpy() if isinstance(array, pd.Series) else array)
    mask = np.column_stack([_not_numbers(column, dtype) for column in columns])
    with_refused = set(np.flatnonzero(mask.any(axis=0)).tolist())
    texts: list[Any] = [
        np.asarray(column, dtype=object if number in with_refused else None) for number, column in enumerate(columns)
    ]

    def say(rows: Any) -> list[str]:
        cells = zip(rows.tolist(), mask[rows].argmax(axis=1).tolist(), strict=True)
        return [_conversion_error(texts[column][row], dtype) for row, column in cells]

    return [Cells(kind="not a number", mask=mask, values=texts, say=say, says_first=True)]


def _not_numbers(column: Any, dtype: np.dtype[Any]) -> Any:
    """Return a mask of the values that are not numbers.

    Values that pandas can convert are checked together, and all other values one by one.
    """
    if isinstance(column.dtype, np.dtype) and column.dtype.kind in "biuf":
        return np.zeros(len(column), dtype=bool)
    objects = np.asarray(column, dtype=object)
    if not _conversion_error_of(objects, dtype):
        return np.zeros(len(column), dtype=bool)
    try:
        doubtful = np.isnan(np.asarray(pd.to_numeric(pd.Series(objects), errors="coerce"), dtype=np.float64))
    except (TypeError, ValueError):
        doubtful = np.ones(len(column), dtype=bool)
    if _conversion_error_of(objects[~doubtful], dtype):  # pandas converts some texts that NumPy does not
        doubtful[:] = True
    mask = doubtful.copy()
    codes, values = pd.factorize(objects[doubtful], use_na_sentinel=False)
    mask[doubtful] = np.array([bool(_conversion_error(value, dtype)) for value in values], dtype=bool)[codes]
    return mask


def _conversion_error(value: Any, dtype: np.dtype[Any]) -> str:
    """Return the error with which NumPy fails to convert a value to a number type; empty if NumPy can convert it."""
    one = np.empty(1, dtype=object)
    one[0] = value
    return _conversion_error_of(one, dtype)


def _conversion_error_of(values: Any, dtype: np.dtype[Any]) -> str:
    """Return the error with which NumPy fails to convert objects to a number type; empty if NumPy can convert them."""
    try:
        values.astype(dtype)
    except (ValueError, TypeError, OverflowError) as error:
        return first_line(error)
    return ""


def _positive(local: Locals, frame: FrameType) -> list[Cells]:
    """Find the values that the Box-Cox method of `PowerTransformer` refuses."""
    x = local["X"]
    if local["self"].method != "box-cox":
        return []
    return [Cells(kind="not positive", mask=x <= 0, values=_columns(x))]


def _additive_chi2(local: Locals, frame: FrameType) -> list[Cells]:
    for x in (local["X"], local["Y"]):
        if (x < 0).any():
            return [Cells(kind="negative", mask=x < 0, values=_columns(x))]
    return []


def _skewed_chi2(local: Locals, frame: FrameType) -> list[Cells]:
    x = local["X"]
    return [Cells(kind="too negative", mask=x <= -local["self"].skewedness, values=_columns(x))]


def _counted_categories(local: Locals, frame: FrameType) -> list[Cells]:
    """Find the categories that `CategoricalNB` has not counted."""
    x, counts = local["X"], np.asarray(local["self"].n_categories_)
    mask = x >= counts

    def say(rows: Any) -> list[str]:
        columns = mask[rows].argmax(axis=1)
        cells = zip(x[rows, columns].tolist(), counts[columns].tolist(), strict=True)
        return [f"IndexError: index {value} is out of bounds for axis 1 with size {count}" for value, count in cells]

    return [Cells(kind="unknown", mask=mask, values=_columns(x), say=say)]


def _new_missing(local: Locals, frame: FrameType) -> list[Cells]:
    """Find missing values in columns that had none when `MissingIndicator` was fitted."""
    missing = local["imputer_mask"]
    if sparse.issparse(missing):
        return []
    mask = missing & np.isin(np.arange(missing.shape[1]), local["features_diff_fit_trans"])

    def say(rows: Any) -> list[str]:
        return [
            f"ValueError: The features {np.flatnonzero(row)} have missing values in transform but have no missing "
            "values in fit."
            for row in mask[rows]
        ]

    return [Cells(kind="newly missing", mask=mask, values=_columns(local["X"]), say=say)]


def _within_knots(local: Locals, frame: FrameType) -> list[Cells]:
    """Find the values beyond the knots of a `SplineTransformer` that does not extrapolate."""
    x, step = local["X"], local["self"]
    if step.extrapolation != "error":
        return []
    ends = [(spline.t[step.degree], spline.t[-step.degree - 1]) for spline in step.bsplines_]
    low, high = np.array(ends).T
    return [Cells(kind="beyond knots", mask=(x < low) | (x > high), values=_columns(x))]


def _within_bounds(local: Locals, frame: FrameType) -> list[Cells]:
    """Find the values outside the range on which an `IsotonicRegression` was fitted."""
    x, step = local["T"], local["self"]
    if step.out_of_bounds != "raise":
        return []
    below, above = x < step.X_min_, x > step.X_max_
    found = {"above": above, "below": below & ~above}
    return [Cells(kind=kind, mask=_matrix(mask), values=[x]) for kind, mask in found.items()]


def _with_neighbors(local: Locals, frame: FrameType) -> list[Cells]:
    return [Cells(kind="no neighbors", mask=local["outlier_mask"])]


def _documents(local: Locals, frame: FrameType) -> list[Cells]:
    """Find the documents that are not texts, such as missing documents."""
    documents = np.asarray(local["raw_documents"], dtype=object)
    if not isinstance(local["self"].analyzer, str) or documents.ndim != 1:
        return []
    kinds = np.array([_kind_of_document(document) for document in documents], dtype=object)
    return [
        Cells(kind=kind, mask=_matrix(kinds == kind), values=[documents]) for kind in sorted(set(kinds.tolist()) - {""})
    ]


def _kind_of_document(document: Any) -> str:
    return "" if isinstance(document, str | bytes) else type(document).__name__


def _previously_seen(local: Locals, frame: FrameType) -> list[Cells]:
    """Find the labels that a `LabelEncoder` within another step was not fitted on."""
    values, known = local["values"], local["uniques"]
    mask = ~_check_unknown(values, known, return_mask=True)[1]

    def say(rows: Any) -> list[str]:
        quoted = (repr(value) if values.dtype.kind in "OUS" else [value] for value in values[rows])
        return [f"ValueError: y contains previously unseen labels: {value}" for value in quoted]

    return [Cells(kind="unknown", mask=_matrix(mask), values=[values], say=say, says_first=True)]


type Check = Callable[[Locals, FrameType], list[Cells]]

CHECKS: Mapping[tuple[str, str], Check] = MappingProxyType(
    {
        ("sklearn.utils.validation", "_assert_all_finite"): _finite,
        ("sklearn.utils.validation", "_ensure_sparse_format"): _finite_sparse,
        ("sklearn.utils.validation", "check_non_negative"): _non_negative,
        ("sklearn.utils.validation", "check_array"): _numbers,
        ("sklearn.preprocessing._encoders", "_transform"): _known_categories,
        ("sklearn.preprocessing._data", "_check_input"): _positive,
        ("sklearn.preprocessing._polynomial", "transform"): _within_knots,
        ("sklearn.metrics.pairwise", "additive_chi2_kernel"): _additive_chi2,
        ("sklearn.kernel_approximation", "transform"): _skewed_chi2,
        ("sklearn.naive_bayes", "_joint_log_likelihood"): _counted_categories,
        ("sklearn.impute._base", "transform"): _new_missing,
        ("sklearn.isotonic", "_transform"): _within_bounds,
        ("sklearn.neighbors._classification", "predict_proba"): _with_neighbors,
        ("sklearn.feature_extraction.text", "_count_vocab"): _documents,
        ("sklearn.feature_extraction.text", "transform"): _documents,
        ("sklearn.utils._encode", "_encode"): _previously_seen,
    }
)
"""The checks, by the module and the name of the function that raises the error, directly or in a call."""
