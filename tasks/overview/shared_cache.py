"""A cache for the threads of one process: one thread reads a value, and the others wait for it and share it."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, cast

from scoreline.storage.errors import ScorelineError

MOST_VALUES = 2_000
"""Maximum number of values that are kept. The value that was used least recently is dropped first."""


class _Slot:
    """The value of one key, or the error of the last attempt to read it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.until = float("-inf")
        self.value: Any = None
        self.error: ScorelineError | None = None


class SharedCache:
    """Keeps values for a short time, and reads each value only once at a time, however many threads ask for it.

    An expected error is kept like a value, so that a store that does not answer is asked once, and not by each reader.

    Parameters
    ----------
    clock : callable
        Returns the time in seconds.

    Examples
    --------
    >>> cache = SharedCache()
    >>> cache.get("answer", 60, lambda: 41 + 1), cache.get("answer", 60, lambda: 0)
    (42, 42)
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._guard = threading.Lock()
        self._slots: OrderedDict[Hashable, _Slot] = OrderedDict()

    def get[T](self, key: Hashable, seconds: float, read: Callable[[], T]) -> T:
        """Return the value of a key; read it if it is older than `seconds`, or if it was never read."""
        with self._guard:
            slot = self._slots.setdefault(key, _Slot())
            self._slots.move_to_end(key)
            while len(self._slots) > MOST_VALUES:
                self._slots.popitem(last=False)
        with slot.lock:
            if self._clock() >= slot.until:
                slot.value, slot.error = None, None
                try:
                    slot.value = read()
                except ScorelineError as error:
                    slot.error = error
                slot.until = self._clock() + seconds
            if slot.error is not None:
                raise slot.error.with_traceback(None)
            return cast("T", slot.value)

    def forget(self) -> None:
        """Drop all values, because something was changed. A read that is under way ends, and is not used again."""
        with self._guard:
            self._slots.clear()
