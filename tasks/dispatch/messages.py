"""The contract of a queue: messages between those who submit and those who work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, kw_only=True)
class Backlog:
    """How many messages a broker holds; what it cannot say is missing, or None."""

    waiting: Mapping[str, int]
    """Messages that no worker has taken yet, by queue."""
    unacked: int | None
    """Messages that workers have taken and not acknowledged; Redis alone knows."""
    oldest_unacked_s: float | None
    """Seconds since the oldest of them was handed out; 0 if there is none."""


class MessageQueue(Protocol):
    """Where messages go, and who reads them.

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
            A task of the worker, ``scoreline.plan`` say.
        **kwargs
            Its arguments, as JSON has them.
        """
        ...

    def pause(self, seconds: float) -> bool:
        """Wait a while for what the workers do; returns False if there is nothing that they would do."""
        ...

    def backlog(self) -> Backlog:
        """Return how many messages there are."""
        ...

    def workers(self, name: str | None = None, timeout_s: float = 2.0) -> list[str]:
        """Return the names of the workers that read this queue and answer within `timeout_s` seconds.

        Parameters
        ----------
        name : str, optional
            Ask this worker alone, as ``celery@host``; its answer ends the wait.
        """
        ...

    def ask_workers(self, what: str, timeout_s: float = 1.0, name: str | None = None) -> dict[str, Any]:
        """Ask every worker on the broker; returns the answers that came, by worker.

        Parameters
        ----------
        what : str
            A command of ``celery inspect``, or one of `scoreline.worker.control`.
        name : str, optional
            Ask this worker alone, as ``celery@host``; its answer ends the wait.
        """
        ...
