"""Divides a batch into rows to score and rows whose scores are known, and puts their results together again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from scoreline.tasks.scoring.rejected_rows import RejectedRows


@dataclass(frozen=True, kw_only=True)
class Found:
    """Scores that are known."""

    rows: Any
    """Numbers of rows of the batch: ndarray of int64."""
    places: Any
    """For each of them, the place of its scores in `scores`: ndarray of int64."""
    scores: pa.Table = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Split:
    """A batch of which some scores are known."""

    batch: pa.RecordBatch
    """The rows, in order."""
    describe_row: Callable[[int], str]
    """Returns the object and the row number of a row of the batch."""
    hashes: tuple[Any, Any]
    found: Sequence[Found]
    keep: Sequence[str]
    outputs: pa.Schema

    @property
    def carried(self) -> int:
        """Number of rows whose scores are known."""
        return sum(len(one.rows) for one in self.found)

    @cached_property
    def numbers(self) -> Any:
        """Numbers of the rows to score: ndarray of int64."""
        is_left = np.ones(self.batch.num_rows, bool)
        for one in self.found:
            is_left[one.rows] = False
        return np.flatnonzero(is_left)

    @property
    def rows(self) -> pa.RecordBatch:
        """The rows to score, in order."""
        if not self.found:
            return self.batch
        return self.batch.take(pa.array(self.numbers))

    def describe(self, row: int) -> str:
        """Return the object and the row number of a row to score ."""
        return self.describe_row(int(self.numbers[row]))

    def joined(self, scored: pa.Table | None, rejected: RejectedRows) -> tuple[pa.Table | None, RejectedRows]:
        """Return the results and the rejected rows of the whole batch, as if all rows had been scored.

        Parameters
        ----------
        scored : pyarrow.Table, optional
            The results of `rows` in the planned schema; None if none could be scored.
        rejected : RejectedRows
            The rejected rows among `rows`.
        """
        if not self.found:
            return scored, rejected
        rejected = rejected.among(self.numbers)
        fresh = np.delete(self.numbers, np.searchsorted(self.numbers, rejected.rows))
        is_scored = np.ones(self.batch.num_rows, bool)
        is_scored[rejected.rows] = False
        tables = [one.scores.take(pa.array(one.places)) for one in self.found]
        if scored is not None:
            tables.insert(0, scored.select(self.outputs.names))
        from_row = np.empty(len(is_scored), np.int64)
        from_row[np.concatenate([fresh, *(one.rows for one in self.found)])] = np.arange(int(is_scored.sum()))
        scores = pa.concat_tables(tables).take(pa.array(from_row[is_scored]))
        results = pa.Table.from_batches([self.batch.select(list(self.keep))])
        if len(rejected):
            results = results.filter(pa.array(is_scored))
        for name in self.outputs.names:
            results = results.append_column(name, scores.column(name))
        return results, rejected
