"""Which objects a schedule has scored, so that each is scored once: by key and ETag, over all buckets."""

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


def unseen(main: ObjectStore, schedule: str, found: Sequence[Pinned]) -> list[Pinned]:
    """Return those of the found objects that no earlier run of the schedule has scored."""
    known, _ = _read(main, schedule)
    return [item for item in found if _name(item.store.bucket, item.key, item.etag) not in known]


def remember(main: ObjectStore, schedule: str, job_id: str) -> None:
    """Add what a job has scored; harmless when done again."""
    plan = PlanFile(main, job_id)
    scored = {_name(piece.bucket, piece.key, piece.etag) for part in plan for piece in part.slices}
    for _ in range(_TRIES):
        known, etag = _read(main, schedule)
        if scored <= known:
            return
        try:
            main.put(keys.schedule_seen(schedule), _encode(known | scored), mode=if_unchanged(etag))
            return
        except PreconditionFailed:  # another tick was first: look again
            continue
    raise StoreUnavailable(f"{main.uri(keys.schedule_seen(schedule))} is changed by many at once: try again")


def _read(main: ObjectStore, schedule: str) -> tuple[set[str], str | None]:
    try:
        got = main.get(keys.schedule_seen(schedule))
    except ObjectNotFound:
        return set(), None
    return set(json.loads(gzip.decompress(got.data))), got.info.etag


def _encode(names: Iterable[str]) -> bytes:
    return gzip.compress(json.dumps(sorted(names), indent=0).encode(), mtime=0)


def _name(bucket: str, key: str, etag: str) -> str:
    return hashlib.sha256(f"{bucket}\0{key}\0{etag}".encode()).hexdigest()[:32]
