"""Pages that submit and follow jobs. If Scoreline refuses a job, the page shows a message, never a server error."""

from __future__ import annotations

from uuid import UUID

from django.contrib import messages
from django.db import IntegrityError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_POST, require_safe

from scoreline.storage.errors import InvalidRequest, ScorelineError
from scoring.forms import PredictionForm
from scoring.models import Prediction


@require_safe
def overview(request: HttpRequest) -> HttpResponse:
    rows = list(Prediction.objects.all()[:50])
    for row in rows:
        if row.is_under_way and not refreshed(request, row):
            break  # if a service does not answer, asking about more jobs is useless
    busy = any(row.is_under_way for row in rows)
    return render(request, "scoring/overview.html", {"rows": rows, "refresh": busy})


def create(request: HttpRequest) -> HttpResponse:
    form = PredictionForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        given = form.cleaned_data
        try:
            row = Prediction.submit(given["model"], given["input"], id=given["id"])
        except InvalidRequest as error:  # nothing was saved
            form.add_error(None, str(error))
        except IntegrityError:  # the page was sent twice
            return redirect(Prediction.objects.get(pk=given["id"]))
        else:
            return redirect(row)
    return render(request, "scoring/create.html", {"form": form})


@require_safe
def detail(request: HttpRequest, pk: UUID) -> HttpResponse:
    row = get_object_or_404(Prediction, pk=pk)
    if row.is_under_way:
        refreshed(request, row)
    soon = row.ended is None and not (row.state == "submitting" and row.error)
    return render(request, "scoring/detail.html", {"row": row, "refresh": soon})


@require_POST
def send(request: HttpRequest, pk: UUID) -> HttpResponse:
    """Try again to submit a job. If the first attempt succeeded, nothing changes."""
    row = get_object_or_404(Prediction, pk=pk)
    refreshed(request, row)
    return redirect(row)


def refreshed(request: HttpRequest, row: Prediction) -> bool:
    try:
        row.refresh()
    except ScorelineError as error:
        messages.warning(request, f"This is what was last known. {error}")
        return False
    return True
