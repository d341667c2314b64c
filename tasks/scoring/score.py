"""Scores a batch and rejects the rows that cannot be scored. This module does no I/O."""

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
from scoreline.tasks.scoring.non_finite import ROW_ERRORS, first_line, reject_non_finite
from scoreline.tasks.scoring.numeric_warnings import default_warnings
from scoreline.tasks.scoring.outputs import column_to_arrow, outputs
from scoreline.tasks.scoring.timings import Timings

MAX_MESSAGE = 1_000
"""Maximum number of characters in the message of a rejection. Estimators quote whole texts, which would otherwise end
up in errors and logs."""


@dataclass(frozen=True, kw_only=True)
class Scored:
    """The results of a batch, and its rejected rows."""

    table: pa.Table
    """Kept columns and scores of the rows that could be scored, in input order."""
    rejected: Mapping[int, Rejection]
    """The rejected rows, by row number within the batch, in order."""


@default_warnings()
def score_batch(
    bundle: Bundle,
    batch: pa.RecordBatch,
    *,
    features: Sequence[str],
    keep: Sequence[str],
    method: str | None,
    frames: bool = False,
    max_rejected: int | None = None,
    timings: Timings | None = None,
) -> Scored:
    """Score one batch, and reject only those rows that make the estimator fail.

    A batch without such rows costs one call of the estimator. If the call fails, `reject_non_finite` finds the rows
    with a missing or infinite value that the estimator does not accept, and records these values in the bundle. Other
    failing rows are found by bisection. Warnings never reject a row, regardless of how the process treats them.

    Parameters
    ----------
    bundle : Bundle
        The loaded model version.
    batch : pyarrow.RecordBatch
        The columns `features` and `keep`. Features are converted as described in `scoreline.tasks.scoring.features`.
        May be empty.
    features : sequence of str
        Columns to score, in the model's order.
    keep : sequence of str
        Columns to copy into the results.
    method : str, optional
        One of `scoreline.storage.models.manifest.METHODS`; by default, the usual methods of the model
        (`Outputs.default_methods`).
    frames : bool
        Whether a model that does not say what it accepts gets a DataFrame even if all features are numbers.
    max_rejected : int, optional
        Maximum number of rejected rows. Beyond it the search ends, because the job is over its budget. Finding one row
        of a 64k batch by bisection costs about 17 calls of the estimator.
    timings : Timings, optional
        The seconds of `align` and `predict` are added to it.

    Raises
    ------
    RejectBudgetExceeded
        More than `max_rejected` rows are rejected; the message shows the first.
    ScoringError
        The result of a model does not fit into a table.
    InputError
        The model does not accept the features at all, regardless of their values, or a kept column has the same name as
        an output.
    """
    timings = timings or Timings()
    form = _form(bundle, features)
    named = bundle.manifest.feature_names is not None or frames

    categories = bundle.categories(features)

    def convert(rows: pa.RecordBatch) -> tuple[Any, dict[int, Rejection]]:
        return to_features(rows, features, form=form, named=named, categories=categories)

    def score(rows: pa.RecordBatch) -> dict[str, Any]:
        return outputs(bundle, convert(rows)[0], method)

    learned = bundle.unsupported_values.setdefault(method, {})
    with timings("align"):
        x, rejected = convert(batch)
    rows = np.array([row for row in range(batch.num_rows) if row not in rejected]) if rejected else None
    search = _Search(
        score=lambda subset: outputs(bundle, take(x, subset), method),
        rejected=rejected,
        blame=lambda row, message: _blame(batch, features, row, message),
        n_rows=batch.num_rows,
        max_rejected=max_rejected,
    )
    with timings("predict"):
        search.run(
            np.arange(batch.num_rows) if rows is None else rows,
            lambda: reject_non_finite(score, batch, features, learned),
        )
    with timings("align"):
        return _join(batch, keep, rejected, search.pieces)


