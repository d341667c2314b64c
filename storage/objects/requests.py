"""Counts the requests of this process to object stores, by the classes in which R2 bills them.

Class A operations write or list, and class B operations read. Deleting is free. Retries within a client library are not
counted. A directory store counts as R2 would.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Literal

PAGE_KEYS = 1_000
"""Maximum number of objects that one request lists."""


@dataclass(frozen=True, kw_only=True)
class Requests:
    """Numbers of requests.

    >>> Requests(class_a=1, class_b=2) + Requests(class_b=3) - Requests(class_a=1)
    Requests(class_a=0, class_b=5)
    """

    class_a: int = 0
    class_b: int = 0

    def __add__(self, other: Requests) -> Requests:
        return Requests(class_a=self.class_a + other.class_a, class_b=self.class_b + other.class_b)

    def __sub__(self, other: Requests) -> Requests:
        return Requests(class_a=self.class_a - other.class_a, class_b=self.class_b - other.class_b)


class _Counter:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = {"a": 0, "b": 0}
        self._thread = threading.local()

    def leave_out_thread(self) -> None:
        self._thread.is_left_out = True

    def note(self, kind: Literal["a", "b"]) -> None:
        if getattr(self._thread, "is_left_out", False):
            return
        with self._lock:
            self._counts[kind] += 1

    def read(self) -> Requests:
        with self._lock:
            return Requests(class_a=self._counts["a"], class_b=self._counts["b"])


_counter = _Counter()
note = _counter.note
"""Count a request of a class, ``a`` or ``b``."""
leave_out_thread = _counter.leave_out_thread
"""Do not count the requests of this thread from now on. Another process counts them."""
so_far = _counter.read
"""Return the number of requests since this process began. A caller subtracts two results."""
