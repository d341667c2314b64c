"""The exceptions that Celery raises to interrupt a task. All rooms import them from here.

A task is interrupted by `SoftTimeLimitExceeded`, or by the ``SystemExit`` that a process of the pool raises when it
receives SIGTERM. Code that a task calls may raise ``SystemExit`` too, and `is_terminating` tells the two apart.
"""

from billiard.common import terminate_handler_fired as is_terminating  # type: ignore[attr-defined]  # stubs are older
from billiard.exceptions import SoftTimeLimitExceeded

__all__ = ["SoftTimeLimitExceeded", "is_terminating"]
