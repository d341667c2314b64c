"""Stores the receipts that a finalizer has checked, so that the next attempt can continue after a timeout."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

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


class CheckedParts:
    """The manifest entries of a job's parts, with at most one block of them in memory.

    Parameters
    ----------
    main : ObjectStore
        The bucket of the jobs' documents.
    check : callable
        Checks all parts from the given number on, and yields their manifest entries in order.
    clock : callable
        Returns the time in seconds, from any origin.
    """

    def __init__(
        self,
        main: ObjectStore,
        documents: Documents,
        run: Run,
        check: Callable[[int], Iterator[Entry]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._main, self._check, self._clock = main, check, clock
        self._job_id, self._plan, self._run = documents.job.spec.job_id, documents.plan, run
        self._rest: list[Entry] = []
        """The entries after the last complete block."""

    def check(self) -> Iterator[Entry]:
        """Yield the entry of each part, in order. The blocks of an earlier attempt are not checked again.

        Raises
        ------
        StepUnfinished
            Checking takes too long; another attempt continues after the last complete block. Transient.
        """
        plan, end_s = self._plan, self._clock() + CHECK_S
        known = 0
        while (known + 1) * BLOCK_PARTS < plan.parts:
            entries = self._read(known)
            if entries is None:
                break
            yield from entries
            known += 1
        entries = None  # one block in memory is enough
        block: list[Entry] = []
        sound = True  # faulty parts may be scored again, so no block from the first fault on is stored
        for entry in self._check(known * BLOCK_PARTS):
            yield entry
            block.append(entry)
            if len(block) < BLOCK_PARTS:
                continue
            sound = sound and not any(entry.failure for entry in block)
            if sound:
                self._write(known, block)
            known, block = known + 1, []
            if self._clock() > end_s and known * BLOCK_PARTS < plan.parts:
                if not sound:
                    return  # the faulty parts are scored again, or the job fails; the rest need not be checked now
                raise StepUnfinished(
                    f"{known * BLOCK_PARTS:,} of {plural(plan.parts, 'part')} of job {self._job_id} are checked: the "
                    "next attempt continues with the others"
                )
        self._rest = block

    def entries(self) -> Iterator[Entry]:
        """Yield the entries again after `check` has found no fault. Complete blocks are read from the bucket.

        Raises
        ------
        StepUnfinished
            A block is missing, because another finalizer has ended the job, or because a user has deleted the block.
            Transient.
        """
        for number in range(self._plan.parts // BLOCK_PARTS):
            entries = self._read(number)
            if entries is None:
                key = keys.checked(self._job_id, self._run.number, number)
                raise StepUnfinished(
                    f"{self._main.uri(key)} was deleted or damaged: the next attempt checks its parts again"
                )
            yield from entries
        yield from self._rest

    def _read(self, number: int) -> list[Entry] | None:
        """Return the entries of a stored block; None if the block is missing or invalid and must be checked again."""
        try:
            data = self._main.get(keys.checked(self._job_id, self._run.number, number)).data
            block = json.loads(gzip.decompress(data))
            if block["plan"] != self._plan.sha256 or len(block["entries"]) != BLOCK_PARTS:
                return None
            return [_decoded(raw) for raw in block["entries"]]
        except (ObjectNotFound, OSError, *MALFORMED_GZIP):
            return None

    def _write(self, number: int, block: list[Entry]) -> None:
        entries = [vars(entry) | {"info": _listed(entry.info)} for entry in block]
        body = json.dumps({"plan": self._plan.sha256, "entries": entries}).encode()
        key = keys.checked(self._job_id, self._run.number, number)
        self._main.put(key, gzip.compress(body, compresslevel=1, mtime=0))  # other finalizers write the same bytes


def remove_blocks(main: ObjectStore, documents: Documents, run: Run) -> None:
    """Delete the stored blocks of a run that has ended."""
    for number in range(documents.plan.parts // BLOCK_PARTS):
        main.delete(keys.checked(documents.job.spec.job_id, run.number, number))


def _decoded(raw: dict[str, Any]) -> Entry:
    info = raw["info"]
    return Entry(**raw | {"info": None if info is None else ObjectInfo(**info)})


def _listed(info: ObjectInfo | None) -> dict[str, object] | None:
    if info is None:
        return None
    return {"key": info.key, "size": info.size, "etag": info.etag, "metadata": dict(info.metadata)}
