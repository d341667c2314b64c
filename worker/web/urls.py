"""The addresses of the site."""

from __future__ import annotations

from django.urls import include, path

from scoreline.worker.web import faults, login

urlpatterns = [
    path("healthz", login.health, name="health"),
    path("log-in/", login.log_in, name="log-in"),
    path("log-out/", login.log_out, name="log-out"),
    path("", include("scoreline.tasks.django.urls")),
]
handler400 = faults.bad_request
handler403 = faults.forbidden
handler404 = faults.not_found
handler500 = faults.server_error
