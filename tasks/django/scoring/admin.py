"""The admin of a model that derives from `Scoring`."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.db.models import QuerySet
from django.http import HttpRequest
from django.template.response import TemplateResponse
from django.utils.html import format_html

from scoreline.storage.audit import acting_as
from scoreline.storage.errors import ScorelineError, describe
from scoreline.storage.wording import plural
from scoreline.tasks.django.access import may
from scoreline.tasks.django.said import why_not_cancelled
from scoreline.tasks.django.scoring.model import Scoring

_MOST = 100
"""Maximum number of rows of an action, because each row takes some requests to the services."""


class ScoringAdmin(admin.ModelAdmin):
    """Lists rows with their states, leads to the pages of their jobs, and refreshes or cancels them.

    ::

        @admin.register(Prediction)
        class PredictionAdmin(ScoringAdmin):
            list_display = ("customer", *ScoringAdmin.list_display)

    Rows are made by `Scoring.submit`, and their jobs do not change, so the admin adds no rows, and only the fields that
    the application has added can be edited.
    """

    list_display = ("job", "model", "state", "progress", "rejected", "created", "ended")
    list_filter = ("state", "model", "created")
    search_fields = ("job_id", "model", "version")
    date_hierarchy = "created"
    actions = ("refresh", "cancel")

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Return False, because a row without a job is of no use."""
        return False

    def has_operate_permission(self, request: HttpRequest) -> bool:
        """Return whether the user may cancel jobs."""
        return may(request, "operate")

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        """Return what is given, and all fields of `Scoring`."""
        own = [field.name for field in Scoring._meta.get_fields()]
        return ["job", *super().get_readonly_fields(request, obj), *(name for name in own if name != "job_id")]

    def get_exclude(self, request: HttpRequest, obj: Any = None) -> list[str]:
        """Leave out the job id, which `job` shows."""
        return [*(super().get_exclude(request, obj) or ()), "job_id"]

    @admin.display(description="job", ordering="job_id")
    def job(self, row: Scoring) -> str:
        """Return the job id, which leads to the page of the job if the project has pages."""
        return format_html('<a href="{}">{}</a>', row.page, row.job_id) if row.page else row.job_id

    @admin.display(description="rows", ordering="rows")
    def progress(self, row: Scoring) -> str:
        """Return the rows that are scored, and their share while the job is under way."""
        return f"{row.rows:,} ({row.percent} %)" if row.is_under_way and row.total_rows else f"{row.rows:,}"

    @admin.action(description="Refresh the state of the selected jobs", permissions=["view"])
    def refresh(self, request: HttpRequest, queryset: QuerySet) -> None:
        """Ask for the state of jobs, and submit those that wait."""
        self._each(request, queryset, "refresh", "refreshed")

    @admin.action(description="Cancel the selected jobs", permissions=["operate"])
    def cancel(self, request: HttpRequest, queryset: QuerySet) -> TemplateResponse | None:
        """Cancel jobs that have not ended, after a confirmation."""
        rows = queryset.filter(ended__isnull=True)
        if "confirmed" in request.POST:
            self._each(request, rows, "cancel", "cancelled")
            return None
        if not rows.exists():
            self.message_user(request, "All selected jobs have ended.", messages.WARNING)
            return None
        context = {
            **self.admin_site.each_context(request),
            "title": "Cancel jobs",
            "rows": rows[:_MOST],
            "count": plural(min(rows.count(), _MOST), "job"),
            "chosen": request.POST.getlist(ACTION_CHECKBOX_NAME),
            "across": request.POST.get("select_across", "0"),
            "name": ACTION_CHECKBOX_NAME,
            "opts": self.model._meta,
            "media": self.media,
        }
        return TemplateResponse(request, "scoreline/admin_cancel.html", context)

    def _each(self, request: HttpRequest, rows: QuerySet, method: str, done: str) -> None:
        """Call a method of each row in the name of the user, and say what became of it."""
        count, faults = 0, []
        left_out = max(0, rows.count() - _MOST)
        with acting_as(request.user.get_username()):
            for row in list(rows[:_MOST]):
                try:
                    getattr(row, method)()
                except ScorelineError as error:
                    faults.append(f"{row.job_id}: {describe(error)}")
                    if error.transient:
                        break
                else:
                    if method == "cancel" and row.state != "cancelled":
                        why = why_not_cancelled(row.state, has_ended=row.ended is not None)
                        faults.append(f"{row.job_id} is not cancelled: {why}.")
                        continue
                    count += 1
        self.message_user(request, f"{plural(count, 'job')} {done}.", messages.SUCCESS if count else messages.WARNING)
        if left_out:
            text = f"{plural(left_out, 'job')} left out: an action takes at most {_MOST} at once."
            self.message_user(request, text, messages.WARNING)
        for fault in faults:
            self.message_user(request, fault, messages.ERROR)
