"""Writes the report of a job that has ended: one page beside its results.

The report is written after the outcome, so that it neither delays nor harms the job. If it cannot be written, or the
process dies before, ``scoreline report`` makes it on demand.
"""

from __future__ import annotations

import logging

from scoreline.storage.errors import describe
from scoreline.storage.objects.requests import Requests
from scoreline.tasks.dispatch.dispatcher import Documents
from scoreline.tasks.job.documents import WITH_RESULTS, Outcome
from scoreline.tasks.job.layout import ResultsLayout
from scoreline.tasks.quality.gate.pointer import publishes
from scoreline.tasks.quality.report.collect import report_of
from scoreline.tasks.quality.report.count_rejects import Limits
from scoreline.tasks.scoring.interruptions import SoftTimeLimitExceeded
from scoreline.tasks.steps.engine import Engine
from scoreline.tasks.steps.job_profile import has_profile

log = logging.getLogger(__name__)

_AT_THE_END = Limits(files=32, rows=20_000)
"""Rejected rows that are counted. Reading and counting these takes about a second."""
_MAX_PARTS = 100_000
"""Maximum number of parts of a job whose report is written here. Reading a longer plan once more takes many seconds."""


REQUESTS = Requests(class_a=1, class_b=11)
"""Requests for the report of a job without rejected rows."""


def has_report(engine: Engine, documents: Documents) -> bool:
    """Return whether a report is left beside the results of a job: if it is checked, and has a profile."""
    job, parts = documents.job, documents.plan.parts
    is_checked = job.spec.checks != "none" and publishes(job, engine.buckets.main.bucket)
    return is_checked and 0 < parts <= _MAX_PARTS and has_profile(engine, documents)


def leave_report(engine: Engine, documents: Documents, outcome: Outcome) -> None:
    """Write ``_report.html`` of a job whose outcome is recorded, if the job has its results and `has_report` says so.

    No error leaves this function: the reason is logged. Only the time limit of the task does, because it may be that of
    a part, between two batches of which the job ends.
    """
    job, plan = documents.job, documents.plan
    try:
        if outcome.state not in WITH_RESULTS or not has_report(engine, documents):
            return
        from scoreline.tasks.quality.report.html import render  # Jinja2 takes 0.1 s to import

        layout = ResultsLayout.of(engine.buckets, job)
        report = report_of(engine.buckets, job.spec.job_id, verify_keys=engine.verify_keys, limits=_AT_THE_END)
        layout.store.put(layout.report, render(report).encode(), metadata={"plan": plan.sha256})
    except SoftTimeLimitExceeded:
        raise
    except Exception as error:  # noqa: BLE001  # the job has ended, and the report can be made on demand
        log.warning("report.failed", extra={"job_id": job.spec.job_id, "error": describe(error)})
