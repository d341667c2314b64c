"""Rows in, scores out. No I/O, no clock."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from storage.errors import InputError, ScoringError
from storage.models.bundle import Bundle
from tasks.methods import call, choose

_ROW_FAULTS = (ValueError, TypeError, ArithmeticError, LookupError)


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What became of a batch."""

    table: pa.Table
    """Kept columns and scores of the rows that could be scored, in input order."""
    rejected: dict[int, str]
    """Reasons by row number within the batch."""


def score_batch(
    bundle: Bundle,
    batch: pa.RecordBatch,
    *,
    features: Sequence[str],
    keep: Sequence[str],
    method: str | None,
    max_rejected: int | None = None,
) -> Scored:
    """Score one batch; a row that makes the estimator fail is found by bisection and rejected alone.

    Parameters
    ----------
    bundle : Bundle
        What scores.
    batch : pyarrow.RecordBatch
        Holds `features` and `keep`; nulls of a feature become NaN. May be empty.
    features : sequence of str
        Columns to score, in the model's order.
    keep : sequence of str
        Columns to carry over.
    method : str, optional
        One of `METHODS`; by default what `tasks.methods.choose` says.
    max_rejected : int, optional
        Rows after which looking for more is idle: the job is over its budget. A rejected row of a 64k batch costs some
        17 calls of the estimator.

    Raises
    ------
    ScoringError
        More than `max_rejected` rows failed; the message shows the first.
    """
    x = to_features(batch, features, named=bundle.manifest.feature_names is not None)
    pieces: list[dict[str, Any]] = []
    rejected: dict[int, str] = {}
    pending = [(0, batch.num_rows)] if batch.num_rows else []
    while pending:
        start, stop = pending.pop()
        try:
            pieces.append(outputs(bundle, x[start:stop], method))
        except _ROW_FAULTS as error:
            if stop - start > 1:
                middle = (start + stop) // 2
                pending += [(middle, stop), (start, middle)]
                continue
            rejected[start] = _reason(error)
            if max_rejected is not None and len(rejected) > max_rejected:
                row, reason = next(iter(rejected.items()))
                raise ScoringError(
                    f"more rows cannot be scored than the {max_rejected} that may be rejected; the first is row {row} "
                    f"of a batch of {batch.num_rows}: {reason}"
                ) from error
    kept = pa.Table.from_batches([batch]).select(list(keep))
    if rejected:
        kept = kept.filter(pa.array([row not in rejected for row in range(batch.num_rows)]))
    if not pieces:
        return Scored(table=kept, rejected=rejected)
    for name in pieces[0]:
        if name in kept.column_names:
            raise InputError(f"the kept column {name!r} has the name of an output: leave it out with --keep")
        kept = kept.append_column(name, _to_arrow(np.concatenate([piece[name] for piece in pieces])))
    return Scored(table=kept, rejected=rejected)


def _reason(error: Exception) -> str:
    """Type and first line of an error: scikit-learn's go on with advice for whoever fits a model."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0].strip()}"


def outputs(bundle: Bundle, x: Any, method: str | None) -> dict[str, Any]:
    """Score features that fit in memory.

    Parameters
    ----------
    x : DataFrame or ndarray, shape (n_rows, n_features)
        At least one row.

    Returns
    -------
    dict of str to ndarray, shape (n_rows,)
        As `tasks.methods` names them, in front of each ``<model>_`` where the bundle has several.
    """
    x = bundle.prepare(x)
    columns: dict[str, Any] = {}
    for name, model in bundle.models.items():
        prefix = "" if len(bundle.models) == 1 else f"{name}_"
        offered = bundle.manifest.outputs[name]
        for chosen in choose(name, offered, method):
            found = call(model, chosen, x, offered, bundle.label_encoder)
            columns |= {f"{prefix}{column}": values for column, values in found.items()}
    return columns


def to_features(batch: pa.RecordBatch, features: Sequence[str], *, named: bool) -> Any:
    """Return the features as the estimator was given them: a DataFrame where it knows names, else an array.

    Numeric columns of different types become their common NumPy type; integers with nulls become float64.
    """
    columns = [batch.column(name) for name in features]
    if all(_numeric(column.type) for column in columns):
        arrays = [column.to_numpy(zero_copy_only=False) for column in columns]
        x = np.empty((batch.num_rows, len(arrays)), dtype=np.result_type(*arrays))
        for number, array in enumerate(arrays):
            x[:, number] = array
        return _Rows(pd.DataFrame(x, columns=list(features), copy=False)) if named else x
    return _Rows(pa.table(dict(zip(features, columns, strict=True))).to_pandas())


class _Rows:
    """Slices a DataFrame by row position, as an array does."""

    def __init__(self, frame: pd.DataFrame) -> None:
        self._frame = frame

    def __getitem__(self, rows: slice) -> pd.DataFrame:
        return self._frame.iloc[rows]


def _numeric(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind))


def _to_arrow(column: Any) -> pa.Array:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return pa.array(column.astype(str) if column.dtype.kind == "U" else column)
