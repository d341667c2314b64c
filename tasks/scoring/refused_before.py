"""Remembers which values the steps of a model refused, so that rows with such values are tried first in later batches.

A call with a whole batch fails at the first step that refuses a row, and the work of the earlier steps on all other
rows is lost. A call with only the rows that are expected to fail is cheap, and shows just as well which rows the step
refuses. The remembered values only decide which rows are tried first. Rejected rows, reasons and scores are the same as
in a process that remembers nothing (see `Search`).
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from scoreline.tasks.scoring.features import Rejection
from scoreline.tasks.scoring.refusals import SingleCalls

_MIN_ROWS = 2_048
"""Minimum number of rows in a batch for which refusals are expected. A call with fewer rows takes hardly longer than a
call with a single row."""
_TRIED_ROWS = 2_048
"""Number of rows of the first batch that are tried to learn what the model refuses."""
_LARGE_ROWS = 32_768
"""Number of rows from which a call of the whole batch costs so much that a few rows are tried first."""
_MAX_VALUES = 1_000
"""Maximum number of distinct values of a column to remember."""
_MAX_VALUE_BYTES = 1 << 20
"""Maximum memory for the remembered values of a column."""
_MAX_FEATURES = 32
"""Maximum number of features that are looked at if the column at fault is not known."""
_MAX_WRONG = 3
"""After this many consecutive batches that were not as expected, or taught nothing, no refusals are expected any
more."""
_MAX_MODELS = 64
"""Maximum number of models for which a process remembers values."""


@dataclass(frozen=True, kw_only=True)
class _Expectation:
    """Which values of a column are expected to be refused."""

    missing: bool = False
    """Whether nulls and NaN are expected to be refused."""
    low: float = -np.inf
    high: float = np.inf
    """Numbers below `low` and above `high` are expected to be refused."""
    infinite: bool = False
    """Whether infinities are expected to be refused."""
    sound: pa.Array | None = None
    """The accepted values, if these are few. All other values are expected to be refused."""
    refused: pa.Array | None = None
    """The refused values, if they are few and the accepted values are many."""

    def mask(self, column: pa.Array) -> Any:
        """Return a mask of the values that are expected to be refused, shape (n_rows,)."""
        mask = np.zeros(len(column), dtype=bool)
        if self.missing or self.sound is not None or self.refused is not None:
            missing = pc.is_null(column, nan_is_null=True).to_numpy(zero_copy_only=False)
            mask = missing.copy() if self.missing else mask
        numbers = _numbers(column) if self.infinite or np.isfinite([self.low, self.high]).any() else None
        if numbers is not None:
            if self.low > -np.inf:
                mask |= numbers < self.low
            if self.high < np.inf:
                mask |= numbers > self.high
            if self.infinite:
                mask |= np.isinf(numbers)
        for values, is_expected in ((self.sound, False), (self.refused, True)):
            if values is not None:
                found = pc.is_in(column, value_set=values).to_numpy(zero_copy_only=False)
                mask |= (found == is_expected) & ~missing
        return mask


@dataclass(kw_only=True)
class RefusedBefore:
    """The values that steps of one model refused in earlier batches."""

    _expected: dict[tuple[str, pa.DataType], _Expectation] = field(default_factory=dict)
    """The expectations, by name and type of the column."""
    _wrong: int = 0
    _is_new: bool = True
    """Whether no large batch of the model has been scored."""
    _job_id: str | None = None
    """The job of which the last part was scored."""

    def begins(self, job_id: str) -> bool:
        """Return whether this process scores its first part of a job, except for parts of other jobs in between."""
        is_same, self._job_id = self._job_id == job_id, job_id
        return not is_same

    def rows_to_try(self, rows: Any, single_calls: SingleCalls) -> Any:
        """Return the rows of a batch that are to be tried first.

        These are some rows of the model's first large batch, and of the first large batch of each later job, unless
        refusals are expected.
        """
        of_job = single_calls.job_begins and not self._expected and self._wrong < _MAX_WRONG
        if len(rows) < _LARGE_ROWS or not (self._is_new or of_job):
            return rows[:0]
        self._is_new = single_calls.job_begins = False
        return rows[:_TRIED_ROWS]

    @property
    def expects_missing(self) -> bool:
        """Whether missing values are expected to be refused."""
        return any(expectation.missing for expectation in list(self._expected.values()))

    def expected(self, batch: pa.RecordBatch) -> Any:
        """Return a mask of the rows of a batch that are expected to be refused; None if there are none."""
        if batch.num_rows < _MIN_ROWS or self._wrong >= _MAX_WRONG:
            return None
        mask = np.zeros(batch.num_rows, dtype=bool)
        try:
            for (name, kind), expectation in list(self._expected.items()):  # another thread may add an entry meanwhile
                column = batch.column(name) if name in batch.schema.names else None
                if column is not None and column.type.equals(kind):
                    mask |= expectation.mask(_decoded(column))
        except _UNSUPPORTED:
            return None
        return mask if 0 < np.count_nonzero(mask) <= batch.num_rows // 2 else None

    def were(self, *, right: bool) -> None:
        """Record whether the expected rows were roughly those that the steps of the model refused in a batch."""
        self._wrong = 0 if right else self._wrong + 1
        if self._wrong >= _MAX_WRONG:
            self._expected.clear()

    def learn(
        self, batch: pa.RecordBatch, features: Sequence[str], refused: Mapping[int, Rejection], scored: Any
    ) -> bool:
        """Remember the values that distinguish the refused rows of a batch from those that were scored.

        Return True if such values were found, or if the batch was too small to look for them.

        Parameters
        ----------
        batch : pyarrow.RecordBatch
            The columns `features`, and possibly others.
        refused : mapping of int to Rejection
            The rows that steps refused. If the column at fault is not known, any feature may distinguish them from the
            scored rows.
        scored : ndarray of int
            Numbers of the rows that were scored.
        """
        if batch.num_rows < _MIN_ROWS or self._wrong >= _MAX_WRONG or not len(scored):
            return True
        by_column: dict[str | None, list[int]] = {}
        learned = False
        for row, why in refused.items():
            by_column.setdefault(why.column, []).append(row)
        for at_fault, rows in by_column.items():
            for name in features[:_MAX_FEATURES] if at_fault is None else [at_fault]:
                key = (name, batch.schema.field(name).type)
                try:
                    found = _distinguish(_decoded(batch.column(name)), np.array(rows), scored, self._expected.get(key))
                except _UNSUPPORTED:
                    continue
                if found is not None:
                    self._expected[key] = found
                    learned = True
                    break
        return learned


_UNSUPPORTED = (pa.ArrowException, NotImplementedError)
"""The exceptions that Arrow raises for types whose values it cannot compare, such as lists."""


def _distinguish(column: pa.Array, refused: Any, scored: Any, before: _Expectation | None) -> _Expectation | None:
    """Return a simple rule that tells refused values from scored values; None if there is no such rule."""
    before = before or _Expectation()
    missing = pc.is_null(column, nan_is_null=True).to_numpy(zero_copy_only=False)
    others = refused[~missing[refused]]
    if len(others) < len(refused) and missing[scored].any():
        return None
    is_missing = before.missing or len(others) < len(refused)
    if not len(others):
        return _Expectation(**(vars(before) | {"missing": True}))
    scored = scored[~missing[scored]]
    numbers = _numbers(column)
    if numbers is not None:  # do not remember single numbers: later batches mostly contain other numbers
        beyond = _beyond(numbers[others], numbers[scored], before) if len(scored) else None
        return None if beyond is None else _Expectation(**(vars(before) | beyond | {"missing": is_missing}))
    sound, values = pc.unique(column.take(pa.array(scored))), pc.unique(column.take(pa.array(others)))
    if pc.any(pc.is_in(values, value_set=sound)).as_py():
        return None
    sound = sound if before.sound is None else pc.unique(pa.concat_arrays([before.sound, sound]))
    if _are_few(sound):
        return _Expectation(**(vars(before) | {"sound": sound, "missing": is_missing}))
    values = values if before.refused is None else pc.unique(pa.concat_arrays([before.refused, values]))
    if _are_few(values):
        return _Expectation(**(vars(before) | {"refused": values, "sound": None, "missing": is_missing}))
    return None


def _are_few(values: pa.Array) -> bool:
    return len(values) <= _MAX_VALUES and values.nbytes <= _MAX_VALUE_BYTES


def _beyond(refused: Any, scored: Any, before: _Expectation) -> dict[str, Any] | None:
    """Return limits between refused and scored numbers; None if there are no such limits."""
    least, greatest = float(scored.min()), float(scored.max())
    finite = refused[np.isfinite(refused)]
    below, above = finite[finite < least], finite[finite > greatest]
    if len(below) + len(above) < len(finite) or np.isinf([least, greatest]).any():
        return None
    limits: dict[str, Any] = {"infinite": before.infinite or len(finite) < len(refused)}
    span = greatest - least
    if len(below):
        low = least - min(span, (least - float(below.max())) / 2)
        limits["low"] = max(before.low, low) if before.low <= least else low
    if len(above):
        high = greatest + min(span, (float(above.min()) - greatest) / 2)
        limits["high"] = min(before.high, high) if before.high >= greatest else high
    return limits


def _decoded(column: pa.Array) -> pa.Array:
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _numbers(column: pa.Array) -> Any | None:
    """Return a column of numbers as an array, with NaN for nulls; None for any other column."""
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        return column.to_numpy(zero_copy_only=False)
    return None


@dataclass(kw_only=True)
class RefusedByModel:
    """The values that the steps of models refused in this process, by model and features."""

    _models: OrderedDict[tuple[str, ...], RefusedBefore] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def of(self, manifest_sha256: str, features: Sequence[str]) -> RefusedBefore:
        """Return the values that the steps of a model have refused so far."""
        key = (manifest_sha256, *features)
        with self._lock:
            found = self._models.setdefault(key, RefusedBefore())
            self._models.move_to_end(key)
            while len(self._models) > _MAX_MODELS:
                self._models.popitem(last=False)
            return found
