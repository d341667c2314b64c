"""The addresses of the pages, for ``include("scoreline.django.urls")``."""

from scoreline.tasks.django.urls import app_name, urlpatterns

__all__ = ["app_name", "urlpatterns"]
