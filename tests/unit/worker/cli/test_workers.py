"""The health check of a worker asks whether it could score anything."""

from __future__ import annotations

from typing import Any

import pytest
from click.testing import CliRunner

from scoreline.tasks.dispatch.queue import Queue
from scoreline.worker.cli.workers import workers

QUEUES = [{"name": "scoreline"}, {"name": "scoreline.clock"}]


@pytest.mark.parametrize(
    ("gauges", "exit_code", "said"),
    [
        ({"processes": 2, "cache_bytes": 0}, 0, "celery@here\n"),
        ({"processes": 0, "cache_bytes": 0}, 1, "celery@here answers, but has no process"),
        ({"error": "it is broken"}, 1, "celery@here answers, but has no process"),
        (None, 1, "celery@here answers, but has no process"),
    ],
)
def test_a_worker_without_processes_is_not_healthy(
    gauges: object, exit_code: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(self: Queue, what: str, timeout_s: float = 1.0, name: str | None = None) -> dict[str, Any]:
        answers = {"active_queues": QUEUES, "gauges": gauges}
        return {"celery@here": answers[what]} if answers[what] is not None else {}

    monkeypatch.setattr(Queue, "ask_workers", answer)
    done = CliRunner().invoke(workers, ["celery@here"])
    assert (done.exit_code, said in done.output) == (exit_code, True), done.output
