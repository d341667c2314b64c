"""The base of models whose rows are jobs: ``from scoreline.django.models import Scoring``."""

from scoreline.tasks.django.scoring.model import Scoring, ScoringQuerySet

__all__ = ["Scoring", "ScoringQuerySet"]
