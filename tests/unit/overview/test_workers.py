"""What workers answer becomes rows of a page, whatever other applications answer."""

from __future__ import annotations

from typing import Any

from scoreline.tasks.dispatch.memory_queue import MemoryQueue
from scoreline.tasks.dispatch.queue_names import QueueNames
from scoreline.tasks.overview.workers import HeldModel, Process, ask_workers

NAMES = QueueNames.of("scoreline")
ANSWERS: dict[str, dict[str, Any]] = {
    "gauges": {
        "ours@a": {"processes": 2, "cache_bytes": 300, "queue": NAMES.jobs, "versions": {"scoreline": "9"}},
        "ours@before": {"processes": 1, "cache_bytes": 0, "queue": NAMES.jobs},
        "theirs@b": {"processes": 4, "cache_bytes": 5, "queue": "scoreline.jobs.another"},
        "foreign@c": {"error": "unknown command"},
    },
    "jobs": {
        "ours@a": [{"job_id": "j", "step": "score_part", "part": 3, "pid": 7, "seconds": 1.5, "try": 2}],
        "theirs@b": [{"job_id": "secret", "pid": 9}],
        "foreign@c": "what?",
    },
    "models": {"ours@a": {"7": [{"model": "churn", "version": "v1", "bytes": 300}], "8": [], "nobody": []}},
}


class Answering(MemoryQueue):
    def ask_workers(self, what: str, timeout_s: float = 1.0, name: str | None = None) -> dict[str, Any]:
        return ANSWERS[what]


def test_only_workers_of_the_deployment_are_shown_with_what_they_do() -> None:
    worker, before = ask_workers(Answering(lambda message: None, at_once=False), NAMES)
    assert (worker.name, worker.processes, worker.cache_bytes) == ("ours@a", 2, 300)
    assert (worker.versions, before.versions) == ({"scoreline": "9"}, {})  # earlier releases send no versions
    assert worker.busy == (
        Process(
            pid=7,
            job_id="j",
            step="score_part",
            part=3,
            seconds=1.5,
            attempt=2,
            models=(HeldModel(name="churn@v1", bytes=300),),
        ),
        Process(pid=8),
    )
