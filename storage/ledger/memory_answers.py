"""The answers in the memory of one process."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence

from scoreline.storage.ledger.answers import ANSWERS_KEPT_S, MAX_ANSWERS, Answer


class MemoryAnswers:
    """The answers of the jobs of one process (see `Answers`).

    Parameters
    ----------
    clock : callable
        Returns the time in seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._kept: dict[str, tuple[float, deque[Answer]]] = {}

    def give(self, reader: str, answer: Answer) -> None:
        """Keep an answer for a reader (see `Answers.give`)."""
        with self._changed:
            now = self._clock()
            self._kept = {name: kept for name, kept in self._kept.items() if kept[0] > now}
            answers = self._kept.get(reader, (0.0, deque(maxlen=MAX_ANSWERS)))[1]
            answers.append(answer)
            self._kept[reader] = (now + ANSWERS_KEPT_S, answers)
            self._changed.notify_all()

    def receive(self, reader: str, seconds: float) -> Sequence[Answer]:
        """Return the answers for a reader (see `Answers.receive`)."""
        with self._changed:
            self._changed.wait_for(lambda: reader in self._kept, timeout=seconds)
            until, answers = self._kept.pop(reader, (0.0, deque[Answer]()))
            return list(answers) if until > self._clock() else []
