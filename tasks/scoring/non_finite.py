"""Finds rows that fail because the estimator does not accept a missing or infinite value in them.

Few estimators declare in their tags which of these values they accept. Therefore single rows are scored to find out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from scoreline.tasks.scoring.features import non_finite_masks
from scoreline.tasks.scoring.model_calls import first_line, is_about_rows
from scoreline.tasks.scoring.rejected_rows import RowsAlike

_MAX_BASES = 16
"""Maximum number of rows to try in search of a row that can be scored, if no row of the batch was scored."""


@dataclass(kw_only=True)
class Trials:
    """Scores trial rows. A trial row is a row that can be scored, except that some of its values come from another row.

    The results explain why rows fail, and help to find rows that fail for the same reason. A trial alone never rejects
    a row of the batch.

    Parameters
    ----------
    score : callable
        Scores a batch with the estimator and the method of the job.
    batch : pyarrow.RecordBatch
        The columns `features`, and possibly others.
    """

    score: Callable[[pa.RecordBatch], Any]
    batch: pa.RecordBatch
    features: Sequence[str]
    scored: int | None = None
    """Number of a row that is known to be scored; None if no such row is known."""
    known: dict[tuple[str, int, int | None], str] = field(default_factory=dict)
    """Error messages of trial rows that were scored with other rows (see `Probe`), by feature, row and `scored`."""
    _reasons: dict[tuple[str, str], str] = field(default_factory=dict)
    _masks: dict[str, Mapping[str, Any]] = field(default_factory=dict)

    @cached_property
    def masks(self) -> Mapping[tuple[str, str], Any]:
        """Masks of the rows with a missing or infinite value, by feature and kind of value."""
        return {(name, what): mask for name in self.features for what, mask in self.masks_of(name).items()}

    def masks_of(self, name: str) -> Mapping[str, Any]:
        """Return the masks of the rows with a missing or infinite value in a feature, by kind of value."""
        if name not in self._masks:
            self._masks[name] = {what: mask for (_, what), mask in non_finite_masks(self.batch, [name]).items()}
        return self._masks[name]

    @cached_property
    def clean(self) -> Any:
        """Mask of the rows in which every feature is finite."""
        return np.logical_and.reduce([~mask for mask in self.masks.values()] or [np.full(self.batch.num_rows, True)])

    @cached_property
    def base(self) -> dict[str, pa.Array] | None:
        """A row with only finite values that can be scored: a row of the batch, or a row with imputed values."""
        if self.scored is not None and self.clean[self.scored]:
            return self._impute(self.scored)
        scored = [] if self.scored is None else [self.scored]
        candidates = [
            *scored,
            *_evenly_spaced(np.flatnonzero(self.clean)),
            *_evenly_spaced(np.flatnonzero(~self.clean)),
        ]
        for number in candidates[:_MAX_BASES]:
            row = self._impute(number)
            if row is not None and not self._failure(row):
                return row
        return None

    def with_values(self, names: Iterable[str], row: int) -> str:
        """Copy values of a row into `base`, score it, and return the error message; empty if there is no error."""
        names = list(names)
        if len(names) == 1 and (said := self.known.get((names[0], row, self.scored))):
            return said
        if self.base is None:
            return ""
        return self._failure(self.base | {name: self.batch.column(name).slice(row, 1) for name in names})

    def explain(self, rows: Any, masks: Mapping[tuple[str, str], Any]) -> list[RowsAlike]:
        """Return the rows that fail because of a missing or infinite value, with the reason.

        A value is the reason if `base`, which can be scored, fails once it has this value in the same column.

        Parameters
        ----------
        rows : ndarray of int
            Numbers of the failing rows.
        masks : mapping of (str, str) to ndarray of bool, shape (n_rows,)
            The masks of missing or infinite values with which no row was scored. The model accepts every other missing
            or infinite value.
        """
        found: list[RowsAlike] = []
        left = np.zeros(self.batch.num_rows, dtype=bool)
        left[rows] = True
        for (name, what), mask in masks.items():
            holding = rows[mask[rows]]
            if not len(holding):
                continue
            reason = self._reasons.get((name, what)) or self.with_values([name], int(holding[0]))
            if reason:
                self._reasons[name, what] = reason
                own = holding[left[holding]]
                left[own] = False
                message = self.message(name, what, reason)
                found.append(RowsAlike(own, np.zeros(len(own), dtype=np.int64), "schema", name, [message]))
        return found

    @staticmethod
    def message(name: str, what: str, reason: str) -> str:
        """Return the message about a row with a missing or infinite value that the model does not accept."""
        return f"{name!r} is {what}, which the model does not take: {reason}"

    @cached_property
    def _finite(self) -> dict[str, Any]:
        """Masks of the rows with a finite value, for columns that also have missing or infinite values."""
        finite: dict[str, Any] = {}
        for (name, _), mask in self.masks.items():
            finite[name] = finite.get(name, True) & ~mask
        return finite

    def _impute(self, row: int) -> dict[str, pa.Array] | None:
        """Return a row of the batch with its missing and infinite values replaced by finite ones."""
        columns = {}
        for name in self.features:
            column = self.batch.column(name)
            replace = name in self._finite and not self._finite[name][row]
            value = _finite_value(column, self._finite[name]) if replace else column.slice(row, 1)
            if value is None:
                return None
            columns[name] = value
        return columns

    def _failure(self, row: Mapping[str, pa.Array]) -> str:
        """Score a row, and return the error message; empty if there is no error."""
        try:
            fields = [self.batch.schema.field(name).with_type(column.type) for name, column in row.items()]
            self.score(pa.RecordBatch.from_arrays(list(row.values()), schema=pa.schema(fields)))
        except Exception as error:
            if not is_about_rows(error):
                raise
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
