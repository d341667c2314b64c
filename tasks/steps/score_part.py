"""One part of a job: lease, read, score, commit, count."""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Callable, Generator
from dataclasses import replace

import pyarrow as pa

from scoreline.storage.errors import (
    InputError,
    LedgerUnavailable,
    ModelError,
    ObjectNotFound,
    PreconditionFailed,
    RejectBudgetExceeded,
    ScorelineError,
    ScoringError,
    StoreUnavailable,
    describe,
)
from scoreline.storage.hashing import sha256_hex
from scoreline.storage.ledger.base import PartLease
from scoreline.storage.models.introspection import library_versions
from scoreline.storage.objects.base import CREATE, exists
from scoreline.storage.prefetch import prefetched
from scoreline.storage.tables import parquet
from scoreline.storage.tables.base import Rows
from scoreline.storage.tables.schemas import from_text
from scoreline.tasks.dispatch.dispatcher import Documents, send_step
from scoreline.tasks.dispatch.leases import keep_renewed
from scoreline.tasks.dispatch.outcome import fail_job
from scoreline.tasks.dispatch.time_limit import SoftTimeLimitExceeded
from scoreline.tasks.job.documents import read_success
from scoreline.tasks.job.layout import ResultsLayout
from scoreline.tasks.job.plan import BATCH_ROWS, Part
from scoreline.tasks.job.receipt import Receipt
from scoreline.tasks.rejects.table import concat_rejects, describe_rejected, rejects_table
from scoreline.tasks.scoring.score import score_batch
from scoreline.tasks.scoring.timings import Timings
from scoreline.tasks.steps.engine import Engine

log = logging.getLogger(__name__)


REJECTED_SHOWN = 1_000
"""Rows of a batch that are set aside with their reasons even where fewer may be rejected: somebody has to see them."""
MAX_REASON = 500
"""Characters of a failed part's reason: Redis keeps some hundred of them."""


class _PartStopped(Exception):
    """The job wants no more of this part."""


def score_part(
    engine: Engine, job_id: str, part: int, holder: str, *, is_retry: bool = False
) -> tuple[int, int] | None:
    """Score a part, commit it, and dispatch what comes next; harmless when run again, at any moment.

    Parameters
    ----------
    holder : str
        Names the message: one that is delivered again takes over the lease of its earlier delivery, any other
        leaves the part to whoever holds the lease.
    back : bool
        The message comes again because of a transient error, which was no attempt.

    Returns
    -------
    tuple of int and int, optional
        Rows scored and rejected; None where there was nothing to do.

    Raises
    ------
    ScorelineError
        Marked transient: it was no attempt, and the message has to come again.
    """
    documents = engine.documents(job_id)
    plan = documents.plan
    if type(part) is not int or not 0 <= part < plan.parts:  # the ledger would keep a bit for it, however far away
        log.error("part.unknown", extra={"job_id": job_id, "part": part, "parts": plan.parts})
        return None
    lease = PartLease(job_id=job_id, plan_sha256=plan.sha256, part=part, holder=holder, lease_s=engine.lease_s)
    started = engine.ledger.start(lease, is_retry=is_retry)
    if started.to_do != "run":
        log.info("part.skipped", extra={"job_id": job_id, "part": part, "why": started.to_do})
        if started.all_done and started.to_do == "done":
            send_step(engine, "finalize", job_id)
        return None
    rows, rejected, failure = 0, 0, ""
    seconds: float | None = None

    try:
        with keep_renewed(lambda: engine.ledger.renew(lease), engine.lease_s / 3):
            written = _written(engine, documents, part) if started.result_may_exist else None
            if written is None and started.attempt > documents.job.spec.max_attempts:
                raise ScoringError(
                    f"the worker process died {started.attempt - 1} times while scoring part {part}: out of memory?"
                )
            begun = time.perf_counter()
            receipt = written or commit_part(engine, documents, part, started.budget)
            rows, rejected = receipt.rows, receipt.rejected
            seconds = None if written else time.perf_counter() - begun
    except _PartStopped:
        log.info("part.stopped", extra={"job_id": job_id, "part": part})
        return None
    except SystemExit:  # the worker is told to stop: the message goes back to the queue, and this was no attempt
        engine.ledger.release(lease)
        raise
    except (ModelError, RejectBudgetExceeded) as error:  # no other part can save the job
        fail_job(engine, job_id, error)
        return None
    except ScorelineError as error:
        if error.transient:
            engine.ledger.release(lease)
            raise
        failure = describe(error)
    except SoftTimeLimitExceeded:
        raise
    except Exception as error:  # an estimator may raise anything; the job must end with the reason
        log.exception("part.failed", extra={"job_id": job_id, "part": part})
        engine.on_fault(error, job_id=job_id, part=part)
        failure = describe(error)
    count_part(engine, job_id, part, rows=rows, rejected=rejected, failure=failure, seconds=seconds)
    return rows, rejected


