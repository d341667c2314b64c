"""Keeps the index of jobs: writes an entry when a job is submitted, resumed or ends, and builds a lost index again.

An entry is a cache (see `IndexEntry`), so a failed write is only logged: the job is not lost, but harder to find until
``scoreline reconcile --index`` builds the index again.
"""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime

from scoreline.storage import keys
from scoreline.storage.errors import (
    DocumentCorrupt,
    JobNotFound,
    JobRemoved,
    ObjectNotFound,
    PreconditionFailed,
    StoreError,
    describe,
)
from scoreline.storage.objects.base import CREATE, OVERWRITE, ObjectInfo, ObjectStore, PutMode
from scoreline.tasks.job.documents import (
    COMPLETE,
    ENDED,
    WITH_RESULTS,
    Job,
    Outcome,
    Status,
    read_job,
    read_outcome,
    seconds_since,
)
from scoreline.tasks.job.index_entry import IndexEntry, ListedEntry, entry_of
from scoreline.tasks.job.plan_file import PlanFile

log = logging.getLogger(__name__)

_THREADS = 16
_MARGIN_S = 0.5
"""Seconds that the first write of an entry may take after the time of the submission."""
_SUBMITTING_S = 3600.0
"""Seconds for which an entry may be without its job, because the job is being submitted."""


def note_submission(main: ObjectStore, job: Job) -> bool:
    """Write the entry of a new job. Return whether the job has an entry.

    The entry of a job that has ended already is not replaced.
    """
    return _write(main, entry_of(job), CREATE)


def note_existing(main: ObjectStore, job: Job, existing: Job) -> None:
    """Correct the index after `note_submission` if the job existed before, because its entry has an earlier time."""
    if (mine := entry_of(job)).key != entry_of(existing).key:
        with contextlib.suppress(StoreError):  # an entry that is there twice is harmless
            main.delete(mine.key)
    _write(main, entry_of(existing), CREATE)


def forget_removed(main: ObjectStore, key: str) -> None:
    """Delete the entry of a job that was removed."""
    with contextlib.suppress(StoreError):  # an entry without a job is harmless
        main.delete(key)


def note_run(main: ObjectStore, job: Job) -> None:
    """Record that another run of a job begins."""
    _write(main, entry_of(job), OVERWRITE)


def note_end(main: ObjectStore, job: Job, outcome: Outcome) -> bool:
    """Record how a job has ended. Return False if the entry could not be written.

    The entry of a job that took less than a second may not be written again at once (see
    `ObjectStore.rewrite_after_s`). If the job is complete, so that no other run follows, a thread writes the entry when
    it may. If the process dies before, the entry says that the job is under way, which does no harm.
    """
    entry = _ended_entry(main, job, outcome)
    longest_s = main.rewrite_after_s + _MARGIN_S
    wait_s = min(longest_s, longest_s - seconds_since(job.submitted)) if main.rewrite_after_s else 0.0
    if wait_s <= 0 or outcome.state not in COMPLETE:
        return _write(main, entry, OVERWRITE)

    def write_later() -> None:
        time.sleep(wait_s)
        with contextlib.suppress(StoreError, DocumentCorrupt):
            note_end_again(main, job, outcome)  # a person may decide about the results meanwhile

    threading.Thread(target=write_later, name="index", daemon=True).start()
    return True


@contextlib.contextmanager
def noting_end(main: ObjectStore, job: Job, outcome: Outcome) -> Iterator[None]:
    """Record that a job is complete while the block removes its marker, so that ending a job takes no longer."""
    writing = threading.Thread(target=note_end, args=(main, job, outcome), name="index")
    writing.start()
    try:
        yield
    finally:
        writing.join()


def note_decision(main: ObjectStore, job: Job, outcome: Outcome) -> None:
    """Record how a job counts after a person has decided about its results."""
    _write(main, entry_of(job, outcome), OVERWRITE)


def note_end_again(main: ObjectStore, job: Job, outcome: Outcome) -> None:
    """Record how a job has ended, a while after its end. A decision that a person makes meanwhile is not overwritten.

    A decision is in the outcome before it is in the entry, so the outcome is read again once the entry is written.
    """
    noted: Outcome | None = None
    while outcome != noted:
        _write(main, _ended_entry(main, job, outcome), OVERWRITE)
        noted, outcome = outcome, read_outcome(main, job.spec.job_id) or outcome


def _ended_entry(main: ObjectStore, job: Job, outcome: Outcome) -> IndexEntry:
    total_rows = None
    if outcome.state not in WITH_RESULTS:
        with contextlib.suppress(ObjectNotFound, DocumentCorrupt, StoreError):  # a job may end without a plan
            total_rows = PlanFile(main, job.spec.job_id).rows
    return entry_of(job, outcome, total_rows=total_rows)


