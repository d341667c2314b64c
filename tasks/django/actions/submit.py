"""Submits a job: a trial shows what the job would do, and only then can a person submit it."""

from __future__ import annotations

from typing import Any, cast

from django.core import signing
from django.http import HttpRequest, HttpResponse, QueryDict
from django.shortcuts import render
from django.urls import reverse

from scoreline.storage.errors import InvalidRequest, describe
from scoreline.tasks.django.access import page
from scoreline.tasks.django.actions.confirmation import go
from scoreline.tasks.django.forms import JobForm
from scoreline.tasks.django.process import overview
from scoreline.tasks.django.project_client import environ
from scoreline.tasks.job.submit_options import SubmitOptions
from scoreline.tasks.overview.trial import try_job

_SALT = "scoreline.tried"
_TRIED_S = 3_600


@page("operate", methods=("GET", "HEAD", "POST"))
def submit(request: HttpRequest) -> HttpResponse:
    """Show the form, try the job, or submit it."""
    if request.method != "POST":
        return _show(request, JobForm(initial=_first_values(request)), status=200)
    form = JobForm(request.POST)
    if not form.is_valid():
        return _show(request, form, status=400)
    found = overview()
    model, inputs, options = form.cleaned_data["model"], form.inputs(), cast("SubmitOptions", form.options())
    try:
        if request.POST.get("step") == "submit" and (job_id := _tried(request.POST)):
            options["job_id"] = job_id
            status = found.client.submit(model, inputs, **options)
            found.forget()
            return go(reverse("scoreline:job", args=[status.job_id]), "The job is submitted.")
        options["job_id"] = found.client.new_job_id()
        trial = try_job(found.client, environ(), model, inputs, options)
    except InvalidRequest as error:
        return _show(request, form, status=400, fault=describe(error))
    # The id is part of the form, so that a form that is sent twice submits one job
    signed = signing.dumps([options["job_id"], _digest(request.POST)], salt=_SALT)
    given = [(name, request.POST[name]) for name in form.fields if name in request.POST]
    return _show(request, form, status=200, trial=trial, given=[*given, ("tried", signed)])


def _digest(given: QueryDict) -> str:
    return signing.Signer(salt=_SALT).signature("\n".join(f"{name}={given.get(name, '')}" for name in JobForm().fields))


def _tried(given: QueryDict) -> str | None:
    """Return the id of a job that was tried with exactly these values; None if it was not tried lately."""
    try:
        job_id, digest = signing.loads(given.get("tried", ""), salt=_SALT, max_age=_TRIED_S)
    except (signing.BadSignature, ValueError):
        return None
    return str(job_id) if digest == _digest(given) else None


def _first_values(request: HttpRequest) -> dict[str, str]:
    return {name: request.GET[name] for name in ("model", "input") if name in request.GET}


def _show(request: HttpRequest, form: JobForm, *, status: int, **more: Any) -> HttpResponse:
    return render(request, "scoreline/submit.html", {"form": form, "tab": "submit", **more}, status=status)
