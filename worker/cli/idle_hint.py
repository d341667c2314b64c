"""Whether a job that does not get on has anybody to work on it."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from threading import Thread

from scoreline.tasks.job.documents import Status

SILENT_S = 10.0
"""Seconds without progress after which it is worth a word: a worker takes one or two to begin with a job."""
_ANSWER_S = 2.0


class Silence:
    """Asks for workers while a job stands still, beside whoever watches it: nobody waits for the answer.

    Parameters
    ----------
    ask : callable
        Takes seconds to wait, and returns the workers that answered; it may raise, and then nothing is said.
    after_s : float
        Seconds without progress before anything is said, and between two questions.
    """

    def __init__(self, ask: Callable[[float], Collection[str]], after_s: float = SILENT_S) -> None:
        self._ask = ask
        self._after_s = after_s
        self._seen: object = None
        self._due = 0.0
        self._asking: Thread | None = None
        self._nobody = False
        self._told = False

    def hint(self, now: Status) -> str | None:
        """Return what there is to say, once, at the latest look at a job."""
        seen, moment = (now.state, now.parts_done, now.rows), time.monotonic()
        if seen != self._seen:
            self._seen, self._nobody = seen, False
            self._due = moment + max(0.0, self._after_s - _ANSWER_S)
        if self._nobody and not self._told:
            self._told = True
            return (
                f"no worker has answered for {self._after_s:g} s: is one running? Start one with "
                "`celery -A scoreline worker`; `scoreline workers` lists those that answer"
            )
        if not (self._told or now.ended or moment < self._due or (self._asking and self._asking.is_alive())):
            self._due = moment + self._after_s
            self._asking = Thread(target=self._look, args=(seen,), name="workers", daemon=True)
            self._asking.start()
        return None

    def _look(self, seen: object) -> None:
        try:
            found = self._ask(_ANSWER_S)
        except Exception:  # noqa: BLE001  # what is wrong with the broker is not what was asked for
            return
        self._nobody = not found and seen == self._seen
