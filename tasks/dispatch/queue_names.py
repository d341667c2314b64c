"""The names of a deployment's queues. Each name contains the name of the deployment's bucket."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

CLOCK_TASKS = frozenset(
    {"scoreline.reconcile", "scoreline.tick", "scoreline.gc", "scoreline.status", "scoreline.events"}
)
"""Tasks that must not wait behind the parts of jobs."""


@dataclass(frozen=True)
class QueueNames:
    """The names of a deployment's queues. Deployments that share a broker do not read each other's queues."""

    jobs: str
    """Queue for planning, scoring and finalizing jobs, and for the requests of applications."""
    clock: str
    """Queue for messages that must not wait behind the parts of jobs: from beat, for webhooks, and for status
    requests."""

    @classmethod
    def of(cls, bucket: str) -> QueueNames:
        """Return the queue names for the main bucket of a deployment. If `bucket` is empty, return the shared names.

        The two queues have different prefixes, so their names differ for every bucket.

        >>> QueueNames.of("scores")
        QueueNames(jobs='scoreline.jobs.scores', clock='scoreline.clock.scores')
        """
        return cls(f"{SHARED.jobs}.jobs.{bucket}", f"{SHARED.clock}.{bucket}") if bucket else SHARED

    def of_task(self, name: str) -> str:
        """Return the queue for the messages of a task, such as ``scoreline.plan``."""
        return self.clock if name in CLOCK_TASKS else self.jobs

    @property
    def read(self) -> tuple[str, ...]:
        """The queues that a worker reads: those of its deployment, and those that all deployments share."""
        return tuple(dict.fromkeys((self.jobs, self.clock, SHARED.jobs, SHARED.clock)))

    def are_read_by(self, queues: Collection[str]) -> bool:
        """Return whether a worker that reads `queues` belongs to this deployment.

        Release 0.1.0 had only shared queues. A worker of that release may belong to any deployment, so the result is
        true.
        """
        owned = [name for name in queues if name.startswith((f"{SHARED.jobs}.jobs.", f"{SHARED.clock}."))]
        return self.jobs in queues or (SHARED.jobs in queues and not owned)

    def own_gauges(self, answers: Mapping[str, Any]) -> dict[str, Any]:
        """Return the answers to the command ``gauges`` that come from workers of this deployment.

        Workers of other applications do not have the command, and answer with an error. Answers from release 0.1.0 name
        no queue, and are returned too.
        """
        return {
            worker: answer
            for worker, answer in answers.items()
            if "processes" in answer and answer.get("queue", self.jobs) == self.jobs
        }


SHARED = QueueNames("scoreline", "scoreline.clock")
"""The queue names of release 0.1.0, which all deployments shared. Applications may still use these queues."""
