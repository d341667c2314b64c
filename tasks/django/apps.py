"""The configuration of the app."""

from __future__ import annotations

from django.apps import AppConfig
from django.core import checks


class ScorelineConfig(AppConfig):
    """The app, with the label ``scoreline`` of its permissions."""

    name = "scoreline.tasks.django"
    default_auto_field = "django.db.models.AutoField"
    label = "scoreline"
    verbose_name = "Scoreline"

    def ready(self) -> None:
        """Register the checks of ``manage.py check``."""
        from scoreline.tasks.django import system_checks

        checks.register(system_checks.check_settings, "scoreline")
        checks.register(system_checks.check_services, "scoreline", deploy=True)
