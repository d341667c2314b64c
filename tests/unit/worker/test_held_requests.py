"""While all children are busy, the main process of a worker holds requests until a process has done them."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import amqp
import pytest
from celery import Celery
from kombu import Connection
from kombu.transport import pyamqp

from scoreline.storage.errors import LedgerUnavailable
from scoreline.storage.ledger.memory_ledger import MemoryLedger
from scoreline.storage.ledger.waiting import WaitingStep
from scoreline.tasks.dispatch.queue_names import SHARED, QueueNames
from scoreline.worker import held_requests
from scoreline.worker.held_requests import HELD_S, MOST_HELD, MOST_QUEUED, HeldRequests
from scoreline.worker.packed_request import PackedRequest

NAMES = QueueNames.of("b")


class Desk:
    """The main process of a worker with two children, and an application that sends requests."""

    def __init__(self, connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ledger, self.handled, self.now = MemoryLedger(), list[str](), 0.0
        self.consumed = set(NAMES.read)
        self.busy: set[object] = set()
        self.active: set[object] = set()
        monkeypatch.setattr(
            held_requests, "state", SimpleNamespace(reserved_requests=self.busy, active_requests=self.active)
        )
        monkeypatch.setattr(held_requests, "time", SimpleNamespace(monotonic=lambda: self.now))
        self.connection = connection
        consumer = SimpleNamespace(
            connection=connection,
            pool=SimpleNamespace(num_processes=2),
            task_consumer=SimpleNamespace(
                accept={"application/json"}, consuming_from=lambda queue: queue in self.consumed
            ),
            connection_errors=(OSError,),
        )
        self.held = HeldRequests(consumer, self.handle, NAMES, self.ledger.waiting)
        self.channel: Any = self.held._channel
        self.app = Celery(broker="memory://", set_as_current=False)
        for name in NAMES.read:
            self.channel.queue_declare(queue=name)
        self.occupy()

    def handle(self, message: Any) -> None:
        self.handled.append(message.headers.get("id"))
        self.busy.add(message.headers.get("id"))

    def occupy(self) -> None:
        """Let both children score parts."""
        self.busy |= {"a part", "another part"}
        self.active |= self.busy

    def send(self, name: str = "scoreline.submit", queue: str = NAMES.jobs, **options: Any) -> WaitingStep:
        sent = self.app.send_task(name, kwargs={"model": "m"}, queue=queue, connection=self.connection, **options)
        return WaitingStep(task=name, job_id=str(sent.id))

    def states(self, *steps: WaitingStep) -> list[str]:
        return list(self.ledger.waiting.states(steps))

    def size(self, queue: str) -> int:
        return int(self.channel._size(queue))

    def unacked(self) -> int:
        return len(self.channel.qos._delivered) - len(self.channel.qos._dirty)


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    with Connection("memory://", transport_options={"global_keyprefix": secrets.token_hex(4)}) as connection:
        made = Desk(connection, monkeypatch)
        for name in NAMES.read:
            made.channel.queue_purge(name)
        yield made
        made.channel.qos._delivered.clear()  # otherwise kombu would restore messages to the next test's queues


@pytest.mark.parametrize("queue", [NAMES.jobs, SHARED.jobs])
def test_a_request_is_acknowledged_once_another_process_has_done_it(at: Desk, queue: str) -> None:
    step = at.send(queue=queue)
    at.held.look()
    assert at.states(step) == ["waiting"]
    assert at.ledger.waiting.take(60) == step
    at.now = 10 * HELD_S
    at.held.look()
    assert (at.unacked(), at.handled) == (1, [])
    at.ledger.waiting.end(step, done=True)
    at.held.look()
    assert (at.unacked(), at.handled) == (0, [])


def test_what_is_listed_is_the_whole_message(at: Desk) -> None:
    at.send(headers={"traceparent": "00-1-2-01"})
    at.held.look()
    taken = at.ledger.waiting.take(60)
    assert taken is not None
    packed = PackedRequest.of(taken)
    assert packed is not None
    assert (packed.headers["task"], packed.headers["id"]) == (taken.task, taken.job_id)
    assert '"model": "m"' in packed.body
    assert taken.trace == "00-1-2-01"
    # It is only for the step that it names
    other = WaitingStep(task="scoreline.status", job_id=taken.job_id, carried=taken.carried)
    assert PackedRequest.of(other) is None
    assert PackedRequest.of(WaitingStep(task=taken.task, job_id=taken.job_id, carried="x" * 40)) is None


def test_no_request_is_received_while_a_child_is_free(at: Desk) -> None:
    at.busy.pop()
    at.send()
    at.held.look()
    assert at.size(NAMES.jobs) == 1  # the consumer of Celery receives it


def test_no_request_is_received_from_a_queue_that_the_worker_does_not_read(at: Desk) -> None:
    at.consumed -= {NAMES.jobs}
    own, shared = at.send(), at.send(queue=SHARED.jobs)
    at.held.look()
    assert at.states(own, shared) == ["", "waiting"]
    assert at.size(NAMES.jobs) == 1


def test_a_request_from_an_amqp_broker_is_held_as_one_from_redis(at: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A channel of AMQP returns messages of its own library, which lack what kombu's messages have."""
    raw = amqp.Message(
        '[[], {"model": "m"}, {}]',
        application_headers={"task": "scoreline.submit", "id": "r"},
        content_type="application/json",
        content_encoding="utf-8",
    )
    raw.delivery_info = {"delivery_tag": 7, "exchange": "", "routing_key": NAMES.jobs}
    timed = amqp.Message(
        raw.body,
        application_headers={"task": "scoreline.submit", "id": "t", "x-death": datetime.now(UTC)},
        content_type="application/json",
    )
    timed.delivery_info = {"delivery_tag": 8}
    found, acknowledged = [timed, raw], list[int]()
    channel: Any = SimpleNamespace(
        basic_get=lambda queue: found.pop() if found else None,
        message_to_python=lambda message: pyamqp.Message(message, channel=channel),
        basic_ack=lambda tag, **_: acknowledged.append(tag),
        no_ack_consumers=set(),
    )
    monkeypatch.setattr(at.held, "_channel", channel)
    at.held.look()
    step = at.ledger.waiting.take(60)
    assert step is not None
    assert (step.task, step.job_id) == ("scoreline.submit", "r")
    at.ledger.waiting.end(step, done=True)
    at.held.look()
    assert (acknowledged, at.handled) == ([7], ["t"])  # JSON has no times, so Celery does the other one


