"""Finds out which missing and infinite values an estimator does not accept.

Few estimators declare this in their tags, so it is determined by scoring single rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from scoreline.tasks.scoring.features import Rejection, non_finite_masks

ROW_ERRORS = (ValueError, TypeError, ArithmeticError, LookupError, AttributeError)
"""The errors that an estimator raises for rows that it cannot score."""
_MAX_BASES = 16
"""Maximum number of rows to try in search of one that can be scored. If all of them fail, bisection has to find each
failing row anyway."""

Score = Callable[[pa.RecordBatch], Any]


def reject_non_finite(
    score: Score, batch: pa.RecordBatch, features: Sequence[str], learned: MutableMapping[Any, str]
) -> dict[int, Rejection]:
    """Find the rows with a missing or infinite value that the estimator does not accept in that column.

    To test a value, it is put into a row that can be scored. The estimator does not accept the value if that row then
    fails, and if the first and the last row of the batch with the value fail too. A value that fails in only some rows
    is left to bisection.

    Parameters
    ----------
    score : callable
        Scores a batch with the estimator and the method in question.
    batch : pyarrow.RecordBatch
        The columns `features`, and possibly others. At least one row fails.
    learned : mutable mapping
        Findings of this function from earlier batches of the same columns; new ones are added. They are always
        confirmed: in each batch, the first and the last such row are tried before any row is rejected.

    Returns
    -------
    dict of int to Rejection
        The rejected rows, by row number within the batch.
    """
    masks = non_finite_masks(batch, features)
    trial = _Trial(score=score, batch=batch, features=features, masks=masks)
    types = tuple((name, str(batch.column(name).type)) for name in features)
    rejected: dict[int, Rejection] = {}
    for (name, what), mask in masks.items():
        key = (types, name, what)
        if key not in learned:
            if trial.base is None:
                continue
            learned[key] = trial.with_value(name, int(np.argmax(mask)))
        rows = np.flatnonzero(mask)
        if learned[key] and any(trial.scores(int(row), name) for row in {rows[0], rows[-1]}):
            learned[key] = ""
        if learned[key]:
            message = f"{name!r} is {what}, which the model does not take: {learned[key]}"
            rejection = Rejection(stage="schema", column=name, message=message)
            rejected |= {int(row): rejection for row in rows if int(row) not in rejected}
    return rejected


def first_line(error: Exception) -> str:
    """Return the type and the first line of an error. In scikit-learn, the other lines give advice on fitting."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0].strip()}"


@dataclass(kw_only=True)
class _Trial:
    """Scores single rows of a batch, with some of their missing and infinite values replaced."""

    score: Score
    batch: pa.RecordBatch
    features: Sequence[str]
    masks: Mapping[tuple[str, str], Any]
    finite: dict[str, Any] = field(default_factory=dict)
    """Masks of the rows with a finite value, for columns that also have missing or infinite values."""

    def __post_init__(self) -> None:
        for (name, _), mask in self.masks.items():
            self.finite[name] = self.finite.get(name, True) & ~mask

    @cached_property
    def base(self) -> dict[str, pa.Array] | None:
        """A row with only finite values that can be scored. It is a row of the batch, or one with imputed values."""
        clean = np.all(list(self.finite.values()), axis=0)
        candidates = [*_evenly_spaced(np.flatnonzero(clean)), *_evenly_spaced(np.flatnonzero(~clean))]
        for number in candidates[:_MAX_BASES]:
            row = self._impute(number, keep=None)
            if row is not None and not self._failure(row):
                return row
        return None

    def with_value(self, name: str, row: int) -> str:
        """Copy one value of a row into the base, and return why the base then fails; empty if it does not fail."""
        if self.base is None:
            return ""
        return self._failure(self.base | {name: self.batch.column(name).slice(row, 1)})

    def scores(self, row: int, name: str) -> bool:
        """Return whether a row can be scored with its own value in one column and imputed values in the others."""
        imputed = self._impute(row, keep=name)
        return imputed is not None and not self._failure(imputed)

    def _impute(self, row: int, keep: str | None) -> dict[str, pa.Array] | None:
        """Return a row with its missing and infinite values replaced, except in one column."""
        columns = {}
        for name in self.features:
            column = self.batch.column(name)
            replace = name != keep and name in self.finite and not self.finite[name][row]
            value = _finite_value(column, self.finite[name]) if replace else column.slice(row, 1)
            if value is None:
                return None
            columns[name] = value
        return columns

    def _failure(self, row: Mapping[str, pa.Array]) -> str:
        """Return why a row cannot be scored; empty if it can be."""
        try:
            fields = [self.batch.schema.field(name).with_type(column.type) for name, column in row.items()]
            self.score(pa.RecordBatch.from_arrays(list(row.values()), schema=pa.schema(fields)))
        except ROW_ERRORS as error:
            return first_line(error)
        return ""


def _evenly_spaced(rows: Any) -> list[int]:
    """Return at most half of `_MAX_BASES` row numbers, evenly spaced from the first to the last."""
    if not len(rows):
        return []
    return [int(rows[n]) for n in np.unique(np.linspace(0, len(rows) - 1, _MAX_BASES // 2).astype(int))]


def _finite_value(column: pa.Array, finite: Any) -> pa.Array | None:
    """Return a finite value of a column, or else a neutral value of its type; None if its type has no such value."""
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
