"""The exceptions that Celery raises to interrupt a task. All rooms import them from here.

Celery interrupts a task with `SoftTimeLimitExceeded`, or with ``SystemExit`` when a process of the pool receives
SIGTERM. Other code may also raise ``SystemExit``; `is_terminating` returns whether Celery is stopping the process.
"""

from billiard.common import terminate_handler_fired as is_terminating  # type: ignore[attr-defined]  # stubs are older
from billiard.exceptions import SoftTimeLimitExceeded

__all__ = ["SoftTimeLimitExceeded", "is_terminating"]
