"""A job's life, from ``job.json`` to ``outcome.json``, without Celery: what the tasks are shells of."""

from __future__ import annotations

import base64
import json
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

import pyarrow as pa

from storage import keys
from storage.errors import (
    InputError,
    JobNotFound,
    MissingColumns,
    ObjectNotFound,
    PreconditionFailed,
    ScorelineError,
    ScoringError,
    describe,
)
from storage.ledger.redis_ledger import RedisLedger
from storage.models.bundle import Bundle
from storage.models.manifest import Manifest, PinnedModel, digest
from storage.objects.base import ObjectStore
from storage.objects.buckets import Buckets
from storage.tables import parquet
from tasks import inputs
from tasks.plan import InputFile, Plan, cut
from tasks.score import score_batch
from tasks.spec import Job, Outcome, State, parse_uri

log = logging.getLogger(__name__)

BATCH_ROWS = 65_536
"""Rows scored at once: the fastest size measured for forests, and 10 MiB at 20 float64 columns."""
SAMPLE_ROWS = 64
WINDOW = 8
"""Parts of one job in the queue at once, at least."""
LEASE_S = 660.0
"""How long a part may be under way: the task's time limit and a minute."""
MAX_ATTEMPTS = 3
_RECEIPT_THREADS = 16
_DOCUMENTS_KEPT = 8


class ModelSource(Protocol):
    """Where an engine gets its models: a worker's cache."""

    def get(self, pinned: PinnedModel) -> Bundle:
        """Return a loaded bundle."""
        ...

    def manifest(self, pinned: PinnedModel) -> Manifest:
        """Return a bundle's manifest without loading it."""
        ...


@dataclass(kw_only=True)
class Engine:
    """What a worker process needs to move jobs on."""

    buckets: Buckets
    ledger: RedisLedger
    models: ModelSource
    send: Callable[..., None]
    """``send(task_name, **kwargs)`` puts a message into the queue."""
    window: int = WINDOW
    _documents: OrderedDict[str, tuple[Job, Plan, str]] = field(default_factory=OrderedDict)

    def job(self, job_id: str) -> Job:
        """Read a job's spec; raises `JobNotFound`."""
        try:
            return Job.from_json(self.buckets.main.get(keys.job(job_id)).data)
        except ObjectNotFound:
            raise JobNotFound(f"no job {job_id!r}") from None

    def documents(self, job_id: str) -> tuple[Job, Plan, str]:
        """Read a job, its plan and the plan's SHA-256, once a process."""
        if job_id not in self._documents:
            data = self.buckets.main.get(keys.plan(job_id)).data
            self._documents[job_id] = (self.job(job_id), Plan.from_bytes(data), digest(data))
            while len(self._documents) > _DOCUMENTS_KEPT:
                self._documents.popitem(last=False)
        return self._documents[job_id]


def plan_job(engine: Engine, job_id: str) -> None:
    """Plan a job and dispatch its first parts; harmless when run again. A job that cannot be scored ends as failed."""
    if _ended(engine, job_id):
        return
    job = engine.job(job_id)
    key = keys.plan(job_id)
    try:
        engine.buckets.main.head(key)
    except ObjectNotFound:
        try:
            data = make_plan(engine, job).to_bytes()
        except ScorelineError as error:
            if error.transient:
                raise
            fail_job(engine, job_id, error)
            return
        except Exception as error:  # an estimator may raise anything; the job must end with the reason
            log.exception("plan.failed", extra={"job_id": job_id})
            fail_job(engine, job_id, error)
            return
        try:
            engine.buckets.main.put(key, data, create_only=True)
        except PreconditionFailed:
            log.info("plan.exists", extra={"job_id": job_id})
    _, plan, plan_sha256 = engine.documents(job_id)
    _dispatch_open(engine, job_id, plan, plan_sha256)
    if not plan.parts:
        engine.send("scoreline.finalize", job_id=job_id)


def _dispatch_open(engine: Engine, job_id: str, plan: Plan, plan_sha256: str) -> None:
    """Dispatch what is in the window and neither done nor under way; opens the ledger where it is not."""
    for part in engine.ledger.begin(job_id, plan_sha256, len(plan.parts), engine.window):
        engine.send("scoreline.score_part", job_id=job_id, part=part)


