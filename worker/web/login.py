"""Logs users in and out, and answers the health check."""

from __future__ import annotations

import secrets
from collections.abc import Callable

from django import forms
from django.conf import settings
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.middleware.csrf import rotate_token
from django.shortcuts import render
from django.urls import reverse
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from scoreline.tasks.django.access import policy
from scoreline.tasks.django.limits import TOO_MANY_LOG_INS, by_user, may_try
from scoreline.worker.web.passwords import verify
from scoreline.worker.web.settings import WebSettings
from scoreline.worker.web.users import SESSION_ID, SESSION_MARK, SESSION_NAME, ended_sessions, mark_of


class LogInForm(forms.Form):
    """Name and password."""

    name = forms.CharField(max_length=150, widget=forms.TextInput(attrs={"autocomplete": "username"}))
    password = forms.CharField(
        max_length=1_000, strip=False, widget=forms.PasswordInput(attrs={"autocomplete": "current-password"})
    )


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def log_in(request: HttpRequest) -> HttpResponse:
    """Show the form, or begin a session."""
    form = LogInForm(request.POST if request.method == "POST" else None)
    fault, status = "", 200
    if request.method == "POST":
        status = 400
        if form.is_valid():
            fault, status = _try(request, form.cleaned_data["name"], form.cleaned_data["password"])
            if not fault:
                return HttpResponseRedirect(_next(request))
    answer = render(
        request, "scoreline/log_in.html", {"form": form, "fault": fault, "next": _next(request)}, status=status
    )
    answer["Content-Security-Policy"] = policy()
    return answer


def _try(request: HttpRequest, name: str, password: str) -> tuple[str, int]:
    """Begin a session if the password is right. Return what is wrong, and the status of the answer."""
    chosen: WebSettings = settings.SCORELINE_WEB
    if not may_try(request.META.get("REMOTE_ADDR", ""), name):
        return TOO_MANY_LOG_INS, 429
    known = chosen.users.get(name)
    if not verify(password, known.hash if known is not None else "") or known is None:
        return "The name or the password is wrong.", 400
    by_user.forget(name)
    request.session.flush()
    request.session[SESSION_NAME] = known.name
    request.session[SESSION_MARK] = mark_of(known)
    request.session[SESSION_ID] = secrets.token_urlsafe(16)
    rotate_token(request)
    return "", 200


@never_cache
@require_POST
def log_out(request: HttpRequest) -> HttpResponse:
    """End the session, also in a copy of the cookie."""
    if session := request.session.get(SESSION_ID):
        ended_sessions.add(str(session))
    request.session.flush()
    return HttpResponseRedirect(reverse("log-in"))


@require_safe
def health(request: HttpRequest) -> HttpResponse:
    """Say that the process answers. Needs no user, and says nothing else."""
    return HttpResponse("ok\n", content_type="text/plain")


class HealthCheck:
    """Middleware that answers the health check under any name of the host, because load balancers ask by address."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Answer a request."""
        return health(request) if request.path == reverse("health") else self._get_response(request)


def _next(request: HttpRequest) -> str:
    """Return the page to which a user wanted to go, if it is a page of this site."""
    wanted = request.POST.get("next", request.GET.get("next", ""))
    is_own = url_has_allowed_host_and_scheme(wanted, allowed_hosts=None) and wanted.startswith("/")
    return wanted if is_own else reverse("scoreline:home")
