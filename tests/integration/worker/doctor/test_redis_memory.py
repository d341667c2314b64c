"""A planned job takes no more memory in Redis than the doctor calculates, and only a third of what it took in 0.1.0."""

from __future__ import annotations

import json
import secrets
from typing import Any

import redis

from scoreline.storage.ledger.redis_ledger import RedisLedger
from scoreline.tasks.client import Client
from scoreline.tasks.dispatch.dispatcher import BYTES_PER_PART, MAX_WINDOW
from scoreline.tasks.dispatch.queue import Queue
from scoreline.tasks.dispatch.queue_names import QueueNames
from scoreline.worker.dev.stack import Stack

SMALLEST_PLAN_BYTES = 25_000_000
"""Memory of Heroku's smallest Redis, in which 11 jobs of the largest window had room."""


def test_the_smallest_redis_plan_carries_three_times_as_many_planned_jobs(stack: Stack, client: Client) -> None:
    # Given a job with the largest window, all of whose parts wait in the queue
    names = QueueNames.of(f"measured-{secrets.token_hex(3)}")
    queue, job = Queue(stack.environ["REDIS_URL"], names), "nightly-europe-20261125T020000Z"
    ledger = client.ledger
    assert isinstance(ledger, RedisLedger)
    ledger.begin(job, "p" * 64, 10 * MAX_WINDOW, budget=0)
    for part in ledger.dispatch(job, "p" * 64, MAX_WINDOW).parts:
        queue.send("scoreline.score_part", job_id=job, part=part)
    # When the memory of the job's keys is measured
    with redis.Redis.from_url(stack.environ["REDIS_URL"]) as server:
        state = f"scoreline:{{{client.buckets.main.bucket}/{job}}}:state"
        used = [server.memory_usage(key, samples=0) or 0 for key in (names.parts, state)]
        first: Any = json.loads(server.lindex(names.parts, 0))
        server.delete(names.parts)
    ledger.forget(job)
    # Then the job takes the memory that the doctor calculates, and three times as many jobs fit as in release 0.1.0
    assert 0.8 * BYTES_PER_PART < sum(used) / MAX_WINDOW <= BYTES_PER_PART
    assert SMALLEST_PLAN_BYTES / sum(used) >= 3 * 11
    # And a message contains only fields that workers read
    assert set(first["headers"]) == {"task", "id", "ignore_result"}
    assert not {"reply_to", "correlation_id", "argsrepr", "kwargsrepr"} & set(first["properties"])
