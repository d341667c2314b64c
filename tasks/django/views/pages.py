"""The pages about the whole deployment: the last night, schedules, models, workers and the backlog."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from scoreline.storage.errors import LedgerError, ObjectNotFound, QueueUnavailable, describe
from scoreline.tasks.django.access import page
from scoreline.tasks.django.live import respond
from scoreline.tasks.django.process import overview
from scoreline.tasks.overview.overview import AUDITED
from scoreline.tasks.overview.schedules import ScheduleFacts

_HOME_S, _WORKERS_S, _BACKLOG_S = 10, 5, 10


@page()
def home(request: HttpRequest) -> HttpResponse:
    """Show the last night at a glance, and the newest jobs."""
    found = overview()
    night = found.night()
    context = {"night": night, "trouble": _trouble(night.schedules), "recent": found.recent(), "tab": "home"}
    return respond(request, "scoreline/home.html", "scoreline/_home.html", context, every_s=_HOME_S)


def _trouble(schedules: tuple[ScheduleFacts, ...]) -> int:
    return sum(facts.health in ("bad", "late") for facts in schedules)


@page()
def schedules(request: HttpRequest) -> HttpResponse:
    """Show all schedules."""
    return render(request, "scoreline/schedules.html", {"night": overview().night(), "tab": "schedules"})


@page()
def schedule(request: HttpRequest, schedule: str) -> HttpResponse:
    """Show a schedule, with a calendar of its slots."""
    found = overview()
    night = found.night()
    facts = night.of(schedule)
    if facts is None:
        raise ObjectNotFound(f"no schedule {schedule!r} is in force")
    now = datetime.now(UTC)
    lines = found.audit(schedule, now.replace(second=0, microsecond=0) - AUDITED + timedelta(minutes=1))
    context = {"facts": facts, "weeks": facts.weeks(now), "audit": lines, "tab": "schedules"}
    return render(request, "scoreline/schedule.html", context)


@page()
def models(request: HttpRequest) -> HttpResponse:
    """Show all models."""
    catalog = overview().catalog()
    rows = [(model, catalog.newest.get(model.name)) for model in catalog.models]
    return render(request, "scoreline/models.html", {"rows": rows, "tab": "models"})


@page()
def model(request: HttpRequest, model: str) -> HttpResponse:
    """Show a model with its versions and its aliases."""
    found = overview()
    facts = found.model(model)
    users = [item.schedule for item in found.night().schedules if item.schedule.model.partition("@")[0] == model]
    return render(request, "scoreline/model.html", {"facts": facts, "schedules": users, "tab": "models"})


@page()
def workers(request: HttpRequest) -> HttpResponse:
    """Show what each process does."""
    context = {"workers": overview().workers(), "tab": "workers"}
    return respond(request, "scoreline/workers.html", "scoreline/_workers.html", context, every_s=_WORKERS_S)


@page()
def backlog(request: HttpRequest) -> HttpResponse:
    """Show the work that is left, and the jobs under way over a day."""
    found = overview()
    hours, whole = found.hours()
    most = max((hour.jobs for hour in hours), default=0) or 1
    context = {
        "bars": [(number, hour, round(100 * hour.jobs / most)) for number, hour in enumerate(hours)],
        "most": most,
        "whole": whole,
        "tab": "backlog",
    }
    try:
        context["backlog"] = found.backlog()
    except (LedgerError, QueueUnavailable) as error:
        context["fault"] = describe(error)
    return respond(request, "scoreline/backlog.html", "scoreline/_backlog.html", context, every_s=_BACKLOG_S)
