"""Scores a batch and rejects the rows that cannot be scored. This module does no I/O."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from scoreline.storage.errors import InputError
from scoreline.storage.models.bundle import Bundle
from scoreline.storage.models.introspection import takes_one_column
from scoreline.tasks.scoring.batch_rejects import BatchRejects
from scoreline.tasks.scoring.contract import Contract
from scoreline.tasks.scoring.features import Form, Rejection, take, to_features
from scoreline.tasks.scoring.model_calls import call_model, is_about_rows
from scoreline.tasks.scoring.non_finite import Trials
from scoreline.tasks.scoring.numeric_warnings import default_warnings
from scoreline.tasks.scoring.outputs import column_to_arrow, outputs
from scoreline.tasks.scoring.probe import Probe
from scoreline.tasks.scoring.refusals import SingleCalls, ask
from scoreline.tasks.scoring.refused_before import RefusedBefore
from scoreline.tasks.scoring.rejected_rows import RejectedRows
from scoreline.tasks.scoring.search import Pieces, Search
from scoreline.tasks.scoring.suspects import Suspects
from scoreline.tasks.scoring.timings import Timings
from scoreline.tasks.scoring.unbroken_rows import UnbrokenRows


@dataclass(frozen=True, kw_only=True)
class Scored:
    """The results of a batch, and its rejected rows."""

    table: pa.Table
    """Kept columns and scores of the rows that could be scored, in input order."""
    rejected: RejectedRows
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
    report: Callable[[int], bool] | None = None,
    describe_row: Callable[[int], str] | None = None,
    timings: Timings | None = None,
    refused_before: RefusedBefore | None = None,
    single_calls: SingleCalls | None = None,
    contract: Contract | None = None,
) -> Scored:
    """Score one batch, and reject only the rows that make the estimator fail.

    A batch in which no row fails needs only one call of the estimator. If the call fails, `Search` finds the rows that
    fail: a row is rejected if a step of scikit-learn refuses its values, or if a call with this row alone fails. The
    set of rejected rows therefore depends only on the rows and the model, not on earlier work of the process. Warnings
    never reject a row, regardless of how the process treats them.

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
        Maximum number of rejected rows. If more rows are rejected, the search ends, because the job exceeds its budget.
    report : callable, optional
        Called with the number of rejected rows of the batch, each time this number grows. Returns whether to raise
        `RejectBudgetExceeded`.
    describe_row : callable, optional
        Returns the object and the row number from which a row of the batch comes, for the message of that error.
    timings : Timings, optional
        Timings to which the seconds of `align`, `predict` and `search` are added.
    refused_before : RefusedBefore, optional
        The values that were refused in earlier batches. The values that are refused in this batch are added. These
        values only decide which rows are tried first.
    single_calls : SingleCalls, optional
        What calls with single rows have shown in earlier batches of the part. What such calls show in this batch is
        added.
    contract : Contract, optional
        The rules that each row must meet. The model does not get the rows that break a rule, and neither does the
        conversion to features.

    Raises
    ------
    RejectBudgetExceeded
        More than `max_rejected` rows are rejected, or `report` returned True. The message shows the first rejected row.
    ScoringError
        The result of a model does not fit into a table.
    InputError
        The model does not accept the features at all, regardless of their values, or a kept column has the same name as
        an output.
    Exception
        The model failed for a reason that is not due to the rows (see `model_calls.is_about_rows`).
    """
    timings = timings or Timings()
    rest = None
    if contract is not None and contract.rules:
        with timings("align"):
            rest = UnbrokenRows.of(batch, contract)
        if rest is not None:
            rest.check_budget(max_rejected, report, describe_row)
    done = _score(
        bundle,
        batch if rest is None else rest.batch,
        features=features,
        keep=keep,
        method=method,
        frames=frames,
        max_rejected=max_rejected,
        report=report,
        describe_row=describe_row if rest is None else rest.describe_with(describe_row),
        timings=timings,
        refused_before=refused_before,
        single_calls=single_calls or SingleCalls(),
        before=0 if rest is None else len(rest.broken),
    )
    return done if rest is None else Scored(table=done.table, rejected=rest.with_broken(done.rejected))


def _score(
    bundle: Bundle,
    batch: pa.RecordBatch,
    *,
    features: Sequence[str],
    keep: Sequence[str],
    method: str | None,
    frames: bool,
    max_rejected: int | None,
    report: Callable[[int], bool] | None,
    describe_row: Callable[[int], str] | None,
    timings: Timings,
    refused_before: RefusedBefore | None,
    single_calls: SingleCalls,
    before: int,
) -> Scored:
    """Score the rows that break no rule (see `score_batch`). `before` is the number of rows that break one."""
    form = _form(bundle, features)
    named = bundle.manifest.feature_names is not None or frames
    categories = bundle.categories(features)

    def convert(rows: pa.RecordBatch) -> tuple[Any, dict[int, Rejection]]:
        return to_features(rows, features, form=form, named=named, categories=categories)

    with timings("align"):
        x, rejected = convert(batch)
    rows = np.arange(batch.num_rows, dtype=np.int64)
    if rejected:
        rows = np.delete(rows, list(rejected))

    def score_features(taken: Any) -> dict[str, Any]:
        return call_model(lambda: outputs(bundle, taken, method))

    def score_rows(numbers: Any) -> dict[str, Any]:
        return score_features(_take(x, numbers))

    def score_single(row: pa.RecordBatch) -> dict[str, Any]:
        return call_model(lambda: outputs(bundle, convert(row)[0], method))

    trials = Trials(score=score_single, batch=batch, features=features)
    pieces: Pieces = []
    rejects = BatchRejects(
        rejected=rejected,
        trials=trials,
        pieces=pieces,
        max_rejected=max_rejected,
        report=report,
        describe_row=describe_row,
        before=before,
    )
    order = Suspects(trials=trials, blame=rejects.blame)
    asks = bundle.keeps_rows_apart
    with bundle.compiled.in_use() as used, timings.predicting(used):
        rejects.check_budget()
        if refused_before is not None and asks and bundle.may_be_tried:
            with timings.searching():
                _try_some(refused_before, batch, features, refused_before.rows_to_try(rows, single_calls), score_rows)
        expected = refused_before.expected(batch) if refused_before is not None and asks else None
        probe = None
        if refused_before is not None and expected is not None and refused_before.expects_missing:
            probe = Probe.of(trials, x, score_features, rows[expected[rows]], rows[~expected[rows]])
        search = Search(
            score=score_rows,
            order=order,
            rejects=rejects,
            pieces=pieces,
            asks=asks,
            expected=expected,
            confirmed=single_calls.confirmed,
            probe=probe,
        )
        search.run(rows)
        if probe is not None:
            probe.explain(trials, single_calls.confirmed)
        with timings.searching():
            found = rejects.explained()
            if refused_before is not None:
                _remember(refused_before, batch, features, search, found, rejected)
    timings.search += search.seconds
    with timings("align"):
        return _join(batch, keep, found, pieces)


def _try_some(
    refused_before: RefusedBefore,
    batch: pa.RecordBatch,
    features: Sequence[str],
    tried: Any,
    score: Callable[[Any], dict[str, Any]],
) -> None:
    """Try some rows of the first batch of a model or job, and remember which of them a step refuses.

    Otherwise the first call of the whole batch would fail, often after most of its work is done. The results of the
    trial are not used, so that the scores do not depend on the trial.
    """
    if not len(tried):
        return
    try:
        score(tried)
    except Exception as error:
        if not is_about_rows(error) and not isinstance(error, MemoryError):
            raise
        for refused in ask(error, len(tried)):
            unknown = Rejection(stage="predict", column=None, message="")
            others = np.delete(tried, refused.rows)
            refused_before.learn(batch, features, dict.fromkeys(tried[refused.rows].tolist(), unknown), others)


def _remember(
    refused_before: RefusedBefore,
    batch: pa.RecordBatch,
    features: Sequence[str],
    search: Search,
    rejected: RejectedRows,
    unconverted: Collection[int],
) -> None:
    """Remember which rows of a batch the steps of the model refused, unless all refused rows were expected."""
    if search.expected is not None:
        refused_before.were(right=search.as_expected)
    if len(rejected) > len(unconverted) and search.by_steps and not search.as_expected and search.pieces:
        refused = {row: why for row, why in rejected.items() if row not in unconverted}
        scored = search.pieces[0][0]
        if not refused_before.learn(batch, features, refused, scored) and search.expected is None:
            refused_before.were(right=False)


def _take(x: Any, rows: Any) -> Any:
    """Return the given rows of `x`.

    A DataFrame gets a new index from 0, because a model may join it with another DataFrame.
    """
    taken = take(x, rows)
    return taken.reset_index(drop=True) if isinstance(taken, pd.DataFrame) and taken is not x else taken


def _join(
    batch: pa.RecordBatch,
    keep: Sequence[str],
    rejected: RejectedRows,
    pieces: Pieces,
) -> Scored:
    """Append the scores to the kept columns, and leave out the rejected rows."""
    kept = pa.Table.from_batches([batch.select(list(keep))])
    if rejected:
        is_kept = np.ones(batch.num_rows, dtype=bool)
        is_kept[rejected.rows] = False
        kept = kept.filter(pa.array(is_kept))
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
    """Put the scores of several calls into one table, in input order."""
    tables = [pa.table({name: column_to_arrow(name, column) for name, column in piece.items()}) for _, piece in pieces]
    if len(tables) == 1:
        return tables[0]
    order = np.argsort(np.concatenate([rows for rows, _ in pieces]))
    return pa.concat_tables(tables, promote_options="permissive").take(pa.array(order))
