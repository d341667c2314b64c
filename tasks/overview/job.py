"""Reads what the page of one job shows, beside its status."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from scoreline.storage.errors import ObjectNotFound, ScorelineError, describe
from scoreline.storage.objects.base import ObjectInfo, exists
from scoreline.storage.objects.buckets import Buckets
from scoreline.tasks.job.documents import Job, Outcome, Status, read_outcome, read_run
from scoreline.tasks.job.layout import ResultsLayout
from scoreline.tasks.quality.challengers.comparison import Comparison, read_comparison
from scoreline.tasks.quality.gate.published import read_manifest_head

REPORT = "_report.html"
"""Name of the report beside the results of a job."""
MOST_FILES = 200
"""Maximum number of objects that the page of a job offers for download."""


@dataclass(frozen=True, kw_only=True)
class Download:
    """An object beside the results of a job."""

    name: str
    """Key below the folder of the results."""
    size: int


@dataclass(frozen=True, kw_only=True)
class JobFacts:
    """A job with its status, and what is known about its results."""

    job: Job
    status: Status
    run: int = 1
    failures: Mapping[str, str] = field(default_factory=dict)
    """Why parts failed, by their numbers."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Seconds of all processes by activity, from the manifest."""
    warnings: Sequence[str] = ()
    files: Sequence[Download] = ()
    more_files: bool = False
    has_report: bool = False
    comparison: Comparison | None = None
    """How the challenger compares with the model of the job, if the job has one."""
    comparison_fault: str = ""
    """Why the comparison cannot be read; empty if it can."""
    fault: str = ""
    """Why the folder of the results cannot be read; empty if it can."""

    @property
    def share_done(self) -> float:
        """The share of the rows that are scored or rejected, from 0 to 1."""
        status = self.status
        if not status.total_rows:
            return status.parts_done / status.parts if status.parts else 0.0
        return min(1.0, (status.rows + status.rejected) / status.total_rows)


def read_facts(buckets: Buckets, job: Job, status: Status) -> JobFacts:
    """Return the facts of a job. For a job under way, nothing more is read.

    For a job that has ended, this takes one listing of the folder of its results, and three requests,
    or four if it has a challenger.
    """
    if not status.ended:
        return JobFacts(job=job, status=status)
    main = buckets.main
    outcome = read_outcome(main, job.spec.job_id) or Outcome(state=status.state, failures={})
    common: dict[str, Any] = {
        "job": job,
        "status": status,
        "run": max(outcome.run, read_run(main, job.spec.job_id)[0].number),
        "failures": outcome.failures,
    }
    try:
        layout = ResultsLayout.of(buckets, job)
        files, more = _downloads(layout)
        has_manifest = any(file.name == "_manifest.json" for file in files)
        head = read_manifest_head(layout.store, layout.folder) if has_manifest else {}
    except ScorelineError as error:  # the bucket may be deleted, or no longer be allowed
        return JobFacts(**common, fault=describe(error))
    seconds = head.get("seconds")
    warnings = head.get("warnings")
    return JobFacts(
        **common,
        seconds={str(name): float(value) for name, value in seconds.items() if isinstance(value, int | float)}
        if isinstance(seconds, dict)
        else {},
        warnings=tuple(map(str, warnings)) if isinstance(warnings, list) else (),
        files=files,
        more_files=more,
        **_comparison(layout, job),
        has_report=any(file.name == REPORT for file in files)
        or (more and exists(layout.store, layout.folder + REPORT)),
    )


def find_download(buckets: Buckets, job: Job, name: str) -> tuple[ResultsLayout, ObjectInfo]:
    """Return the layout of a job, and an object beside its results.

    Raises
    ------
    ObjectNotFound
        There is no such object, or the name leads out of the folder.
    """
    layout = ResultsLayout.of(buckets, job)
    if not _has_address(name):
        raise ObjectNotFound(f"no object {name!r} beside the results of job {job.spec.job_id}")
    return layout, layout.store.head(layout.folder + name)


def _has_address(name: str) -> bool:
    """Return whether an address can name an object. Others, such as an empty object for a folder, are not ours."""
    steps = name.split("/")
    return all(steps) and not {".", ".."} & set(steps) and "\n" not in name and len(name) <= 1_000


def _downloads(layout: ResultsLayout) -> tuple[tuple[Download, ...], bool]:
    found: list[Download] = []
    for info in layout.store.list(layout.folder):
        if len(found) == MOST_FILES:
            return tuple(found), True
        name = info.key.removeprefix(layout.folder)
        if _has_address(name):
            found.append(Download(name=name, size=info.size))
    return tuple(sorted(found, key=lambda file: (file.name.startswith("_"), file.name))), False


def _comparison(layout: ResultsLayout, job: Job) -> dict[str, Any]:
    """Return the facts about the challenger of a job. If they cannot be read, the page shows all the rest."""
    if job.challenger is None:
        return {}
    try:
        return {"comparison": read_comparison(layout.store, job)}
    except ScorelineError as error:
        return {"comparison_fault": describe(error)}
