"""Parts of a page that are loaded again while they are seen, and sent only if they have changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.template.loader import render_to_string

SEEN = "X-Scoreline-Seen"
"""The header in which a browser says which content it has."""


def asks_for_part(request: HttpRequest) -> bool:
    """Return whether the script of a page asks, which shows only a part of the page anew."""
    return request.headers.get("HX-Request") == "true"


def load_again() -> HttpResponse:
    """Return the answer after which the script loads the whole page again."""
    answer = HttpResponse(status=204)
    answer["HX-Refresh"] = "true"
    return answer


def respond(
    request: HttpRequest,
    template: str,
    part: str,
    context: Mapping[str, Any],
    *,
    every_s: int | None,
    reload: bool = False,
) -> HttpResponse:
    """Return a page with one live part; or the part alone, if the script of the page asks for it.

    Parameters
    ----------
    template, part : str
        The templates of the page and of its live part. The page shows the part as ``live``.
    every_s : int, optional
        Seconds after which the part is loaded again; None if it no longer changes.
    reload : bool
        Whether a browser that shows the live part has to load the whole page again.
    """
    asked = asks_for_part(request)
    if asked and reload:
        return load_again()
    inner = render_to_string(part, dict(context), request)
    seen = hashlib.sha256(inner.encode()).hexdigest()[:16]
    if asked and request.headers.get(SEEN) == seen:
        return HttpResponse(status=204)
    wrapped = {"inner": inner, "every_s": every_s, "headers": json.dumps({SEEN: seen}), "path": request.get_full_path()}
    live = render_to_string("scoreline/_live.html", wrapped, request)
    return HttpResponse(live) if asked else render(request, template, {**context, "live": live})