def count_part(
    engine: Engine,
    job_id: str,
    part: int,
    *,
    rows: int = 0,
    rejected: int = 0,
    failure: str = "",
    seconds: float | None = None,
) -> None:
    """Count a part in the ledger and send what the answer asks for; `seconds` is how long it took to score."""
    plan_sha256 = engine.documents(job_id).plan.sha256
    failure = failure[:MAX_REASON]
    done = engine.ledger.complete(job_id, plan_sha256, part, rows=rows, rejected=rejected, failure=failure)
    if done.counted:
        engine.ledger.counters.count_part(rows=rows, rejected=rejected, failed=bool(failure), seconds=seconds)
    if done.next_part is not None:
        engine.send("scoreline.score_part", job_id=job_id, part=done.next_part)
    if done.all_done or done.stopped in ("budget", "failures"):
        send_step(engine, "finalize", job_id)


def _written(engine: Engine, documents: Documents, part: int) -> Receipt | None:
    """Return the receipt of a part that was written and not counted; None if it was not written."""
    layout = ResultsLayout.of(engine.buckets, documents.job)
    key = layout.part(part)
    try:
        metadata = layout.store.head(key).metadata
    except ObjectNotFound:
        return None
    return Receipt.from_metadata(metadata, layout.uri(key)).check(documents.plan.sha256, part, layout.uri(key))


def commit_part(engine: Engine, documents: Documents, part: int, budget: int) -> Receipt:
    """Score a part and write its objects, the rejected rows first; return the receipt that counts."""
    job, plan = documents.job, documents.plan
    layout = ResultsLayout.of(engine.buckets, job)
    store, key = layout.store, layout.part(part)
    started = time.perf_counter()
    planned = plan.part(part)
    timings = engine.history.begin(job.spec.job_id)
    table, rejected = _score(engine, documents, planned, budget, timings)
    if table.num_rows + rejected.num_rows != planned.rows:
        raise ScoringError(
            f"part {part} has {planned.rows} rows, scored {table.num_rows}, rejected {rejected.num_rows}"
        )
    footer = {
        "scoreline.job_id": job.spec.job_id,
        "scoreline.part": str(part),
        "scoreline.model": job.model.name,
        "scoreline.model_version": job.model.version,
        "scoreline.manifest_sha256": job.model.manifest_sha256,
        "scoreline.scored_at": job.submitted,
        "scoreline.libraries": json.dumps(library_versions() | {"pyarrow": pa.__version__}, sort_keys=True),
        "scoreline.source": json.dumps([[s.key, s.etag, *s.scope] for s in planned.slices]),
    }
    receipt = Receipt(plan_sha256=plan.sha256, part=part, rows=table.num_rows, rejected=rejected.num_rows)
    _stop_if_arranged(engine, documents)
    if rejected.num_rows:
        with timings("encode"):
            aside = parquet.write(rejected, footer)
        with timings("upload"):
            _put_rejected(layout, receipt, aside)
    with timings("encode"):
        body = parquet.write(table, footer)
        receipt = replace(receipt, sha256=sha256_hex(body))
    receipt = replace(receipt, seconds=timings.to_text())
    begun = time.perf_counter()
    try:
        store.put(key, body, mode=CREATE, metadata=receipt.to_metadata())
    except PreconditionFailed:
        committed = _written(engine, documents, part)
        if committed is None:  # refused for another reason, or taken away again
            raise StoreUnavailable(f"{store.uri(key)} could not be written, and is not there") from None
        if rejected.num_rows and not committed.rejected:
            store.delete(layout.rejected_part(part))
        return committed
    engine.history.end(job.spec.job_id, time.perf_counter() - begun)
    try:
        _stop_if_arranged(engine, documents)
    except _PartStopped:
        store.delete(key)
        raise
    log.info(
        "part.scored",
        extra={
            "job_id": job.spec.job_id,
            "part": part,
            "rows": table.num_rows,
            "seconds": round(time.perf_counter() - started, 3),
        },
    )
    return receipt


