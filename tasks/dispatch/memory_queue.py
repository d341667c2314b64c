"""A queue for tests, in the memory of one process. The same process sends and handles the messages."""

from __future__ import annotations

import secrets
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from scoreline.tasks.dispatch.messages import Backlog
from scoreline.tasks.dispatch.queue_names import SHARED


@dataclass(frozen=True, kw_only=True)
class Message:
    """A message that requests one task."""

    name: str
    kwargs: dict[str, Any]
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    """Identifies the message, and stays the same when the message is delivered again."""


class MemoryQueue:
    """A queue whose messages are delivered in the process that sends them (see `MessageQueue`).

    Messages are delivered one at a time and in order, even if several threads send messages. A message that is sent
    during a delivery is delivered after that delivery has ended.

    Parameters
    ----------
    deliver : callable
        Handles a message. If `deliver` raises an error, the message stays first in the queue.
    at_once : bool
        Whether `send` delivers all messages before it returns; otherwise, messages wait for `run` or `pause`.
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
        """Put a message into the queue. If `at_once` is set, deliver all messages in the queue."""
        self._messages.append(Message(name=name, kwargs=kwargs))
        if self._at_once:
            self.run()

    def run(self, at_most: int | None = None) -> int:
        """Deliver all messages, including those that tasks send meanwhile. Return the number of messages delivered.

        Parameters
        ----------
        at_most : int, optional
            Maximum number of messages to deliver; by default, there is no maximum.

        Raises
        ------
        Exception
            Any exception that a delivery raises. The next call delivers the failed message again.
        """
        if self._by_thread == threading.get_ident():  # called during a delivery: the loop below delivers the message
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
        """Deliver one message. Return False if the queue was empty (see `MessageQueue.pause`)."""
        return self.run(at_most=1) > 0

    def backlog(self) -> Backlog:
        """Return the number of waiting messages (see `MessageQueue.backlog`)."""
        return Backlog(waiting={SHARED.jobs: len(self._messages)}, unacked=0, oldest_unacked_s=0.0)

    def workers(self, name: str | None = None, timeout_s: float = 2.0) -> list[str]:
        """Return an empty list, because no worker reads this queue (see `MessageQueue.workers`)."""
        return []

    def ask_workers(self, what: str, timeout_s: float = 1.0, name: str | None = None) -> dict[str, Any]:
        """Return an empty dict, because no worker reads this queue (see `MessageQueue.ask_workers`)."""
        return {}

    def _deliver_next(self) -> None:
        message = self._messages.popleft()
        try:
            self._deliver(message)
        except BaseException:
            self._messages.appendleft(message)
            raise