def make_plan(engine: Engine, job: Job) -> Plan:
    """List the input, check it against the model, score a sample, and cut it into parts."""
    bucket, pattern = parse_uri(job.spec.input)
    store = engine.buckets[bucket]
    manifest = engine.models.manifest(job.model)
    features = job.spec.features or manifest.feature_names
    if features is None:
        raise MissingColumns(f"model {job.model.ref} was fitted without column names: name them with --features a,b,c")
    if manifest.n_features not in (None, len(features)):
        raise MissingColumns(f"model {job.model.ref} takes {manifest.n_features} features, {len(features)} are named")
    read = inputs.read_footers(store, inputs.find(store, pattern))
    first = read[0][1]
    keep = _kept(job.spec.keep, first, features)
    for file, schema in read:
        inputs.check_columns(store.uri(file.key), schema, first, features, keep)
    files = [file for file, _ in read]
    parts = cut(files)
    schema = ""
    if parts:
        sample = next(_batches(store, parts[0].slices[0], (*features, *keep), SAMPLE_ROWS))
        bundle = engine.models.get(job.model)
        scored = score_batch(bundle, sample, features=features, keep=keep, method=job.spec.method)
        if not scored.table.num_rows:
            raise ScoringError(f"none of the first {sample.num_rows} rows can be scored: {scored.rejected[0]}")
        schema = base64.b64encode(scored.table.schema.remove_metadata().serialize().to_pybytes()).decode()
    return Plan(parts=parts, features=tuple(features), keep=keep, schema=schema)


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
            _dispatch_open(engine, job_id, plan, plan_sha256)
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
    fail_or_complete(engine, job_id, plan_sha256, part, rows=rows, rejected=rejected, failure=failure)


def fail_or_complete(
    engine: Engine, job_id: str, plan_sha256: str, part: int, *, rows: int = 0, rejected: int = 0, failure: str = ""
) -> None:
    """Count a part in the ledger and send what the answer asks for."""
    done = engine.ledger.complete(job_id, plan_sha256, part, rows=rows, rejected=rejected, failure=failure)
    if done.next_part is not None:
        engine.send("scoreline.score_part", job_id=job_id, part=done.next_part)
    if done.all_done:
        engine.send("scoreline.finalize", job_id=job_id)


def give_up(engine: Engine, job_id: str, part: int, error: BaseException) -> None:
    """Fail a part whose transient error did not pass."""
    _, _, plan_sha256 = engine.documents(job_id)
    fail_or_complete(engine, job_id, plan_sha256, part, failure=f"gave up: {describe(error)}")


def fail_job(engine: Engine, job_id: str, error: BaseException) -> None:
    """End a job that cannot go on, with the reason."""
    _end(engine, engine.job(job_id), Outcome(state="failed", error=describe(error), failures={}))


def finalize(engine: Engine, job_id: str) -> None:
    """Check every part and write manifest, ``_SUCCESS`` and outcome, in that order; harmless when run again."""
    if _ended(engine, job_id):
        return
    job, plan, plan_sha256 = engine.documents(job_id)
    store, folder = results(engine.buckets, job)
    progress = engine.ledger.progress(job_id)
    failures = {str(part): reason for part, reason in progress.failures.items()} if progress else {}
    with ThreadPoolExecutor(_RECEIPT_THREADS, thread_name_prefix="receipt") as pool:
        entries = list(
            pool.map(lambda n: _entry(store, folder, plan, plan_sha256, n, failures), range(len(plan.parts)))
        )
    written = [entry for entry in entries if entry is not None]
    rows = sum(entry["rows"] for entry in written)
    rejected = sum(entry["rejected"] for entry in written)
    state: State = "partial" if rejected else "succeeded"
    error = ""
    if failures:
        part, reason = min(failures.items(), key=lambda item: int(item[0]))
        state, error = "failed", f"{len(failures)} of {len(plan.parts)} parts failed; part {part}: {reason}"
    elif rejected > job.spec.budget(plan.rows):
        state, error = "failed", f"{rejected} of {plan.rows} rows were rejected, allowed are {job.spec.max_rejected}"
    seconds = (datetime.now(UTC) - datetime.fromisoformat(job.submitted)).total_seconds()
    if state != "failed":
        manifest = {"job_id": job_id, "model": job.model.ref, "manifest_sha256": job.model.manifest_sha256,
                    "rows": rows, "rejected": rejected, "parts": written}  # fmt: skip
        body = json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False).encode()
        _create_same(store, keys.results_manifest(folder), body)
        summary = {"job_id": job_id, "model": job.model.ref, "rows": rows, "rejected": rejected,
                   "parts": len(written), "manifest_sha256": digest(body)}  # fmt: skip
        _create_same(store, keys.success(folder), json.dumps(summary, sort_keys=True).encode())
    _end(
        engine,
        job,
        Outcome(state=state, rows=rows, rejected=rejected, parts=len(plan.parts), seconds=seconds, error=error,
                failures=failures),
    )  # fmt: skip


