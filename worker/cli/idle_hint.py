"""Notices that a watched job makes no progress because no worker is running."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from threading import Thread

from scoreline.tasks.job.documents import Status
from scoreline.tasks.job.loads import LoadStatus

IDLE_S = 10.0
"""Seconds without progress before a hint is due. A worker begins a job within one or two seconds."""
_ANSWER_S = 2.0


class IdleHint:
    """Queries workers in a separate thread while a job makes no progress, so that watching does not block.

    Parameters
    ----------
    ask : callable
        Function that waits a number of seconds and returns the workers that answered. If `ask` raises an error, no hint
        is given.
    after_s : float
        Seconds without progress before the first call of `ask`, and seconds between two calls.
    """

    def __init__(self, ask: Callable[[float], Collection[str]], after_s: float = IDLE_S) -> None:
        self._ask = ask
        self._after_s = after_s
        self._progress: object = None
        self._due = 0.0
        self._asking: Thread | None = None
        self._no_worker = False
        self._given = False

    def update(self, now: Status | LoadStatus) -> str | None:
        """Record a status. If no worker has answered since the last progress, return the hint once."""
        progress, moment = (now.state, now.parts_done, now.rows), time.monotonic()
        if progress != self._progress:
            self._progress, self._no_worker = progress, False
            self._due = moment + max(0.0, self._after_s - _ANSWER_S)
        if self._no_worker and not self._given:
            self._given = True
            return (
                f"no worker has answered for {self._after_s:g} s: start one with `celery -A scoreline worker`; "
                "`scoreline workers` lists those that answer"
            )
        if not (self._given or now.ended or moment < self._due or (self._asking and self._asking.is_alive())):
            self._due = moment + self._after_s
            self._asking = Thread(target=self._ask_workers, args=(progress,), name="workers", daemon=True)
            self._asking.start()
        return None

    def _ask_workers(self, progress: object) -> None:
        try:
            found = self._ask(_ANSWER_S)
        except Exception:  # noqa: BLE001  # the user is watching a job, and need not see errors of the broker
            return
        self._no_worker = not found and progress == self._progress
