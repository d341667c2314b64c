"""The names of a deployment's queues. Each name contains the name of the deployment's bucket."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

CLOCK_TASKS = frozenset(
    {"scoreline.reconcile", "scoreline.tick", "scoreline.gc", "scoreline.status", "scoreline.events"}
)
"""Tasks that must not wait behind the parts of jobs."""
STEP_TASKS = frozenset({"scoreline.plan", "scoreline.score_staged", "scoreline.finalize", "scoreline.load"})
"""Steps of jobs other than parts. They have their own queue, so that a free process does them before parts."""
PART_TASK = "scoreline.score_part"
PARTS_PREFIX = "scoreline.parts"
"""The beginning of the name of each queue for parts."""


@dataclass(frozen=True)
class QueueNames:
    """The names of a deployment's queues. Deployments that share a broker do not read each other's queues."""

    jobs: str
    """Queue for the requests of applications. Earlier releases send all messages of jobs to this queue."""
    clock: str
    """Queue for messages that must not wait behind the parts of jobs: from beat, for webhooks, and for status
    requests."""
    steps: str
    """Queue for the steps of jobs other than parts."""
    parts: str
    """Queue for the parts of jobs. A process prefers the other queues (see `scoreline.worker.channel`)."""

    @classmethod
    def of(cls, bucket: str) -> QueueNames:
        """Return the queue names for the main bucket of a deployment. If `bucket` is empty, return the shared names.

        The queues have different prefixes, so their names differ for every bucket.

        >>> QueueNames.of("scores").parts
        'scoreline.parts.scores'
        """
        if not bucket:
            return SHARED
        return cls(
            jobs=f"{SHARED.jobs}.jobs.{bucket}",
            clock=f"{SHARED.clock}.{bucket}",
            steps=f"{SHARED.steps}.{bucket}",
            parts=f"{SHARED.parts}.{bucket}",
        )

    def of_task(self, name: str) -> str:
        """Return the queue for the messages of a task, such as ``scoreline.plan``."""
        if name in CLOCK_TASKS:
            return self.clock
        if name in STEP_TASKS:
            return self.steps
        return self.parts if name == PART_TASK else self.jobs

    @property
    def read(self) -> tuple[str, ...]:
        """The queues that a worker reads: those of its deployment, and those that all deployments share."""
        return tuple(dict.fromkeys((self.jobs, self.clock, self.steps, self.parts, SHARED.jobs, SHARED.clock)))

    @property
    def requests(self) -> tuple[str, ...]:
        """The queues to which applications send their requests."""
        return tuple(dict.fromkeys((self.jobs, SHARED.jobs)))

    @property
    def of_jobs(self) -> tuple[str, ...]:
        """The queues with the messages of jobs, that is, all except those of the clock."""
        return tuple(dict.fromkeys((self.jobs, self.steps, self.parts, SHARED.jobs)))

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


SHARED = QueueNames(jobs="scoreline", clock="scoreline.clock", steps="scoreline.steps", parts=PARTS_PREFIX)
"""The queue names if the bucket is unknown. Release 0.1.0, whose deployments shared the first two, and applications may
still use these two queues."""