def _stop_if_arranged(engine: Engine, documents: Documents) -> None:
    """Raise `_PartStopped` if the results were arranged and the parts deleted: a late part must not be written."""
    if documents.job.spec.arranged:
        layout = ResultsLayout.of(engine.buckets, documents.job)
        if read_success(layout.store, layout.folder, documents.plan.sha256) is not None:
            raise _PartStopped


def _put_rejected(layout: ResultsLayout, receipt: Receipt, body: bytes) -> None:
    """Write the rejected rows of a part that is not committed yet.

    An earlier try that died before its commit may have left other ones, which count for nothing.
    """
    store, key = layout.store, layout.rejected_part(receipt.part)
    metadata = replace(receipt, sha256=sha256_hex(body)).to_metadata()
    try:
        store.put(key, body, mode=CREATE, metadata=metadata)
    except PreconditionFailed:
        if dict(store.head(key).metadata) != metadata and not exists(store, layout.part(receipt.part)):
            store.put(key, body, metadata=metadata)


def _score(
    engine: Engine, documents: Documents, planned: Part, budget: int, timings: Timings
) -> tuple[pa.Table, pa.Table]:
    """Score a part batch by batch; returns its results and its rejected rows, each in input order.

    The next batch is fetched and decoded meanwhile.
    """
    job, columns = documents.job, documents.plan.columns
    schema = from_text(columns.schema)
    bundle = engine.models.get(job.model)
    timings.begin()
    goes_on = _watch(engine, job.spec.job_id)
    scored: list[pa.Table] = []
    rejected: list[pa.Table] = []
    most, count = max(budget, REJECTED_SHOWN), 0

    def read() -> Generator[tuple[str, Rows]]:
        for piece in planned.slices:
            uri = engine.buckets[piece.bucket].uri(piece.key)
            for rows in engine.read_slice(piece, columns, job.spec.read, BATCH_ROWS):
                yield uri, rows

    with contextlib.closing(prefetched(timings.each("decode", read()))) as batches:
        for uri, rows in batches:
            goes_on()
            done = score_batch(
                bundle,
                rows.batch,
                features=columns.features,
                keep=columns.keep,
                method=job.spec.method,
                max_rejected=most,
                timings=timings,
            )
            if done.table.num_rows:
                with timings("align"):
                    scored.append(_cast(done.table, schema, f"{uri} from row {rows.numbers[0]}"))
            if done.rejected or rows.malformed:
                rejected.append(rejects_table(rows, done.rejected, uri))
                count += rejected[-1].num_rows
            if count > most:
                raise RejectBudgetExceeded(
                    f"more rows cannot be scored than the {most} that may be rejected; one of them is {uri}, "
                    f"{next(describe_rejected(rows, done.rejected))}"
                )
    return (
        pa.concat_tables(scored) if scored else schema.empty_table(),
        concat_rejects(rejected) if rejected else pa.table({}),
    )


def _watch(engine: Engine, job_id: str) -> Callable[[], None]:
    """Return a check to call before each batch; it raises `_PartStopped` if the job was stopped meanwhile."""
    batches = 0

    def goes_on() -> None:
        nonlocal batches
        batches += 1
        with contextlib.suppress(LedgerUnavailable):  # what is scored is worth more than the question
            if batches > 1 and engine.ledger.stopped(job_id):
                raise _PartStopped

    return goes_on


def _cast(table: pa.Table, schema: pa.Schema, where: str) -> pa.Table:
    try:
        return table.select(schema.names).cast(schema)
    except (pa.ArrowException, KeyError) as error:
        raise InputError(f"{where}: results do not fit the planned schema: {describe(error)}") from error
