"""The doctor warns of a worker that answers, but has no process that can score."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from scoreline.tasks.dispatch.queue_names import SHARED
from scoreline.worker.doctor.liveness import workers

QUEUES = [{"name": name} for name in SHARED.read]


def found(gauges: dict[str, Any]) -> list[tuple[str, str]]:
    answers: dict[str, Any] = {"active_queues": {"celery@a": QUEUES, "celery@b": QUEUES}, "gauges": gauges}
    context: Any = SimpleNamespace(broker=SimpleNamespace(ask_workers=lambda what: answers[what], names=SHARED))
    return [(finding.severity, finding.message) for finding in workers(context)]


def test_a_worker_without_processes_is_a_warning() -> None:
    gauges = {"celery@a": {"processes": 2}, "celery@b": {"processes": 0}}
    assert found(gauges) == [("warning", "celery@b has no process that could score")]


def test_workers_with_processes_and_those_of_an_earlier_release_are_fine() -> None:
    for gauges in ({"celery@a": {"processes": 2}, "celery@b": {"processes": 1}}, {"celery@a": {"error": "unknown"}}):
        assert found(gauges) == [("ok", "celery@a, celery@b answered")]
