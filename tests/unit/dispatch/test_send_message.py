"""A message contains what workers read, and nothing else, because a small Redis holds many of them."""

from __future__ import annotations

import secrets
from typing import Any

import pytest
from celery import Celery
from celery.signals import after_task_publish, before_task_publish
from kombu import Connection

from scoreline.storage.errors import QueueUnavailable
from scoreline.tasks.dispatch.queue import send_message


def test_a_message_has_only_what_workers_read_and_what_listeners_add() -> None:
    app, queue, announced = Celery(broker="memory://", set_as_current=False), secrets.token_hex(4), list[str]()

    def add(
        sender: str,
        headers: dict[str, Any],
        properties: dict[str, Any],
        declare: list[Any],
        retry_policy: dict[str, Any],
        **_: Any,
    ) -> None:
        headers["traceparent"] = "of-a-listener"
        properties["priority"] = 7

    def note(sender: str, routing_key: str, **_: Any) -> None:
        announced.append(f"{sender} to {routing_key}")

    before_task_publish.connect(add)
    after_task_publish.connect(note)
    try:
        send_message(app, "scoreline.score_part", {"job_id": "j", "part": 7}, queue=queue, address="here")
    finally:
        before_task_publish.disconnect(add)
        after_task_publish.disconnect(note)
    with Connection("memory://") as connection, connection.SimpleQueue(queue) as waiting:
        message: Any = waiting.get(block=False)
        message.ack()
    assert message.payload == [[], {"job_id": "j", "part": 7}, {}]
    assert len(message.headers.pop("id")) == 16
    assert message.headers == {"task": "scoreline.score_part", "ignore_result": True, "traceparent": "of-a-listener"}
    assert {*message.properties} == {"delivery_info", "delivery_mode", "delivery_tag", "priority", "body_encoding"}
    assert message.properties["priority"] == 7
    assert message.properties["delivery_mode"] == 2  # RabbitMQ writes it to the disk
    assert announced == [f"scoreline.score_part to {queue}"]


def test_a_broker_that_cannot_be_reached_is_named() -> None:
    app = Celery(broker="redis://127.0.0.1:1", set_as_current=False)
    with pytest.raises(QueueUnavailable, match="cannot reach the broker at here"):
        send_message(app, "scoreline.plan", {}, queue="q", address="here", retry=False)