def results(buckets: Buckets, job: Job) -> tuple[ObjectStore, str]:
    """Store and folder of a job's results."""
    bucket, prefix = parse_uri(job.spec.output)
    return buckets[bucket], keys.output_folder(prefix, job.spec.job_id)


def _kept(keep: str, schema: pa.Schema, features: tuple[str, ...]) -> tuple[str, ...]:
    if keep == "none":
        return ()
    if keep == "all":
        return tuple(name for name in schema.names if name not in features)
    return tuple(name.strip() for name in keep.split(","))


def _batches(store: ObjectStore, piece: Any, columns: tuple[str, ...], batch_rows: int) -> Any:
    return parquet.read_batches(
        store, piece.key, piece.size, piece.etag, row_groups=range(*piece.groups), columns=columns,
        batch_rows=batch_rows,
    )  # fmt: skip


def _commit(engine: Engine, job: Job, plan: Plan, plan_sha256: str, part: int) -> tuple[int, int]:
    """Write a part's objects, the rejected rows first; returns rows scored and rows rejected."""
    store, folder = results(engine.buckets, job)
    key = keys.result_part(folder, part)
    try:
        return _receipt(store.head(key).metadata, plan_sha256, part, store.uri(key))
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
        return _receipt(store.head(key).metadata, plan_sha256, part, store.uri(key))
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
        for batch in _batches(source, piece, (*plan.features, *plan.keep), BATCH_ROWS):
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


def _receipt(metadata: Any, plan_sha256: str, part: int, uri: str) -> tuple[int, int]:
    if metadata.get("plan") != plan_sha256 or metadata.get("part") != str(part):
        raise ScoringError(f"{uri} exists already and was not written for this part of this job")
    return int(metadata["rows"]), int(metadata["rejected"])


def _entry(
    store: ObjectStore, folder: str, plan: Plan, plan_sha256: str, part: int, failures: dict[str, str]
) -> dict[str, Any] | None:
    key = keys.result_part(folder, part)
    try:
        info = store.head(key)
        rows, rejected = _receipt(info.metadata, plan_sha256, part, store.uri(key))
    except (ObjectNotFound, ScoringError) as error:
        failures.setdefault(str(part), describe(error))
        return None
    if rows + rejected != plan.parts[part].rows:
        failures[str(part)] = f"has {plan.parts[part].rows} rows, scored {rows} and rejected {rejected}"
    source = [{"key": s.key, "etag": s.etag, "first_row": s.first_row, "rows": s.rows} for s in plan.parts[part].slices]
    return {"key": key, "rows": rows, "rejected": rejected, "bytes": info.size, "sha256": info.metadata["sha256"],
            "source": source}  # fmt: skip


def _create_same(store: ObjectStore, key: str, data: bytes) -> None:
    """Create an object that a finalizer before may have created; both write the same bytes."""
    try:
        store.put(key, data, create_only=True)
    except PreconditionFailed:
        if store.get(key).data != data:
            raise


def _ended(engine: Engine, job_id: str) -> bool:
    try:
        engine.buckets.main.head(keys.outcome(job_id))
    except ObjectNotFound:
        return False
    return True


def _end(engine: Engine, job: Job, outcome: Outcome) -> None:
    main, job_id = engine.buckets.main, job.spec.job_id
    try:
        main.put(keys.outcome(job_id), outcome.to_json(), create_only=True)
    except PreconditionFailed:
        log.info("outcome.exists", extra={"job_id": job_id})
    main.delete(keys.active(job_id))
    engine.ledger.close(job_id)
    log.info("job.ended", extra={"job_id": job_id, "state": outcome.state})


__all__ = ["Engine", "InputFile", "ModelSource", "finalize", "give_up", "make_plan", "plan_job", "score_part"]
