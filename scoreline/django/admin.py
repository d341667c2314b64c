"""The admin of rows that are jobs: ``from scoreline.django.admin import ScoringAdmin``."""

from scoreline.tasks.django.scoring.admin import ScoringAdmin

__all__ = ["ScoringAdmin"]
