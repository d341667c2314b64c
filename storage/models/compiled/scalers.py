"""Compiles the scalers of scikit-learn: plain rows are looked at and scaled in one pass by the extension `_scale`.

If anything about the rows might be refused or give a warning, scikit-learn validates and scales them as always.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, RobustScaler, StandardScaler
from sklearn.utils._set_output import _wrap_data_with_container  # private: `compiling.KNOWN_VERSIONS` have it

from scoreline.storage.kept_memory import empty_matrix
from scoreline.storage.models.compiled import _scale
from scoreline.storage.models.compiled.compiled_estimators import Uses
from scoreline.storage.models.compiled.plain_rows import Rows, plain_rows
from scoreline.storage.models.compiled.replacing import own_method
from scoreline.storage.models.compiled.trees import NotPackable

_FLOATS = (np.dtype(np.float64), np.dtype(np.float32))
_MAX_FEATURES = 16_384
"""Maximum number of features. Rows with more of them are mostly sparse, as those of a `HashingVectorizer` are, and are
left to scikit-learn. Comparing so wide a scaler would take hundreds of megabytes."""
_ROW_VALUES = 256
"""Number of values for which the numbers of the features are repeated, so that rows of few features are scaled as fast
as others."""
_LARGEST = {np.dtype(np.float64): 2.0**960, np.dtype(np.float32): 2.0**88}
"""Values below these never add up to infinity, which scikit-learn and NumPy might warn of."""


type Pair = tuple[npt.NDArray[Any], npt.NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class Formula:
    """What a scaler computes: ``(x - first) / second`` or, if it stretches, ``x * first + second``."""

    numbers: Pair
    """The first and the second number of each feature."""
    stretches: bool = False
    ends: tuple[float, float] = (-math.inf, math.inf)
    """Between which numbers results are clipped."""


def _standard(model: Any, kind: np.dtype[Any]) -> Formula:
    """Return the formula of a `StandardScaler`, which converts its numbers to the type of the rows."""
    center = model.mean_.astype(kind, copy=False) if model.with_mean else None
    return _centered(model, center, model.scale_.astype(kind, copy=False) if model.with_std else None)


def _robust(model: Any, kind: np.dtype[Any]) -> Formula:
    center = model.center_ if model.with_centering else None
    return _centered(model, center, model.scale_ if model.with_scaling else None)


def _max_abs(model: Any, kind: np.dtype[Any]) -> Formula:
    return replace(_centered(model, None, model.scale_), ends=(-1.0, 1.0) if model.clip else Formula.ends)


def _centered(model: Any, center: Any, scale: Any) -> Formula:
    """Subtract 0 and divide by 1 where a scaler does neither. This changes no bit of a number."""
    first = np.zeros(model.n_features_in_, np.float32) if center is None else center
    return Formula(numbers=(first, np.ones(model.n_features_in_, np.float32) if scale is None else scale))


def _min_max(model: Any, kind: np.dtype[Any]) -> Formula:
    least, most = (float(np.asarray(end, kind)) for end in model.feature_range)
    ends = (least, most) if model.clip else Formula.ends
    return Formula(numbers=(model.scale_, model.min_), stretches=True, ends=ends)


_FORMULAS: dict[type, Callable[[Any, np.dtype[Any]], Formula]] = {
    StandardScaler: _standard,
    RobustScaler: _robust,
    MinMaxScaler: _min_max,
    MaxAbsScaler: _max_abs,
}


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """Scales rows of one type by a formula."""

    formula: Formula
    repeated: Pair
    """The numbers of all features, again and again."""
    limit: float
    """Values from this one on are left to scikit-learn, so that no result overflows."""

    @classmethod
    def of(cls, formula: Formula, kind: np.dtype[Any], n_features: int) -> Self | None:
        """Return what scales rows of a type, or None if their results could overflow anyway."""
        for one in formula.numbers:
            if type(one) is not np.ndarray or one.shape != (n_features,) or one.dtype not in _FLOATS:
                raise NotPackable("its numbers are not float64 or float32, one for each feature")
        precise = np.result_type(kind, *formula.numbers)  # float64, unless all are float32
        first, second = (np.ascontiguousarray(one, precise) for one in formula.numbers)
        limit = _limit(first, second, formula.stretches, kind)
        if not limit or any(map(math.isnan, formula.ends)):
            return None
        repeats = -(-_ROW_VALUES // n_features)
        repeated = (np.tile(first, repeats), np.tile(second, repeats)) if repeats > 1 else (first, second)
        return cls(formula=replace(formula, numbers=(first, second)), repeated=repeated, limit=limit)

    @property
    def nbytes(self) -> int:
        """Memory of the numbers."""
        return sum({id(one): one.nbytes for one in (*self.formula.numbers, *self.repeated)}.values())

    def scale(self, x: Rows) -> npt.NDArray[Any] | None:
        """Return scaled rows in a new array with the memory order of `x`, or None if scikit-learn has to scale them."""
        if isinstance(x, list) and len(x) == 1:
            x = x[0].reshape(-1, 1)
        if isinstance(x, list):
            return self._by_column(x) if len(x[0]) > 1 else None  # a single row may have other strides
        if x.flags.c_contiguous:
            scaled: npt.NDArray[Any] = empty_matrix(len(x), x.shape[1], x.dtype, "C")
            return scaled if self._fill(scaled.reshape(-1), x.reshape(-1), self.repeated) else None
        return self._by_column(x.T) if x.flags.f_contiguous else None

    def _by_column(self, columns: Rows) -> npt.NDArray[Any] | None:
        scaled: npt.NDArray[Any] = empty_matrix(len(columns[0]), len(columns), columns[0].dtype, "F")
        return scaled if self._fill(scaled.T, columns, self.formula.numbers) else None

    def _fill(self, out: npt.NDArray[Any], x: Rows, numbers: Pair) -> bool:
        least, most = self.formula.ends
        return _scale.scale(x, out, *numbers, self.limit, least, most, self.formula.stretches)


def _limit(first: npt.NDArray[Any], second: npt.NDArray[Any], stretches: bool, kind: np.dtype[Any]) -> float:
    """Return a power of two such that neither step overflows for values below it, or 0 if there is none."""
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        return 0.0
    most_first, most_second, least_second = np.abs(first).max(), np.abs(second).max(), np.abs(second).min()
    quarter = float(np.finfo(kind).max) / 4
    if stretches:
        limit, fits = quarter / max(float(most_first), 1.0), most_second <= quarter
    else:
        limit = quarter * min(float(least_second), 1.0)
        fits = most_first <= limit
    _, exponent = math.frexp(min(limit, _LARGEST[kind]))
    return float(kind.type(math.ldexp(0.5, exponent))) if fits and limit else 0.0


def _transform(model: Any, scalings: Mapping[np.dtype[Any], Scaling]) -> Callable[..., Any]:
    """Return a method ``transform`` that scales plain rows in one pass, and all others as scikit-learn does."""

    def transform(X: Any, *arguments: Any, **params: Any) -> Any:
        rows = None if arguments or params else plain_rows(model, X)
        if rows is not None:
            scaling = scalings.get((rows[0] if isinstance(rows, list) else rows).dtype)
            scaled = None if scaling is None else scaling.scale(rows)
            if scaled is not None:
                Uses.count += 1
                return _wrap_data_with_container("transform", scaled, X, model)
        return own_method(model, "transform")(X, *arguments, **params)

    return transform


def is_scaler(value: Any) -> bool:
    """Return whether objects of this class can be compiled."""
    return type(value) in _FORMULAS


def compile_scaler(scaler: Any) -> tuple[Mapping[str, Any], Mapping[np.dtype[Any], Scaling]]:
    """Return the methods that replace those of a fitted scaler, and what scales rows of each type.

    Raises
    ------
    NotPackable
        The scaler cannot be compiled. The message says why, after "because".
    """
    if not scaler.copy:
        raise NotPackable("it changes the rows themselves")
    try:
        if scaler.n_features_in_ > _MAX_FEATURES:
            raise NotPackable(f"rows of so many features ({scaler.n_features_in_:,}) are not compared")
        with np.errstate(over="ignore"):
            found = {kind: _FORMULAS[type(scaler)](scaler, kind) for kind in _FLOATS}
        scalings = {kind: Scaling.of(formula, kind, scaler.n_features_in_) for kind, formula in found.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise NotPackable(f"its fitted state is not as expected ({type(error).__name__}: {error})") from error
    usable = {kind: scaling for kind, scaling in scalings.items() if scaling is not None}
    if not usable:
        raise NotPackable("its numbers are missing, infinite, too large or too small")
    return {"transform": _transform(scaler, usable)}, usable
