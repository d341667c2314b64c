"""Sends htmx, which the package django-htmx ships as a file, so that a project needs no further app for it."""

from __future__ import annotations

import functools
import gzip
from importlib import resources

from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_safe

_YEAR_S = 365 * 24 * 3600


@functools.cache
def _script() -> tuple[bytes, bytes]:
    data = resources.files("django_htmx").joinpath("static/django_htmx/htmx-2.min.js").read_bytes()
    return data, gzip.compress(data, mtime=0)


@require_safe
def htmx(request: HttpRequest) -> HttpResponse:
    """Send the script. Its address contains its version, so that browsers may keep it."""
    plain, packed = _script()
    is_packed = "gzip" in request.headers.get("Accept-Encoding", "")
    answer = HttpResponse(packed if is_packed else plain, content_type="text/javascript; charset=utf-8")
    if is_packed:
        answer["Content-Encoding"] = "gzip"
    answer["Vary"] = "Accept-Encoding"
    answer["Cache-Control"] = f"public, max-age={_YEAR_S}, immutable"
    answer["X-Content-Type-Options"] = "nosniff"
    return answer
