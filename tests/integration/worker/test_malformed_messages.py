"""The main process of a busy worker receives messages itself, and drops a malformed one as its consumer does."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from kombu import Connection
from kombu.transport import redis as transport

from scoreline.storage.ledger.memory_ledger import MemoryLedger
from scoreline.tasks.dispatch.queue import Queue
from scoreline.tasks.dispatch.queue_names import QueueNames
from scoreline.worker import held_requests
from scoreline.worker.consumer import tolerate_foreign_messages
from scoreline.worker.dev.stack import Stack
from scoreline.worker.held_requests import HeldRequests

DATABASE = 12
"""No other test uses this database, so that all messages are those of this test."""
NAMES = QueueNames.of("b")


@pytest.fixture
def url(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(transport.Transport, "Channel", transport.Transport.Channel)  # restore it afterwards
    url = stack.environ["REDIS_URL"].removesuffix("0") + str(DATABASE)
    yield url
    with redis.Redis.from_url(url) as there:
        there.flushdb()


@pytest.mark.parametrize("raw", [b"no json", b"[]", b'{"body": "e30="}', b'{"body": 1, "properties": {"x": 1}}'])
def test_a_malformed_message_is_dropped_without_an_error_that_looks_like_a_lost_broker(
    url: str, raw: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Celery would cancel all tasks of the worker, because a `KeyError` counts as an error of the connection."""
    tolerate_foreign_messages()
    monkeypatch.setattr(
        held_requests, "state", SimpleNamespace(reserved_requests={"a part"}, active_requests={"a part"})
    )
    ledger = MemoryLedger()
    with Connection(url) as connection, redis.Redis.from_url(url) as there:
        consumer: Any = SimpleNamespace(
            connection=connection,
            pool=SimpleNamespace(num_processes=1),
            task_consumer=SimpleNamespace(accept={"application/json"}, consuming_from=lambda queue: True),
            connection_errors=connection.connection_errors,
        )
        held = HeldRequests(consumer, lambda message: None, NAMES, ledger.waiting)
        there.lpush(NAMES.jobs, raw)
        Queue(url, NAMES).send("scoreline.submit", model="m")
        held.look()
        held.look()
        assert not there.exists(NAMES.jobs)
        step = ledger.waiting.take(60)
        assert step is not None
        assert step.task == "scoreline.submit"
        ledger.waiting.end(step, done=True)
        held.look()
        assert not there.exists("unacked")
