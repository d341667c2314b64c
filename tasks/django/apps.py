"""The configuration of the app."""

from __future__ import annotations

from django.apps import AppConfig


class ScorelineConfig(AppConfig):
    """The app, with the label ``scoreline`` of its permissions."""

    name = "scoreline.tasks.django"
    default_auto_field = "django.db.models.AutoField"
    label = "scoreline"
    verbose_name = "Scoreline"
