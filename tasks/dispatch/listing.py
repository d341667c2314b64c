"""Lists jobs from their index, the newest first, so that the cost of a page hardly depends on how many jobs exist."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC
from functools import partial
from itertools import batched

from scoreline.storage import keys
from scoreline.storage.errors import (
    DocumentCorrupt,
    InvalidRequest,
    JobNotFound,
    LedgerCorrupt,
    LedgerUnavailable,
    ObjectNotFound,
    StoreError,
    describe,
)
from scoreline.storage.objects.base import ObjectStore, exists
from scoreline.storage.typed_json import MALFORMED
from scoreline.tasks.dispatch.job_index import mark_built
from scoreline.tasks.dispatch.status import StatusReader
from scoreline.tasks.job.documents import Outcome, Status, read_job
from scoreline.tasks.job.index_entry import IndexEntry, ListedEntry, entry_in
from scoreline.tasks.job.job_filter import JobFilter

log = logging.getLogger(__name__)

_THREADS = 16
"""Number of jobs that are read in parallel."""
LEDGER_THREADS = 4
"""Number of jobs whose ledgers are read in parallel. Each thread may open a connection to Redis, and small plans of
Redis providers allow only a few connections."""
_READ_AT_ONCE = 64

type _Job = tuple[Status, str]
"""The status of a job, and its group."""


class JobListing:
    """Lists the jobs of a bucket. Works with `requirements.txt` alone.

    Parameters
    ----------
    main : ObjectStore
        The bucket that contains the jobs' documents.
    statuses : StatusReader
        Reads the status of jobs that are under way.
    """

    def __init__(self, main: ObjectStore, statuses: StatusReader) -> None:
        self._main = main
        self._statuses = statuses
        self._ledger_threads = threading.BoundedSemaphore(LEDGER_THREADS)
        self.without_index = False
        """Whether the last listing had to look at every job, because the bucket has no complete index."""

    def jobs(self, chosen: JobFilter, limit: int | None = None) -> Iterator[Status]:
        """Yield the jobs that match, the newest first, at most `limit`.

        A page takes one request to see that there is an index, one listing of the days, one listing for every 1,000
        jobs of each day that is looked at, and one request for each job that is read: for the entry or the outcome of a
        job that has ended, and for ``job.json`` of a job under way. A running job whose ledger an earlier release has
        opened takes one more, for its plan. State, model and time are looked up in the listing. To find states, the
        markers of all jobs under way are listed, too. To find labels, a group or a version, entries are read until
        there are enough.
        """
        found = 0
        seen: set[str] = set()
        watched: Collection[str] | None = ()
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="jobs") as pool:
            for group in self._groups(chosen, limit):
                watched = None if watched is None else self._watched(group)
                for item in pool.map(partial(self._read, watched or ()), group):
                    if item is None or item[0].job_id in seen or not chosen.matches(*item):
                        continue
                    seen.add(item[0].job_id)
                    yield item[0]
                    found += 1
                    if found == limit:
                        return

    def _groups(self, chosen: JobFilter, limit: int | None) -> Iterator[tuple[ListedEntry | str, ...]]:
        """Yield the entries or ids of jobs that may match, the newest first, in tuples that are read in parallel."""
        self.without_index = False
        if not exists(self._main, keys.JOBS_INDEX_BUILT):
            newest = self._without_entries()
            if newest is not None:
                self.without_index = True
                yield from batched(newest, _READ_AT_ONCE if limit is None else min(limit, _READ_AT_ONCE))
                return
        entries = self._entries(chosen)
        yield from batched(entries, _READ_AT_ONCE if limit is None else min(limit, _READ_AT_ONCE))

    def _entries(self, chosen: JobFilter) -> Iterator[ListedEntry]:
        first = f"{chosen.since.astimezone(UTC):%Y-%m-%d}" if chosen.since else ""
        last = f"{chosen.until.astimezone(UTC):%Y-%m-%d}" if chosen.until else "9999-12-31"
        active = self._active() if chosen.states else None  # before the entries, which may change meanwhile
        for day in reversed(self._main.folders(keys.JOBS_INDEX)):
            if first <= day <= last and keys.is_day(day):
                for info in self._main.list(keys.job_index_day(day)):
                    if (listed := ListedEntry.of(info)) is not None and chosen.may_match(listed, active):
                        yield listed

    def _active(self) -> frozenset[str]:
        return frozenset(info.key.removeprefix(keys.JOBS_ACTIVE) for info in self._main.list(keys.JOBS_ACTIVE))

    def _without_entries(self) -> list[str] | None:
        """Return the ids of all jobs, the newest first. If each job has an entry, record this, and return None."""
        jobs: dict[str, float] = {}
        indexed: set[str] = set()
        for info in self._main.list(keys.JOBS):
            if (listed := ListedEntry.of(info)) is not None:
                indexed.add(listed.job_id)
                continue
            match info.key.split("/"):
                case ["jobs", job_id, "job.json"] if keys.is_name(job_id):
                    jobs[job_id] = info.modified
        if jobs.keys() <= indexed:
            with contextlib.suppress(StoreError):  # the credentials may allow only reading
                mark_built(self._main, len(jobs))
            return None
        return sorted(jobs, key=lambda job_id: (jobs[job_id], job_id), reverse=True)

    def _watched(self, group: Iterable[ListedEntry | str]) -> Collection[str] | None:
        """Return the jobs that are under way according to the index, and which the reconciler watches.

        The result is None if the ledger does not answer. It is then not asked again, because each time could take
        seconds, and the outcome of a job that has ended does not need the ledger.
        """
        try:
            return self._statuses.watched(
                [item.job_id for item in group if isinstance(item, ListedEntry) and item.is_under_way]
            )
        except LedgerUnavailable:
            return None

    def _read(self, watched: Collection[str], item: ListedEntry | str) -> _Job | None:
        """Return the status and the group of a job; None if the job does not exist.

        Parameters
        ----------
        watched : collection of str
            Ids of jobs whose outcome need not be looked for, because they are most likely under way.
        """
        if isinstance(item, str):
            return self._from_documents(item)
        if item.is_under_way:
            found = None if item.job_id in watched else self._from_outcome(item.job_id)
            return found or self._from_documents(item.job_id, under_way=True)
        try:
            entry = IndexEntry.from_json(self._main.get(item.key).data)
        except ObjectNotFound:
            return None
        except (*MALFORMED, InvalidRequest) as error:
            log.warning("index.unreadable", extra={"key": item.key, "error": describe(error)})
            return self._from_documents(item.job_id)
        if entry.status.job_id != item.job_id:
            return self._from_documents(item.job_id)
        return entry.status, entry.group

    def _from_outcome(self, job_id: str) -> _Job | None:
        """Return the status and the group of a job whose outcome says what its entry in the index does not."""
        try:
            entry = entry_in(Outcome.from_json(self._main.get(keys.outcome(job_id)).data))
        except (ObjectNotFound, *MALFORMED, InvalidRequest):  # the documents say what is wrong
            return None
        return None if entry is None or entry.status.job_id != job_id else (entry.status, entry.group)

    def _from_documents(self, job_id: str, *, under_way: bool = False) -> _Job | None:
        """Return the status and the group of a job according to its documents and its ledger.

        Parameters
        ----------
        under_way : bool
            Whether the index says that the job is under way.
        """
        try:
            job = read_job(self._main, job_id)
            with self._ledger_threads:
                status = self._statuses.under_way(job) if under_way else self._statuses.of(job)
            return status, job.spec.group_name
        except JobNotFound:
            return None
        except (DocumentCorrupt, LedgerCorrupt) as error:
            return Status(job_id=job_id, state="failed", model="", output="", error=describe(error)), ""
