"""Pages that enqueue and follow jobs. If Scoreline refuses a job, the page shows a message, never a server error."""

from __future__ import annotations

from uuid import UUID

from django.contrib import messages
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_POST, require_safe

from scoreline.storage.errors import InvalidRequest, ScorelineError
from scoring.forms import ScoringForm
from scoring.models import Scoring


@require_safe
def overview(request: HttpRequest) -> HttpResponse:
    rows = list(Scoring.objects.all()[:50])
    for row in rows:
        if row.under_way and not refreshed(request, row):
            break  # if a service does not answer, asking about more jobs is useless
    busy = any(row.under_way for row in rows)
    return render(request, "scoring/overview.html", {"rows": rows, "refresh": busy})


def create(request: HttpRequest) -> HttpResponse:
    form = ScoringForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        try:
            with transaction.atomic():
                row, new = form.row()
                transaction.on_commit(row.send)  # if the transaction is rolled back, no job must exist
        except InvalidRequest as error:  # no job was created
            if new:
                row.delete()
            form.add_error(None, str(error))
        except ScorelineError as error:
            messages.error(request, f"The job is not sent yet. {error}")
            return redirect(row)
        else:
            return redirect(row)
    return render(request, "scoring/create.html", {"form": form})


@require_safe
def detail(request: HttpRequest, pk: UUID) -> HttpResponse:
    row = get_object_or_404(Scoring, pk=pk)
    refreshed(request, row)
    return render(request, "scoring/detail.html", {"row": row, "refresh": row.under_way})


@require_POST
def send(request: HttpRequest, pk: UUID) -> HttpResponse:
    """Try again to enqueue a job. If the first attempt succeeded, nothing changes."""
    row = get_object_or_404(Scoring, pk=pk)
    try:
        row.send()
    except ScorelineError as error:
        messages.error(request, f"The job is not sent yet. {error}")
    return redirect(row)


def refreshed(request: HttpRequest, row: Scoring) -> bool:
    try:
        row.refresh()
    except ScorelineError as error:
        messages.warning(request, f"This is what was last known. {error}")
        return False
    return True
