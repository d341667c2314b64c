"""Receives the answers of jobs for all threads of an application, with one connection."""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections import OrderedDict

from scoreline.storage.ledger.answers import Answer
from scoreline.storage.ledger.base import Ledger

_LONGEST_S = 1.0
"""Maximum number of seconds for which a thread waits for the ledger."""
_MAX_KEPT = 1_000
"""Maximum number of answers that are kept although no thread waits for them."""


class AnswerBox:
    """Receives the answers of the jobs that this process has submitted.

    One of the waiting threads asks the ledger, and hands the answers to the others. Small Redis plans allow only a few
    connections, and each thread that asked the ledger would need one.

    Parameters
    ----------
    ledger : Ledger
        The ledger, to which workers give the answers.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._token = secrets.token_hex(8)
        self._guard = threading.Lock()
        self._kept: OrderedDict[str, Answer] = OrderedDict()
        self._waiting: dict[str, threading.Event] = {}
        self._asking = False
        self._pid = os.getpid()

    @property
    def reader(self) -> str:
        """The name under which this process receives answers. A forked process has another name."""
        if self._pid != os.getpid():  # a lock may be held by a thread that did not survive the fork
            self.__init__(self._ledger)  # type: ignore[misc]
        return f"{self._token}-{self._pid}"

    def wait(self, job_id: str, seconds: float) -> Answer | None:
        """Wait up to `seconds` for the answer of a job. Return None if it has not come.

        Only one thread may wait for a job.

        Raises
        ------
        LedgerUnavailable
            The ledger cannot be reached.
        """
        reader, end_s = self.reader, time.monotonic() + seconds
        event = threading.Event()
        with self._guard:
            self._waiting[job_id] = event
        try:
            left_s = seconds
            while True:
                with self._guard:
                    if (found := self._kept.pop(job_id, None)) is not None:
                        return found
                    asks, self._asking = not self._asking, True
                    event.clear()
                if asks:
                    self._ask(reader, min(left_s, _LONGEST_S))
                else:
                    event.wait(left_s)
                left_s = max(0.0, end_s - time.monotonic())
                if not left_s:
                    with self._guard:
                        return self._kept.pop(job_id, None)
        finally:
            with self._guard:
                self._waiting.pop(job_id, None)
                if not self._asking:
                    self._wake_one()

    def _ask(self, reader: str, seconds: float) -> None:
        try:
            found = self._ledger.answers.receive(reader, seconds)
            with self._guard:
                for answer in found:
                    self._kept[answer.job_id] = answer
                    if (event := self._waiting.get(answer.job_id)) is not None:
                        event.set()
                while len(self._kept) > _MAX_KEPT:
                    self._kept.popitem(last=False)
        finally:
            with self._guard:
                self._asking = False

    def _wake_one(self) -> None:
        """Let another thread ask the ledger. The caller holds the lock."""
        for job_id, event in self._waiting.items():
            if job_id not in self._kept:
                event.set()
                return
