"""The webhook alone, for a project without the pages: ``path("scored/", scoreline.django.views.webhook)``."""

from scoreline.tasks.django.views.webhook import webhook

__all__ = ["webhook"]
