"""Which missing and infinite values an estimator does not take. Few tags tell, so it is asked by trying single rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from scoreline.tasks.scoring.features import Rejection, suspects

ROW_FAULTS = (ValueError, TypeError, ArithmeticError, LookupError, AttributeError)
"""What an estimator raises of rows that it cannot score."""
_BASES = 16
"""Rows tried at most for one that can be scored; each that cannot has to be found by bisection anyway."""

Score = Callable[[pa.RecordBatch], Any]


def refused(
    score: Score, batch: pa.RecordBatch, features: Sequence[str], learned: MutableMapping[Any, str]
) -> dict[int, Rejection]:
    """Find the rows with a missing or infinite value in a column where the estimator takes none.

    A value is refused where a row that can be scored cannot with that value in it, nor can the first and the last row
    of the batch that have it. What is taken in some rows and not in others is left to bisection.

    Parameters
    ----------
    score : callable
        Scores a batch, by the estimator and the method in question.
    batch : pyarrow.RecordBatch
        Holds `features`; at least one row of it fails.
    learned : mutable mapping
        What was found in other batches of the same columns, by this very function; grows. Never trusted alone: each
        batch's own rows are tried before they are rejected.
    """
    masks = suspects(batch, features)
    trial = _Trial(score=score, batch=batch, features=features, masks=masks)
    kinds = tuple((name, str(batch.column(name).type)) for name in features)
    rejected: dict[int, Rejection] = {}
    for (name, what), mask in masks.items():
        key = (kinds, name, what)
        if key not in learned:
            if trial.base is None:
                continue
            learned[key] = trial.with_value(name, int(np.argmax(mask)))
        rows = np.flatnonzero(mask)
        if learned[key] and any(trial.scores(int(row), name) for row in {rows[0], rows[-1]}):
            learned[key] = ""
        if learned[key]:
            message = f"{name!r} is {what}, which the model does not take: {learned[key]}"
            why = Rejection(stage="schema", column=name, message=message)
            rejected |= {int(row): why for row in rows if int(row) not in rejected}
    return rejected


def one_line(error: Exception) -> str:
    """Type and first line of an error: scikit-learn's go on with advice for whoever fits a model."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0].strip()}"


@dataclass(kw_only=True)
class _Trial:
    score: Score
    batch: pa.RecordBatch
    features: Sequence[str]
    masks: Mapping[tuple[str, str], Any]
    finite: dict[str, Any] = field(default_factory=dict)
    """By column that has suspects: where it has none."""

    def __post_init__(self) -> None:
        for (name, _), mask in self.masks.items():
            self.finite[name] = self.finite.get(name, True) & ~mask

    @cached_property
    def base(self) -> dict[str, pa.Array] | None:
        """One row that can be scored, without suspects: of the batch, or mended."""
        clean = np.all(list(self.finite.values()), axis=0)
        for row in [*_spread(np.flatnonzero(clean)), *_spread(np.flatnonzero(~clean))][:_BASES]:
            mended = self._row(row, but=None)
            if mended is not None and not self._fault(mended):
                return mended
        return None

    def with_value(self, name: str, row: int) -> str:
        """Why the base fails with the value that a row has in a column; empty where it does not."""
        if self.base is None:
            return ""
        return self._fault(self.base | {name: self.batch.column(name).slice(row, 1)})

    def scores(self, row: int, name: str) -> bool:
        """Whether a row can be scored as it is in one column, mended in the others."""
        mended = self._row(row, but=name)
        return mended is not None and not self._fault(mended)

    def _row(self, row: int, but: str | None) -> dict[str, pa.Array] | None:
        """One row, with finite values in the place of suspects."""
        columns = {}
        for name in self.features:
            column = self.batch.column(name)
            mend = name != but and name in self.finite and not self.finite[name][row]
            value = _finite(column, self.finite[name]) if mend else column.slice(row, 1)
            if value is None:
                return None
            columns[name] = value
        return columns

    def _fault(self, row: Mapping[str, pa.Array]) -> str:
        try:
            self.score(pa.record_batch(dict(row)))
        except ROW_FAULTS as error:
            return one_line(error)
        return ""


def _spread(rows: Any) -> list[int]:
    """Half of `_BASES` at most, from the first to the last."""
    if not len(rows):
        return []
    return [int(rows[n]) for n in np.unique(np.linspace(0, len(rows) - 1, _BASES // 2).astype(int))]


def _finite(column: pa.Array, finite: Any) -> pa.Array | None:
    """Return one finite value of a column, or a neutral one of its type where it has none."""
    if finite.any():
        return column.slice(int(np.argmax(finite)), 1)
    if pa.types.is_null(column.type):
        return pa.array([0.0])
    for neutral in (0, ""):
        try:
            return pa.array([neutral]).cast(column.type)
        except pa.ArrowException:
            continue
    return None
