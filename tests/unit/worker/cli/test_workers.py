"""The health check of a worker fails if the worker has no process that can score."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from scoreline.tasks.dispatch import queue
from scoreline.tasks.dispatch.queue import Queue
from scoreline.tasks.dispatch.queue_names import QueueNames
from scoreline.worker.cli.workers import workers

ROOT = Path(__file__).resolve().parents[4]


@pytest.mark.parametrize(
    ("gauges", "exit_code", "said"),
    [
        ({"processes": 2, "cache_bytes": 0}, 0, "celery@here\n"),
        ({"processes": 2, "queue": "scoreline.jobs.scoreline"}, 0, "celery@here\n"),
        ({"processes": 2, "queue": "scoreline.jobs.another"}, 1, "celery@here does not answer within 15 s"),
        ({"processes": 0, "cache_bytes": 0}, 1, "celery@here answers, but has no process"),
        ({"error": "it is broken"}, 1, "celery@here answers, but has no process"),
        (None, 1, "celery@here does not answer within 15 s"),
    ],
)
def test_a_worker_without_processes_is_not_healthy(
    gauges: object, exit_code: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []

    def answer(self: Queue, what: str, timeout_s: float = 1.0, name: str | None = None) -> dict[str, Any]:
        waited.append(timeout_s)
        return {"celery@here": gauges} if gauges is not None else {}

    monkeypatch.setenv("ENVIRONMENT", "development")
    monkeypatch.setattr(Queue, "ask_workers", answer)
    done = CliRunner().invoke(workers, ["celery@here", "--timeout", "15"])
    assert (done.exit_code, said in done.output) == (exit_code, True), done.output
    assert sum(waited) <= 15


def test_the_health_check_of_a_container_is_done_before_docker_ends_it() -> None:
    limit, asked = re.search(  # type: ignore[union-attr]
        r"HEALTHCHECK .*--timeout=(\d+)s .*\n.*scoreline workers .* --timeout (\d+)", (ROOT / "Dockerfile").read_text()
    ).groups()
    assert int(asked) + 3 <= int(limit)  # the command starts in half a second, or in a few seconds on a busy machine


def test_the_time_to_connect_counts_towards_the_time_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    now, waited = [0.0], []

    class Broker:
        connection_errors = channel_errors = ()

        def __enter__(self) -> Broker:
            return self

        def __exit__(self, *error: object) -> None:
            pass

        def ensure_connection(self, **options: object) -> None:
            now[0] += 4

    def broadcast(what: str, *, timeout: float, **options: object) -> list[Any]:
        waited.append(timeout)
        return []

    app: Any = SimpleNamespace(connection_for_write=Broker, control=SimpleNamespace(broadcast=broadcast))
    monkeypatch.setattr(queue, "time", SimpleNamespace(monotonic=lambda: now[0]))
    asked = Queue("redis://here", QueueNames.of("here"), app=app)
    assert asked.ask_workers("gauges", 15, "celery@here") == {}
    assert asked.ask_workers("gauges", 1, "celery@here") == {}
    assert waited == [11, 0.1]