def _write(main: ObjectStore, entry: IndexEntry, mode: PutMode) -> bool:
    """Write an entry. Return whether it exists."""
    try:
        main.put(entry.key, entry.to_json(), mode=mode)
    except PreconditionFailed:  # the entry exists
        return True
    except StoreError as error:
        log.warning("index.unwritten", extra={"job_id": entry.status.job_id, "error": describe(error)})
        return False
    return True


@dataclass(frozen=True, kw_only=True)
class Rebuilt:
    """What `rebuild` did."""

    jobs: int
    written: int
    removed: int


@dataclass(kw_only=True)
class _Found:
    """The objects of a job in a listing."""

    changed: float = 0.0
    """Time of the last change of ``job.json``, ``run.json`` and ``outcome.json``."""
    exists: bool = False
    has_ended: bool = False
    entries: list[ObjectInfo] = field(default_factory=list)

    def is_current(self) -> bool:
        """Return whether the only entry of the job is as new as its documents."""
        if len(self.entries) != 1:
            return False
        (info,), listed = self.entries, ListedEntry.of(self.entries[0])
        return listed is not None and (listed.state in ENDED) == self.has_ended and info.modified >= self.changed


def rebuild(main: ObjectStore) -> Rebuilt:
    """Build the index from the documents of all jobs. Entries that are as new as their documents stay.

    This takes one listing of ``jobs/``, and two to three requests and a write for each job without a current entry.
    Jobs may be submitted and end meanwhile.
    """
    found = _list(main)
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="index") as pool:
        stale = [(job_id, job) for job_id, job in found.items() if job.exists and not job.is_current()]
        removed = sum(pool.map(lambda item: _renew(main, *item), stale))
        orphans = [info for job in found.values() if not job.exists for info in job.entries if _is_old(info)]
        list(pool.map(lambda info: main.delete(info.key), orphans))
    number = sum(job.exists for job in found.values())
    mark_built(main, number)
    return Rebuilt(jobs=number, written=len(stale), removed=removed + len(orphans))


def mark_built(main: ObjectStore, jobs: int) -> None:
    """Record that the index has an entry for every job."""
    at = datetime.now(UTC).isoformat(timespec="seconds")
    main.put(keys.JOBS_INDEX_BUILT, json.dumps({"at": at, "jobs": jobs}).encode())


def _list(main: ObjectStore) -> dict[str, _Found]:
    found: defaultdict[str, _Found] = defaultdict(_Found)
    for info in main.list(keys.JOBS):
        if (listed := ListedEntry.of(info)) is not None:
            found[listed.job_id].entries.append(info)
            continue
        match info.key.split("/"):
            case ["jobs", job_id, "job.json" | "run.json" | "outcome.json" as name] if keys.is_name(job_id):
                job = found[job_id]
                job.changed = max(job.changed, info.modified)
                job.exists |= name == "job.json"
                job.has_ended |= name == "outcome.json"
    return dict(found)


def _renew(main: ObjectStore, job_id: str, found: _Found) -> int:
    """Write the entry of a job, and delete its other entries. Return how many were deleted."""
    try:
        job = read_job(main, job_id)
        outcome = read_outcome(main, job_id)
        entry = entry_of(job) if outcome is None else _ended_entry(main, job, outcome)
    except JobRemoved:
        for info in found.entries:
            main.delete(info.key)
        return len(found.entries)
    except JobNotFound:  # the job was deleted meanwhile
        return 0
    except DocumentCorrupt as error:
        at = datetime.fromtimestamp(found.changed, UTC).isoformat(timespec="milliseconds")
        status = Status(job_id=job_id, state="failed", model="", output="", error=describe(error), submitted=at)
        entry = IndexEntry(status=status)
    _write(main, entry, OVERWRITE)
    if outcome_is_newer(main, job_id, entry):
        return _renew(main, job_id, found)
    others = [info for info in found.entries if info.key != entry.key]
    for info in others:
        main.delete(info.key)
    return len(others)


def outcome_is_newer(main: ObjectStore, job_id: str, entry: IndexEntry) -> bool:
    """Return whether a job ended after this entry was made. If so, writing this entry has replaced that of its end."""
    if entry.status.state in ENDED:
        return False
    with contextlib.suppress(DocumentCorrupt):
        return read_outcome(main, job_id) is not None
    return False


def _is_old(info: ObjectInfo) -> bool:
    return time.time() - info.modified > _SUBMITTING_S
