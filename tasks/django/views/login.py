"""A log-in of the pages' own, for a project that has none.

A new project has nothing at ``LOGIN_URL``. In any other project these views answer that they do not exist.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from django.contrib.auth.decorators import login_not_required
from django.http import Http404, HttpRequest, HttpResponse
from django.urls import reverse_lazy
from django.views.decorators.csrf import csrf_protect

from scoreline.tasks.django.access import project_logs_in, secured
from scoreline.tasks.django.limits import TOO_MANY_LOG_INS, by_user, may_try


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


@functools.cache
def _log_in_view() -> Callable[..., HttpResponse]:
    # `scoreline web` serves the pages without the app whose models this module needs
    from django.contrib.auth.views import LoginView

    class LogIn(LoginView):
        template_name = "scoreline/log_in.html"
        next_page = reverse_lazy("scoreline:home")

        def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
            name = request.POST.get("username", "")
            if not may_try(request.META.get("REMOTE_ADDR", ""), name):
                context = self.get_context_data(form=self.get_form_class()(request), fault=TOO_MANY_LOG_INS)
                return self.render_to_response(context, status=429)
            answer: HttpResponse = super().post(request, *args, **kwargs)
            if request.user.is_authenticated:
                by_user.forget(name)
            return answer

    return LogIn.as_view()


@functools.cache
def _log_out_view() -> Callable[..., HttpResponse]:
    from django.contrib.auth.views import LogoutView

    return LogoutView.as_view(next_page=reverse_lazy("scoreline:log-in"))
