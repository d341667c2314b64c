"""Leads Django to the configuration of the app."""

from scoreline.tasks.django.apps import ScorelineConfig

__all__ = ["ScorelineConfig"]
