"""What a worker process finds out about the queue."""

from __future__ import annotations

from pathlib import Path

import pytest

from scoreline.storage.errors import QueueUnavailable
from scoreline.tasks.dispatch.messages import Backlog
from scoreline.tasks.dispatch.queue import Queue
from scoreline.worker import lifecycle
from scoreline.worker.celery import app


@pytest.fixture(autouse=True)
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENVIRONMENT", "development")
    monkeypatch.setenv("STORE_DIR", str(tmp_path))
    monkeypatch.setenv("R2_BUCKET", "data")
    monkeypatch.setattr(lifecycle, "process", lifecycle.Process())


def test_the_messages_of_parts_are_counted_in_the_queue_of_the_deployment(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(queue: Queue) -> Backlog:
        waiting = dict.fromkeys(queue.names.read, 3) | {queue.names.parts: 7}
        return Backlog(waiting=waiting, unacked=None, oldest_unacked_s=None)

    monkeypatch.setattr(Queue, "backlog", answer)
    assert lifecycle.engine(app).count_messages() == 7


def test_without_an_answer_of_the_broker_the_number_of_messages_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(queue: Queue) -> Backlog:
        raise QueueUnavailable("no broker")

    monkeypatch.setattr(Queue, "backlog", refuse)
    assert lifecycle.engine(app).count_messages() is None
