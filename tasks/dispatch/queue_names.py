"""The names of a deployment's queues, which contain the name of its bucket."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

CLOCK_TASKS = frozenset({"scoreline.reconcile", "scoreline.tick", "scoreline.status", "scoreline.events"})
"""Tasks that must not wait behind the parts of jobs."""


@dataclass(frozen=True)
class QueueNames:
    """The queues of one deployment. Deployments that share a broker do not read each other's."""

    jobs: str
    """Queue for planning, scoring and finalizing jobs, and for the requests of applications."""
    clock: str
    """Queue for the clock's messages, for webhooks, and for questions. They do not wait behind the parts of jobs."""

    @classmethod
    def of(cls, bucket: str) -> QueueNames:
        """Return the names for the main bucket of a deployment; the shared names if the bucket is not known.

        The two queues have different prefixes, so no name of a bucket can give them the same name.

        >>> QueueNames.of("scores")
        QueueNames(jobs='scoreline.jobs.scores', clock='scoreline.clock.scores')
        """
        return cls(f"{SHARED.jobs}.jobs.{bucket}", f"{SHARED.clock}.{bucket}") if bucket else SHARED

    def of_task(self, name: str) -> str:
        """Return the queue for the messages of a task, such as ``scoreline.plan``."""
        return self.clock if name in CLOCK_TASKS else self.jobs

    @property
    def read(self) -> tuple[str, ...]:
        """The queues that a worker reads: its own, and those that every deployment reads."""
        return tuple(dict.fromkeys((self.jobs, self.clock, SHARED.jobs, SHARED.clock)))

    def are_read_by(self, queues: Collection[str]) -> bool:
        """Return whether a worker that reads `queues` belongs to this deployment.

        A worker of a release that had only the shared queues may belong to any deployment, so it counts.
        """
        owned = [name for name in queues if name.startswith((f"{SHARED.jobs}.jobs.", f"{SHARED.clock}."))]
        return self.jobs in queues or (SHARED.jobs in queues and not owned)

    def own_gauges(self, answers: Mapping[str, Any]) -> dict[str, Any]:
        """Return, of all answers to the command ``gauges``, those of workers of this deployment.

        Workers of other applications do not have the command, and answer with an error. Workers of release 0.1.0 do not
        say which queue they read.
        """
        return {
            worker: answer
            for worker, answer in answers.items()
            if "processes" in answer and answer.get("queue", self.jobs) == self.jobs
        }


SHARED = QueueNames("scoreline", "scoreline.clock")
"""The names in release 0.1.0, for every deployment. Applications may still send to them."""
