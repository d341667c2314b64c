"""What Celery raises in a task that takes longer than its soft time limit, under one name for all rooms."""

from billiard.exceptions import SoftTimeLimitExceeded

__all__ = ["SoftTimeLimitExceeded"]
