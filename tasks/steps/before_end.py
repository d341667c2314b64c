"""Reads and writes side by side what does not depend on each other between the check of the parts and the end of a job.

Each request to R2 takes 30 to 80 ms, so a small job would wait for its requests most of the time. What a finalizer has
written is handed over, and not read again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

from scoreline.tasks.dispatch.dispatcher import Documents
from scoreline.tasks.job.documents import read_outcome
from scoreline.tasks.job.layout import ResultsLayout
from scoreline.tasks.quality.gate.latest import Published
from scoreline.tasks.quality.gate.pointer import LatestRead, Pointer, publishes
from scoreline.tasks.quality.gate.published import published_of
from scoreline.tasks.steps.engine import Engine
from scoreline.tasks.steps.job_profile import MergedProfile, merge_profile, write_profile
from scoreline.tasks.steps.result_files import File
from scoreline.tasks.steps.results_manifest import Entry, PartTotals, WrittenManifest, write_manifest


@dataclass(frozen=True, kw_only=True)
class BeforeEnd:
    """What a finalizer reads before it writes the manifest."""

    has_ended: bool
    """Whether the job has ended, because it was cancelled while its parts were checked."""
    merged: MergedProfile | None
    latest: LatestRead | None
    """Returns ``latest.json`` of the output, or raises the error of its reading; None if the job cannot become the
    latest run."""


def read_before_end(engine: Engine, documents: Documents, entries: Iterable[Entry]) -> BeforeEnd:
    """Read the profiles in the footers of the parts, ``latest.json``, and whether the job has ended.

    Parameters
    ----------
    entries : iterable of Entry
        The entries of all parts, in order.
    """
    main, job = engine.buckets.main, documents.job
    with ThreadPoolExecutor(2, thread_name_prefix="before-end") as pool:
        outcome = pool.submit(read_outcome, main, job.spec.job_id)
        latest = None
        if publishes(job, main.bucket):
            latest = pool.submit(Pointer.of(engine.buckets, job.spec.output).read)
        merged = merge_profile(engine, documents, entries)
    has_ended = outcome.result() is not None
    return BeforeEnd(has_ended=has_ended, merged=merged, latest=None if latest is None else latest.result)


def write_before_end(
    layout: ResultsLayout,
    documents: Documents,
    totals: PartTotals,
    entries: Callable[[], Iterable[Entry]],
    files: Sequence[File] | None,
    merged: MergedProfile | None,
) -> WrittenManifest:
    """Write the manifest and the profile of a job. The parameters are those of `write_manifest`."""
    with ThreadPoolExecutor(1, thread_name_prefix="before-end") as pool:
        profile = None if merged is None else pool.submit(write_profile, layout, documents, merged)
        written = write_manifest(layout, documents, totals, entries, files)
    if profile is not None:
        profile.result()
    return written


def published_now(
    layout: ResultsLayout,
    documents: Documents,
    written: WrittenManifest,
    entries: Callable[[], Iterable[Entry]],
    files: Sequence[File] | None,
) -> Published:
    """Return what readers need of a run whose manifest was just written, as `published` reads it from the bucket."""
    store, folder, sha256 = layout.store, layout.folder, written.sha256
    if files is not None:
        return published_of(
            store, folder, sha256, len(files), map(asdict, files), partition_by=documents.job.spec.partition_by
        )
    return published_of(store, folder, sha256, documents.plan.parts, (json.loads(entry.text) for entry in entries()))
