"""Records which objects a schedule has scored, by bucket, key and ETag, so that each is scored only once."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterable, Sequence

from scoreline.storage import keys
from scoreline.storage.errors import ObjectNotFound, PreconditionFailed, StoreUnavailable
from scoreline.storage.objects.base import ObjectStore, if_unchanged
from scoreline.storage.tables.base import Pinned
from scoreline.tasks.job.plan_file import PlanFile

_TRIES = 5


def unseen(main: ObjectStore, schedule: str, objects: Sequence[Pinned]) -> list[Pinned]:
    """Return the objects that no earlier run of the schedule has scored."""
    known, _ = _read(main, schedule)
    return [item for item in objects if _fingerprint(item.store.bucket, item.key, item.etag) not in known]


def remember_scored(main: ObjectStore, schedule: str, job_id: str) -> None:
    """Record the objects that a job has scored. This is safe to repeat.

    Raises
    ------
    StoreUnavailable
        Other processes changed the record during every attempt. A retry helps.
    """
    plan = PlanFile(main, job_id)
    scored = {_fingerprint(piece.bucket, piece.key, piece.etag) for part in plan for piece in part.slices}
    for _ in range(_TRIES):
        known, etag = _read(main, schedule)
        if scored <= known:
            return
        try:
            main.put(keys.schedule_seen(schedule), _encode(known | scored), mode=if_unchanged(etag))
            return
        except PreconditionFailed:  # another tick changed it first: read it again
            continue
    raise StoreUnavailable(
        f"{main.uri(keys.schedule_seen(schedule))} was changed {_TRIES} times while it was being updated: try again"
    )


def _read(main: ObjectStore, schedule: str) -> tuple[set[str], str | None]:
    """Return the fingerprints of the objects scored so far, and the ETag of the record that contains them."""
    try:
        stored = main.get(keys.schedule_seen(schedule))
    except ObjectNotFound:
        return set(), None
    return set(json.loads(gzip.decompress(stored.data))), stored.info.etag


def _encode(fingerprints: Iterable[str]) -> bytes:
    return gzip.compress(json.dumps(sorted(fingerprints), indent=0).encode(), mtime=0)


def _fingerprint(bucket: str, key: str, etag: str) -> str:
    return hashlib.sha256(f"{bucket}\0{key}\0{etag}".encode()).hexdigest()[:32]
