"""Receives requests of applications while all processes of a worker are busy, so that a busy process can do them.

An application that knows only Celery sends its requests to the queue of the deployment. The main process of a worker
receives no message while all of its children are busy. Otherwise a request would wait for the end of a part.

While all children are busy, the main process looks for requests several times a second. It holds the message of a
request without acknowledging it, and lists the request in the ledger (see `WaitingSteps`). A process that scores a part
does the request between two batches, and answers the application. Then the message is acknowledged. If no process has
begun the request after `HELD_S`, its message goes to a child of this worker, as other messages do. If a process dies,
the message is still there: in the main process or, if that has died too, in the broker.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from celery.worker import state
from kombu import Producer

from scoreline.storage.errors import LedgerError, describe
from scoreline.storage.ledger.waiting import WaitingStep, WaitingSteps
from scoreline.tasks.dispatch.connections import MAIN_PROCESS, Connections
from scoreline.tasks.dispatch.queue_names import QueueNames
from scoreline.worker.message_faults import fault_of
from scoreline.worker.packed_request import REQUEST_TASKS, PackedRequest

log = logging.getLogger(__name__)

LOOK_EVERY_S = 0.2
"""Seconds between two looks. A process looks for steps as often, so a request begins within a second."""
HELD_S = 2.0
"""Seconds after which a request that no process has begun goes to a child of this worker. Its child does it before the
next part. Until then, another worker may have a process with room for the model."""
MOST_HELD = 64
"""Maximum number of requests that are held at once."""
MOST_HELD_BYTES = 4 << 20
"""Maximum size of the held requests, because they take memory in Redis, too."""
MOST_QUEUED = 8
"""Maximum number of messages for each child that wait for the end of a part. More messages are not received."""
_PAUSE_S = 5.0
"""Seconds without a look after the ledger did not answer."""


@dataclass(frozen=True)
class _Held:
    message: Any
    step: WaitingStep
    since_s: float


class HeldRequests:
    """The requests that the main process of a worker holds. One object for each connection to the broker.

    Parameters
    ----------
    consumer : TaskConsumer
        Celery's consumer, whose connection and pool are used.
    handle : callable
        Handles a message as Celery does.
    names : QueueNames
        The queues of the deployment.
    waiting : WaitingSteps
        The list of waiting steps in the ledger.
    """

    def __init__(self, consumer: Any, handle: Callable[[Any], None], names: QueueNames, waiting: WaitingSteps) -> None:
        self._consumer = consumer
        self._handle = handle
        self._names = names
        self._waiting = waiting
        # Messages that are held must not count for the prefetch limit of the channel that the consumer uses
        self._channel: Any = consumer.connection.channel()
        self._held: list[_Held] = []
        self._rests_until_s = 0.0

    @classmethod
    def of(cls, consumer: Any, handle: Callable[[Any], None]) -> HeldRequests:
        """Return an object with the services that the settings name."""
        connections = Connections(os.environ, MAIN_PROCESS)
        return cls(consumer, handle, connections.queue_names, connections.ledger.waiting)

    def return_from(self, lost: HeldRequests) -> None:
        """Return the messages to their queues that were received over a lost connection and not acknowledged.

        Redis would deliver them again only after the visibility timeout. Other brokers do it as soon as the connection
        is lost. Messages that are in their queue again, or acknowledged, stay as they are.
        """
        if self._consumer.connection.transport.driver_type == "redis":
            delivered = lost._channel.qos._delivered
            for tag in list(delivered):
                self._channel.qos.restore_by_tag(tag)
                delivered.pop(tag, None)  # otherwise kombu returns it once more, although a worker has it by then

    def look(self) -> None:
        """Acknowledge the requests that are done, and receive others if all children are busy.

        Raises an error of the connection to the broker, after which Celery connects again.
        """
        processes = int(self._consumer.pool.num_processes)
        is_busy = len(state.reserved_requests) >= processes
        try:
            if self._held:
                self._settle(is_busy=is_busy)
            if is_busy and time.monotonic() >= self._rests_until_s:
                self._receive(MOST_QUEUED * processes)
        except LedgerError as error:
            log.warning("requests.not_listed", extra={"error": describe(error)})
            self._rests_until_s = time.monotonic() + _PAUSE_S
            self._hand_over(self._held)

    def _settle(self, *, is_busy: bool) -> None:
        """Acknowledge what is done. Hand over what waits too long, or what waits although a child is idle."""
        states = self._waiting.states([held.step for held in self._held])
        found = list(zip(self._held, states, strict=True))
        for held, now in found:
            if now == "done":
                held.message.ack_log_error(log, self._consumer.connection_errors)
                self._held.remove(held)
        long_ago_s = time.monotonic() - (HELD_S if is_busy else 0.0)
        # A step in no state was taken by a process that has died, or is lost
        self._hand_over([held for held, now in found if now in ("", "waiting") and held.since_s <= long_ago_s])

    def _hand_over(self, some: list[_Held]) -> None:
        """Let Celery do requests. Each stays listed until its task begins, so a busy process may still do it first."""
        for held in list(some):
            self._held.remove(held)
            self._handle(held.message)

    def _receive(self, most_queued: int) -> None:
        for queue in filter(self._consumer.task_consumer.consuming_from, self._names.requests):
            while self._has_room(most_queued) and (message := self._next(queue)) is not None:
                self._sort(message)

    def _has_room(self, most_queued: int) -> bool:
        size = sum(len(held.step.carried) for held in self._held)
        queued = len(state.reserved_requests) - len(state.active_requests)
        return len(self._held) < MOST_HELD and size < MOST_HELD_BYTES and queued < most_queued

    def _next(self, queue: str) -> Any:
        if self._is_empty(queue):
            return None
        raw = self._channel.basic_get(queue)
        return None if raw is None else self._prepared(raw)

    def _is_empty(self, queue: str) -> bool:
        """Return whether a queue in Redis has no message. Kombu would ask for each of its four priorities."""
        channel = self._channel
        if self._consumer.connection.transport.driver_type != "redis":
            return False
        names = [channel._q_for_pri(queue, step) for step in channel.priority_steps]
        with channel.conn_or_acquire() as client:  # `channel.client` would keep a connection of its own
            return not client.exists(*names)

    def _prepared(self, message: Any) -> Any:
        """Return a message as a consumer receives it. A channel of AMQP returns a message of another library."""
        message = self._channel.message_to_python(message)
        message.accept = self._consumer.task_consumer.accept
        return message

    def _sort(self, message: Any) -> None:
        """Hold a request. Move a step or part, which an earlier release has sent, to its own queue."""
        task = message.headers.get("task") if isinstance(message.headers, dict) else None
        if isinstance(task, str) and task not in REQUEST_TASKS and self._names.of_task(task) != self._names.jobs:
            self._move(message, self._names.of_task(task))
            return
        step = self._step(message)
        if step is None:
            self._handle(message)
            return
        held = _Held(message, step, time.monotonic())
        self._held.append(held)
        self._waiting.offer(held.step)  # if it is taken or done, the next look finds out

    def _step(self, message: Any) -> WaitingStep | None:
        """Return the request in a message; None if only Celery can do what the message says."""
        try:
            packed = None if fault_of(message.headers, message.properties) else PackedRequest.of_message(message)
            return packed.step if packed is not None else None
        except Exception:  # noqa: BLE001  # the message is malformed, which Celery's handler reports
            return None

    def _move(self, message: Any, queue: str) -> None:
        options = {
            name: value
            for name in ("priority", "correlation_id", "reply_to")
            if (value := message.properties.get(name))
        }
        Producer(self._channel).publish(
            message.body,
            routing_key=queue,
            headers=message.headers,
            content_type=message.content_type,
            content_encoding=message.content_encoding,
            **options,
        )
        message.ack()
