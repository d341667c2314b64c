"""Removes one job: first the decision, which is a tombstone in place of ``job.json``, then results, then documents.

``outcome.json`` is deleted last. As long as it exists beside a tombstone, the removal is not finished, and the next
round goes on with it. Each step may be repeated, and two processes may remove the same job at once.

A failed or cancelled job can be resumed. Its removal first writes ``run.json``, which a resume writes as well, both by
compare-and-swap. Only one of these two writes can succeed, so no job is resumed while its results are being deleted.
Right after the decision, the job is checked again; if it has come to be needed since the first check, the decision is
withdrawn.
"""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from scoreline.storage import keys
from scoreline.storage.errors import (
    BucketNotAllowed,
    DocumentCorrupt,
    JobRemoved,
    ObjectNotFound,
    PreconditionFailed,
)
from scoreline.storage.hashing import sha256_hex
from scoreline.storage.objects.base import IfMatch, ObjectInfo, exists, if_unchanged
from scoreline.storage.objects.buckets import Buckets
from scoreline.tasks.audit import record
from scoreline.tasks.inputs.only_new import forget_scored
from scoreline.tasks.job.documents import (
    WITH_RESULTS,
    Job,
    Outcome,
    Run,
    decoding,
    read_outcome,
    read_run,
    read_tombstone,
)
from scoreline.tasks.job.plan_file import PlanFile
from scoreline.tasks.job.tombstone import Tombstone
from scoreline.tasks.job.uris import parse_uri
from scoreline.tasks.quality.outcomes.read_outcomes import forget_labels
from scoreline.tasks.retention import protection
from scoreline.tasks.retention.due_jobs import Due, still_due
from scoreline.tasks.retention.owned import ForeignResults, Results, find_results
from scoreline.tasks.retention.policies import Policies

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A job that stays although its time is over."""

    job_id: str
    why: str


@dataclass(frozen=True, kw_only=True)
class Removable:
    """A job that nothing needs any longer, and what its removal takes."""

    tombstone: Tombstone
    results: Results
    documents: tuple[ObjectInfo, ...]
    body: bytes = b""
    """The content of ``job.json``; empty if a tombstone has taken its place already."""
    etag: str = ""
    run: Run | None = None
    """The current run, if the job could be resumed."""
    run_etag: str | None = None

    @property
    def begun(self) -> bool:
        """Whether the tombstone is written already."""
        return not self.body


def examine(buckets: Buckets, policies: Policies, due: Due, now_s: float) -> Removable | Kept:
    """Decide from the latest documents whether a job can be removed. Nothing is written.

    Raises
    ------
    ScorelineError
        A document cannot be read. Nothing of the job may be removed.
    """
    main, job_id = buckets.main, due.job_id
    try:
        stored = main.get(keys.job(job_id))
        with decoding(main, keys.job(job_id)):
            job = Job.from_json(stored.data)
    except ObjectNotFound:
        return Kept(job_id=job_id, why="it was deleted meanwhile")
    except JobRemoved:
        return _examine_again(buckets, job_id)
    outcome = read_outcome(main, job_id)
    if outcome is None:
        return Kept(job_id=job_id, why="it is under way")
    documents = tuple(_documents(buckets, job_id))
    ended_s = next((info.modified for info in documents if info.key == keys.outcome(job_id)), now_s)
    if why := still_due(due, policies.of_job(job), ended_s, now_s, outcome.state):
        return Kept(job_id=job_id, why=why)
    run, run_etag = (None, None) if outcome.state in WITH_RESULTS else read_run(main, job_id)
    plan_sha256 = _plan_digest(buckets, job_id)
    try:
        if why := _needed(buckets, job, outcome):
            return Kept(job_id=job_id, why=why)
        results = find_results(buckets, job.spec.output, job_id, plan_sha256, outcome.state, outcome)
    except (BucketNotAllowed, ForeignResults) as error:
        return Kept(job_id=job_id, why=str(error))
    tombstone = Tombstone(
        job_id=job_id,
        state=outcome.state,
        why=due.why,
        at=datetime.fromtimestamp(now_s, UTC).isoformat(timespec="seconds"),
        model=job.model.ref,
        output=job.spec.output,
        submitted=job.submitted,
        schedule=job.schedule,
        rows=outcome.rows,
        rejected=outcome.rejected,
        parts=outcome.parts,
        run=outcome.run,
        objects=len(results.objects) + len(documents),
        size=sum(info.size for info in (*results.objects, *documents)),
        job_sha256=sha256_hex(stored.data),
        plan_sha256=plan_sha256,
        manifest_sha256=results.manifest_sha256,
    )
    return Removable(
        tombstone=tombstone,
        results=results,
        documents=documents,
        body=stored.data,
        etag=stored.info.etag,
        run=run,
        run_etag=run_etag,
    )


def remove(buckets: Buckets, found: Removable) -> Kept | None:
    """Remove a job; return why it stays if it is needed again since it was examined."""
    job_id = found.tombstone.job_id
    if not found.begun and (why := _decide(buckets, found)):
        return Kept(job_id=job_id, why=why)
    if found.tombstone.state == "blocked":
        _release(buckets, found.tombstone)
    found.results.delete()
    with contextlib.suppress(DocumentCorrupt):  # a person has to look at it, and may then delete the labels
        forget_labels(found.results.store, parse_uri(found.tombstone.output)[1])
    last = keys.outcome(job_id)
    # Other documents may have been written since
    documents = [info.key for info in _documents(buckets, job_id) if info.key != last]
    tombstone = found.tombstone
    entry = keys.job_index(datetime.fromisoformat(tombstone.submitted), tombstone.model.partition("@")[0], job_id)
    buckets.main.delete_many([*documents, entry])
    buckets.main.delete(last)
    log.info("job.removed", extra={"job_id": job_id, "objects": found.tombstone.objects, "why": found.tombstone.why})
    return None


def _release(buckets: Buckets, tombstone: Tombstone) -> None:
    """Let a schedule score the objects of a blocked job again if no person has decided about the job.

    Otherwise, no accepted run would ever have the rows of a schedule that scores each object only once. If a person has
    withdrawn the job, its objects were released at that time, and a later job may have scored them since.
    """
    main, job_id = buckets.main, tombstone.job_id
    outcome = read_outcome(main, job_id)
    is_decided = outcome is None or (outcome.checks is not None and outcome.checks.review is not None)
    if tombstone.schedule is None or is_decided or exists(main, keys.review(job_id)):
        return
    with contextlib.suppress(ObjectNotFound):  # an earlier attempt has deleted the plan
        forget_scored(main, tombstone.schedule, job_id)


def _decide(buckets: Buckets, found: Removable) -> str:
    """Write the tombstone. Return why the job stays if it was changed, resumed or named in the meantime."""
    main, tombstone = buckets.main, found.tombstone
    job_id = tombstone.job_id
    run_etag = found.run_etag
    details = {"why": tombstone.why, "state": tombstone.state, "objects": tombstone.objects, "bytes": tombstone.size}
    record(main, action="job.remove", target=job_id, details=details)
    try:
        if found.run is not None:
            now = datetime.now(UTC).isoformat(timespec="seconds")
            body = replace(found.run, removing=now).to_json()
            run_etag = main.put(keys.run(job_id), body, mode=if_unchanged(run_etag)).etag
        etag = main.put(keys.job(job_id), tombstone.to_json(), mode=IfMatch(found.etag)).etag
    except PreconditionFailed:
        return "it was resumed, or is being removed by another process"
    why = protection.named_by_latest(buckets, tombstone.output, job_id)
    if not why and tombstone.rejected:
        why = protection.rescored(main, job_id)
    if not why and found.run is not None and read_run(main, job_id)[1] != run_etag:
        why = "it was resumed"
    if why:
        main.put(keys.job(job_id), found.body, mode=IfMatch(etag))
    return why


def _examine_again(buckets: Buckets, job_id: str) -> Removable | Kept:
    """Return what is left of a job with a tombstone."""
    main = buckets.main
    tombstone = read_tombstone(main, job_id)
    if tombstone is None:
        return Kept(job_id=job_id, why="its removal was withdrawn")
    documents = tuple(_documents(buckets, job_id))
    if all(info.key != keys.outcome(job_id) for info in documents):
        return Kept(job_id=job_id, why="it is removed already")
    run, _ = read_run(main, job_id)
    if run.number > tombstone.run:
        return Kept(job_id=job_id, why="it was resumed while it was being removed")
    try:
        why = protection.named_by_latest(buckets, tombstone.output, job_id)
        if not why and tombstone.rejected:
            why = protection.rescored(main, job_id)
        if why:
            return Kept(job_id=job_id, why=why)
        results = find_results(buckets, tombstone.output, job_id, tombstone.plan_sha256, tombstone.state)
    except (BucketNotAllowed, ForeignResults) as error:
        return Kept(job_id=job_id, why=str(error))
    return Removable(tombstone=tombstone, results=results, documents=documents)


def _needed(buckets: Buckets, job: Job, outcome: Outcome) -> str:
    """Return what needs a job that has ended; empty if nothing does."""
    main, job_id = buckets.main, job.spec.job_id
    return (
        protection.under_way(main, job_id)
        or protection.named_by_latest(buckets, job.spec.output, job_id)
        or (protection.rescored(main, job_id) if outcome.rejected else "")
    )


def _plan_digest(buckets: Buckets, job_id: str) -> str:
    try:
        return PlanFile(buckets.main, job_id).sha256
    except ObjectNotFound:
        return ""


def _documents(buckets: Buckets, job_id: str) -> list[ObjectInfo]:
    """Return the documents of a job except ``job.json``, and the records that were submitted with the job."""
    folder = keys.job(job_id).removesuffix("job.json")
    return [info for info in buckets.main.list(folder) if info.key.startswith(folder) and info.key != keys.job(job_id)]
