from __future__ import annotations

from django.urls import include, path

urlpatterns = [
    path("scoreline/", include("scoreline.django.urls")),
    path("", include("scoreline.worker.web.urls")),
]
