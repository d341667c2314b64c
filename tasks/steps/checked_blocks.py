"""Stores the receipts that a finalizer has checked, so that the next attempt can continue after a timeout."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict

from scoreline.storage import keys
from scoreline.storage.errors import ObjectNotFound, StepUnfinished
from scoreline.storage.objects.base import ObjectInfo, ObjectStore
from scoreline.storage.typed_json import MALFORMED_GZIP
from scoreline.storage.wording import plural
from scoreline.tasks.dispatch.dispatcher import Documents
from scoreline.tasks.job.documents import Run
from scoreline.tasks.steps.results_manifest import Entry

BLOCK_PARTS = 10_000
"""Number of parts in a block. Checking a block takes some 20 s."""
CHECK_S = 300.0
"""Seconds after which a finalizer continues in its next attempt. The rest of the finalizer's time is for manifest and
results."""


def check_in_blocks(
    main: ObjectStore,
    documents: Documents,
    run: Run,
    check: Callable[[int], Iterator[Entry]],
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Entry]:
    """Yield the manifest entry of each part, in order. The blocks of an earlier attempt are not checked again.

    Parameters
    ----------
    main : ObjectStore
        The bucket of the jobs' documents.
    check : callable
        Checks all parts from the given number on, and yields their manifest entries in order.
    clock : callable
        Returns the time in seconds, from any origin.

    Raises
    ------
    StepUnfinished
        Checking takes too long; another attempt continues after the last complete block. Transient.
    """
    job_id, plan, end_s = documents.job.spec.job_id, documents.plan, clock() + CHECK_S
    known = 0
    while (known + 1) * BLOCK_PARTS < plan.parts:
        entries = _read(main, keys.checked(job_id, run.number, known), plan.sha256)
        if entries is None:
            break
        yield from entries
        known += 1
    block: list[Entry] = []
    sound = True  # faulty parts may be scored again, so no block from the first fault on is stored
    for entry in check(known * BLOCK_PARTS):
        yield entry
        block.append(entry)
        if len(block) < BLOCK_PARTS:
            continue
        sound = sound and not any(entry.failure for entry in block)
        if sound:
            _write(main, keys.checked(job_id, run.number, known), plan.sha256, block)
        known, block = known + 1, []
        if clock() > end_s and known * BLOCK_PARTS < plan.parts:
            if not sound:
                return  # the faulty parts are scored again, or the job fails; the rest need not be checked now
            raise StepUnfinished(
                f"{known * BLOCK_PARTS:,} of {plural(plan.parts, 'part')} of job {job_id} are checked: the next "
                "attempt continues with the others"
            )


def remove_blocks(main: ObjectStore, documents: Documents, run: Run) -> None:
    """Delete the stored blocks of a run that has ended."""
    for number in range(documents.plan.parts // BLOCK_PARTS):
        main.delete(keys.checked(documents.job.spec.job_id, run.number, number))


def _read(main: ObjectStore, key: str, plan_sha256: str) -> list[Entry] | None:
    """Return the entries of a stored block; None if the block is missing or invalid and must be checked again."""
    try:
        block = json.loads(gzip.decompress(main.get(key).data))
        if block["plan"] != plan_sha256 or len(block["entries"]) != BLOCK_PARTS:
            return None
        return [Entry(**raw | {"info": ObjectInfo(**raw["info"])}) for raw in block["entries"]]
    except (ObjectNotFound, OSError, *MALFORMED_GZIP):
        return None


def _write(main: ObjectStore, key: str, plan_sha256: str, block: list[Entry]) -> None:
    entries = [asdict(entry) | {"info": _listed(entry.info)} for entry in block]
    body = json.dumps({"plan": plan_sha256, "entries": entries}).encode()
    main.put(key, gzip.compress(body, compresslevel=1, mtime=0))  # other finalizers of the run write the same bytes


def _listed(info: ObjectInfo | None) -> dict[str, object] | None:
    if info is None:
        return None
    return {"key": info.key, "size": info.size, "etag": info.etag, "metadata": dict(info.metadata)}
