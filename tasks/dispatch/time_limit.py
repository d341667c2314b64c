"""The exception that Celery raises in a task that exceeds its soft time limit. All rooms import it from here."""

from billiard.exceptions import SoftTimeLimitExceeded

__all__ = ["SoftTimeLimitExceeded"]
