"""Rows in, scores out. No I/O, no clock."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from scoreline.storage.errors import InputError, RejectBudgetExceeded
from scoreline.storage.models.bundle import Bundle
from scoreline.storage.models.introspection import takes_one_column
from scoreline.tasks.scoring.features import Form, Rejection, take, to_features
from scoreline.tasks.scoring.non_finite import ROW_FAULTS, one_line, refused
from scoreline.tasks.scoring.numeric_warnings import as_in_a_fresh_process
from scoreline.tasks.scoring.outputs import column_to_arrow, outputs
from scoreline.tasks.scoring.timings import Timings

MAX_MESSAGE = 1_000
"""Characters of a reason: estimators quote whole texts, and a job's error and the log would have them too."""


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What became of a batch."""

    table: pa.Table
    """Kept columns and scores of the rows that could be scored, in input order."""
    rejected: Mapping[int, Rejection]
    """By row number within the batch, in order."""


@as_in_a_fresh_process()
def score_batch(
    bundle: Bundle,
    batch: pa.RecordBatch,
    *,
    features: Sequence[str],
    keep: Sequence[str],
    method: str | None,
    max_rejected: int | None = None,
    timings: Timings | None = None,
) -> Scored:
    """Score one batch; a row that makes the estimator fail is found and rejected alone.

    A batch without a fault costs one call. Where it fails, `non_finite` finds the rows with NaN or infinity that the
    estimator does not take, and remembers it in the bundle; other faults are found by bisection. A warning is no fault:
    `numeric_warnings` keeps the process's own settings from making it one.

    Parameters
    ----------
    bundle : Bundle
        What scores.
    batch : pyarrow.RecordBatch
        Holds `features` and `keep`; `scoreline.tasks.scoring.features` says what they become. May be empty.
    features : sequence of str
        Columns to score, in the model's order.
    keep : sequence of str
        Columns to carry over.
    method : str, optional
        Of `scoreline.storage.models.manifest.METHODS`; by default those that are usual for the model
        (`Outputs.default_methods`).
    max_rejected : int, optional
        Rows after which looking for more is idle: the job is over its budget. A row of a 64k batch that is found by
        bisection costs some 17 calls of the estimator.
    timings : Timings, optional
        Is told how long `align` and `predict` take.

    Raises
    ------
    ScoringError
        More than `max_rejected` rows failed; the message shows the first. Or a model gives what no table can hold.
    InputError
        Features that the model cannot take whatever their values, or a kept column named as an output.
    """
    timings = timings or Timings()
    form = _form(bundle, features)
    named = bundle.manifest.feature_names is not None

    def score(some: pa.RecordBatch) -> dict[str, Any]:
        return outputs(bundle, to_features(some, features, form=form, named=named)[0], method)

    learned = bundle.unsupported_values.setdefault(method, {})
    with timings("align"):
        x, rejected = to_features(batch, features, form=form, named=named)
    rows = np.array([row for row in range(batch.num_rows) if row not in rejected]) if rejected else None
    search = _Search(
        score=lambda some: outputs(bundle, take(x, some), method),
        rejected=rejected,
        blame=lambda row, message: _blame(batch, features, row, message),
        n_rows=batch.num_rows,
        max_rejected=max_rejected,
    )
    with timings("predict"):
        search.run(
            np.arange(batch.num_rows) if rows is None else rows, lambda: refused(score, batch, features, learned)
        )
    with timings("align"):
        return _joined(batch, keep, rejected, search.pieces)


def _joined(
    batch: pa.RecordBatch,
    keep: Sequence[str],
    rejected: Mapping[int, Rejection],
    pieces: Sequence[tuple[Any, dict[str, Any]]],
) -> Scored:
    """Put scores beside the columns that are carried over, without the rejected rows."""
    rejected = dict(sorted(rejected.items()))
    kept = pa.Table.from_batches([batch]).select(list(keep))
    if rejected:
        kept = kept.filter(pa.array([row not in rejected for row in range(batch.num_rows)]))
    if not pieces:
        return Scored(table=kept, rejected=rejected)
    scores = _in_order(pieces)
    for name in scores.column_names:
        if name in kept.column_names:
            raise InputError(f"the kept column {name!r} has the name of an output: leave it out with --keep")
        kept = kept.append_column(name, scores.column(name))
    return Scored(table=kept, rejected=rejected)


@dataclass
class _Search:
    """Scores as many rows at once as can be.

    Parameters
    ----------
    score : callable
        Scores rows, given their numbers.
    rejected : dict of int to Reason
        Grows.
    blame : callable
        Says which column of a row an error's message tells of.
    """

    score: Callable[[Any], dict[str, Any]]
    rejected: dict[int, Rejection]
    blame: Callable[[int, str], str | None]
    n_rows: int
    max_rejected: int | None

    def __post_init__(self) -> None:
        self.pieces: list[tuple[Any, dict[str, Any]]] = []

    def run(self, rows: Any, refused: Callable[[], dict[int, Rejection]]) -> None:
        """Score `rows`; those that `refused` names, once it turns out that some fail, are not tried again."""
        self._check_budget()
        pending, asked = [rows] if len(rows) else [], False
        while pending:
            some = pending.pop()
            try:
                self.pieces.append((some, self.score(some)))
                continue
            except ROW_FAULTS as error:
                failure = error
            if not asked:
                asked = True
                found = {row: why for row, why in refused().items() if row not in self.rejected}
                if found:
                    self.rejected |= found
                    self._check_budget()
                    left = some[~np.isin(some, list(found))]
                    pending += [left] if len(left) else []
                    continue
            if len(some) > 1:
                pending += [some[len(some) // 2 :], some[: len(some) // 2]]
                continue
            message = one_line(failure)
            column = self.blame(int(some[0]), message)
            self.rejected[int(some[0])] = Rejection(stage="predict", column=column, message=message[:MAX_MESSAGE])
            self._check_budget()

    def _check_budget(self) -> None:
        if self.max_rejected is not None and len(self.rejected) > self.max_rejected:
            row = min(self.rejected)
            raise RejectBudgetExceeded(
                f"more rows cannot be scored than the {self.max_rejected} that may be rejected; the first is row {row} "
                f"of a batch of {self.n_rows}: {self.rejected[row]}"
            )


def _form(bundle: Bundle, features: Sequence[str]) -> Form:
    """Say what the first step of the bundle takes."""
    first = bundle.preprocessors[0] if bundle.preprocessors else next(iter(bundle.models.values()))
    if takes_one_column(first):
        if len(features) != 1:
            took = f"{type(first).__name__} takes one column, {len(features)} are named"
            raise InputError(f"{took}: choose one with --features")
        return "column"
    known = bundle.manifest.feature_names is None and bundle.manifest.n_features is not None
    return "array" if known else "frame"


def _in_order(pieces: Sequence[tuple[Any, dict[str, Any]]]) -> pa.Table:
    tables = [pa.table({name: column_to_arrow(name, column) for name, column in piece.items()}) for _, piece in pieces]
    if len(tables) == 1:
        return tables[0]
    order = np.argsort(np.concatenate([rows for rows, _ in pieces]))
    return pa.concat_tables(tables, promote_options="permissive").take(pa.array(order))


def _blame(batch: pa.RecordBatch, features: Sequence[str], row: int, message: str) -> str | None:
    """Return the feature that a message is about: the only one whose value in this row it quotes."""
    values = {name: repr(str(batch.column(name)[row].as_py())) for name in features}
    named = [name for name, value in values.items() if value in message]
    return named[0] if len(named) == 1 else None
