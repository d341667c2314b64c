"""Gives a part that is interrupted the time to return to the queue before a second signal ends its process.

Celery interrupts the tasks of its pool with a signal, whose handler raises ``SystemExit``. The task then releases the
lease of its part, so that the attempt does not count. The handler restores the default action of the signal, with which
a second signal ends the process at once. A worker sends two signals if it receives SIGTERM while it interrupts its
tasks. On Heroku this happens, because SIGTERM goes to every process of a dyno, and from the parent to the worker again.
"""

from __future__ import annotations

import os
import signal
import time
from types import FrameType

from billiard.common import TERM_SIGNAL

GRACE_S = 10.0
"""Seconds after the first signal in which further signals do not end the process."""
_EX_SOFTWARE = 70
"""The exit code with which Celery ends a process at the second signal."""


def allow_release() -> None:
    """Let this pool process ignore further signals for `GRACE_S` seconds after the signal that interrupts its task.

    In any other process, this function does nothing. It must be called after Celery has set its handler.
    """
    interrupt = signal.getsignal(TERM_SIGNAL)
    if not callable(interrupt) or getattr(interrupt, "__module__", "") != "billiard.common":
        return

    def first(number: int, frame: FrameType | None) -> None:
        until = time.monotonic() + GRACE_S

        def further(number: int, frame: FrameType | None) -> None:
            if time.monotonic() > until:
                os._exit(_EX_SOFTWARE)

        try:
            interrupt(number, frame)
        finally:
            signal.signal(number, further)

    signal.signal(TERM_SIGNAL, first)
