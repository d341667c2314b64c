"""Sorts the rows of a batch so that rows that a model cannot score are next to each other.

Rows with missing or infinite values come last, grouped by the columns of these values. The order of all other rows is
learned from failing rows. This module determines for each failing row which column makes it fail. Rows with a similar
value in this column are then tried first: the same value, a rare category, or a number at the same end of the range.
The order affects only the number of calls that the search for failing rows needs (see `search`), not the result of the
search.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from scoreline.tasks.scoring.model_calls import first_line
from scoreline.tasks.scoring.non_finite import Trials

_MAX_LESSONS = 32
"""Maximum number of failing rows of a batch to learn from. Each of these rows costs a few calls and one sort of the
rows."""


@dataclass(kw_only=True)
class Suspects:
    """Sorts the rows of one batch.

    Parameters
    ----------
    trials : Trials
        Scores single rows in order to find the column that makes a row fail.
    blame : callable
        Returns the column that an error message about a row refers to, or None.
    """

    trials: Trials
    blame: Callable[[int, str], str | None]
    _lessons: int = 0
    _failed: dict[str, list[int]] = field(default_factory=dict)
    """Rows that failed, by the column that made them fail."""
    _ranks: dict[str, Any] = field(default_factory=dict)

    def first(self, rows: Any) -> tuple[Any, int]:
        """Return the rows, with missing or infinite values last, and the number of rows to try first."""
        finite = int(np.count_nonzero(self._groups[rows] == 0))
        size = finite if 0 < finite < len(rows) else max(1, len(rows) // 2)
        return rows[np.argsort(self._groups[rows], kind="stable")], size

    def learn(self, failed: int, error: Exception, scored: int | None) -> bool:
        """Find the column that makes a row fail. Return whether the rows can be sorted by this column."""
        if self._groups[failed] or self._lessons == _MAX_LESSONS:
            return False
        self._lessons += 1
        self.trials.scored = scored
        name = self.blame(failed, first_line(error)) or (None if scored is None else self._find_column(failed))
        if name is None:
            return False
        self._failed.setdefault(name, []).append(failed)
        rank = _rank(self.trials.batch.column(name), self._failed[name])
        if rank is None:
            return False
        self._ranks[name] = rank
        return True

    def sort(self, rows: Any) -> Any:
        """Return rows with the most suspicious first. A row is as suspicious as its most suspicious value."""
        suspicion = np.minimum.reduce([rank[rows] for rank in self._ranks.values()])
        return rows[np.lexsort((suspicion, self._groups[rows]))]

    @cached_property
    def _groups(self) -> Any:
        """The group of each row: 0 if all its values are finite, otherwise one group per set of non-finite columns."""
        pattern = np.zeros(self.trials.batch.num_rows, dtype=np.uint64)
        for mask in self.trials.masks.values():
            pattern = pattern * np.uint64(1_000_003) + mask.astype(np.uint64)
        groups = np.unique(pattern, return_inverse=True)[1] + 1
        groups[self.trials.clean] = 0
        return groups

    def _find_column(self, failed: int) -> str | None:
        """Return the column whose value alone makes a row fail, or None if there is no such column.

        This is a binary search: each trial uses half of the remaining columns.
        """
        names = list(self.trials.features)
        while len(names) > 1:
            half = len(names) // 2
            for tried in (names[:half], names[half:]):
                if self.trials.with_values(tried, failed):
                    names = tried
                    break
            else:
                return None
        return names[0]


def _rank(column: pa.Array, failed: list[int]) -> Any | None:
    """Return a rank for each row, by which rows like the failed ones come first; None for a type without an order.

    Low ranks are tried first. Rows with the same value as a failed row have the lowest ranks. Other numbers and times
    follow in order, from the end of the range that is closer to the last failed row. Values of other types follow by
    frequency, the rarest first.
    """
    column = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
    try:
        codes = pc.fill_null(column.dictionary_encode().indices, -1).to_numpy(zero_copy_only=False)
    except (pa.ArrowException, NotImplementedError):
        return None
    other = ~np.isin(codes, codes[failed])
    numbers = _numbers(column)
    if numbers is None:
        _, inverse, counts = np.unique(codes, return_inverse=True, return_counts=True)
        order = np.lexsort((codes, counts[inverse], other))
    else:
        high = numbers[failed[-1]] > np.median(numbers)
        order = np.lexsort((-numbers if high else numbers, other))
    rank = np.empty(len(codes), dtype=np.int64)
    rank[order] = np.arange(len(codes))
    return rank


def _numbers(column: pa.Array) -> Any | None:
    """Return a column of numbers or times as float64; None for any other column."""
    kind = column.type
    if pa.types.is_temporal(kind):
        column = column.view(pa.int32() if kind.bit_width == 32 else pa.int64())
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
        return None
    return pc.fill_null(column.cast(pa.float64(), safe=False), 0.0).to_numpy(zero_copy_only=False)