def _join(
    batch: pa.RecordBatch,
    keep: Sequence[str],
    rejected: Mapping[int, Rejection],
    pieces: Sequence[tuple[Any, dict[str, Any]]],
) -> Scored:
    """Append the scores to the kept columns, and leave out the rejected rows."""
    rejected = dict(sorted(rejected.items()))
    kept = pa.Table.from_batches([batch]).select(list(keep))
    if rejected:
        kept = kept.filter(pa.array([row not in rejected for row in range(batch.num_rows)]))
    if not pieces:
        return Scored(table=kept, rejected=rejected)
    scores = _restore_order(pieces)
    for name in scores.column_names:
        if name in kept.column_names:
            raise InputError(
                f"the kept column {name!r} has the name of an output: leave it out with --keep, or rename it"
            )
        kept = kept.append_column(name, scores.column(name))
    return Scored(table=kept, rejected=rejected)


@dataclass
class _Search:
    """Scores the rows of a batch in pieces as large as possible, and rejects the rows that fail.

    Parameters
    ----------
    score : callable
        Scores rows, given their numbers.
    rejected : dict of int to Rejection
        Rows rejected so far, by number. The search adds more.
    blame : callable
        Returns the column that an error message about a row refers to, or None.
    n_rows : int
        Number of rows in the batch, for the error message.
    max_rejected : int or None
        Maximum number of rejected rows. Beyond it the search ends.
    """

    score: Callable[[Any], dict[str, Any]]
    rejected: dict[int, Rejection]
    blame: Callable[[int, str], str | None]
    n_rows: int
    max_rejected: int | None

    def __post_init__(self) -> None:
        self.pieces: list[tuple[Any, dict[str, Any]]] = []

    def run(self, rows: Any, find_non_finite: Callable[[], dict[int, Rejection]]) -> None:
        """Score `rows`. If that fails, first reject the rows that `find_non_finite` returns, then bisect the others."""
        self._check_budget()
        pending, checked_non_finite = [rows] if len(rows) else [], False
        while pending:
            piece = pending.pop()
            try:
                self.pieces.append((piece, self.score(piece)))
                continue
            except ROW_ERRORS as error:
                failure = error
            if not checked_non_finite:
                checked_non_finite = True
                new = {row: rejection for row, rejection in find_non_finite().items() if row not in self.rejected}
                if new:
                    self.rejected |= new
                    self._check_budget()
                    rest = piece[~np.isin(piece, list(new))]
                    pending += [rest] if len(rest) else []
                    continue
            if len(piece) > 1:
                pending += [piece[len(piece) // 2 :], piece[: len(piece) // 2]]
                continue
            message = first_line(failure)
            column = self.blame(int(piece[0]), message)
            self.rejected[int(piece[0])] = Rejection(stage="predict", column=column, message=message[:MAX_MESSAGE])
            self._check_budget()

    def _check_budget(self) -> None:
        if self.max_rejected is not None and len(self.rejected) > self.max_rejected:
            row = min(self.rejected)
            raise RejectBudgetExceeded(
                f"more than {self.max_rejected} rows were rejected. The first is row {row} of a batch of "
                f"{self.n_rows}: {self.rejected[row]}"
            )


def _form(bundle: Bundle, features: Sequence[str]) -> Form:
    """Return the container that the first step of the bundle expects for its features."""
    first = bundle.first_step
    if takes_one_column(first):
        if len(features) != 1:
            raise InputError(
                f"{type(first).__name__} takes one column, but there are {len(features)} features: choose one with "
                "--features"
            )
        return "column"
    fitted_on_array = bundle.manifest.feature_names is None and bundle.manifest.n_features is not None
    return "array" if fitted_on_array else "frame"


def _restore_order(pieces: Sequence[tuple[Any, dict[str, Any]]]) -> pa.Table:
    """Put the scores of several pieces into one table, in input order."""
    tables = [pa.table({name: column_to_arrow(name, column) for name, column in piece.items()}) for _, piece in pieces]
    if len(tables) == 1:
        return tables[0]
    order = np.argsort(np.concatenate([rows for rows, _ in pieces]))
    return pa.concat_tables(tables, promote_options="permissive").take(pa.array(order))


def _blame(batch: pa.RecordBatch, features: Sequence[str], row: int, message: str) -> str | None:
    """Find the feature that an error message refers to, because the message quotes the feature's value in the row.

    Return None unless the message quotes the value of exactly one feature.
    """
    values = {name: repr(str(batch.column(name)[row].as_py())) for name in features}
    named = [name for name, value in values.items() if value in message]
    return named[0] if len(named) == 1 else None
