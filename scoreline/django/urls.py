"""The addresses of the pages and of the webhook, for ``include("scoreline.django.urls")``."""

from django.urls import path

from scoreline.tasks.django.urls import app_name
from scoreline.tasks.django.urls import urlpatterns as pages
from scoreline.tasks.django.views.webhook import webhook

urlpatterns = [path("webhook/", webhook, name="webhook"), *pages]

__all__ = ["app_name", "urlpatterns"]
