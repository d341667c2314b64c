"""Remembers which sessions have ended."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable


class EndedSessions:
    """Remembers which sessions were ended by their users, until they would have ended anyway.

    A session is a signed cookie, so anyone with a copy could go on with it. The process is the only one that serves the
    pages. After a restart, it no longer knows what was ended before.

    Parameters
    ----------
    seconds : float
        How long a session lasts.
    clock : callable
        Returns the time in seconds.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._clock = seconds, clock
        self._guard = threading.Lock()
        self._ended: OrderedDict[str, float] = OrderedDict()

    def add(self, session: str) -> None:
        """End a session."""
        now = self._clock()
        with self._guard:
            while self._ended and now - next(iter(self._ended.values())) > self._seconds:
                self._ended.popitem(last=False)
            self._ended.setdefault(session, now)

    def __contains__(self, session: str) -> bool:
        with self._guard:
            return session in self._ended
