"""One part of a job: read, score, commit, count."""

from __future__ import annotations

import base64
import json
import logging
import time
from collections.abc import Mapping

import pyarrow as pa

from storage import keys
from storage.errors import InputError, ObjectNotFound, PreconditionFailed, ScorelineError, ScoringError, describe
from storage.models.manifest import digest
from storage.tables import parquet
from tasks.engine import Engine, dispatch_open, read_slice, results
from tasks.plan import Plan
from tasks.score import score_batch
from tasks.spec import Job, parse_uri

log = logging.getLogger(__name__)

BATCH_ROWS = 65_536
"""Rows scored at once: the fastest size measured for forests, and 10 MiB at 20 float64 columns."""
LEASE_S = 660.0
"""How long a part may be under way: the task's time limit and a minute."""
MAX_ATTEMPTS = 3


def score_part(engine: Engine, job_id: str, part: int, *, again: bool = False) -> None:
    """Score a part, commit it, and dispatch what comes next; harmless when run again, at any moment.

    Parameters
    ----------
    again : bool
        The message was delivered before. Whoever had it may have died after counting the part and before dispatching
        the next, so that what is open is dispatched once more.
    """
    job, plan, plan_sha256 = engine.documents(job_id)
    started = engine.ledger.start(job_id, plan_sha256, part, LEASE_S)
    if started.done:
        if started.all_done:
            engine.send("scoreline.finalize", job_id=job_id)
        elif again:
            dispatch_open(engine, job_id, plan, plan_sha256)
        return
    rows, rejected, failure = plan.parts[part].rows, 0, ""
    try:
        if started.attempt > MAX_ATTEMPTS:
            raise ScoringError(
                f"the worker process died {MAX_ATTEMPTS} times while scoring part {part}: out of memory?"
            )
        rows, rejected = _commit(engine, job, plan, plan_sha256, part)
    except SystemExit:  # the worker is told to stop: the message goes back to the queue, and this was no attempt
        engine.ledger.release(job_id, part)
        raise
    except ScorelineError as error:
        if error.transient:
            engine.ledger.release(job_id, part)
            raise
        rows, failure = 0, describe(error)
    except Exception as error:  # an estimator may raise anything; the job must end with the reason
        log.exception("part.failed", extra={"job_id": job_id, "part": part})
        rows, failure = 0, describe(error)
    count_part(engine, job_id, plan_sha256, part, rows=rows, rejected=rejected, failure=failure)


def give_up(engine: Engine, job_id: str, part: int, error: BaseException) -> None:
    """Fail a part whose transient error did not pass."""
    _, _, plan_sha256 = engine.documents(job_id)
    count_part(engine, job_id, plan_sha256, part, failure=f"gave up: {describe(error)}")


def count_part(
    engine: Engine, job_id: str, plan_sha256: str, part: int, *, rows: int = 0, rejected: int = 0, failure: str = ""
) -> None:
    """Count a part in the ledger and send what the answer asks for."""
    done = engine.ledger.complete(job_id, plan_sha256, part, rows=rows, rejected=rejected, failure=failure)
    if done.next_part is not None:
        engine.send("scoreline.score_part", job_id=job_id, part=done.next_part)
    if done.all_done:
        engine.send("scoreline.finalize", job_id=job_id)


def check_receipt(metadata: Mapping[str, str], plan_sha256: str, part: int, uri: str) -> tuple[int, int]:
    """Rows scored and rejected, as a result object says; raises `ScoringError` where it is of another plan or part."""
    if metadata.get("plan") != plan_sha256 or metadata.get("part") != str(part):
        raise ScoringError(f"{uri} exists already and was not written for this part of this job")
    return int(metadata["rows"]), int(metadata["rejected"])


def _commit(engine: Engine, job: Job, plan: Plan, plan_sha256: str, part: int) -> tuple[int, int]:
    """Write a part's objects, the rejected rows first; returns rows scored and rows rejected."""
    store, folder = results(engine.buckets, job)
    key = keys.result_part(folder, part)
    try:
        return check_receipt(store.head(key).metadata, plan_sha256, part, store.uri(key))
    except ObjectNotFound:
        pass
    started = time.perf_counter()
    table, rejected = _score(engine, job, plan, part)
    if table.num_rows + rejected.num_rows != plan.parts[part].rows:
        raise ScoringError(
            f"part {part} has {plan.parts[part].rows} rows, scored {table.num_rows}, rejected {rejected.num_rows}"
        )
    footer = {
        "scoreline.job_id": job.spec.job_id, "scoreline.part": str(part), "scoreline.model": job.model.name,
        "scoreline.model_version": job.model.version, "scoreline.manifest_sha256": job.model.manifest_sha256,
        "scoreline.scored_at": job.submitted,
        "scoreline.source": json.dumps([[s.key, s.etag, s.first_row, s.rows] for s in plan.parts[part].slices]),
    }  # fmt: skip
    if rejected.num_rows:
        store.put(keys.rejected_part(folder, part), parquet.write(rejected, footer))
    body = parquet.write(table, footer)
    receipt = {
        "plan": plan_sha256, "part": str(part), "rows": str(table.num_rows), "rejected": str(rejected.num_rows),
        "sha256": digest(body),
    }  # fmt: skip
    try:
        store.put(key, body, metadata=receipt, create_only=True)
    except PreconditionFailed:
        return check_receipt(store.head(key).metadata, plan_sha256, part, store.uri(key))
    log.info(
        "part.scored",
        extra={"job_id": job.spec.job_id, "part": part, "rows": table.num_rows,
               "seconds": round(time.perf_counter() - started, 3)},
    )  # fmt: skip
    return table.num_rows, rejected.num_rows


def _score(engine: Engine, job: Job, plan: Plan, part: int) -> tuple[pa.Table, pa.Table]:
    """Score a part batch by batch; returns its results and its rejected rows, each in input order."""
    schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(plan.schema)))
    bundle = engine.models.get(job.model)
    source = engine.buckets[parse_uri(job.spec.input)[0]]
    scored, rejected = [], []
    for piece in plan.parts[part].slices:
        row = piece.first_row
        for batch in read_slice(source, piece, (*plan.features, *plan.keep), BATCH_ROWS):
            done = score_batch(bundle, batch, features=plan.features, keep=plan.keep, method=job.spec.method)
            if done.table.num_rows:
                scored.append(_cast(done.table, schema, f"{source.uri(piece.key)} from row {row}"))
            if done.rejected:
                rejected.append(_rejected(batch, done.rejected, source.uri(piece.key), row))
            row += batch.num_rows
    return (
        pa.concat_tables(scored) if scored else schema.empty_table(),
        pa.concat_tables(rejected, promote_options="permissive") if rejected else pa.table({}),
    )


def _cast(table: pa.Table, schema: pa.Schema, where: str) -> pa.Table:
    try:
        return table.select(schema.names).cast(schema)
    except (pa.ArrowException, KeyError) as error:
        raise InputError(f"{where}: results do not fit the planned schema: {describe(error)}") from error


def _rejected(batch: pa.RecordBatch, reasons: dict[int, str], uri: str, first_row: int) -> pa.Table:
    rows = list(reasons)
    table = pa.Table.from_batches([batch]).take(pa.array(rows))
    for name, column in {
        "source": pa.array([uri] * len(rows)),
        "row": pa.array([first_row + row for row in rows], pa.int64()),
        "stage": pa.array(["predict"] * len(rows)),
        "message": pa.array(list(reasons.values())),
    }.items():
        table = table.append_column(name, column)
    return table
