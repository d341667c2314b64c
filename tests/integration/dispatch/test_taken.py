"""A message that a worker has taken and not acknowledged is work, but only as long as a task runs."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from kombu import Connection

from scoreline.tasks.dispatch.queue import Queue
from scoreline.tasks.dispatch.queue_names import QueueNames
from scoreline.worker.cli.scale import _LONGEST_TASK_S, _waiting
from scoreline.worker.dev.stack import Stack
from tests.support.waiting import HANG_S

DATABASE = 10
"""No other test uses this database, so that all messages are those of this test."""
NAMES = QueueNames.of("b")


@pytest.fixture
def url(stack: Stack) -> Iterator[str]:
    url = stack.environ["REDIS_URL"].removesuffix("0") + str(DATABASE)
    yield url
    with redis.Redis.from_url(url) as there:
        there.flushdb()


def test_messages_that_a_worker_has_taken_are_work(url: str) -> None:
    queue = Queue(url, NAMES)
    client: Any = SimpleNamespace(queue=queue)
    waiting = _waiting(client)
    with Connection(url) as connection:
        # Given a message for a job, one of beat and one of another deployment
        queue.send("scoreline.score_records", records=[])
        queue.send("scoreline.tick")
        Queue(url, QueueNames.of("another")).send("scoreline.plan", job_id="j")
        assert waiting() == 1
        # When workers have taken all of them
        taken = []
        for name in (NAMES.jobs, NAMES.clock, QueueNames.of("another").steps):
            with connection.SimpleQueue(name) as simple:
                taken.append(simple.get(timeout=HANG_S))
        # Then that of the job counts, until it is acknowledged
        assert queue.backlog().unacked == 3
        assert waiting() == 1
        assert queue.taken({NAMES.clock}, _LONGEST_TASK_S) == 1
        # It does not count if the worker took it so long ago that it must have died
        with redis.Redis.from_url(url) as there:
            for tag, taken_s in there.zrange("unacked_index", 0, -1, withscores=True):
                there.zadd("unacked_index", {tag: taken_s - _LONGEST_TASK_S})
            assert waiting() == 0
            for tag, taken_s in there.zrange("unacked_index", 0, -1, withscores=True):
                there.zadd("unacked_index", {tag: taken_s + _LONGEST_TASK_S})
        assert waiting() == 1
        for message in taken:
            message.ack()
        assert waiting() == 0
