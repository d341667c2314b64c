"""The end of a job: every part checked, then manifest, ``_SUCCESS`` and outcome."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from scoreline.storage.errors import ObjectNotFound, PreconditionFailed, ScorelineError, ScoringError, describe
from scoreline.storage.hashing import sha256_hex
from scoreline.storage.ledger.base import Progress
from scoreline.storage.objects.base import ObjectInfo, ObjectStore, create_once
from scoreline.tasks.dispatch.dispatcher import Documents
from scoreline.tasks.dispatch.leases import hold_step
from scoreline.tasks.dispatch.outcome import end_job
from scoreline.tasks.dispatch.reconcile import reconcile_job
from scoreline.tasks.dispatch.time_limit import SoftTimeLimitExceeded
from scoreline.tasks.job.documents import (
    Job,
    Outcome,
    Reason,
    Run,
    State,
    decoding,
    read_outcome,
    read_run,
    read_success,
    seconds_since,
)
from scoreline.tasks.job.layout import ResultsLayout
from scoreline.tasks.job.plan import Part
from scoreline.tasks.job.receipt import Receipt
from scoreline.tasks.job.spec import budget_rows
from scoreline.tasks.records.staging import write_answer
from scoreline.tasks.scoring.timings import Timings
from scoreline.tasks.steps.arrange import File, arrange, remove_parts
from scoreline.tasks.steps.engine import Engine

_RECEIPT_THREADS = 16
_TELLING_ROWS = 1_000
_TELLING_S = 0.01
_TELLING_ANYWAY_S = 1.0
"""A job says how fast its model is where its parts have so many rows and seconds, or the latter, on average: of a few
rows most is not their work."""


def finalize(engine: Engine, job_id: str) -> None:
    """Check every part and write manifest, ``_SUCCESS`` and outcome, in that order; harmless when run again.

    A job that is not at its end, as far as the ledger knows, is tended instead.
    """
    main = engine.buckets.main
    run, _ = read_run(main, job_id)
    progress = engine.ledger.progress(job_id)
    if progress is None or not progress.over or read_outcome(main, job_id) is not None:
        engine.ledger.end_step(job_id, "finalize")
        reconcile_job(engine, job_id)
        return
    documents = engine.documents(job_id, fresh=True)
    with hold_step(engine, job_id, "finalize"):
        outcome = _stopped(documents, run, progress) if progress.stopped else _close(engine, documents, run, progress)
        if outcome is not None:
            write_answer(engine.buckets, documents, outcome)
            if documents.job.spec.arranged and outcome.state in ("succeeded", "partial"):
                remove_parts(engine, documents.job)
            end_job(engine, job_id, outcome)


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """What the manifest says of a part, or why it is missing."""

    rows: int = 0
    rejected: int = 0
    text: str = ""
    seconds: str = ""
    failure: str = ""
    info: ObjectInfo | None = None


def _close(engine: Engine, documents: Documents, run: Run, progress: Progress) -> Outcome | None:
    """Check every part and write what says so; where results are arranged, parts may be gone once that is written."""
    if not documents.job.spec.arranged:
        return _check(engine, documents, run, progress)
    if (outcome := _succeeded(engine, documents, run)) is not None:
        return outcome
    outcome = _check(engine, documents, run, progress)
    if outcome is not None and outcome.state == "failed":  # for want of parts that another finalizer has deleted?
        return _succeeded(engine, documents, run) or outcome
    return outcome


def _succeeded(engine: Engine, documents: Documents, run: Run) -> Outcome | None:
    """Outcome of a job whose ``_SUCCESS`` is there; None of any other."""
    layout = ResultsLayout.of(engine.buckets, documents.job)
    told = read_success(layout.store, layout.folder, documents.plan.sha256)
    if told is None:
        return None
    return Outcome(
        state="partial" if told["rejected"] else "succeeded",
        rows=told["rows"],
        rejected=told["rejected"],
        parts=told["parts"],
        parts_done=told["parts"],
        seconds=seconds_since(documents.job.submitted),
        failures={},
        run=run.number,
    )


def _arrange(
    engine: Engine, documents: Documents, written: Sequence[ObjectInfo]
) -> tuple[tuple[File, ...] | None, str]:
    """Arrange the results; returns the files, or None and why not, where it is not that the job ended meanwhile."""
    try:
        return arrange(engine, documents, written), ""
    except SoftTimeLimitExceeded:
        job_id, layout = documents.job.spec.job_id, ResultsLayout.of(engine.buckets, documents.job)
        return None, (
            "arranging the results took too long: all are there, and can be read, as "
            f"{layout.uri(layout.parts_folder)}part-*.parquet. `scoreline resume {job_id}` goes on; "
            "if it does not end, score fewer objects in one job"
        )
    except ScorelineError as error:
        if error.transient:
            raise
        return None, describe(error)


def _check(engine: Engine, documents: Documents, run: Run, progress: Progress) -> Outcome | None:
    """Look at every part's receipt; write manifest and ``_SUCCESS`` where none is missing.

    None where the job ended meanwhile: it was cancelled.
    """
    job, plan = documents.job, documents.plan
    layout = ResultsLayout.of(engine.buckets, job)
    failures: dict[str, str] = {}
    written: list[str] = []
    infos: list[ObjectInfo] = []
    rows = rejected = 0
    timings = Timings()
    with ThreadPoolExecutor(_RECEIPT_THREADS, thread_name_prefix="receipt") as pool:
        for number, entry in enumerate(_entries(pool, layout, documents, progress.failures)):
            if entry.failure:
                failures[str(number)] = entry.failure
            else:
                written.append(entry.text)
                timings.add(entry.seconds)
                if entry.info is not None and job.spec.arranged:
                    infos.append(entry.info)
                rows += entry.rows
                rejected += entry.rejected
    state: State = "partial" if rejected else "succeeded"
    error = ""
    why: Reason = ""
    allowed = run.max_rejected or job.spec.max_rejected
    if failures:
        part, reason = next(iter(failures.items()))
        state, why = "failed", "parts"
        error = f"{len(failures)} of {plan.parts} parts failed; part {part}: {reason}"
    elif rejected > budget_rows(allowed, plan.rows):
        state, why = "failed", "rejected"
        error = f"{rejected} of {plan.rows} rows were rejected, allowed are {allowed}"
    files: tuple[File, ...] | None = None
    if not error and job.spec.arranged:
        files, error = _arrange(engine, documents, infos)
        if error:
            state, why = "failed", "error"
        elif files is None:
            return None
    if not error:
        if read_outcome(engine.buckets.main, job.spec.job_id) is not None:
            return None
        head = {
            "job_id": job.spec.job_id,
            "model": job.model.ref,
            "manifest_sha256": job.model.manifest_sha256,
            "rows": rows,
            "rejected": rejected,
            "warnings": list(plan.warnings),
            "seconds": timings.rounded(3),
        }
        summary = {
            "job_id": job.spec.job_id,
            "model": job.model.ref,
            "rows": rows,
            "rejected": rejected,
            "parts": len(written),
        }
        if files is not None:
            head |= {"partition_by": job.spec.partition_by}
            summary |= {"plan": plan.sha256, "files": len(files)}
        body = _create_manifest(layout.store, layout.manifest, _manifest(head, written, files))
        summary["manifest_sha256"] = sha256_hex(body)
        create_once(layout.store, layout.success, json.dumps(summary, sort_keys=True).encode())
        _tell_pace(engine, job, rows=rows + rejected, parts=plan.parts, seconds=timings.work)
    return Outcome(
        state=state,
        rows=rows,
        rejected=rejected,
        parts=plan.parts,
        parts_done=len(written),
        seconds=seconds_since(documents.job.submitted),
        error=error,
        reason=why,
        failures=failures,
        run=run.number,
    )


def _tell_pace(engine: Engine, job: Job, *, rows: int, parts: int, seconds: float) -> None:
    """Remember how fast the parts were, where that says something; half of it is what was known before."""
    if job.spec.rejected_of is not None or not rows:  # reads many rows to score a few
        return
    if seconds < _TELLING_ANYWAY_S * parts and (rows < _TELLING_ROWS * parts or seconds < _TELLING_S * parts):
        return
    pace = rows / seconds
    before = engine.ledger.counters.pace(job.work)
    engine.ledger.counters.note_pace(job.work, math.sqrt(before * pace) if before else pace)


def _stopped(documents: Documents, run: Run, progress: Progress) -> Outcome:
    """Outcome of a job that gave up before its end."""
    plan = documents.plan
    if progress.stopped == "budget":
        allowed = run.max_rejected or documents.job.spec.max_rejected
        error = (
            f"stopped after {progress.parts_done} of {plan.parts} parts: {progress.rejected} rows were rejected, "
            f"allowed are {allowed} of {plan.rows}"
        )
    else:
        part, reason = min(progress.failures.items())
        error = f"stopped after {len(progress.failures)} parts failed; part {part}: {reason}"
    return Outcome(
        state="failed",
        rows=progress.rows,
        rejected=progress.rejected,
        parts=plan.parts,
        parts_done=progress.parts_done - len(progress.failures),
        seconds=seconds_since(documents.job.submitted),
        error=error,
        reason="rejected" if progress.stopped == "budget" else "parts",
        failures={str(part): reason for part, reason in progress.failures.items()},
        run=run.number,
    )


def _entries(
    pool: ThreadPoolExecutor, layout: ResultsLayout, documents: Documents, failed: Mapping[int, str]
) -> Iterator[_Entry]:
    """Yield an entry a part, in order; some hundreds are asked for at once."""
    with_rejected = {info.key for info in layout.store.list(layout.rejected_folder)}

    def ask(item: tuple[int, Part]) -> _Entry:
        number, part = item
        if number in failed:
            return _Entry(failure=failed[number])
        return _entry(layout, documents.plan.sha256, number, part, with_rejected)

    waiting: list[tuple[int, Part]] = []
    for item in enumerate(documents.plan):
        waiting.append(item)
        if len(waiting) == 32 * _RECEIPT_THREADS:
            yield from pool.map(ask, waiting)
            waiting = []
    yield from pool.map(ask, waiting)


def _entry(layout: ResultsLayout, plan_sha256: str, number: int, part: Part, with_rejected: set[str]) -> _Entry:
    """Check the receipts of a part and of its rejected rows; return what the manifest says of the part."""
    store, key, rejected_key = layout.store, layout.part(number), layout.rejected_part(number)

    def receipt_of(info: ObjectInfo) -> Receipt:
        uri = store.uri(info.key)
        return Receipt.from_metadata(info.metadata, uri).check(plan_sha256, number, uri)

    try:
        info = store.head(key)
        scored = receipt_of(info)
        if scored.rows + scored.rejected != part.rows:
            raise ScoringError(f"has {part.rows} rows, scored {scored.rows} and rejected {scored.rejected}")
        if scored.rejected:
            aside = receipt_of(store.head(rejected_key))
            if (aside.rows, aside.rejected) != (scored.rows, scored.rejected):
                raise ScoringError(f"{store.uri(rejected_key)} is not what was rejected when the part was scored")
        elif rejected_key in with_rejected:  # of a try that died before its commit
            store.delete(rejected_key)
    except (ObjectNotFound, ScoringError) as error:
        return _Entry(failure=describe(error))
    source = [{"key": s.key, "etag": s.etag, "first_row": s.scope[0], "rows": s.scope[1]} for s in part.slices]
    named: dict[str, Any] = {"key": key} if layout.keeps_parts else {"part": number}  # the object will not stay
    entry = named | {
        "rows": scored.rows,
        "rejected": scored.rejected,
        "bytes": info.size,
        "sha256": scored.sha256,
        "source": source,
    }
    if scored.rejected:
        entry |= {"rejected_key": rejected_key, "rejected_sha256": aside.sha256}
    return _Entry(
        rows=scored.rows,
        rejected=scored.rejected,
        text=json.dumps(entry, sort_keys=True, ensure_ascii=False),
        seconds=scored.seconds,
        info=info,
    )


def _create_manifest(store: ObjectStore, key: str, body: bytes) -> bytes:
    """Write a manifest, or leave the one that is there; returns what is there.

    Times are the one thing in which two of the same results may differ: a part that somebody deleted was scored again.

    Raises
    ------
    PreconditionFailed
        There is one of other results.
    """
    try:
        create_once(store, key, body)
    except PreconditionFailed:
        there = store.get(key).data
        with decoding(store, key):
            one, other = json.loads(there), json.loads(body)
            same = one | {"seconds": None} == other | {"seconds": None}
        if not same:
            raise
        return there
    return body


def _manifest(head: Mapping[str, Any], entries: list[str], files: Sequence[File] | None) -> bytes:
    """One JSON document, a line a part; and a line a file where these are not the parts."""
    start = json.dumps(head, sort_keys=True, ensure_ascii=False)[:-1]
    if files is not None:
        lines = [json.dumps(asdict(file), sort_keys=True, ensure_ascii=False) for file in files]
        start += ', "files": [\n' + ",\n".join(lines) + "\n]"
    return (start + ', "parts": [\n' + ",\n".join(entries) + "\n]}\n").encode()
