"""Reads pages of jobs from the index, the newest first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import cast

from scoreline.storage.errors import InvalidRequest
from scoreline.storage.objects.base import ObjectStore
from scoreline.tasks.dispatch.listing import JobListing
from scoreline.tasks.dispatch.status import StatusReader
from scoreline.tasks.job.documents import Status
from scoreline.tasks.job.job_filter import JobFilter
from scoreline.tasks.overview.remembered import EnoughRead, RememberedEntries, Search

PAGE = 25
"""Number of jobs on a page. A page that is read for the first time takes one request for each job."""
MOST_COUNTED = 500
"""Maximum number of jobs whose times are added up for the jobs of a day."""


@dataclass(frozen=True, kw_only=True)
class JobsPage:
    """A page of jobs."""

    jobs: tuple[Status, ...]
    after: str = ""
    """Where the next page begins; empty if this page is the last."""
    is_cut: bool = False
    """Whether the search has ended after `MOST_READ` jobs, so that there may be more."""


@dataclass(frozen=True, kw_only=True)
class Hour:
    """The jobs that were under way in an hour."""

    begin: datetime
    jobs: int
    rows: int
    """Rows of the jobs that ended in this hour."""


class JobPages:
    """Reads pages of jobs.

    Parameters
    ----------
    main : ObjectStore
        The bucket that contains the index.
    statuses : StatusReader
        Reads the status of jobs that are under way.
    """

    def __init__(self, main: ObjectStore, statuses: StatusReader) -> None:
        self._entries = RememberedEntries(main)
        self._statuses = statuses

    def page(self, chosen: JobFilter, after: str = "") -> JobsPage:
        """Return the jobs that match, beginning after a place that an earlier page named."""
        at, last = _place(after) if after else (None, "")
        if at is not None and (chosen.until is None or at < chosen.until):
            chosen = replace(chosen, until=at)
        limit = PAGE + 2
        while True:
            found, is_cut = self._search(chosen, limit)
            rest = _behind(found, last)
            if len(rest) > PAGE or len(found) < limit:
                break
            limit *= 2  # several jobs were submitted in the same millisecond
        jobs = tuple(rest[:PAGE])
        after = f"{jobs[-1].submitted}~{jobs[-1].job_id}" if len(rest) > PAGE else ""
        return JobsPage(jobs=jobs, after=after, is_cut=is_cut)

    def _search(self, chosen: JobFilter, limit: int) -> tuple[list[Status], bool]:
        """Return the newest jobs that match, and whether the search was cut. A filter by label may match no job."""
        found: list[Status] = []
        listing = JobListing(cast("ObjectStore", Search(self._entries)), self._statuses)
        try:
            for status in listing.jobs(chosen, limit):
                found.append(status)
        except EnoughRead:
            return found, True
        return found, False

    def newest(self, chosen: JobFilter, number: int) -> Iterator[Status]:
        """Yield the newest jobs that match, at most `number`."""
        listing = JobListing(cast("ObjectStore", self._entries), self._statuses)
        return islice(listing.jobs(chosen, number), number)

    def hours(self, now: datetime, number: int = 24) -> tuple[tuple[Hour, ...], bool]:
        """Return the jobs under way in each of the last hours, and whether all jobs of this time were counted.

        The numbers follow from the times in the index, so they outlive every process.
        """
        first = now.astimezone(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=number - 1)
        jobs = list(self.newest(JobFilter(since=first - timedelta(hours=24)), MOST_COUNTED))
        spans = [(datetime.fromisoformat(job.submitted), job) for job in jobs if job.submitted]
        hours = []
        for index in range(number):
            begin = first + timedelta(hours=index)
            end = begin + timedelta(hours=1)
            under_way = rows = 0
            for submitted, job in spans:
                stop = submitted + timedelta(seconds=job.seconds) if job.ended else now
                under_way += submitted < end and stop >= begin
                rows += job.rows if job.ended and begin <= stop < end else 0
            hours.append(Hour(begin=begin, jobs=under_way, rows=rows))
        return tuple(hours), len(jobs) < MOST_COUNTED


def _place(after: str) -> tuple[datetime, str]:
    text, _, job_id = after.partition("~")
    try:
        at = in_utc(text)
    except ValueError:
        at = None
    if at is None or not job_id:
        raise InvalidRequest("the address names no page of jobs: begin at the first page")
    return at, job_id


def in_utc(text: str) -> datetime:
    """Return a time in UTC; raises `ValueError`. A time without a zone is one in UTC.

    >>> in_utc("2026-11-29T03:30+01:00").isoformat()
    '2026-11-29T02:30:00+00:00'
    """
    at = datetime.fromisoformat(text)
    try:
        return at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC)
    except OverflowError:
        raise ValueError(f"{text} is outside of the calendar") from None


def _behind(found: list[Status], last: str) -> list[Status]:
    """Return the jobs behind the last job of the page before, which was submitted at the same time as the first."""
    ids = [job.job_id for job in found]
    return found[ids.index(last) + 1 :] if last in ids else found
