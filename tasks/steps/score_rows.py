"""Reads the rows of a part and scores them, batch by batch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pyarrow as pa

from scoreline.storage.errors import InputError, LedgerUnavailable, RejectBudgetExceeded, describe
from scoreline.storage.prefetch import prefetched
from scoreline.storage.tables.schemas import from_text
from scoreline.storage.wording import plural
from scoreline.tasks.dispatch.dispatcher import Documents
from scoreline.tasks.job.plan import Columns, Part
from scoreline.tasks.rejects.table import concat_rejects, describe_rejected, rejects_table
from scoreline.tasks.scoring.contract import Contract
from scoreline.tasks.scoring.refusals import SingleCalls
from scoreline.tasks.scoring.score import score_batch
from scoreline.tasks.scoring.timings import Timings
from scoreline.tasks.steps.engine import Engine, ModelInUse
from scoreline.tasks.steps.read_part import Batch, read_part
from scoreline.tasks.steps.reject_watch import REJECTED_SHOWN, RejectWatch
from scoreline.tasks.steps.unchanged.carrier import Carrier

_FEW_ROWS = 1_000
"""Parts with more rows are read in a thread of their own, which takes some time to start. A part of so few rows is one
batch, beside which nothing could be read."""


class PartStopped(Exception):
    """Raised if the job has ended, so that the part is no longer needed."""


def score_rows(
    engine: Engine,
    documents: Documents,
    planned: Part,
    budget: int,
    timings: Timings,
    note: Callable[[int], int] | None = None,
    write: Callable[[pa.Table], None] | None = None,
    profile: Callable[[Batch, pa.Table | None, Any], None] | None = None,
    challenge: Callable[[Batch, pa.Table | None, Any, Timings], None] | None = None,
    *,
    exact: bool = False,
    columns: Columns | None = None,
    carrier: Carrier | None = None,
) -> tuple[pa.Table, pa.Table]:
    """Score a part batch by batch, while the next batch is fetched and decoded.

    Parameters
    ----------
    planned : Part
        The slices to read.
    budget : int
        Number of rows that the job may reject.
    timings : Timings
        Timings to which the seconds of `decode`, `align` and `predict` are added.
    note : callable, optional
        Records the number of rejected rows of the part, and returns the number of the whole job (see
        `Ledger.note_rejects`).
    write : callable, optional
        Called with the scored rows of each batch in the planned schema, so that they need not stay in memory.
    profile : callable, optional
        Counts the rows of each batch for the profile (see `PartProfile.add`).
    challenge : callable, optional
        Scores each batch with the challenger of the job (see `PartChallenger.add`).
    exact : bool
        Whether to raise `InputError` if the results have other types than planned, even if they can be converted.
    columns : Columns, optional
        The columns that are read; by default, those of the plan.
    carrier : Carrier, optional
        Carries the scores of unchanged rows over from the accepted run.

    Returns
    -------
    results, rejects : pyarrow.Table
        The scored rows in the planned schema, and the rejected rows with their reasons, both in input order. If `write`
        is given, `results` has no rows.

    Raises
    ------
    PartStopped
        The job ended meanwhile.
    RejectBudgetExceeded
        The rejected rows of this part exceed both `budget` and `REJECTED_SHOWN`, or `RejectWatch` found that the job
        has rejected too many rows; the message shows one of the rows.
    InputError
        The results do not fit the planned schema.
    ExtraUnreadable
        The part must be read without the columns that only the challenger needs.
    """
    job, columns = documents.job, columns or documents.plan.columns
    schema = from_text(columns.schema)
    model = ModelInUse(engine.models, job.model)
    if carrier is not None and not carrier.begin():
        carrier = None
    model.bundle  # noqa: B018  # loaded before the time is measured
    timings.begin()
    check_stopped = _stop_check(engine, job.spec.job_id)
    scored: list[pa.Table] = []
    write = write or scored.append
    rejected: list[pa.Table] = []
    most, count = max(budget, REJECTED_SHOWN), 0
    watch = RejectWatch(budget=budget, note=note, check_stopped=check_stopped)

    contract = Contract(columns.rules)
    refused_before = engine.refused.of(job.model.manifest_sha256, columns.features)
    single_calls = SingleCalls(job_begins=refused_before.begins(job.spec.job_id))

    gone: list[bool] = []
    read = read_part(engine, planned, columns, job.spec.read, engine.batch_size(columns), gone)

    def report(in_batch: int) -> bool:
        return watch(count + in_batch)

    decoded = timings.each("decode", read)
    if planned.rows > _FEW_ROWS:
        decoded = prefetched(decoded)
    with contextlib.closing(decoded) as batches, contextlib.ExitStack() as ends:
        ends.callback(gone.append, True)
        for whole in batches:
            batch = whole
            if columns.extra:  # so that rejected rows, too, are as without a challenger
                batch = replace(whole, rows=whole.rows.select(list(columns.names)))
            if engine.between_batches is not None:
                timings.pause(engine.between_batches(engine, model))
            check_stopped()
            split = None
            if carrier is not None:
                with timings("align"):
                    split = carrier.split(batch.rows, batch.describe)
            try:
                done = score_batch(
                    model.bundle,
                    batch.rows if split is None else split.rows,
                    features=columns.features,
                    keep=columns.keep,
                    method=job.spec.method,
                    frames=columns.frames,
                    max_rejected=most,
                    report=report,
                    describe_row=batch.describe if split is None else split.describe,
                    timings=timings,
                    refused_before=refused_before,
                    single_calls=single_calls,
                    contract=contract,
                )
            except RejectBudgetExceeded as error:
                raise _over_budget(watch.over, most, budget, f"In one batch, {describe(error)}") from error
            fitted: pa.Table | None = None
            if done.table.num_rows:
                with timings("align"):
                    where = f"from {batch.describe(0)} on"
                    if exact and not done.table.schema.remove_metadata().equals(schema):
                        raise InputError(f"{where}: the results have other types than those of earlier jobs")
                    fitted = _fit_schema(done.table, schema, where)
            rejections = done.rejected
            if carrier is not None and split is not None:
                with timings("align"):
                    fitted, rejections = split.joined(fitted, rejections)
                    fitted = None if fitted is None else _fit_schema(fitted, schema, "")
                    carrier.add(split, fitted, rejections.rows)
            if fitted is not None:
                write(fitted)
            if profile is not None:
                with timings("encode"):
                    profile(batch, fitted, rejections.rows)
            if challenge is not None:
                challenge(whole, fitted, rejections.rows, timings)
            example = ""
            for uri, rows, reasons in batch.rejects(rejections):
                rejected.append(rejects_table(rows, reasons, uri))
                count += rejected[-1].num_rows
                example = example or f"One of them is {uri}, {next(describe_rejected(rows, reasons))}"
            if count and (watch(count) or count > most):
                raise _over_budget(watch.over, most, budget, example)
    return (
        pa.concat_tables(scored) if scored else schema.empty_table(),
        concat_rejects(rejected) if rejected else pa.table({}),
    )


def _over_budget(total: int | None, most: int, budget: int, example: str) -> RejectBudgetExceeded:
    if total:
        what = f"the job has rejected {plural(total, 'row')} so far, but may reject only {budget}"
    else:
        what = f"more than {most} rows were rejected in one part, but the limit of the job left room for only {budget}"
    return RejectBudgetExceeded(f"{what}: correct the input, or raise --max-rejected. {example}")


def _stop_check(engine: Engine, job_id: str) -> Callable[[], None]:
    """Return a function, to be called before each batch, that raises `PartStopped` if the job was stopped."""
    batches = 0

    def check() -> None:
        nonlocal batches
        batches += 1
        with contextlib.suppress(LedgerUnavailable):  # without an answer, scoring continues
            if batches > 1 and engine.ledger.stopped(job_id):
                raise PartStopped

    return check


def _fit_schema(table: pa.Table, schema: pa.Schema, where: str) -> pa.Table:
    """Cast the results of a batch to the planned schema."""
    try:
        return table.select(schema.names).cast(schema)
    except (pa.ArrowException, KeyError) as error:
        raise InputError(
            f"{where}: the results do not fit the schema that the first rows of the input gave: {describe(error)}. "
            "Submit objects whose columns differ as separate jobs"
        ) from error
