"""A log-in of the pages' own, for a project that has none.

A new project has nothing at ``LOGIN_URL``. In any other project these views answer that they do not exist.
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Callable
from typing import Any

from django.contrib.auth.decorators import login_not_required
from django.http import Http404, HttpRequest, HttpResponse
from django.urls import reverse_lazy
from django.views.decorators.csrf import csrf_protect

from scoreline.tasks.django.access import project_logs_in, secured
from scoreline.tasks.django.limits import TOO_MANY_LOG_INS, by_user, may_try

_MOST_NAME = 254
"""Maximum number of characters of a name that are kept in memory to count attempts."""


@login_not_required
def log_in(request: HttpRequest) -> HttpResponse:
    """Show the form, or begin a session."""
    return _answer(request, _log_in_view())


@login_not_required
def log_out(request: HttpRequest) -> HttpResponse:
    """End the session."""
    return _answer(request, _log_out_view())


def _answer(request: HttpRequest, view: Callable[..., HttpResponse]) -> HttpResponse:
    if project_logs_in():
        raise Http404("the project has a log-in of its own")
    return secured(csrf_protect(view)(request))


def same_name(name: str) -> str:
    """Return the text that stands for all ways to write the name of a user, of which some databases ignore the case.

    >>> same_name(" Ann ") == same_name("\N{FULLWIDTH LATIN SMALL LETTER A}nn") == "ann"
    True
    """
    return unicodedata.normalize("NFKC", name.strip()[:_MOST_NAME]).casefold().strip()


@functools.cache
def _log_in_view() -> Callable[..., HttpResponse]:
    # `scoreline web` serves the pages without the app whose models this module needs
    from django.contrib.auth.views import LoginView

    class LogIn(LoginView):
        template_name = "scoreline/log_in.html"
        next_page = reverse_lazy("scoreline:home")

        def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
            if not may_try(request.META.get("REMOTE_ADDR", ""), same_name(request.POST.get("username", ""))):
                context = self.get_context_data(form=self.get_form_class()(request), fault=TOO_MANY_LOG_INS)
                return self.render_to_response(context, status=429)
            answer: HttpResponse = super().post(request, *args, **kwargs)
            return answer

        def form_valid(self, form: Any) -> HttpResponse:
            # The password was right, while a user of the request may be one who was logged in before
            by_user.forget(same_name(form.cleaned_data["username"]))
            answer: HttpResponse = super().form_valid(form)
            return answer

    return LogIn.as_view()


@functools.cache
def _log_out_view() -> Callable[..., HttpResponse]:
    from django.contrib.auth.views import LogoutView

    return LogoutView.as_view(next_page=reverse_lazy("scoreline:log-in"))
