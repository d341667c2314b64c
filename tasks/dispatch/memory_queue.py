"""A queue in the memory of one process, which does by itself what the messages ask for: for tests."""

from __future__ import annotations

import secrets
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from scoreline.tasks.dispatch.messages import Backlog
from scoreline.tasks.dispatch.queue import QUEUE


@dataclass(frozen=True, kw_only=True)
class Message:
    """What a worker is asked to do."""

    name: str
    kwargs: dict[str, Any]
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    """The same each time it is delivered."""


class MemoryQueue:
    """A queue whose messages are delivered in the process that sends them (see `MessageQueue`).

    Messages are delivered one at a time and in their order, however many threads send, and never inside one another:
    what a delivery sends comes after it.

    Parameters
    ----------
    deliver : callable
        Does what a message asks for. If it raises, the message stays the first of the queue.
    at_once : bool
        Whether `send` returns only when the queue is empty; otherwise messages wait for `run` or `pause`.
    """

    def __init__(self, deliver: Callable[[Message], None], *, at_once: bool) -> None:
        self._deliver = deliver
        self._at_once = at_once
        self._messages: deque[Message] = deque()
        self._delivering = threading.Lock()
        self._by_thread: int | None = None

    def ping(self) -> None:
        """Do nothing: this queue always answers (see `MessageQueue.ping`)."""

    def send(self, name: str, **kwargs: Any) -> None:
        """Put a message into the queue, and deliver what is there if that is to be `at_once`."""
        self._messages.append(Message(name=name, kwargs=kwargs))
        if self._at_once:
            self.run()

    def run(self, at_most: int | None = None) -> int:
        """Deliver the messages that wait, and those that they lead to; returns how many were delivered.

        Parameters
        ----------
        at_most : int, optional
            How many to deliver; by default all.

        Raises
        ------
        Exception
            Whatever a delivery raises; its message is delivered again by the next call.
        """
        if self._by_thread == threading.get_ident():  # a delivery sends: the loop below comes to it
            return 0
        delivered = 0
        with self._delivering:
            self._by_thread = threading.get_ident()
            try:
                while self._messages and delivered != at_most:
                    self._deliver_next()
                    delivered += 1
            finally:
                self._by_thread = None
        return delivered

    def pause(self, seconds: float) -> bool:
        """Deliver one message at once, since no worker would; returns whether there was one (see `MessageQueue`)."""
        return self.run(at_most=1) > 0

    def backlog(self) -> Backlog:
        """Return how many messages wait (see `MessageQueue.backlog`)."""
        return Backlog(waiting={QUEUE: len(self._messages)}, unacked=0, oldest_unacked_s=0.0)

    def workers(self, name: str | None = None, timeout_s: float = 2.0) -> list[str]:
        """Return no name: no worker reads this queue (see `MessageQueue.workers`)."""
        return []

    def ask_workers(self, what: str, timeout_s: float = 1.0, name: str | None = None) -> dict[str, Any]:
        """Return no answer: no worker reads this queue (see `MessageQueue.ask_workers`)."""
        return {}

    def _deliver_next(self) -> None:
        message = self._messages.popleft()
        try:
            self._deliver(message)
        except BaseException:
            self._messages.appendleft(message)
            raise
