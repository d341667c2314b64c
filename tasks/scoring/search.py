"""Finds, with few calls of a model, the rows of a batch that the model cannot score.

If a step of scikit-learn refuses rows for their values, its check is applied to all rows at once. The result of the
check is used only if a call with one of the refused rows fails in the same check of the same step. Rows with values
that were refused in earlier batches are tried first. If no other row is refused, a single call scores the rest.
If another row is refused, the batch is scored again without the knowledge from earlier batches, so that this knowledge
affects only the time, not the results.

A row that no such step refuses is rejected only if a call with this row alone fails. Each row that is rejected in this
way therefore needs one call, and the search tries to make few other calls. The search sorts the rows so that rows that
are likely to fail are next to each other, and scores groups of adjacent rows. If a group fails, it is halved until its
first failing row is found. `GroupSize` chooses the size of the next group.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from scoreline.tasks.scoring.group_size import GroupSize
from scoreline.tasks.scoring.model_calls import is_about_rows
from scoreline.tasks.scoring.probe import Probe
from scoreline.tasks.scoring.refusals import CheckKey, Confirmed, Refused, ask

type Pieces = list[tuple[Any, dict[str, Any]]]
"""Each item has the numbers of rows that were scored together, as an ndarray of int, and the scores of these rows by
column."""


class Order(Protocol):
    """Sorts rows so that rows that are likely to fail are next to each other."""

    def first(self, rows: Any) -> tuple[Any, int]:
        """Return the rows in an initial order, and how many of them to try first. Called once a batch has failed."""
        ...

    def learn(self, failed: int, error: Exception, scored: int | None) -> bool:
        """Learn from a failed row, compared with a scored row. Return whether the order of the rows changes."""
        ...

    def sort(self, rows: Any) -> Any:
        """Return the rows in the order that was learned, with those that are most likely to fail first."""
        ...


class Rejects(Protocol):
    """Collects the rows that fail."""

    def add(self, row: int, error: Exception) -> None:
        """Add the number of a row that fails in a call of its own, and the error of that call."""
        ...

    def add_refused(self, rows: Any, refused: Refused, positions: Any, confirmed: Confirmed) -> None:
        """Add rows that a step refuses.

        Parameters
        ----------
        rows, positions : ndarray of int
            Numbers of the rows in the batch, and their positions in the failed call that `refused` describes.
        confirmed : Confirmed
            The error that the step raises for one of these rows.
        """
        ...

    def begin_trial(self) -> None:
        """Begin a trial: neither report nor check the number of rows until `keep` or `take_back` is called."""
        ...

    def are_too_many(self) -> bool:
        """Return whether the batch has more rejected rows than allowed."""
        ...

    def keep(self) -> None:
        """End a trial, keep the added rows, and check the budget."""
        ...

    def take_back(self) -> None:
        """End a trial, and remove all rows that were added during it."""
        ...


@dataclass(kw_only=True)
class Search:
    """Scores the rows of a batch in groups as large as possible, and finds the rows that fail.

    The set of failing rows depends only on the rows and the model. `order` only affects the number of calls.

    Parameters
    ----------
    score : callable
        Scores the rows with the given numbers, which are an ndarray of int.
    order : Order
        Sorts the rows once a call has failed.
    rejects : Rejects
        Collects the failing rows.
    pieces : list
        List to which the scored rows are appended.
    asks : bool
        Whether the checks of steps may be used. This requires that earlier steps neither reorder rows nor mix their
        values.
    expected : ndarray of bool, optional
        Mask of the rows that are expected to be refused, by row number. The mask must be None if `asks` is false.
    confirmed : dict
        The checks that were confirmed in earlier batches of the part (see `SingleCalls`). The checks that are confirmed
        in this batch are added.
    probe : Probe, optional
        A row that is scored together with the expected rows.
    """

    score: Callable[[Any], dict[str, Any]]
    order: Order
    rejects: Rejects
    pieces: Pieces
    asks: bool = True
    expected: Any = None
    confirmed: dict[CheckKey, Confirmed | None] = field(default_factory=dict)
    probe: Probe | None = None
    as_expected: bool = False
    """Whether the steps refused only expected rows, and at least half of these."""
    by_steps: bool = True
    """Whether all rows that failed were refused by steps."""
    seconds: float = 0.0
    """Seconds that finding the failing rows took, in addition to scoring the others in one call."""
    _s_per_row: float | None = None
    """Seconds for each row of the largest group that was scored."""
    _largest: int = 0

    def run(self, rows: Any) -> None:
        """Score the rows with the given numbers, an ndarray of int in input order.

        Raises
        ------
        Exception
            The model failed for a reason that is not due to the rows. No row was rejected for this reason.
        """
        begun = time.perf_counter()
        try:
            self._run(rows)
        finally:
            scored = sum(len(numbers) for numbers, _ in self.pieces)
            self.seconds = max(0.0, time.perf_counter() - begun - (self._s_per_row or 0.0) * scored)

    def _run(self, rows: Any) -> None:
        if self.expected is not None and self._score_others(rows):
            return
        error = self._failure(rows) if len(rows) else None
        while error is not None and len(rows) > 1:
            left = self._without_refused(rows, self._ask(error, len(rows)))
            if len(left) == len(rows):
                break
            rows = left
            error = self._failure(rows) if len(rows) else None
        if error is not None:
            self._search(rows)

    def _score_others(self, rows: Any) -> bool:
        """Reject the expected rows, and score all others in one call. Return whether this call finished the batch.

        If other rows fail too, or if too many rows are rejected, all changes are undone. Rows are rejected only if the
        same check refuses all rows of a call. Then the result does not depend on the order in which the model passes
        rows on.
        """
        self.rejects.begin_trial()
        confirmed = self.confirmed.copy()
        others = ~self.expected
        tried = left = rows[self.expected[rows]]
        answers = [] if self.probe is None else self.probe.ask(left)
        while len(left):
            if not answers and (error := self._error(left)) is not None:
                answers = self._ask(error, len(left))
            if not answers:
                break
            some, keep = left[answers[0].rows], np.delete(left, answers[0].rows)
            if len(keep):
                error = self._error(some)
                if error is None:
                    break
                answers = self._ask(error, len(some))
            if len(self._without_refused(some, answers)):
                return self._undo(confirmed)
            left, answers = keep, []
        others[left] = True
        others = rows[others[rows]]
        if len(others) < len(rows) and not self.rejects.are_too_many() and self._scores_all(others):
            self.as_expected = 2 * len(left) <= len(tried)
            self.rejects.keep()
            return True
        return self._undo(confirmed)

    def _undo(self, confirmed: dict[CheckKey, Confirmed | None]) -> bool:
        """Undo a trial: only the checks that were confirmed before the trial stay confirmed. Return False."""
        self.rejects.take_back()
        self.confirmed.clear()
        self.confirmed.update(confirmed)
        return False

    def _scores_all(self, rows: Any) -> bool:
        return not len(rows) or self._failure(rows) is None

    def _ask(self, error: Exception, n_rows: int) -> list[Refused]:
        return ask(error, n_rows) if self.asks else []

    def _search(self, rows: Any) -> None:
        """Find the failing rows by scoring groups."""
        self.by_steps = False
        rows, first = self.order.first(rows)
        size = GroupSize(rows=first)
        unusual = False
        while len(rows):
            group, rest = rows[: size.rows], rows[size.rows :]
            count, left, error = self._score_until_failure(group)
            rows = np.concatenate([left, rest])
            if error is None:
                size.passed(count)
                continue
            failed = int(group[count])
            self.rejects.add(failed, error)
            unusual = unusual or not isinstance(error, _USUAL)
            size.failed_after(count)
            if len(group) > 1 and self.order.learn(failed, error, self._scored_row()):
                rows = self.order.sort(rows)
                size.start_again()
        if unusual:
            self._check_model_still_works()

    def _score_until_failure(self, group: Any) -> tuple[int, Any, Exception | None]:
        """Score the rows of a group until one fails.

        Returns
        -------
        count, left, error : int, ndarray of int, Exception or None
            The number of scored rows, the rows that are still to be scored, and the error of a call with only the first
            row after the scored rows. Even if rows are left, the error is None if a step has refused other rows of the
            group, or if each row can be scored alone but the group cannot.
        """
        low, high = 0, len(group)
        error = self._failure(group)
        alone = high == 1
        while error is not None and high - low > 1:
            tried = group[low:high]
            unrefused = self._without_refused(tried, self._ask(error, len(tried))) if not alone else tried
            if len(unrefused) < high - low:
                return low, np.concatenate([unrefused, group[high:]]), None
            middle = (low + high) // 2
            failure = self._failure(group[low:middle])
            if failure is None:
                low = middle
            else:
                high, error, alone = middle, failure, middle - low == 1
        if error is None:
            return high, group[high:], None
        if not alone:
            error = self._failure(group[low:high])
        return (high, group[high:], None) if error is None else (low, group[high:], error)

    def _without_refused(self, rows: Any, answers: list[Refused]) -> Any:
        """Reject the rows of a failed call that the failing step refuses. Return the others."""
        left = np.ones(len(rows), dtype=bool)
        for refused in answers:
            answer = self._confirm(rows, refused)
            positions = refused.rows[left[refused.rows]]
            if answer is not None and len(positions):
                self.rejects.add_refused(rows[positions], refused, positions, answer)
                left[positions] = False
        return rows[left]

    def _confirm(self, rows: Any, refused: Refused) -> Confirmed | None:
        """Return the error that a step raises for one of the rows that it refuses.

        One row is tried on behalf of all rows of the part that the same check refuses for the same kind of value.
        Return None if this row can be scored alone, or fails for another reason. In both cases, the check does not show
        which rows fail.
        """
        if refused.check not in self.confirmed:
            position = int(refused.rows[0])
            self.confirmed[refused.check] = None
            try:
                self.score(rows[position : position + 1])
            except Exception as error:
                if not is_about_rows(error):
                    raise
                if any(alone.check == refused.check for alone in self._ask(error, 1)):
                    self.confirmed[refused.check] = refused.confirm(position, error)
        return self.confirmed[refused.check]

    def _failure(self, rows: Any) -> Exception | None:
        """Score rows together. Return None if this succeeds, and otherwise the error.

        Return a `MemoryError` too, because smaller groups of the rows may fit into memory.
        """
        begun = time.perf_counter()
        error = self._error(rows, self.pieces)
        if error is not None:
            return error
        if len(rows) > self._largest:
            self._largest, self._s_per_row = len(rows), (time.perf_counter() - begun) / len(rows)
        return None

    def _error(self, rows: Any, pieces: Pieces | None = None) -> Exception | None:
        """Score rows together. Return None if this succeeds, and otherwise the error."""
        try:
            scores = self.score(rows)
        except Exception as error:
            if is_about_rows(error) or (isinstance(error, MemoryError) and len(rows) > 1):
                return error
            raise
        if pieces is not None:
            pieces.append((rows, scores))
        return None

    def _scored_row(self) -> int | None:
        return int(self.pieces[0][0][0]) if self.pieces else None

    def _check_model_still_works(self) -> None:
        """Score a row a second time, to check that the model still works.

        A row may have broken the model for all later rows, for example by an error in a GPU. In this case the later
        rows were not rejected because of their values, and the error of this call must end the part.
        """
        if self.pieces:
            self.score(self.pieces[0][0][:1])


_USUAL = (ValueError, TypeError, ArithmeticError, LookupError, AttributeError)
"""Errors with which an estimator refuses rows. Any other error may also mean that the model itself is broken."""
