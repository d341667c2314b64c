"""The signal that a job has ended: ``from scoreline.django.signals import on_ended``."""

from scoreline.tasks.django.scoring.signals import on_ended

__all__ = ["on_ended"]
