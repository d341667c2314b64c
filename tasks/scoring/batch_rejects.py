"""The rejected rows of a batch, each with the reason and, if it is known, the column at fault."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from scoreline.storage.errors import RejectBudgetExceeded
from scoreline.storage.models.categories import is_missing
from scoreline.tasks.scoring.features import Rejection, Stage
from scoreline.tasks.scoring.model_calls import first_line
from scoreline.tasks.scoring.non_finite import Trials
from scoreline.tasks.scoring.refusals import Confirmed, Refused
from scoreline.tasks.scoring.rejected_rows import RejectedRows, RowsAlike, alike
from scoreline.tasks.scoring.search import Pieces

MAX_MESSAGE = 1_000
"""Maximum number of characters in the message of a rejection. Estimators quote whole texts, which would otherwise end
up in errors and logs."""


@dataclass(kw_only=True)
class BatchRejects:
    """The rejected rows of a batch (see `search.Rejects`).

    Parameters
    ----------
    rejected : dict of int to Rejection
        Rows that could not be converted to features, by number.
    trials : Trials
        Finds rows that fail because of missing or infinite values.
    pieces : list
        The scored rows, as in `Search`.
    max_rejected : int or None
        Maximum number of rejected rows.
    report : callable or None
        Called with the number of rejected rows each time this number grows; returns whether the search must end.
    describe_row : callable or None
        Returns the object and the row number from which a row of the batch comes.
    before : int
        Number of rejected rows that are no longer in the batch, because they break a rule of the contract. They count
        against `max_rejected`, and are reported to `report`.
    """

    rejected: dict[int, Rejection]
    trials: Trials
    pieces: Pieces
    max_rejected: int | None
    report: Callable[[int], bool] | None = None
    describe_row: Callable[[int], str] | None = None
    before: int = 0
    _failed: dict[int, str] = field(default_factory=dict)
    """Messages of the rows that failed in the model, and are not explained yet. They may quote a value of the row."""
    _refused: list[RowsAlike] = field(default_factory=list)
    """Rows that steps refused, and whose column at fault is known."""
    _unexplained: list[RowsAlike] = field(default_factory=list)
    """Rows that steps refused, and that are not explained yet. Their messages do not quote a value of the row."""
    _added: list[Any] = field(default_factory=list)
    """Arrays of the rows that are not explained yet, in the order in which they were added."""
    _on_trial: bool = False
    """Whether rows are added on trial, so that `take_back` may remove them."""

    def add(self, row: int, error: Exception) -> None:
        """Add a row with which a call fails even if it is the only row."""
        self._failed[row] = first_line(error)
        self._added.append(np.array([row]))
        self.check_budget()

    def add_refused(self, rows: Any, refused: Refused, positions: Any, confirmed: Confirmed) -> None:
        """Add rows that a step refuses. Name the column at fault if the refused value is an unchanged feature value."""
        said, codes = refused.messages(positions, confirmed)
        said = [message[:MAX_MESSAGE] for message in said]
        left, is_left = np.arange(len(rows)), np.ones(len(rows), dtype=bool)
        for name, number, seen in _columns(refused, self.trials.features):
            held = left[refused.cells.mask[positions[left], number]]
            if not len(held):
                continue
            column = self.trials.batch.column(name).take(pa.array(rows[held], pa.int64()))
            held = held[_same(seen[positions[held]], column)]
            is_left[held] = False
            left = np.flatnonzero(is_left)
            for what, mask in self.trials.masks_of(name).items():
                own = held[mask[rows[held]]]
                self._add_refused_values(rows[own], codes[own], name, what, said)
                held = held[~mask[rows[held]]]
            self._add_refused_values(rows[held], codes[held], name, None, said)
        self._added.append(rows[left])
        if refused.cells.say is None or not confirmed.quotes:
            self._unexplained.append(_rows_alike(rows[left], codes[left], "predict", None, said))
        else:  # the column at fault may be found from the value that the message quotes
            self._failed.update(zip(rows[left].tolist(), [said[code] for code in codes[left].tolist()], strict=True))
        self.check_budget()

    def begin_trial(self) -> None:
        """Begin a trial, during which the number of rejected rows is neither reported nor checked."""
        self._on_trial = True

    def are_too_many(self) -> bool:
        """Return whether the batch has more rejected rows than `max_rejected`."""
        return self.max_rejected is not None and self._count() > self.max_rejected

    def keep(self) -> None:
        """End a trial, keep its rows, and check the budget."""
        self._on_trial = False
        self.check_budget()

    def take_back(self) -> None:
        """End a trial, and remove all rejected rows except those that could not be converted to features."""
        self._on_trial = False
        self._failed.clear()
        self._refused.clear()
        self._unexplained.clear()
        self._added.clear()

    def _add_refused_values(self, rows: Any, codes: Any, name: str, what: str | None, said: list[str]) -> None:
        """Reject the rows for a value of a feature, which is missing or infinite if `what` is given."""
        found = _rows_alike(rows, codes, "predict" if what is None else "schema", name, said)
        if what is not None:
            messages = [self.trials.message(name, what, message) for message in found.messages]
            found = found._replace(messages=messages)
        self._refused.append(found)

    def check_budget(self) -> None:
        """Report the number of rejected rows; raise `RejectBudgetExceeded` if too many rows are rejected."""
        if self._on_trial:
            return
        count = self._count()
        is_over = self.report is not None and count > self.before and self.report(count)
        if not is_over and not self.are_too_many():
            return
        row, why = self._first()
        in_batch = f"row {row} of a batch of {self.trials.batch.num_rows}"
        place = in_batch if self.describe_row is None else self.describe_row(row)
        raise over_budget(count if is_over else f"more than {self.max_rejected}", place, why)

    def _count(self) -> int:
        refused = sum(len(alike.rows) for alike in (*self._refused, *self._unexplained))
        return self.before + len(self.rejected) + len(self._failed) + refused

    def _first(self) -> tuple[int, Rejection]:
        """Return the first rejected row, and why it was rejected."""
        groups = [group.rows for group in (*self._refused, *self._unexplained)]
        row = min([*self.rejected, *self._failed, *(int(rows.min()) for rows in groups if len(rows))])
        if row in self.rejected:
            return row, self.rejected[row]
        known = RejectedRows.joined(_only(group, group.rows == row) for group in self._refused)
        return row, known[row] if known else RejectedRows.joined(self._explain(np.array([row])))[row]

    def explained(self) -> RejectedRows:
        """Return all rejected rows, each with the column that caused the rejection if it is known."""
        unexplained = np.concatenate([np.empty(0, dtype=np.int64), *self._added])
        found = self._explain(unexplained) if len(unexplained) else []
        return RejectedRows.joined([*alike(self.rejected), *self._refused, *found])

    def blame(self, row: int, message: str) -> str | None:
        """Return the feature whose value in a row is quoted by an error message.

        Return None if the message quotes no feature value, or quotes values of several features.
        """
        values = {name: repr(str(self.trials.batch.column(name)[row].as_py())) for name in self.trials.features}
        named = [name for name, value in values.items() if value in message]
        return named[0] if len(named) == 1 else None

    def _explain(self, rows: Any) -> list[RowsAlike]:
        """Return the reason of each row: a missing or infinite value, or otherwise the message of the model."""
        scored = np.zeros(self.trials.batch.num_rows, dtype=bool)
        for numbers, _ in self.pieces:
            scored[numbers] = True
        if self.pieces and len(self.pieces[0][0]):
            self.trials.scored = int(self.pieces[0][0][0])
        masks = {key: mask for key, mask in self.trials.masks.items() if not (scored & mask).any()}
        found = self.trials.explain(rows, masks)
        left = np.zeros(len(scored), dtype=bool)
        left[rows] = True
        for group in found:
            left[group.rows] = False
        messages = {row: message[:MAX_MESSAGE] for row, message in self._failed.items() if left[row]}
        quoting = {
            row: Rejection(stage="predict", column=self.blame(row, message), message=message)
            for row, message in messages.items()
        }
        return [*found, *alike(quoting), *(_only(group, left[group.rows]) for group in self._unexplained)]


def over_budget(how_many: int | str, place: str, why: Rejection) -> RejectBudgetExceeded:
    """Return the error of a batch with too many rejected rows, of which the first is at `place`."""
    return RejectBudgetExceeded(f"{how_many} rows were rejected. The first is {place}: {why}")


def _rows_alike(rows: Any, codes: Any, stage: Stage, column: str | None, messages: list[str]) -> RowsAlike:
    """Return rows that are alike, without the messages of other rows."""
    used, codes = np.unique(codes, return_inverse=True)
    return RowsAlike(rows, codes, stage, column, [messages[code] for code in used.tolist()])


def _only(group: RowsAlike, mask: Any) -> RowsAlike:
    return group._replace(rows=group.rows[mask], codes=group.codes[mask])


def _columns(refused: Refused, features: Collection[str]) -> list[tuple[str, int, Any]]:
    """Return the name, the position in the mask and the values of each checked column that may be a feature."""
    cells = refused.cells
    names = refused.names
    if names is None and len(cells.values) == len(features):
        names = list(features)
    if names is None:
        return []
    named = zip(names[cells.first :], range(len(cells.values)), cells.values, strict=False)
    return [column for column in named if column[0] in features]


def _same(seen: Any, column: pa.Array) -> Any:
    """Return a mask of the checked values that equal the feature's values, because no other step has changed them."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    missing = column.is_null(nan_is_null=True).to_numpy(zero_copy_only=False)
    if seen.dtype.kind in "biuf":
        kind = column.type
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
            return missing & (seen != seen)
        values = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
        with np.errstate(over="ignore", invalid="ignore"):
            return (values.astype(seen.dtype) == seen) | (missing & (seen != seen))
    if (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)) and _are_texts(seen):
        raw = column.fill_null("None")
        return pc.equal(pa.array(seen.tolist(), raw.type), raw).to_numpy(zero_copy_only=False)
    triples = zip(seen.tolist(), column.to_pylist(), missing.tolist(), strict=True)
    same = (no_value if is_missing(value) else str(value) == str(raw) for value, raw, no_value in triples)
    return np.fromiter(same, dtype=bool, count=len(seen))


def _are_texts(values: Any) -> bool:
    return bool(pd.api.types.infer_dtype(values, skipna=False) == "string")