def test_a_request_goes_to_a_child_when_one_is_free(at: Desk) -> None:
    step = at.send()
    at.held.look()
    at.busy.pop()
    at.held.look()
    assert at.handled == [step.job_id]


def test_a_request_that_no_process_begins_goes_to_a_child_of_this_worker(at: Desk) -> None:
    step, other = at.send(), at.send()
    at.held.look()
    at.now = HELD_S / 2
    at.held.look()
    assert at.handled == []
    # One is begun by a process that dies, and its lease expires
    at.ledger.waiting.take(0)
    assert at.states(step, other) == ["", "waiting"]
    at.now = HELD_S
    at.held.look()
    assert at.handled == [step.job_id, other.job_id]
    assert at.states(other) == ["waiting"]  # a busy process may still do it first


def test_steps_and_parts_of_earlier_releases_are_moved_to_their_queues(at: Desk) -> None:
    at.send("scoreline.score_part")
    at.send("scoreline.plan")
    step = at.send()
    at.held.look()
    assert (at.size(NAMES.parts), at.size(NAMES.steps), at.size(NAMES.jobs)) == (1, 1, 0)
    assert (at.states(step), at.unacked(), at.handled) == (["waiting"], 1, [])
    raw = at.channel._get(NAMES.parts)
    assert raw["headers"]["task"] == "scoreline.score_part"


def test_celery_does_what_cannot_be_listed(at: Desk) -> None:
    later, past = datetime.now(UTC) + timedelta(hours=1), datetime.now(UTC) - timedelta(seconds=1)
    steps = [
        at.send(eta=later),
        at.send(expires=past),
        at.send(time_limit=5),
        at.send("another.task"),
        at.send(task_id="no name/../"),
    ]
    listed = at.send(expires=later)
    at.held.look()
    assert at.handled == [step.job_id for step in steps]
    assert at.states(listed) == ["waiting"]


def test_no_more_requests_are_received_than_are_done(at: Desk) -> None:
    for _ in range(MOST_HELD + 5):
        at.send()
    at.held.look()
    assert at.size(NAMES.jobs) == 5
    for _ in range(5):
        taken = at.ledger.waiting.take(60)
        assert taken is not None
        at.ledger.waiting.end(taken, done=True)
    at.held.look()
    assert at.size(NAMES.jobs) == 0
    # Nor while many messages wait for a child
    at.busy |= {f"waits {number}" for number in range(2 * MOST_QUEUED)}
    at.send()
    at.held.look()
    assert at.size(NAMES.jobs) == 1


def test_without_the_ledger_requests_wait_for_a_child(at: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Any:
        raise LedgerUnavailable("no Redis")

    monkeypatch.setattr(at.ledger.waiting, "offer", fail)
    step = at.send()
    at.send()
    at.held.look()
    at.held.look()  # the ledger is left alone for a while
    assert at.handled == [step.job_id]
    assert at.size(NAMES.jobs) == 1
