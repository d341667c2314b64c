"""Records which objects a schedule has scored, by bucket, key and ETag, so that it scores each object only once."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime

from scoreline.storage import keys
from scoreline.storage.errors import (
    DocumentCorrupt,
    JobNotFound,
    NothingToResume,
    ObjectNotFound,
    PlanPending,
    PreconditionFailed,
    StoreUnavailable,
)
from scoreline.storage.objects.base import ObjectStore, if_unchanged
from scoreline.storage.tables.base import Pinned
from scoreline.storage.typed_json import convert
from scoreline.storage.wording import plural
from scoreline.tasks.job.documents import Job, decoding, read_job, read_outcome, read_review
from scoreline.tasks.job.findings import Decision
from scoreline.tasks.job.plan_file import PlanFile

_TRIES = 5
_CLAIM = "accepted again: "
"""Begins an entry of the record that names a job in place of an object (see `claim_objects`)."""


def unseen(main: ObjectStore, schedule: str, job: Job, objects: Sequence[Pinned]) -> list[Pinned]:
    """Return the objects that no other job of the schedule has scored or is about to score.

    Raises
    ------
    PlanPending
        An earlier job has no plan yet, so it is not known which objects it scores. The caller must retry. Only the
        later of two jobs waits, so that they never wait for each other.
    """
    taken: set[str] = set()
    for other, theirs in _under_way(main, schedule, job.spec.job_id):
        if theirs is None and _order(other) < _order(job):
            raise PlanPending(
                f"job {job.spec.job_id} waits until job {other.spec.job_id} is planned, because {schedule!r} scores "
                "each object only once (only_new)"
            )
        taken |= theirs or set()
    known, _ = _read(main, schedule)  # read last, because a job is recorded before it ends
    left_out = taken.union(known, *(objects for _, objects in _claimed(main, known, job.spec.job_id)))
    return [item for item in objects if _fingerprint(item.store.bucket, item.key, item.etag) not in left_out]


def check_still_new(main: ObjectStore, schedule: str, job_id: str) -> None:
    """Check that no other job of the schedule has scored, or is about to score, objects of a job to resume.

    Call this before the job is resumed, and again once it is under way. Another job of the schedule that is planned
    between the two calls may include objects of this job.

    Raises
    ------
    NothingToResume
        Another job has scored some of the objects, or is about to.
    PlanPending
        Another job is being planned, so it is not known which objects it scores. The caller must retry.
    """
    try:
        objects = _objects_of(PlanFile(main, job_id))
    except ObjectNotFound:  # this job has no plan yet, and its plan will leave out the objects of other jobs
        objects = None
    again = f"scoreline schedule run {schedule} --at SLOT --again"
    for job, theirs in _under_way(main, schedule, job_id):
        if theirs is None:
            raise PlanPending(
                f"job {job.spec.job_id} of {schedule!r} is being planned, and may be about to score objects of job "
                f"{job_id}, which are scored only once (only_new): try again when it is planned"
            )
        if objects and objects & theirs:
            raise NothingToResume(
                f"job {job.spec.job_id} scores objects of job {job_id}, and {schedule!r} scores each only once "
                f"(only_new): wait until it ends, then score what is left with `{again}`"
            )
    known = _read(main, schedule)[0] if objects else set()
    for other, theirs in _claimed(main, known, job_id):
        if objects and objects & theirs:
            raise NothingToResume(
                f"job {other} is being accepted, and has objects of job {job_id}, which {schedule!r} scores only once "
                f"(only_new): score what is left with `{again}`"
            )
    if objects and (scored := len(objects & known)):
        raise NothingToResume(
            f"{scored} of {plural(len(objects), 'object')} of job {job_id} "
            f"{'was' if scored == 1 else 'were'} scored by a later job, and {schedule!r} scores each only once "
            f"(only_new): score what is left with `{again}`"
        )


def claim_objects(main: ObjectStore, schedule: str, job_id: str, number: int) -> None:
    """Claim the objects of a withdrawn job that a person accepts again, and check that they are still new.

    Call this when ``review.json`` says that the job is accepted, and before readers get its results. From the claim on,
    no other job is planned with the objects. A job that was planned before is either under way or has recorded them.
    The claim holds until `remember_scored`, and only while the job is accepted, so nobody has to remove it.

    Parameters
    ----------
    number : int
        Number of the decision.

    Raises
    ------
    NothingToResume, PlanPending
        See `check_still_new`. The claim is removed.
    """
    claim = f"{_CLAIM}{number} {job_id}"
    _change(main, schedule, lambda known: known | {claim})
    try:
        check_still_new(main, schedule, job_id)
    except (NothingToResume, PlanPending):
        _change(main, schedule, lambda known: known - {claim})
        raise


def remember_scored(main: ObjectStore, schedule: str, job_id: str) -> None:
    """Record the objects that a job has scored, unless a person has withdrawn its results. Repeated calls do no harm.

    The finalizer calls this when the success of the job is certain, before it writes the outcome. A slow finalizer, or
    the next tick of the schedule, may call this when the results are withdrawn already, and the objects forgotten.

    Raises
    ------
    StoreUnavailable
        Other processes changed the record during every attempt. The caller must retry.
    """
    scored = _objects_of(PlanFile(main, job_id))
    added: set[str] = set()

    def add(known: set[str]) -> set[str]:
        # The record was read before the decision, so if the objects are forgotten from here on, it has changed
        added.clear()
        if not scored <= known and not _is(main, job_id, "withdrawn"):
            added.update(scored - known)
        return (known - _claims_of(known, job_id)) | added

    _change(main, schedule, add)
    if added and _is(main, job_id, "withdrawn"):  # meanwhile, when there was nothing to forget
        _change(main, schedule, lambda known: known - added)


def _is(main: ObjectStore, job_id: str, decision: Decision) -> bool:
    """Return whether this is the latest decision about a job."""
    review, _ = read_review(main, job_id)
    return review is not None and review.decision == decision


def forget_scored(main: ObjectStore, schedule: str, job_id: str) -> None:
    """Let other jobs score the objects of a job, because a person has withdrawn its results, or can no longer decide.

    A slow process may call this when the job is accepted again; then nothing is forgotten. The errors are those of
    `remember_scored`.
    """
    scored = _objects_of(PlanFile(main, job_id))
    _change(main, schedule, lambda known: known if _is(main, job_id, "accepted") else known - scored)


def _change(main: ObjectStore, schedule: str, change: Callable[[set[str]], set[str]]) -> None:
    """Replace the record of scored objects by compare-and-swap, unless it does not change."""
    for _ in range(_TRIES):
        known, etag = _read(main, schedule)
        changed = change(known)
        if changed == known:
            return
        try:
            main.put(keys.schedule_seen(schedule), _encode(changed), mode=if_unchanged(etag))
            return
        except PreconditionFailed:  # another job has changed the record meanwhile: read it again
            continue
    raise StoreUnavailable(
        f"{main.uri(keys.schedule_seen(schedule))} was changed {_TRIES} times while it was being updated: try again"
    )


def _under_way(main: ObjectStore, schedule: str, job_id: str) -> Iterator[tuple[Job, set[str] | None]]:
    """Yield every other unfinished job of the schedule, with its objects, or with None if that job has no plan yet."""
    for info in main.list(f"{keys.JOBS_ACTIVE}{schedule}-"):
        other = info.key.removeprefix(keys.JOBS_ACTIVE)
        if other == job_id:
            continue
        try:
            job = read_job(main, other)
            if job.spec.only_new != schedule or read_outcome(main, other) is not None:
                continue
            objects = _objects_of(PlanFile(main, other))
        except ObjectNotFound:
            yield job, None
        except (JobNotFound, DocumentCorrupt):  # such a job does not score anything
            continue
        else:
            yield job, objects


def _claimed(main: ObjectStore, known: set[str], job_id: str) -> Iterator[tuple[str, set[str]]]:
    """Yield every other job that claims objects and is still accepted, with its objects."""
    for other in sorted({entry.rpartition(" ")[2] for entry in known if entry.startswith(_CLAIM)} - {job_id}):
        if _is(main, other, "accepted"):
            with contextlib.suppress(ObjectNotFound):  # the job is being removed
                yield other, _objects_of(PlanFile(main, other))


def _claims_of(known: set[str], job_id: str) -> set[str]:
    return {entry for entry in known if entry.startswith(_CLAIM) and entry.endswith(f" {job_id}")}


def _order(job: Job) -> tuple[datetime, str]:
    """Return a sort key for jobs without a plan. The job with the smallest key is planned first."""
    return datetime.fromisoformat(job.submitted), job.spec.job_id


def _objects_of(plan: PlanFile) -> set[str]:
    """Return the fingerprints of the objects that a job scores."""
    return {_fingerprint(piece.bucket, piece.key, piece.etag) for part in plan for piece in part.slices}


def _read(main: ObjectStore, schedule: str) -> tuple[set[str], str | None]:
    """Return the fingerprints of the objects scored so far with the claims, and the ETag of the record of both."""
    try:
        stored = main.get(keys.schedule_seen(schedule))
    except ObjectNotFound:
        return set(), None
    remedy = "restore the object, or delete it to score all objects of the schedule again"
    with decoding(main, keys.schedule_seen(schedule), remedy=remedy):
        found = convert(json.loads(gzip.decompress(stored.data)), tuple[str, ...], "it")
    return set(found), stored.info.etag


def _encode(fingerprints: Iterable[str]) -> bytes:
    return gzip.compress(json.dumps(sorted(fingerprints), indent=0).encode(), mtime=0)


def _fingerprint(bucket: str, key: str, etag: str) -> str:
    return hashlib.sha256(f"{bucket}\0{key}\0{etag}".encode()).hexdigest()[:32]
