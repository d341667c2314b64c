"""A request that is done between two batches counts as done only if it is answered."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery, Task
from celery.app.task import Context
from celery.exceptions import Ignore
from celery.signals import task_postrun, task_prerun
from celery.utils.dispatch import Signal

from scoreline.storage.errors import PartInterrupted
from scoreline.storage.ledger.waiting import WaitingStep
from scoreline.tasks.scoring.interruptions import SoftTimeLimitExceeded
from scoreline.worker import lifecycle
from scoreline.worker.packed_request import PackedRequest
from scoreline.worker.run_request import interruptible, is_between_batches, longest_between_batches_s, run_request


@pytest.fixture
def app() -> Celery:
    made = Celery(broker="memory://", backend="cache+memory://", set_as_current=False)
    made.finalize()
    made.tasks.pop("scoreline.status", None)  # tasks of the worker are in all apps of the process
    return made


def step(request_id: str) -> WaitingStep:
    headers = {"task": "scoreline.status", "id": request_id}
    packed = PackedRequest(
        headers=headers, body="[[], {}, {}]", content_type="application/json", content_encoding="utf-8", properties={}
    )
    return packed.step


def test_a_request_is_answered_and_knows_how_long_it_may_take(app: Celery) -> None:
    @app.task(name="scoreline.status", bind=True, shared=False)
    def status(self: Task[Any, Any]) -> float | None:
        return longest_between_batches_s(self)

    assert run_request(app, step("answered"), 5.0)
    assert app.AsyncResult("answered").get(timeout=0) == 5.0


def test_a_request_that_fails_is_answered(app: Celery) -> None:
    @app.task(name="scoreline.status", shared=False)
    def status() -> None:
        raise LookupError("no such job")

    assert run_request(app, step("failed"), 5.0)
    assert app.AsyncResult("failed").state == "FAILURE"


def test_a_request_whose_answer_cannot_be_stored_is_left_to_its_message(
    app: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    @app.task(name="scoreline.status", shared=False)
    def status() -> None:
        pass

    def fail(*_: Any, **__: Any) -> None:
        raise OSError("OOM command not allowed")

    monkeypatch.setattr(app.backend, "store_result", fail)
    with pytest.warns(RuntimeWarning, match="OOM"):
        assert not run_request(app, step("unanswered"), 5.0)


def test_a_request_that_the_task_drops_is_done(app: Celery) -> None:
    @app.task(name="scoreline.status", shared=False)
    def status() -> None:
        raise Ignore

    assert run_request(app, step("dropped"), 5.0)


def test_no_message_can_say_that_its_request_is_done_between_batches() -> None:
    """Otherwise a transient error would end the process, and the next one to which the message is delivered."""

    class Named:
        request = Context({"scoreline_between_batches": 5.0})

    assert not is_between_batches(Named())  # type: ignore[arg-type]


@pytest.mark.parametrize("error", [SoftTimeLimitExceeded(), PartInterrupted("a further step took until the limit")])
def test_the_time_limit_of_the_part_interrupts_the_part_and_not_only_the_request(app: Celery, error: Exception) -> None:
    @app.task(name="scoreline.status", bind=True, shared=False)
    def status(self: Task[Any, Any]) -> None:
        with interruptible(self):
            raise error

    with pytest.raises(SoftTimeLimitExceeded):
        run_request(app, step("interrupted"), 5.0)


def test_a_process_still_has_its_part_after_a_request_between_two_batches(
    app: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the process would help other processes with planning while it scores the part."""

    @app.task(name="scoreline.status", shared=False)
    def status() -> None:
        pass

    monkeypatch.setattr(lifecycle.process, "is_busy", False)
    found: list[int] = []
    with connected(task_prerun, lifecycle.begin_task), connected(task_postrun, lifecycle.end_task):

        @app.task(name="part", shared=False)
        def part() -> None:
            found.append(lifecycle.process.is_busy)
            assert run_request(app, step("asked"), 5.0)
            found.append(lifecycle.process.is_busy)

        part.apply()
    assert [*found, lifecycle.process.is_busy] == [True, True, False]


@contextlib.contextmanager
def connected(signal: Signal, receiver: Callable[..., None]) -> Iterator[None]:
    signal.connect(receiver, weak=False)
    try:
        yield
    finally:
        signal.disconnect(receiver)
