"""Renews the leases that a process holds, in one thread.

The thread sleeps until the first lease that it knows of is due, even if that lease has ended meanwhile. A small part
therefore neither starts nor wakes a thread, which would take longer than many other steps of it.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
from collections.abc import Callable

from scoreline.storage.errors import ScorelineError


def _do_nothing() -> None: ...


class HeldLease:
    """A lease that is renewed until `end` is called.

    Parameters
    ----------
    renew : callable
        Renews the lease.
    every_s : float
        Seconds between two renewals.
    """

    def __init__(self, renew: Callable[[], object], every_s: float) -> None:
        self._renew = renew
        self._every_s = every_s
        self._renewing = threading.Lock()
        self.has_ended = False
        self.due_s = time.monotonic() + every_s
        """Time of the next renewal, by `time.monotonic`."""

    def renew(self) -> None:
        """Renew the lease, unless it has ended."""
        self.due_s = time.monotonic() + self._every_s
        with self._renewing, contextlib.suppress(ScorelineError):
            if not self.has_ended:
                self._renew()

    def end(self) -> None:
        """Renew the lease no longer. Wait for a renewal that is under way."""
        self.has_ended = True
        with self._renewing:
            self._renew = _do_nothing  # what it refers to may take much memory, and the thread may sleep for long


class _Renewer:
    """Renews leases in a thread, which is started when it is first needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._leases: list[HeldLease] = []
        self._wakes_s = math.inf
        """Time until which the thread sleeps, unless it is woken."""
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, lease: HeldLease) -> None:
        with self._lock:
            if self._thread is None or not self._thread.is_alive():  # the system may have refused a thread before
                self._thread = threading.Thread(target=self._run, daemon=True, name="renew")
                self._thread.start()
            self._leases.append(lease)
            is_first = lease.due_s < self._wakes_s
            self._wakes_s = min(self._wakes_s, lease.due_s)
        if is_first:
            self._wake.set()

    def _run(self) -> None:
        while True:
            for lease in list(self._leases):
                if lease.due_s <= time.monotonic():
                    _renew(lease)
            with self._lock:
                self._leases = [lease for lease in self._leases if not lease.has_ended]
                self._wakes_s = min((lease.due_s for lease in self._leases), default=math.inf)
            self._wake.wait(None if self._wakes_s == math.inf else max(0.0, self._wakes_s - time.monotonic()))
            self._wake.clear()


def _renew(lease: HeldLease) -> None:
    """Renew a lease. If an unexpected error is raised, report it, so that other leases are renewed all the same."""
    try:
        lease.renew()
    except Exception as error:  # noqa: BLE001
        threading.excepthook(threading.ExceptHookArgs((type(error), error, error.__traceback__, None)))


_renewer = _Renewer()


def keep(renew: Callable[[], object], every_s: float) -> HeldLease:
    """Call `renew` every `every_s` seconds, until the returned lease ends."""
    lease = HeldLease(renew, every_s)
    _renewer.add(lease)
    return lease


def _forget() -> None:
    """Renew no leases of the parent in a forked process, which has none of its threads."""
    global _renewer
    _renewer = _Renewer()


os.register_at_fork(after_in_child=_forget)
