"""Counts the rows of parts while they are scored, and merges the profiles of the parts when the job ends.

A profile never makes a part or a job fail: if it cannot be made or read, a warning is logged, and the rows are missing
in the profile of the job, which says how many rows it covers.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

import pyarrow as pa

from scoreline.storage.errors import DocumentCorrupt, ObjectNotFound, PreconditionFailed, describe
from scoreline.tasks.dispatch.dispatcher import Documents
from scoreline.tasks.job.layout import ResultsLayout
from scoreline.tasks.quality.gate.stored_profiles import remember_profile
from scoreline.tasks.quality.profiles.footers import KEY, ProfileSum
from scoreline.tasks.quality.profiles.part_counts import PartCounts
from scoreline.tasks.quality.profiles.profile import Profile
from scoreline.tasks.quality.profiles.sampling import sampling_rate
from scoreline.tasks.records.carried import records_key
from scoreline.tasks.scoring.interruptions import SoftTimeLimitExceeded
from scoreline.tasks.steps.engine import Engine
from scoreline.tasks.steps.footer_metadata import FooterReader
from scoreline.tasks.steps.read_part import Batch
from scoreline.tasks.steps.results_manifest import Entry

log = logging.getLogger(__name__)

MIN_RECORDS = 1_000
"""Number of records below which a job of records has no profile. Counting 20 columns and writing their profile
takes some milliseconds, which a small job would notice."""
MAX_PARTS = 20_000
"""Maximum number of parts whose profiles are merged, some 0.5 ms each. Of a job with more, every n-th part is read."""
MAX_COLUMNS = 1_000_000
"""Maximum number of columns in all profiles that are merged, those of segments included, some 0.02 ms each. Of a job
with more, every n-th part is read, because finalizing must not take longer than a step may."""
_THREADS = 16
_FEW_COLUMNS = 48
"""Number of columns up to which a footer is expected to be in the first bytes that are read of it."""


def has_profile(engine: Engine, documents: Documents) -> bool:
    """Return whether the parts of a job are counted."""
    spec = documents.job.spec
    if not (engine.profile if spec.profile is None else spec.profile == "on"):
        return False
    is_small = documents.plan.rows < MIN_RECORDS
    return not (is_small and records_key(documents.job, engine.buckets.main.bucket) is not None)


class PartProfile:
    """Counts the rows of a part. Errors are logged, and end the counting."""

    def __init__(self, engine: Engine, documents: Documents, part: int) -> None:
        self._where = {"job_id": documents.job.spec.job_id, "part": part}
        self._counts: PartCounts | None = None
        if has_profile(engine, documents):
            plan = documents.plan
            self._counts = PartCounts(
                features=plan.columns.features,
                kept=plan.columns.keep,
                segment=documents.job.spec.segment or "",
                one_in=sampling_rate(plan.rows),
            )

    def add(self, batch: Batch, results: pa.Table | None, rejected: Any) -> None:
        """Count the rows of a batch.

        Parameters
        ----------
        results : pyarrow.Table, optional
            The scored rows in the planned schema; None if all rows are rejected.
        rejected : sequence of int
            Numbers of the rejected rows within the batch.
        """
        counts = self._counts
        if counts is not None:
            sources = [(piece.uri, piece.numbers) for piece in batch.pieces]
            self._guard(lambda: counts.add(batch.rows, results, rejected, sources))

    def footer(self) -> dict[str, str]:
        """Return what is added to the metadata of the footer; nothing if the part is not counted.

        The counts are released meanwhile.
        """
        counts, self._counts = self._counts, None
        packed: list[str] = []
        if counts is not None:
            self._guard(lambda: packed.append(counts.pack()))
        return {KEY: packed[0]} if packed else {}

    def _guard(self, work: Callable[[], None]) -> None:
        try:
            work()
        except SoftTimeLimitExceeded:
            raise
        except Exception as error:  # noqa: BLE001  # the scores do not depend on the profile
            log.warning("profile.failed", extra={**self._where, "error": describe(error)})
            self._counts = None


@dataclass(frozen=True, kw_only=True)
class MergedProfile:
    """The profile of a job."""

    profile: Profile
    """The profile, as `Profile.from_dict` reads it from the document."""
    head: Mapping[str, Any]
    """The fields with which the document ``_profile.json`` begins."""


def merge_profile(engine: Engine, documents: Documents, entries: Iterable[Entry]) -> MergedProfile | None:
    """Merge the profiles of a job's parts. Repeated calls return the same.

    Each part takes one ranged request, for the end of its object. The memory does not grow with the number of parts.

    Parameters
    ----------
    entries : iterable of Entry
        The entries of all parts, in order.

    Returns
    -------
    MergedProfile, optional
        The profile; None if no part has a profile.
    """
    if not documents.plan.parts or not has_profile(engine, documents):
        return None
    plan, layout = documents.plan, ResultsLayout.of(engine.buckets, documents.job)
    added, reader, numbered = ProfileSum(), FooterReader(layout.store), iter(enumerate(entries))

    def add(chosen: Iterable[tuple[int, Entry]]) -> None:
        for key, text in _footers(layout, reader, chosen):
            try:
                if text is not None:
                    added.add(text, layout.uri(key))
            except DocumentCorrupt as error:
                log.warning("profile.skipped", extra={"job_id": documents.job.spec.job_id, "error": describe(error)})

    add(islice(numbered, 2 * _THREADS if _reads_together(documents) else 1))  # says how many columns the others have
    every = max(-(-plan.parts // MAX_PARTS), -(-plan.parts * added.columns // MAX_COLUMNS))
    add((number, entry) for number, entry in numbered if number % every == 0)
    if not added.profiles:
        return None
    profile = added.profile().shortened()
    head = {"job_id": documents.job.spec.job_id, "parts": plan.parts, "parts_covered": added.profiles}
    return MergedProfile(profile=profile, head={"format": 1, **head, "rows_planned": plan.rows})


def _reads_together(documents: Documents) -> bool:
    """Return whether all footers of a job can be read at the same time, because they are few and short.

    Otherwise, the footer of the first part is read before the others. It says how many parts can be read, and how long
    footers are, so that each of the others takes one request.
    """
    plan, spec = documents.plan, documents.job.spec
    columns = len(plan.columns.features) + len(plan.columns.keep)
    return plan.parts <= 2 * _THREADS and columns <= _FEW_COLUMNS and not spec.segment


def write_profile(layout: ResultsLayout, documents: Documents, merged: MergedProfile) -> None:
    """Write ``_profile.json``. Repeated calls write the same bytes."""
    body = merged.profile.encode(merged.head)  # only as long as it is needed, because it is large
    layout.store.put(layout.profile, body, metadata={"plan": documents.plan.sha256})
    remember_profile(layout.uri(layout.profile), body, merged.profile)


def _footers(
    layout: ResultsLayout, reader: FooterReader, entries: Iterable[tuple[int, Entry]]
) -> Iterator[tuple[str, str | None]]:
    """Yield the key of each part, in order, with its packed profile. Some parts are read at the same time."""

    def read(key: str, size: int) -> str | None:
        try:
            return reader.read(key, size).get(KEY)
        except (DocumentCorrupt, ObjectNotFound, PreconditionFailed) as error:
            log.warning("profile.skipped", extra={"error": describe(error)})
            return None

    with ThreadPoolExecutor(_THREADS, thread_name_prefix="profile") as pool:
        pending: deque[tuple[str, Future[str | None]]] = deque()
        for number, entry in entries:
            key = layout.part(number)
            pending.append((key, pool.submit(read, key, entry.bytes)))
            if len(pending) >= 2 * _THREADS:
                first, found = pending.popleft()
                yield first, found.result()
        for key, found in pending:
            yield key, found.result()
