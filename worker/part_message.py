"""Lets a process use one message for several small parts, one after another.

A message is a permit to score a part, whichever part is due (see `scoreline.storage.ledger.shares`). When a part ends,
the next part of its job is due, and the process that has just scored the one could score the other. Without this
module, it would send a message for that part, acknowledge its own and wait for another. For a part of 1,000 rows, that
takes a quarter of the time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from celery import Task

from scoreline.tasks.steps.score_part import LeasedPart
from scoreline.worker import telemetry

KEPT_S = 0.2
"""Number of seconds after which a message is no longer used for another part. The messages of records and of steps of
other jobs come before parts, but a process receives them only once it has used its own message."""


class PartMessage:
    """The message of a part that a task has received.

    The message keeps naming the part that it was sent for. If the process dies, the message is delivered again, and the
    ledger knows for which part it was last used.

    Parameters
    ----------
    task : celery.Task
        The task that does the message.
    clock : callable
        Returns a time in seconds, like `time.monotonic`.
    """

    def __init__(self, task: Task[Any, Any], clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._until_s = clock, clock() + KEPT_S
        self._job_id = (task.request.kwargs or {}).get("job_id")
        # A retry must not count the attempts at another part, and in a trace, each part has a span of its own
        self._may_be_kept = not task.request.retries and not telemetry.is_tracing()
        self.is_own_job = False
        """Whether the part that the message is used for is one of the job that the message names."""
        self.is_kept = False
        """Whether the message is for another part now."""
        self.scored: dict[str, int] | None = None
        """The rows of all parts for which the message was used; None if nothing was scored."""

    def use_for(self, leased: LeasedPart) -> None:
        """Record that the message is used for a part."""
        self.is_kept, self.is_own_job = False, leased.lease.job_id == self._job_id

    def keep(self) -> bool:
        """Return whether the message is used for the part that follows the present one. It is not sent again then.

        It is not if another job was due, because the job that the message names may end meanwhile.
        """
        self.is_kept = self._may_be_kept and self.is_own_job and self._clock() < self._until_s
        return self.is_kept

    def add(self, rows: int, rejected: int) -> None:
        """Add the rows of a part to `scored`."""
        before = self.scored or {"rows": 0, "rejected": 0}
        self.scored = {"rows": before["rows"] + rows, "rejected": before["rejected"] + rejected}
