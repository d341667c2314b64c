"""The interface of a queue, which carries messages from submitters to workers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, kw_only=True)
class Backlog:
    """The number of messages in a broker. If the broker cannot report a number, that number is missing or None."""

    waiting: Mapping[str, int]
    """Number of messages that no worker has received yet, by queue."""
    unacked: int | None
    """Number of messages that workers have received and not acknowledged. Only Redis reports this number."""
    oldest_unacked_s: float | None
    """Seconds since the oldest unacknowledged message was delivered; 0 if every message is acknowledged."""


class MessageQueue(Protocol):
    """Sends messages to a queue, counts its messages, and queries its workers.

    Every method raises `QueueUnavailable` (transient) if the broker does not answer.
    """

    def ping(self) -> None:
        """Raise `QueueUnavailable` if the broker does not answer."""
        ...

    def send(self, name: str, **kwargs: Any) -> None:
        """Put a message into the queue.

        Parameters
        ----------
        name : str
            The name of a Celery task, for example ``scoreline.plan``.
        **kwargs
            The arguments of the task, as JSON values.
        """
        ...

    def pause(self, seconds: float) -> bool:
        """Wait for `seconds` while the workers make progress. Return False if the workers have nothing left to do."""
        ...

    def backlog(self) -> Backlog:
        """Return the number of messages in the broker."""
        ...

    def workers(self, name: str | None = None, timeout_s: float = 2.0) -> list[str]:
        """Return the names of the workers that read this queue and answer within `timeout_s` seconds.

        Parameters
        ----------
        name : str, optional
            Ask only this worker, for example ``celery@host``; its answer ends the wait.
        """
        ...

    def ask_workers(self, what: str, timeout_s: float = 1.0, name: str | None = None) -> dict[str, Any]:
        """Ask every worker on the broker. Return the received answers, by worker.

        Parameters
        ----------
        what : str
            A command of ``celery inspect``, or a command in `scoreline.worker.control`.
        name : str, optional
            Ask only this worker, for example ``celery@host``; its answer ends the wait.
        """
        ...
