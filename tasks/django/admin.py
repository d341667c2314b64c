"""Shows a link to the pages in the admin of a project. Django imports this module if the project has an admin."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import NoReverseMatch, reverse

from scoreline.tasks.django.access import may
from scoreline.tasks.django.models import Access


@admin.register(Access)
class PagesAdmin(admin.ModelAdmin):
    """An entry of the admin's index that leads to the pages. `Access` has no table."""

    def has_module_permission(self, request: HttpRequest) -> bool:
        """Return whether the project has pages, and the user may see them."""
        return bool(_pages()) and may(request, "view")

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return whether the user may see the pages."""
        return may(request, "view")

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Return False, because there are no rows."""
        return False

    has_change_permission = has_delete_permission = lambda self, request, obj=None: False

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        """Lead to the pages."""
        return HttpResponseRedirect(_pages() or reverse("admin:index"))


def _pages() -> str:
    try:
        return str(reverse("scoreline:home"))
    except NoReverseMatch:
        return ""
