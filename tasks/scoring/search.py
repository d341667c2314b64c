"""Finds the rows of a batch that a model cannot score, with few calls of the model.

A row is rejected only if a call with this row alone fails. So each rejected row costs one call, and the art is to spend
few others. The rows are put into an order in which failing rows stand together, and are scored in groups of this order.
A group that fails is halved until its first failing row is found, and the next group is as long as the distance to that
row: one row where rows fail one after another, many where few fail.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from scoreline.tasks.scoring.model_calls import is_about_rows

type Pieces = list[tuple[Any, dict[str, Any]]]
"""Numbers of rows that were scored together, an ndarray of int, and their scores by column."""


class Order(Protocol):
    """Puts rows into an order in which those that fail are likely to stand together."""

    def first(self, rows: Any) -> tuple[Any, int]:
        """Return rows in their first order, and how many of them to try first. It is called once a batch has failed."""
        ...

    def learn(self, failed: int, error: Exception, scored: int | None) -> bool:
        """Learn from a row that failed among others, given a row that was scored. Return whether the order changes."""
        ...

    def sort(self, rows: Any) -> Any:
        """Return rows in the order that was learned, the likeliest to fail first."""
        ...


@dataclass(kw_only=True)
class Search:
    """Scores the rows of a batch in groups as large as possible, and finds the rows that fail.

    Which rows fail depends on the rows and the model alone: `order` decides only how many calls it takes.

    Parameters
    ----------
    score : callable
        Scores rows, given their numbers, an ndarray of int.
    order : Order
        Puts the rows into order once a call has failed.
    reject : callable
        Receives the number of each failing row, and the error.
    pieces : list
        The rows that were scored are appended to it.
    """

    score: Callable[[Any], dict[str, Any]]
    order: Order
    reject: Callable[[int, Exception], None]
    pieces: Pieces

    def run(self, rows: Any) -> None:
        """Score the rows with the given numbers, an ndarray of int in input order.

        Raises
        ------
        Exception
            The model failed for a reason that is not in the rows. No row has been rejected for that reason.
        """
        if not len(rows) or self._failure(rows) is None:
            return
        rows, size = self.order.first(rows)
        unusual: Exception | None = None
        while len(rows):
            group = rows[:size]
            count, error = self._score_until_failure(group)
            if error is None:
                rows, size = rows[count:], 4 * size if count == len(group) else count
                continue
            failed, rows = int(rows[count]), rows[count + 1 :]
            self.reject(failed, error)
            unusual = unusual or (None if isinstance(error, _USUAL) else error)
            alone, size = len(group) == 1, max(1, count)
            if not alone and self.order.learn(failed, error, self._scored_row()):
                rows, size = self.order.sort(rows), 1
        if unusual is not None:
            self._check_model_still_works()

    def _score_until_failure(self, group: Any) -> tuple[int, Exception | None]:
        """Score the rows of a group until one fails.

        Returns
        -------
        count, error : int, Exception or None
            Number of rows that were scored, and why the row after them fails by itself. Without an error, these may be
            fewer than all rows, if each of them can be scored by itself but not all of them together.
        """
        low, high = 0, len(group)
        error = self._failure(group)
        if error is None:
            return high, None
        alone = high == 1
        while high - low > 1:
            middle = (low + high) // 2
            failure = self._failure(group[low:middle])
            if failure is None:
                low = middle
            else:
                high, error, alone = middle, failure, middle - low == 1
        if not alone:
            error = self._failure(group[low:high])
        return (low, error) if error is not None else (high, None)

    def _failure(self, rows: Any) -> Exception | None:
        """Score rows together and return None, or the error for which they cannot be scored.

        Rows for which the memory does not suffice may be scored in smaller groups.
        """
        try:
            self.pieces.append((rows, self.score(rows)))
        except Exception as error:
            if is_about_rows(error) or (isinstance(error, MemoryError) and len(rows) > 1):
                return error
            raise
        return None

    def _scored_row(self) -> int | None:
        return int(self.pieces[0][0][0]) if self.pieces else None

    def _check_model_still_works(self) -> None:
        """Score a row again that could be scored before.

        A row may have broken the model for all rows after it, as an error within a graphics processor does. Then those
        rows were not rejected for what is in them, and the error of this call must end the part.
        """
        if self.pieces:
            self.score(self.pieces[0][0][:1])


_USUAL = (ValueError, TypeError, ArithmeticError, LookupError, AttributeError)
"""Errors with which an estimator refuses rows. Any other error may also mean that the model itself is broken."""
