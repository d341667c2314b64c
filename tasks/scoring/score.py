"""Scores a batch and rejects the rows that cannot be scored. This module does no I/O."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from scoreline.storage.errors import InputError, RejectBudgetExceeded
from scoreline.storage.models.bundle import Bundle
from scoreline.storage.models.introspection import takes_one_column
from scoreline.tasks.scoring.features import Form, Rejection, take, to_features
from scoreline.tasks.scoring.model_calls import call_model, first_line
from scoreline.tasks.scoring.non_finite import Trials
from scoreline.tasks.scoring.numeric_warnings import default_warnings
from scoreline.tasks.scoring.outputs import column_to_arrow, outputs
from scoreline.tasks.scoring.search import Pieces, Search
from scoreline.tasks.scoring.suspects import Suspects
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

    A batch without such rows costs one call of the estimator. If the call fails, `Search` finds the rows that fail. A
    row is rejected only after a call with this row alone has failed, so which rows are rejected depends on the rows and
    the model, and on nothing that the process has done before. Warnings never reject a row, regardless of how the
    process treats them.

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
        Maximum number of rejected rows. Beyond it the search ends, because the job is over its budget. Each rejected
        row costs at least one call of the estimator, and a single one in a batch of 64k rows about 17 calls.
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
    Exception
        The model failed for a reason that is not in the rows (`model_calls.is_about_rows`).
    """
    timings = timings or Timings()
    form = _form(bundle, features)
    named = bundle.manifest.feature_names is not None or frames
    categories = bundle.categories(features)

    def convert(rows: pa.RecordBatch) -> tuple[Any, dict[int, Rejection]]:
        return to_features(rows, features, form=form, named=named, categories=categories)

    with timings("align"):
        x, rejected = convert(batch)
    rows = np.delete(np.arange(batch.num_rows, dtype=np.int64), list(rejected))

    def score_rows(numbers: Any) -> dict[str, Any]:
        return call_model(lambda: outputs(bundle, _take(x, numbers), method))

    def score_single(row: pa.RecordBatch) -> dict[str, Any]:
        return call_model(lambda: outputs(bundle, convert(row)[0], method))

    trials = Trials(score=score_single, batch=batch, features=features)
    pieces: Pieces = []
    rejects = _Rejects(rejected=rejected, trials=trials, pieces=pieces, max_rejected=max_rejected)
    order = Suspects(trials=trials, blame=rejects.blame)
    with timings("predict"):
        rejects.check_budget()
        Search(score=score_rows, order=order, reject=rejects.add, pieces=pieces).run(rows)
        rejected = rejects.explained()
    with timings("align"):
        return _join(batch, keep, rejected, pieces)


def _take(x: Any, rows: Any) -> Any:
    """Return some rows of `x`. Those of a DataFrame are numbered anew, as in one that a model may put beside it."""
    taken = take(x, rows)
    return taken.reset_index(drop=True) if isinstance(taken, pd.DataFrame) and taken is not x else taken


def _join(
    batch: pa.RecordBatch,
    keep: Sequence[str],
    rejected: Mapping[int, Rejection],
    pieces: Pieces,
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


@dataclass(kw_only=True)
class _Rejects:
    """The rejected rows of a batch.

    Parameters
    ----------
    rejected : dict of int to Rejection
        Rows that could not be converted to features, by number.
    trials : Trials
        Explains rows by their missing and infinite values.
    pieces : list
        The rows that were scored, as in `Search`.
    max_rejected : int or None
        Maximum number of rejected rows.
    """

    rejected: dict[int, Rejection]
    trials: Trials
    pieces: Pieces
    max_rejected: int | None
    _failed: dict[int, str] = field(default_factory=dict)
    """Messages of the rows that failed in the model."""

    def add(self, row: int, error: Exception) -> None:
        """Add a row that fails in the model."""
        self._failed[row] = first_line(error)
        self.check_budget()

    def check_budget(self) -> None:
        """Raise `RejectBudgetExceeded` if there are too many rejected rows."""
        if self.max_rejected is None or len(self.rejected) + len(self._failed) <= self.max_rejected:
            return
        row = min([*self.rejected, *self._failed])
        why = self.rejected[row] if row in self.rejected else self._explain([row])[row]
        raise RejectBudgetExceeded(
            f"more than {self.max_rejected} rows were rejected. The first is row {row} of a batch of "
            f"{self.trials.batch.num_rows}: {why}"
        )

    def explained(self) -> dict[int, Rejection]:
        """Return all rejected rows, each with the column that caused the rejection if it is known."""
        return self.rejected | self._explain(self._failed)

    def blame(self, row: int, message: str) -> str | None:
        """Find the feature that an error message refers to, because the message quotes the feature's value in the row.

        Return None unless the message quotes the value of exactly one feature.
        """
        values = {name: repr(str(self.trials.batch.column(name)[row].as_py())) for name in self.trials.features}
        named = [name for name, value in values.items() if value in message]
        return named[0] if len(named) == 1 else None

    def _explain(self, rows: Collection[int]) -> dict[int, Rejection]:
        """Return why each row is rejected: a missing or infinite value, or else what the model says."""
        scored = np.zeros(self.trials.batch.num_rows, dtype=bool)
        for numbers, _ in self.pieces:
            scored[numbers] = True
        if self.pieces:
            self.trials.scored = int(self.pieces[0][0][0])
        refused = {key: mask for key, mask in self.trials.masks.items() if not (scored & mask).any()} if rows else {}
        found = {}
        for row in rows:
            message = self._failed[row][:MAX_MESSAGE]
            found[row] = self.trials.explain(row, refused) or Rejection(
                stage="predict", column=self.blame(row, message), message=message
            )
        return found


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


def _restore_order(pieces: Pieces) -> pa.Table:
    """Put the scores of several pieces into one table, in input order."""
    tables = [pa.table({name: column_to_arrow(name, column) for name, column in piece.items()}) for _, piece in pieces]
    if len(tables) == 1:
        return tables[0]
    order = np.argsort(np.concatenate([rows for rows, _ in pieces]))
    return pa.concat_tables(tables, promote_options="permissive").take(pa.array(order))
