"""The pages about jobs: the list, one job, its rejected rows, its first rows and its files."""

from __future__ import annotations

from datetime import datetime
from typing import Any, get_args

from django.http import HttpRequest, HttpResponse, QueryDict, StreamingHttpResponse
from django.shortcuts import render

from scoreline.storage.errors import InvalidRequest
from scoreline.tasks.django.access import page, policy
from scoreline.tasks.django.downloads import download
from scoreline.tasks.django.live import asks_for_part, respond
from scoreline.tasks.django.process import overview
from scoreline.tasks.django.project_client import environ
from scoreline.tasks.django.settings import PageSettings
from scoreline.tasks.job.documents import State
from scoreline.tasks.job.job_filter import JobFilter
from scoreline.tasks.overview.job import REPORT, find_download
from scoreline.tasks.overview.jobs import in_utc
from scoreline.tasks.overview.overview import MOST_REJECTED, reads_parquet
from scoreline.tasks.quality.challengers.comparison import Comparison
from scoreline.tasks.quality.report.challenger import columns_of, sentences_of

_LIST_S, _JOB_S = 5, 2
_ACTIVITIES = ("queue", "decode", "align", "predict", "encode", "upload")
_MAX_LABELS = 20
_MAX_COMPARED = 20
_MAX_REPORT_BYTES = 20 << 20


@page()
def jobs(request: HttpRequest) -> HttpResponse:
    """Show a page of jobs."""
    chosen, fault = _filter(request.GET)
    found = overview().jobs(chosen, request.GET.get("after", ""))
    following = request.GET.copy()
    following["after"] = found.after
    context = {
        "found": found,
        "chosen": chosen,
        "states": get_args(State),
        "given": request.GET,
        "fault": fault,
        "is_filtered": chosen != JobFilter(),
        "following": following.urlencode(),
        "is_later_page": "after" in request.GET,
        "tab": "jobs",
    }
    return respond(request, "scoreline/jobs.html", "scoreline/_jobs.html", context, every_s=_LIST_S)


def _filter(given: QueryDict) -> tuple[JobFilter, str]:
    """Return the filter of a form, and what is wrong with the form; empty if nothing is."""
    faults = []
    labels = {}
    for item in given.get("label", "").split(",")[:_MAX_LABELS]:
        name, equals, value = item.strip().partition("=")
        if name and equals:
            labels[name.strip()] = value.strip()
        elif name:
            faults.append(f"label {item.strip()!r} is not of the form name=value")
    states = tuple(state for state in given.getlist("state") if state in get_args(State))
    times: dict[str, datetime | None] = {}
    for name in ("since", "until"):
        text = given.get(name, "").strip()
        try:
            times[name] = in_utc(text) if text else None
        except ValueError:
            times[name] = None
            faults.append(f"{name} {text!r} is not a time such as 2026-11-29T02:30")
    schedule = given.get("schedule", "").strip()
    chosen = JobFilter(
        states=states,
        model=given.get("model", "").strip(),
        group=given.get("group", "").strip(),
        labels=labels,
        schedule=schedule,
        since=times["since"],
        until=times["until"],
    )
    return chosen, "; ".join(faults)


@page()
def job(request: HttpRequest, job_id: str) -> HttpResponse:
    """Show a job; while it is under way, its progress is loaded again."""
    found = overview()
    facts = found.facts(job_id)
    status = facts.status
    asked = asks_for_part(request)
    context: dict[str, Any] = {"facts": facts, "job": facts.job, "status": status, "tab": "jobs"}
    if not asked:
        context |= {
            "audit": found.audit(job_id, datetime.fromisoformat(facts.job.submitted)),
            "rejected_are_counted": reads_parquet() and 0 < status.rejected <= MOST_REJECTED,
            "rows_are_read": reads_parquet() and bool(facts.files),
            "stages": _shares(facts.seconds),
            "compared": facts.comparison and _compared(facts.comparison),
        }
    every_s = None if status.ended else _JOB_S
    reload = asked and status.ended
    return respond(request, "scoreline/job.html", "scoreline/_progress.html", context, every_s=every_s, reload=reload)


def _compared(found: Comparison) -> dict[str, Any]:
    """Return what the page says of a challenger."""
    columns = columns_of(found)[:_MAX_COMPARED]
    return {
        "text": " ".join(sentences_of(found)),
        "columns": columns,
        "more": len(found.labels) + len(found.scores) - len(columns),
    }


def _shares(seconds: Any) -> list[tuple[str, float, float]]:
    """Return the activities with their seconds and their share of all, those that took longest first."""
    known = {name: seconds[name] for name in _ACTIVITIES if name in seconds}  # others are shares of these
    whole = sum(known.values())
    found = sorted(known.items(), key=lambda item: -item[1]) if whole else []
    return [(name, value, value / whole) for name, value in found if value > 0]


@page()
def rejects(request: HttpRequest, job_id: str) -> HttpResponse:
    """Show why rows of a job were rejected, with examples."""
    found = overview()
    status = found.status(job_id)
    if status.rejected > MOST_REJECTED:
        raise InvalidRequest(
            f"{status.rejected:,} rows are rejected, and at most {MOST_REJECTED:,} are counted here: "
            f"`scoreline rejected {job_id}` counts them all"
        )
    context = {"rejected": found.rejects(job_id), "job_id": job_id, "tab": "jobs"}
    return _part(request, "scoreline/rejects.html", "scoreline/_rejects.html", context)


@page()
def rows(request: HttpRequest, job_id: str) -> HttpResponse:
    """Show the first rows of the results of a job."""
    context = {"sample": overview().first_rows(job_id), "job_id": job_id, "tab": "jobs"}
    return _part(request, "scoreline/rows.html", "scoreline/_rows.html", context)


def _part(request: HttpRequest, template: str, part: str, context: dict[str, Any]) -> HttpResponse:
    """Render a part that the page of a job loads when it comes into sight, or that is a page of its own."""
    return render(request, part if asks_for_part(request) else template, context)


@page()
def file(request: HttpRequest, job_id: str, name: str) -> HttpResponse | StreamingHttpResponse:
    """Send an object beside the results of a job."""
    found = overview()
    layout, info = find_download(found.client.buckets, found.job(job_id), name)
    way = PageSettings.from_env(environ()).downloads
    return download(layout.store, info, f"{job_id}-{name.rpartition('/')[2]}", way, head=request.method == "HEAD")


@page()
def report(request: HttpRequest, job_id: str) -> HttpResponse:
    """Show the stored report of a job. A browser treats it as a page of a foreign origin without scripts."""
    found = overview()
    layout, info = find_download(found.client.buckets, found.job(job_id), REPORT)
    if info.size > _MAX_REPORT_BYTES:
        raise InvalidRequest(f"the report has {info.size:,} bytes, and at most {_MAX_REPORT_BYTES:,} are shown here")
    answer = HttpResponse(layout.store.get(info.key).data, content_type="text/html; charset=utf-8")
    answer["Content-Security-Policy"] = (
        policy(
            style_src="'unsafe-inline'", script_src="'none'", img_src="data:", font_src="'none'", connect_src="'none'"
        )
        + "; sandbox"
    )
    return answer
