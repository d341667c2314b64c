"""Decides who may see a page, and turns errors into pages that say what is wrong.

Each page needs one permission of the app: ``scoreline.view``, ``scoreline.operate`` or ``scoreline.promote``.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable
from typing import Literal
from urllib.parse import urlsplit

from django.conf import global_settings, settings
from django.contrib.auth import REDIRECT_FIELD_NAME
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, QueryDict
from django.shortcuts import render, resolve_url
from django.urls import Resolver404, resolve
from django.utils.translation import get_language
from django.views.decorators.csrf import csrf_protect
from django.views.decorators.http import require_http_methods

from scoreline.storage import keys
from scoreline.storage.audit import acting_as
from scoreline.storage.errors import (
    AccessDenied,
    BucketNotAllowed,
    BucketNotFound,
    InvalidRequest,
    InvalidSettings,
    JobNotFound,
    ModelNotFound,
    ObjectNotFound,
    PackageMissing,
    ScorelineError,
    describe,
)
from scoreline.tasks.django.live import asks_for_part, load_again

log = logging.getLogger(__name__)

Permission = Literal["view", "operate", "promote"]
View = Callable[..., HttpResponse]
_MISSING = (JobNotFound, ModelNotFound, ObjectNotFound)
_UNAVAILABLE = (AccessDenied, BucketNotAllowed, BucketNotFound, InvalidSettings)
_RETRY_S = 10


def may(request: HttpRequest, permission: Permission) -> bool:
    """Return whether the user of a request has a permission of the app."""
    user = getattr(request, "user", None)
    return user is not None and user.is_authenticated and user.has_perm(f"scoreline.{permission}")


def page(permission: Permission = "view", *, methods: tuple[str, ...] = ("GET", "HEAD")) -> Callable[[View], View]:
    """Return a decorator for a view that needs a permission.

    Without a user, the answer leads to the log-in. The view acts in the name of the user, and its answer has headers
    that forbid a browser to load anything from elsewhere.
    """

    def decorate(view: View) -> View:
        @functools.wraps(view)
        def wrapped(request: HttpRequest, **names: str) -> HttpResponse:
            user = getattr(request, "user", None)
            if user is None or not user.is_authenticated:
                return secured(_log_in(request))
            try:
                if not may(request, permission):
                    raise PermissionDenied(f"{user.get_username()} lacks the permission scoreline.{permission}")
                _check_names(names)
                with acting_as(user.get_username()):
                    answer = view(request, **names)
            except PermissionDenied as error:
                answer = fault(request, 403, "You may not do this", f"{error}. Ask an administrator for it.")
            except ScorelineError as error:
                answer = _explain(request, error)
            return secured(answer)

        allowed: View = require_http_methods(methods)(wrapped)
        # A project may do without the middleware, and check the forms of its own views alone
        return csrf_protect(allowed) if "POST" in methods else allowed

    return decorate


def fault(request: HttpRequest, status: int, title: str, message: str) -> HttpResponse:
    """Return a page that says what is wrong."""
    if asks_for_part(request):  # the part of the page that is there stays
        answer = HttpResponse(status=204)
        answer["HX-Trigger"] = "scoreline:stale"
        return answer
    return render(request, "scoreline/fault.html", {"title": title, "message": message}, status=status)


def policy(**more: str) -> str:
    """Return the Content-Security-Policy of the pages. Static files may come from the host in STATIC_URL."""
    parts = urlsplit(settings.STATIC_URL or "")
    own = f"'self' {parts.scheme}://{parts.netloc}" if parts.scheme and parts.netloc else "'self'"
    rules = {
        "default-src": "'none'",
        "script-src": own,
        "style-src": own,
        "img-src": own,
        "font-src": own,
        "connect-src": "'self'",
        "form-action": "'self'",
        "frame-ancestors": "'none'",
        "base-uri": "'none'",
    } | {name.replace("_", "-"): value for name, value in more.items()}
    return "; ".join(f"{name} {value}".strip() for name, value in rules.items())


def secured(answer: HttpResponse) -> HttpResponse:
    """Return an answer with the headers of all pages."""
    answer.setdefault("Content-Security-Policy", policy())
    answer.setdefault("X-Content-Type-Options", "nosniff")
    answer.setdefault("X-Frame-Options", "DENY")
    answer.setdefault("Referrer-Policy", "same-origin")
    answer.setdefault("Cross-Origin-Opener-Policy", "same-origin")
    answer.setdefault("Permissions-Policy", "camera=(), geolocation=(), microphone=(), payment=(), usb=()")
    answer.setdefault("Cache-Control", "private, no-store")
    return answer


def project_logs_in() -> bool:
    """Return whether the project has a log-in: it sets ``LOGIN_URL``, or has a page where Django expects one."""
    if settings.LOGIN_URL != global_settings.LOGIN_URL:
        return True
    # Below i18n_patterns, the page has the language before its address, and LocaleMiddleware leads there
    for address in (settings.LOGIN_URL, f"/{get_language()}{settings.LOGIN_URL}"):
        with contextlib.suppress(Resolver404):
            resolve(address)
            return True
    return False


def _log_in(request: HttpRequest) -> HttpResponse:
    if asks_for_part(request):
        return load_again()
    query = QueryDict(mutable=True)
    if request.method in ("GET", "HEAD"):
        query[REDIRECT_FIELD_NAME] = request.get_full_path()
    address = resolve_url(settings.LOGIN_URL if project_logs_in() else "scoreline:log-in")
    return HttpResponseRedirect(f"{address}?{query.urlencode(safe='/')}" if query else address)


def _check_names(names: dict[str, str]) -> None:
    """Refuse names that no job, model or schedule can have, before the bucket is asked for them."""
    for kind, name in names.items():
        if kind in ("job_id", "model", "alias", "schedule") and not keys.is_name(name):
            raise ObjectNotFound(f"no {kind.removesuffix('_id')} has such a name")


def _explain(request: HttpRequest, error: ScorelineError) -> HttpResponse:
    if isinstance(error, _MISSING):
        return fault(request, 404, "Not found", describe(error))
    if isinstance(error, InvalidRequest) and not isinstance(error, _UNAVAILABLE):
        return fault(request, 400, "This cannot be done", describe(error))
    if isinstance(error, PackageMissing):
        return fault(request, 200, "A package is missing", describe(error))
    log.warning("web.unavailable", extra={"path": request.path, "error": describe(error)})
    title = "The deployment does not answer" if error.transient else "Something cannot be read"
    answer = fault(request, 503, title, describe(error))
    answer.setdefault("Retry-After", str(_RETRY_S))
    return answer
