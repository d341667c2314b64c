"""Records which objects a schedule has scored, by bucket, key and ETag, so that each is scored only once."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence

from scoreline.storage import keys
from scoreline.storage.errors import (
    DocumentCorrupt,
    JobNotFound,
    NothingToResume,
    ObjectNotFound,
    PreconditionFailed,
    StoreUnavailable,
)
from scoreline.storage.objects.base import ObjectStore, if_unchanged
from scoreline.storage.tables.base import Pinned
from scoreline.storage.typed_json import convert
from scoreline.storage.wording import plural
from scoreline.tasks.job.documents import decoding, read_job, read_outcome
from scoreline.tasks.job.plan_file import PlanFile

_TRIES = 5


def unseen(main: ObjectStore, schedule: str, job_id: str, objects: Sequence[Pinned]) -> list[Pinned]:
    """Return the objects that no job of the schedule has scored or is about to score, other than this job."""
    taken = {item for _, objects in _under_way(main, schedule, job_id) for item in objects}
    known, _ = _read(main, schedule)  # in this order, because a job records its objects before it ends
    left_out = taken | known
    return [item for item in objects if _fingerprint(item.store.bucket, item.key, item.etag) not in left_out]


def check_still_new(main: ObjectStore, schedule: str, job_id: str) -> None:
    """Raise `NothingToResume` if another job of the schedule has scored objects of a job, or is about to score them."""
    try:
        objects = _objects_of(PlanFile(main, job_id))
    except ObjectNotFound:  # it will leave them out when it is planned
        return
    again = f"scoreline schedule run {schedule} --at SLOT --again"
    for other, theirs in _under_way(main, schedule, job_id):
        if objects & theirs:
            raise NothingToResume(
                f"job {other} scores objects of job {job_id}, and {schedule!r} scores each only once (only_new): wait "
                f"until it ends, then score what is left with `{again}`"
            )
    known, _ = _read(main, schedule)
    if scored := len(objects & known):
        raise NothingToResume(
            f"{scored} of {plural(len(objects), 'object')} of job {job_id} "
            f"{'was' if scored == 1 else 'were'} scored by a later job, and {schedule!r} scores each only once "
            f"(only_new): score what is left with `{again}`"
        )


def remember_scored(main: ObjectStore, schedule: str, job_id: str) -> None:
    """Record the objects that a job has scored. This is safe to repeat.

    The job's finalizer calls it after the job's success is certain, and before the outcome is written.

    Raises
    ------
    StoreUnavailable
        Other processes changed the record during every attempt. A retry helps.
    """
    scored = _objects_of(PlanFile(main, job_id))
    for _ in range(_TRIES):
        known, etag = _read(main, schedule)
        if scored <= known:
            return
        try:
            main.put(keys.schedule_seen(schedule), _encode(known | scored), mode=if_unchanged(etag))
            return
        except PreconditionFailed:  # another job changed it first: read it again
            continue
    raise StoreUnavailable(
        f"{main.uri(keys.schedule_seen(schedule))} was changed {_TRIES} times while it was being updated: try again"
    )


def _under_way(main: ObjectStore, schedule: str, job_id: str) -> Iterator[tuple[str, set[str]]]:
    """Yield the id and the objects of each other job of the schedule that is planned and has not ended."""
    for info in main.list(f"{keys.JOBS_ACTIVE}{schedule}-"):
        other = info.key.removeprefix(keys.JOBS_ACTIVE)
        if other == job_id:
            continue
        try:
            if read_job(main, other).spec.only_new == schedule and read_outcome(main, other) is None:
                yield other, _objects_of(PlanFile(main, other))
        except (JobNotFound, ObjectNotFound, DocumentCorrupt):  # no job yet, not planned yet, or never to be scored
            continue


def _objects_of(plan: PlanFile) -> set[str]:
    """Return the fingerprints of the objects that a job scores."""
    return {_fingerprint(piece.bucket, piece.key, piece.etag) for part in plan for piece in part.slices}


def _read(main: ObjectStore, schedule: str) -> tuple[set[str], str | None]:
    """Return the fingerprints of the objects scored so far, and the ETag of the record that contains them."""
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
