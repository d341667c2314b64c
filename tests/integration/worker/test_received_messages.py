"""The main process of a busy worker receives messages itself: it drops malformed ones, and loses no others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
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
from scoreline.worker.consumer import TaskConsumer, tolerate_foreign_messages
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


class Main(TaskConsumer):
    """The main process of a worker whose only child scores a part, as far as it receives messages itself."""

    def __init__(self, url: str, ledger: MemoryLedger) -> None:
        self.connection: Any = Connection(url)
        self.pool = SimpleNamespace(num_processes=1)
        self.task_consumer = SimpleNamespace(accept={"application/json"}, consuming_from=lambda queue: True)
        self.connection_errors = self.connection.connection_errors
        self.blueprint: Any = SimpleNamespace(send_all=lambda *_, **__: None)
        self.timers: list[Callable[[], None]] = []
        self.ledger = ledger

    def create_task_handler(self, *_: Any, **__: Any) -> Callable[[Any], None]:
        return lambda message: None

    def call_repeatedly(self, every_s: float, call: Callable[..., None], *arguments: Any) -> None:
        self.timers.append(partial(call, *arguments))

    def begin(self) -> None:
        """Begin as Celery does, also after it has lost the connection."""
        self.timers.clear()
        self.register_with_event_loop(self)

    def look(self) -> None:
        self.timers[-1]()


@pytest.fixture
def main(url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Main]:
    tolerate_foreign_messages()
    monkeypatch.setattr(
        held_requests, "state", SimpleNamespace(reserved_requests={"a part"}, active_requests={"a part"})
    )
    ledger = MemoryLedger()
    monkeypatch.setattr(
        HeldRequests, "of", lambda consumer, handle: HeldRequests(consumer, handle, NAMES, ledger.waiting)
    )
    made = Main(url, ledger)
    made.begin()
    yield made
    made.connection.close()


@pytest.mark.parametrize("raw", [b"no json", b"[]", b'{"body": "e30="}', b'{"body": 1, "properties": {"x": 1}}'])
def test_a_malformed_message_is_dropped_without_an_error_that_looks_like_a_lost_broker(
    url: str, raw: bytes, main: Main
) -> None:
    """Celery would cancel all tasks of the worker, because a `KeyError` counts as an error of the connection."""
    with redis.Redis.from_url(url) as there:
        there.lpush(NAMES.jobs, raw)
        Queue(url, NAMES).send("scoreline.submit", model="m")
        main.look()
        main.look()
        assert not there.exists(NAMES.jobs)
        step = main.ledger.waiting.take(60)
        assert step is not None
        assert step.task == "scoreline.submit"
        main.ledger.waiting.end(step, done=True)
        main.look()
        assert not there.exists("unacked")


def test_a_message_that_is_held_while_the_connection_is_lost_returns_to_its_queue(url: str, main: Main) -> None:
    """Celery closes a lost connection, which returns messages only if the broker answers again by then."""
    with redis.Redis.from_url(url) as there:
        queue = Queue(url, NAMES)
        queue.send("scoreline.submit", model="m")
        queue.send("scoreline.submit", model="n")
        main.look()
        assert (there.exists(NAMES.jobs), there.hlen("unacked")) == (0, 2)
        # Given that one of them is done, and its message acknowledged
        step = main.ledger.waiting.take(60)
        assert step is not None
        main.ledger.waiting.end(step, done=True)
        main.look()
        # When the broker does not answer at first, and then the worker connects to it again
        lost, main.connection = main.connection, Connection("redis://127.0.0.1:1/0")
        with pytest.raises(main.connection_errors):
            main.begin()
        main.connection = Connection(url)
        main.begin()
        # Then the other one is in its queue, once
        assert (there.llen(NAMES.jobs), there.hlen("unacked")) == (1, 0)
        main.begin()
        assert there.llen(NAMES.jobs) == 1
        main.look()
        assert there.hlen("unacked") == 1
        lost.close()
        assert there.hlen("unacked") == 1
