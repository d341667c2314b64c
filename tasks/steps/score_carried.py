"""Scores a small job of records from what it carries, and answers the application before the job has ended.

The answer is given as soon as the results and the plan are durable. The rest is written afterwards, side by side where
possible. If the process dies then, the marker of the job makes the reconciler finish the job.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from scoreline.storage import keys
from scoreline.storage.errors import (
    DeadlinePassed,
    InputError,
    InvalidRequest,
    LedgerError,
    PreconditionFailed,
    RejectBudgetExceeded,
    ScorelineError,
    describe,
)
from scoreline.storage.ledger.answers import Answer
from scoreline.storage.ledger.base import Ledger
from scoreline.storage.objects.base import CREATE, ObjectInfo, StoredObject, create_once
from scoreline.storage.objects.caching import CachingStore
from scoreline.storage.objects.requests import Requests
from scoreline.storage.tables.small_objects import KeptObjects
from scoreline.storage.typed_json import MALFORMED_GZIP, decode_object
from scoreline.tasks.dispatch.dispatcher import Documents
from scoreline.tasks.dispatch.outcome import record_outcome
from scoreline.tasks.job.commits import Commit, find_rejects
from scoreline.tasks.job.deadline import has_passed
from scoreline.tasks.job.documents import COMPLETE, Job, Outcome, claim_end, is_active, seconds_since
from scoreline.tasks.job.layout import ResultsLayout
from scoreline.tasks.job.plan_file import PlanFile
from scoreline.tasks.job.receipt import Receipt
from scoreline.tasks.job.spec import budget_rows
from scoreline.tasks.quality.gate.decisions import repeat_decision
from scoreline.tasks.quality.gate.pointer import publishes
from scoreline.tasks.records.carried import Carried, records_key
from scoreline.tasks.records.staging import read_scored
from scoreline.tasks.records.table import MAX_RESULTS_BYTES, encode, pack, unpack
from scoreline.tasks.scoring.interruptions import SoftTimeLimitExceeded
from scoreline.tasks.steps.commit_part import commit_part
from scoreline.tasks.steps.engine import Engine
from scoreline.tasks.steps.planner import Pace, make_plan
from scoreline.tasks.steps.results_manifest import PartTotals, entry_of, write_manifest
from scoreline.tasks.steps.sampling import SAMPLE_ROWS

log = logging.getLogger(__name__)

MAX_ANSWER_BYTES = 16 << 10
"""Maximum size of results that are given to the application through the ledger."""
MAX_RESULTS_IN_OUTCOME = 16 << 10
"""Maximum size of results that are stored in the outcome, and not in an object of their own."""
_THREADS = 3
REQUESTS = Requests(class_a=10, class_b=2)
"""Requests of a job: the submission writes four objects and reads the alias of the model, and the worker writes six
objects and confirms the job. Loading the model is not counted, nor deleting the marker. Requests are not counted one by
one, because other jobs are done side by side."""

_scoring = threading.Lock()
"""Held while a job is planned and scored, because jobs that are done side by side share models and memory."""


class _Unconfirmed(Exception):
    """Raised if the bucket does not confirm what a job carries."""


def takes_longer(ledger: Ledger, documents: Documents, seconds: float) -> bool:
    """Return whether scoring a job takes longer than `seconds`, according to the pace of earlier jobs."""
    pace = Pace.of(ledger, documents.job).rows_per_s
    return pace is not None and documents.plan.rows > seconds * pace


@dataclass(frozen=True, kw_only=True)
class _Created:
    """The keys of the objects of a job that never change once they exist."""

    job_id: str
    folder: str

    def __contains__(self, key: object) -> bool:
        fixed = (keys.job(self.job_id), keys.plan(self.job_id))
        return isinstance(key, str) and (key in fixed or keys.is_records(key) or key.startswith(self.folder))


@dataclass(frozen=True, kw_only=True)
class _Work:
    """A job under way in this process."""

    engine: Engine
    """The engine, whose stores remember what is created."""
    documents: Documents
    plan: bytes
    reader: str

    @property
    def job_id(self) -> str:
        return self.documents.job.spec.job_id

    @property
    def layout(self) -> ResultsLayout:
        return ResultsLayout.of(self.engine.buckets, self.documents.job)


def score_carried(engine: Engine, job_id: str, carried: Carried, *, longest_s: float | None = None) -> bool:
    """Score a job from what it carries, answer it, and end it.

    The bucket must confirm what the job carries: the marker of the job contains the digest of ``job.json``, which
    contains the digest of the records. The marker also shows that the job is still under way.

    Parameters
    ----------
    longest_s : float, optional
        Leave a job that takes longer according to the pace of earlier jobs.

    Returns
    -------
    bool
        Whether the job has ended. Otherwise, it must be scored from the bucket (see `score_small`), which also finds
        the error that ends the job, if there is one.

    Raises
    ------
    ScorelineError
        The job is answered, but a transient error has prevented its end: the message must be delivered again.
    """
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="carried") as pool:
        confirmed = pool.submit(is_active, engine.buckets.main, job_id, carried.sha256)
        try:
            with contextlib.ExitStack() as until_scored:
                until_scored.enter_context(_scoring)
                work = _begin(engine, job_id, carried)
                if work is None:
                    return False
                if longest_s is not None and takes_longer(engine.ledger, work.documents, longest_s):
                    return False
                receipt = _commit(work, pool, confirmed, until_scored)
        except _Unconfirmed:
            log.info("carried.unconfirmed", extra={"job_id": job_id})
            return False
        except (SystemExit, SoftTimeLimitExceeded):
            raise
        except Exception as error:  # noqa: BLE001  # scoring the job from the bucket ends it with the error
            log.info("carried.left", extra={"job_id": job_id, "error": describe(error)})
            return False
        return receipt is not None and _answer_and_end(work, pool, receipt)


def _begin(engine: Engine, job_id: str, carried: Carried) -> _Work | None:
    """Plan a job. Return None if it is malformed or late, has several parts, or has an output of its own."""
    try:
        job = carried.job()
        found = records_key(job, engine.buckets.main.bucket)
        if job.spec.job_id != job_id or found is None or job.spec.arranged or has_passed(job.spec.deadline):
            return None
        if publishes(job, engine.buckets.main.bucket):  # the gate has to check the job
            return None
        key, sha256 = found
        if hashlib.sha256(unpack(carried.records)).hexdigest() != sha256:
            return None
    except (*MALFORMED_GZIP, InvalidRequest):
        return None
    folder = ResultsLayout.of(engine.buckets, job).folder
    buckets = engine.buckets.caching(_Created(job_id=job_id, folder=folder))
    own = replace(
        engine, buckets=buckets, kept=KeptObjects(), between_batches=None, _documents=OrderedDict(), _sized=None
    )
    _remember(own, key, carried.records, carried.etag)
    _remember(own, keys.job(job_id), carried.document.encode())
    plan = make_plan(own, job, Pace(), engine.known_columns)
    _remember(own, keys.plan(job_id), plan)
    documents = own._documents[job_id] = Documents(job=job, plan=PlanFile(own.buckets.main, job_id))
    return (
        _Work(engine=own, documents=documents, plan=plan, reader=carried.reader) if documents.plan.parts == 1 else None
    )


def _remember(engine: Engine, key: str, data: bytes, etag: str = "carried") -> None:
    main = engine.buckets.main
    assert isinstance(main, CachingStore)
    main.remember(StoredObject(info=ObjectInfo(key=key, size=len(data), etag=etag), data=data))


def _commit(
    work: _Work, pool: ThreadPoolExecutor, confirmed: Future[bool], until_scored: contextlib.ExitStack
) -> Receipt | None:
    """Score a job, and write its plan and its results side by side. Return None if the job has to be left.

    Close `until_scored` as soon as the job is scored.

    Raises
    ------
    _Unconfirmed
        The bucket does not confirm what the job carries. Nothing is written.
    """
    engine, documents, layout = work.engine, work.documents, work.layout
    planned: list[Future[bool]] = []

    def begin_writing(receipt: Receipt) -> None:
        until_scored.close()
        if receipt.rejected > budget or not receipt.rows:
            raise RejectBudgetExceeded("too many records were rejected")
        if has_passed(documents.job.spec.deadline):
            raise DeadlinePassed("the deadline passed while the records were scored")
        if not confirmed.result():
            raise _Unconfirmed
        planned.append(pool.submit(_create_plan, work))

    budget = budget_rows(documents.job.spec.max_rejected, documents.plan.rows)
    exact = documents.plan.rows <= SAMPLE_ROWS  # the plan may have the columns of an earlier job
    try:
        receipt = commit_part(engine, documents, 0, budget, before_writing=begin_writing, exact=exact)
    except RejectBudgetExceeded:
        return None
    except InputError:
        engine.known_columns.forget(documents.plan.columns)
        raise
    if not planned[0].result():  # another process has planned the job differently
        store = layout.store
        if isinstance(store, CachingStore) and store.cached(layout.part(0)) is not None:
            store.delete(layout.part(0))
        return None
    return receipt


def _create_plan(work: _Work) -> bool:
    """Write the plan. Return False if a different plan exists."""
    main = work.engine.buckets.main
    assert isinstance(main, CachingStore)
    try:
        main.behind.put(keys.plan(work.job_id), work.plan, mode=CREATE)
    except PreconditionFailed:
        return main.behind.get(keys.plan(work.job_id)).data == work.plan
    return True


def _answer_and_end(work: _Work, pool: ThreadPoolExecutor, receipt: Receipt) -> bool:
    """Answer a job whose results are durable, and end it. Return False if the job was cancelled meanwhile."""
    engine, documents, job_id = work.engine, work.documents, work.job_id
    scored = read_scored(engine.buckets, documents, with_rejected=bool(receipt.rejected))
    try:
        results = b"" if scored is None else encode(scored, MAX_RESULTS_BYTES)
    except ScorelineError as error:  # the results do not fit into JSON
        log.info("answer.not_written", extra={"job_id": job_id, "why": describe(error)})
        results = b""
    give = _giver(work)
    if results and len(results) <= MAX_ANSWER_BYTES:
        give(results.decode())
    ended = _end(work, pool, receipt, results)
    if not results or len(results) > MAX_ANSWER_BYTES:
        give("")
    return ended


def _giver(work: _Work) -> Callable[[str], None]:
    def give(text: str) -> None:
        if work.reader:
            with contextlib.suppress(LedgerError):  # the application finds the outcome in the bucket
                work.engine.ledger.answers.give(work.reader, Answer(job_id=work.job_id, text=text))

    return give


def _end(work: _Work, pool: ThreadPoolExecutor, receipt: Receipt, results: bytes) -> bool:
    """Write what the job still lacks: manifest and claim, then ``_SUCCESS``, then the outcome."""
    engine, documents, layout, job_id = work.engine, work.documents, work.layout, work.job_id
    main = engine.buckets.main
    info = layout.store.head(layout.part(0))
    commit = Commit(info=info, receipt=receipt, rejects=find_rejects(layout, receipt))
    entry, totals = entry_of(layout, 0, documents.plan.part(0), commit), PartTotals()
    totals.add(0, entry)
    in_outcome = len(results) <= MAX_RESULTS_IN_OUTCOME
    writes_entry = documents.job.webhook is not None  # see `_listed`
    more = Requests(class_a=bool(receipt.rejected) + (not in_outcome) + writes_entry)
    outcome = _outcome_of(documents.job, totals, REQUESTS + more)
    written = pool.submit(write_manifest, layout, documents, totals, lambda: [entry])
    apart = None if in_outcome else pool.submit(_write_results, work, results)
    decided = claim_end(main, job_id, outcome)
    success = written.result().success
    if apart is not None:
        apart.result()
    if decided.state not in COMPLETE:
        return False
    create_once(layout.store, layout.success, success)
    with contextlib.suppress(LedgerError):  # these calls only update counters and let other steps begin sooner
        engine.ledger.counters.count_part(
            rows=receipt.rows, rejected=receipt.rejected, failed=False, seconds=totals.timings.scoring
        )
        engine.ledger.end_step(job_id, "plan")
    recorded = replace(outcome, results=results.decode() if in_outcome else "", job=_listed(documents.job))
    if not record_outcome(engine, job_id, recorded, job=documents.job):
        repeat_decision(engine.buckets, documents.job)
    return True


def _write_results(work: _Work, results: bytes) -> None:
    with contextlib.suppress(PreconditionFailed):
        work.engine.buckets.main.put(keys.answer(work.job_id), pack(results), mode=CREATE)


def _listed(job: Job) -> Mapping[str, Any] | None:
    """Return what a listing reads of a job from its outcome; None if the address of a webhook, a secret, is in it."""
    return None if job.webhook is not None else decode_object(job.to_json())


def _outcome_of(job: Job, totals: PartTotals, used: Requests) -> Outcome:
    return Outcome(
        state="partial" if totals.rejected else "succeeded",
        rows=totals.rows,
        rejected=totals.rejected,
        parts=1,
        parts_done=1,
        seconds=seconds_since(job.submitted),
        failures={},
        work_s=round(totals.timings.work, 3),
        class_a=used.class_a,
        class_b=used.class_b,
        result_bytes=totals.bytes,
    )
