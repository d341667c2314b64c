"""Limits attempts to log in."""

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


_PERIOD_S = 300
TOO_MANY_LOG_INS = f"There were too many attempts. Try again in {_PERIOD_S // 60} minutes."
by_user = RateLimit(5, _PERIOD_S)
by_address = RateLimit(60, _PERIOD_S)


def may_try(address: str, user: str) -> bool:
    """Count an attempt to log in, and return whether the password may be tried."""
    return by_address.passes(address) and by_user.passes(user)
