"""The pages for addresses that do not exist, forged forms and defects."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from scoreline.tasks.django.access import policy


def _show(request: HttpRequest, status: int, title: str, message: str) -> HttpResponse:
    answer = render(request, "scoreline/fault.html", {"title": title, "message": message}, status=status)
    answer["Content-Security-Policy"] = policy()
    return answer


def bad_request(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    """Say that the request is malformed."""
    return HttpResponse("The request is malformed.\n", status=400, content_type="text/plain")


def forbidden(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    """Say that the user may not do this."""
    return _show(request, 403, "You may not do this", "Ask an administrator for a role that includes it.")


def forged(request: HttpRequest, reason: str = "") -> HttpResponse:
    """Say that a form was not sent by a page of this site, or too late."""
    return _show(request, 403, "The form is out of date", "Go back, load the page again, and send the form again.")


def not_found(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    """Say that there is no such page."""
    return _show(request, 404, "Not found", "There is no page with this address.")


def server_error(request: HttpRequest) -> HttpResponse:
    """Say that there is a defect."""
    return HttpResponse("Something went wrong. The log has the reason.\n", status=500, content_type="text/plain")
