"""Limits how often somebody may try to log in, and how long a session may be used."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable

_MOST_KEYS = 10_000


class RateLimit:
    """Lets each key pass a number of times in a period.

    Parameters
    ----------
    most : int
        How often a key may pass in the period.
    seconds : float
        The period.
    clock : callable
        Returns the time in seconds.
    """

    def __init__(self, most: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._most, self._seconds, self._clock = most, seconds, clock
        self._guard = threading.Lock()
        self._times: OrderedDict[str, list[float]] = OrderedDict()

    def passes(self, key: str) -> bool:
        """Count an attempt, and return whether it is allowed."""
        now = self._clock()
        with self._guard:
            times = [at for at in self._times.pop(key, []) if now - at < self._seconds]
            allowed = len(times) < self._most
            if allowed:
                times.append(now)
            self._times[key] = times
            while len(self._times) > _MOST_KEYS:
                self._times.popitem(last=False)
            return allowed

    def forget(self, key: str) -> None:
        """Forget the attempts of a key, because one of them was right."""
        with self._guard:
            self._times.pop(key, None)


class EndedSessions:
    """Remembers which sessions were ended by their users, until they would have ended anyway.

    A session is a signed cookie, so whoever has a copy could go on with it. The process is the only one that serves the
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
