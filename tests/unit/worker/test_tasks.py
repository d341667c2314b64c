"""A Celery task retries its message after a transient error; after any other error, it fails the part or the job."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from celery.canvas import Signature

from scoreline.storage.errors import (
    InputNotFound,
    LedgerCorrupt,
    LedgerError,
    LedgerFenced,
    LedgerLost,
    LedgerUnavailable,
    ModelCorrupt,
    ModelUnloadable,
    QueueUnavailable,
    StoreUnavailable,
    WebhookUnavailable,
)
from scoreline.storage.ledger.memory_ledger import MemoryLedger
from scoreline.storage.ledger.waiting import WaitingStep
from scoreline.tasks.databases import loader
from scoreline.tasks.dispatch import reconcile as reconciling
from scoreline.tasks.job.documents import Outcome, read_delivery, read_outcome
from scoreline.tasks.scoring.interruptions import SoftTimeLimitExceeded
from scoreline.tasks.steps import finalize as finalizing
from scoreline.tasks.steps import inline, planner
from scoreline.tasks.steps import score_part as parts
from scoreline.tasks.steps.score_rows import PartStopped
from scoreline.tasks.webhooks import notify as notifying
from scoreline.worker import hand_over, lifecycle, tasks
from scoreline.worker.hand_over import MAX_TIMES
from scoreline.worker.retries import LONG_WAITS, MAX_RETRIES, MAX_UNKNOWN_RETRIES
from tests.support.line_jobs import Desk, desk


@pytest.fixture
def at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    monkeypatch.setenv("WEBHOOK_SECRET", "a secret of some length")
    monkeypatch.setenv("WEBHOOK_URL", "https://example.org/hooks")
    with desk(tmp_path, WEBHOOK_URL="https://example.org/hooks") as made:
        monkeypatch.setattr(lifecycle, "process", lifecycle.Process(engine=made.engine, client=made.client))
        yield made


class Failing:
    """Raises an error at a number of calls, and then calls a function."""

    def __init__(self, behind: Callable[..., Any], error: BaseException, times: int = 1_000) -> None:
        self._behind, self._error, self._times = behind, error, times
        self.calls = 0

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        self.calls += 1
        if self.calls <= self._times:
            raise self._error
        return self._behind(*arguments, **options)


@pytest.fixture
def fail(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Failing]:
    """Return a function that makes a function of a module or of an object fail a number of times."""

    def install(
        owner: Any, name: str, error: BaseException, times: int = 1_000, then: Callable[..., Any] | None = None
    ) -> Failing:
        failing = Failing(then or getattr(owner, name), error, times)
        monkeypatch.setattr(owner, name, failing)
        return failing

    return install


def outcome(at: Desk, job_id: str) -> Outcome:
    found = read_outcome(at.client.buckets.main, job_id)
    assert found is not None
    return found


def test_a_part_is_given_back_until_the_store_is_there_again(at: Desk, fail: Callable[..., Failing]) -> None:
    job_id = at.plan()
    fail(parts, "score_leased", StoreUnavailable("503"), times=5)
    tasks.score_part.apply(kwargs={"job_id": job_id, "part": 0})
    assert (at.progress(job_id).parts_done, at.progress(job_id).failures) == (1, {})


def test_an_outage_of_store_and_ledger_together_does_not_count_as_the_death_of_the_process(
    at: Desk, fail: Callable[..., Failing]
) -> None:
    # Given a store that fails five times, and a ledger that cannot be reached in the meantime
    job_id = at.plan(max_attempts=3)
    fail(at.client.buckets.main, "put", StoreUnavailable("503"), times=5)
    fail(at.engine.ledger, "release", LedgerUnavailable("no Redis"))
    tasks.score_part.apply(kwargs={"job_id": job_id, "part": 0})
    assert (at.progress(job_id).parts_done, at.progress(job_id).failures) == (1, {})


def test_a_part_fails_with_the_reason_once_its_retries_are_used_up(at: Desk, fail: Callable[..., Failing]) -> None:
    job_id = at.plan()
    failing = fail(parts, "score_leased", StoreUnavailable("503"))
    tasks.score_part.apply(kwargs={"job_id": job_id, "part": 0})
    assert failing.calls == MAX_RETRIES + 1
    assert at.progress(job_id).failures == {0: "gave up: 503"}


def test_a_message_is_used_for_the_part_that_is_due_and_its_retries_are_for_that_part(
    at: Desk, fail: Callable[..., Failing]
) -> None:
    # Given a message of one job, while a part of another job is due
    named, due = at.plan(priority="low"), at.plan(priority="high")
    # When the store fails, and the part that the message names becomes due in the meantime
    fail(at.client.buckets.main, "put", StoreUnavailable("503"), times=2)
    taken = fail(parts, "lease_due_part", AssertionError(), times=0)
    tasks.score_part.apply(kwargs={"job_id": named, "part": 3})
    # Then the retries are for the part that was due, and nothing is counted for the other job
    assert taken.calls == 3
    assert (at.progress(due).parts_done, at.progress(due).in_flight) == (1, 3)
    assert (at.progress(named).parts_done, at.progress(named).in_flight) == (0, 4)


def test_an_error_of_the_part_that_is_due_fails_its_own_job(at: Desk, fail: Callable[..., Failing]) -> None:
    named, due = at.plan(priority="low"), at.plan(priority="high")
    fail(parts, "score_leased", InputNotFound("no input"))
    tasks.score_part.apply(kwargs={"job_id": named, "part": 0})
    assert outcome(at, due).state == "failed"
    assert read_outcome(at.client.buckets.main, named) is None


@pytest.mark.parametrize("lost", ["documents", "ledger"])
def test_the_message_of_a_job_that_was_deleted_or_lost_takes_the_place_of_another(at: Desk, lost: str) -> None:
    # Given a message of a job, whose other messages may have been used for parts of that job
    other, gone = at.plan(), at.plan()
    if lost == "documents":
        for info in list(at.client.buckets.main.list(f"jobs/{gone}/")):
            at.client.buckets.main.delete(info.key)
        at.engine._documents.clear()
    at.engine.ledger.forget(gone)
    # When it arrives after the job was deleted, or resumed, or after Redis lost its ledger
    tasks.score_part.apply(kwargs={"job_id": gone, "part": 0})
    # Then it is used for the other job
    assert at.progress(other).parts_done == 1
    # And a job that was not deleted is rebuilt
    assert (at.engine.ledger.progress(gone) is None) == (lost == "documents")


@pytest.mark.parametrize("end", [PartStopped(), ModelCorrupt("no model")])
def test_a_group_is_charged_for_the_part_of_a_job_that_ends_before_it(
    at: Desk, fail: Callable[..., Failing], end: Exception
) -> None:
    job_id = at.plan()
    assert isinstance(at.engine.ledger, MemoryLedger)
    charged = fail(at.engine.ledger._shares, "settle", AssertionError(), times=0)
    fail(parts, "commit_part", end)
    tasks.score_part.apply(kwargs={"job_id": job_id, "part": 0})
    assert charged.calls == 1


def test_a_deleted_job_whose_ledger_is_left_gives_its_place_to_others(at: Desk) -> None:
    named, gone = at.plan(priority="low"), at.plan(priority="high")
    for info in list(at.client.buckets.main.list(f"jobs/{gone}/")):
        at.client.buckets.main.delete(info.key)
    at.engine._documents.clear()
    tasks.score_part.apply(kwargs={"job_id": named, "part": 2})
    assert at.progress(named).parts_done == 1
    assert at.engine.ledger.progress(gone) is None


def test_a_part_that_takes_too_long_fails_and_says_what_to_do(at: Desk, fail: Callable[..., Failing]) -> None:
    job_id = at.plan()
    fail(parts, "score_leased", SoftTimeLimitExceeded())
    tasks.score_part.apply(kwargs={"job_id": job_id, "part": 0})
    assert "--part-rows" in at.progress(job_id).failures[0]


def test_a_part_whose_ledger_was_lost_has_the_job_reconciled(at: Desk) -> None:
    job_id = at.plan()
    at.engine.ledger.forget(job_id)
    tasks.score_part.apply(kwargs={"job_id": job_id, "part": 0})
    # The message is still of use: it is for a part of the job that was rebuilt
    assert (at.progress(job_id).parts_done, at.progress(job_id).in_flight) == (1, 3)


@pytest.mark.parametrize(
    ("error", "calls"),
    [
        (StoreUnavailable("503"), MAX_RETRIES + 1),
        (InputNotFound("no input"), 1),
        (ZeroDivisionError("a fault of the code"), MAX_UNKNOWN_RETRIES + 1),
    ],
)
def test_a_step_fails_its_job_after_the_retries_that_its_error_allows(
    at: Desk, fail: Callable[..., Failing], error: Exception, calls: int
) -> None:
    job_id = at.submit()
    failing = fail(planner, "plan_job", error)
    tasks.plan.apply(kwargs={"job_id": job_id})
    assert failing.calls == calls
    assert str(error) in outcome(at, job_id).error


@pytest.mark.parametrize("error", [LedgerLost, LedgerFenced, LedgerCorrupt, LedgerUnavailable])
@pytest.mark.parametrize("name", ["plan", "finalize", "score_part"])
def test_no_job_fails_because_of_its_ledger(
    name: str, error: type[LedgerError], at: Desk, fail: Callable[..., Failing]
) -> None:
    job_id = at.submit() if name == "plan" else at.plan()
    # Given a ledger that cannot be used, and cannot be rebuilt either
    owner, function = {
        "plan": (planner, "plan_job"),
        "finalize": (finalizing, "finalize"),
        "score_part": (parts, "score_leased"),
    }[name]
    fail(owner, function, error("Redis was emptied"))
    fail(reconciling, "reconcile_job", error("Redis was emptied"))
    task: Any = getattr(tasks, name)
    # When the message has used up its retries
    task.apply(kwargs={"job_id": job_id} | ({"part": 0} if name == "score_part" else {}))
    # Then the job is still under way
    assert read_outcome(at.client.buckets.main, job_id) is None
    assert not at.engine.ledger.progress(job_id) or at.progress(job_id).failures == {}


def test_a_step_goes_on_after_an_outage(at: Desk, fail: Callable[..., Failing]) -> None:
    job_id = at.submit()
    fail(planner, "plan_job", StoreUnavailable("503"), times=3)
    tasks.plan.apply(kwargs={"job_id": job_id})
    assert at.names_sent() == ["score_part"] * 4


@pytest.mark.parametrize("gone", [False, True], ids=["the step was taken", "the ledger is away"])
def test_a_message_is_retried_for_a_while_if_another_process_does_its_step(
    at: Desk, fail: Callable[..., Failing], monkeypatch: pytest.MonkeyPatch, *, gone: bool
) -> None:
    job_id = at.submit()
    waiting, asked = at.engine.ledger.waiting, []
    receive, taken = waiting.receive, waiting.take(60)
    assert taken is not None

    def counted(step: WaitingStep) -> tuple[str, str]:
        asked.append(step)
        if gone:
            raise LedgerUnavailable("no Redis")
        return receive(step)

    monkeypatch.setattr(waiting, "receive", counted)
    planning = fail(planner, "plan_job", ValueError("never raised"), times=0)
    tasks.plan.apply(kwargs={"job_id": job_id})
    assert asked == [taken] * (1 if gone else LONG_WAITS + 1)  # each delivery removes the step from the list
    assert planning.calls == 1  # by the message itself, or when it came back
    assert at.names_sent() == ["score_part"] * 4


def test_a_message_comes_back_without_an_exception_if_another_process_does_its_step(
    at: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = at.submit()
    assert at.engine.ledger.waiting.take(60) is not None
    sent: list[tuple[Any, int]] = []
    monkeypatch.setattr(Signature, "apply_async", lambda self: sent.append((self.kwargs, self.options["retries"])))
    # Given a message that came through the queue
    tasks.plan.push_request(id="message", called_directly=False, is_eager=False, retries=0, kwargs={"job_id": job_id})
    try:
        tasks.plan.run(job_id)
    finally:
        tasks.plan.pop_request()
    assert sent == [({"job_id": job_id}, 1)]
    assert at.names_sent() == []


class Alternating:
    """Raises the errors of a list, one at each call, before it calls a function."""

    def __init__(self, behind: Callable[..., Any], errors: Sequence[Exception]) -> None:
        self._behind, self._errors = behind, list(errors)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        if self._errors:
            raise self._errors.pop(0)
        return self._behind(*arguments, **options)


@pytest.mark.parametrize("name", ["plan", "score_part", "score_records"])
@pytest.mark.parametrize("errors", ["transient", "unknown", "mixed"])
def test_a_message_that_another_worker_passed_on_has_all_its_retries_left(
    at: Desk, monkeypatch: pytest.MonkeyPatch, name: str, errors: str
) -> None:
    # Given another worker that also cannot load the model, and a message that was passed on the maximum number of times
    monkeypatch.setattr(at.client.queue, "workers", lambda timeout_s: ["celery@busy"])
    monkeypatch.setattr("scoreline.worker.hand_over.time.sleep", lambda seconds: None)
    passes: list[Exception] = [ModelUnloadable("too little memory")] * MAX_TIMES
    outage: list[Exception] = [StoreUnavailable("503")] * MAX_RETRIES
    faults: list[Exception] = [ZeroDivisionError("a fault of the code")] * MAX_UNKNOWN_RETRIES
    raised = {
        "transient": passes + outage,
        "unknown": passes if name == "score_records" else passes + faults,
        "mixed": [error for pair in zip(outage, passes, strict=True) for error in pair],
    }[errors]
    owner, function = {
        "plan": (planner, "plan_job"),
        "score_part": (parts, "score_part"),
        "score_records": (inline, "score_small"),
    }[name]
    job_id = "records" if name == "score_records" else at.submit() if name == "plan" else at.plan()
    monkeypatch.setattr(owner, function, Alternating(getattr(owner, function), raised))
    # When the task is retried the maximum number of times
    if name == "plan":
        tasks.plan.apply(kwargs={"job_id": job_id})
        assert at.names_sent() == ["score_part"] * 4
    elif name == "score_part":
        tasks.score_part.apply(kwargs={"job_id": job_id, "part": 0})
        assert (at.progress(job_id).parts_done, at.progress(job_id).failures) == (1, {})
    else:
        records = {"model": "line", "records": [{"x": 1.0}], "job_id": job_id}
        answer = tasks.score_records.apply(kwargs=records).get()
        assert answer["state"] == "succeeded"


def test_a_part_waits_if_no_running_worker_can_load_the_model_and_a_plan_does_not(
    at: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(at.client.queue, "workers", lambda timeout_s: [])
    monkeypatch.setattr("scoreline.worker.hand_over.time.sleep", lambda seconds: None)
    # Given a job that a worker has planned
    planned = at.plan()
    once: list[Exception] = [ModelUnloadable("no module")]
    monkeypatch.setattr(parts, "score_part", Alternating(parts.score_part, once))
    # When no worker can load the model of a planned job, then the worker tries the part again
    tasks.score_part.apply(kwargs={"job_id": planned, "part": 0})
    assert (at.progress(planned).parts_done, at.progress(planned).failures) == (1, {})
    # But an unplanned job fails at once
    job_id = at.submit()
    monkeypatch.setattr(planner, "plan_job", Alternating(planner.plan_job, [ModelUnloadable("no module")]))
    tasks.plan.apply(kwargs={"job_id": job_id})
    assert outcome(at, job_id).error == "no module"


def test_the_header_of_a_message_cannot_give_it_retries_without_end(at: Desk, fail: Callable[..., Failing]) -> None:
    job_id = at.submit()
    failing = fail(planner, "plan_job", StoreUnavailable("503"))
    forged: dict[str, Any] = {hand_over.HEADER: {"workers": [], "times": 10**9}}
    tasks.plan.apply(kwargs={"job_id": job_id}, headers=forged)
    assert failing.calls <= MAX_RETRIES + MAX_TIMES + 1
    assert outcome(at, job_id).error == "503"


def test_a_notification_is_tried_again_and_then_given_up(at: Desk, fail: Callable[..., Failing]) -> None:
    main, job_id = at.client.buckets.main, at.plan()
    at.client.cancel(job_id)
    busy = WebhookUnavailable("https://example.org answered 503")
    # When the receiver answers again in time, the notification is delivered
    failing = fail(notifying, "notify", busy, times=3, then=lambda *_: None)
    tasks.notify.apply(kwargs={"job_id": job_id})
    assert (failing.calls, read_delivery(main, job_id)) == (4, None)
    # And if the receiver never answers, the failed delivery is recorded
    failing = fail(notifying, "notify", busy)
    tasks.notify.apply(kwargs={"job_id": job_id})
    notice = read_delivery(main, job_id)
    assert notice is not None
    assert (failing.calls, notice.delivered) == (MAX_RETRIES + 1, False)


def test_a_job_of_another_application_is_submitted_once_redis_is_there_again(
    at: Desk, fail: Callable[..., Failing]
) -> None:
    fail(at.client, "submit", QueueUnavailable("no broker"), times=2)
    answer = tasks.submit.apply(kwargs={"model": "line", "input": "s3://scoreline/in/"}, task_id="theirs").get()
    assert answer["job_id"] == "theirs"
    assert at.client.status("theirs").state == "submitted"


def test_a_load_that_meets_an_unknown_error_is_tried_again_and_then_fails_with_the_reason(
    at: Desk, fail: Callable[..., Failing]
) -> None:
    job_id = at.plan(into="scores", key=["id"])
    at.score(job_id, 0, 1, 2, 3)
    finalizing.finalize(at.engine, job_id)
    failing = fail(loader, "load", RuntimeError("out of pencils"))
    tasks.load.apply(kwargs={"job_id": job_id})
    assert failing.calls == MAX_UNKNOWN_RETRIES + 1
    (found,) = at.client.status(job_id).loads
    assert (found.state, found.error) == ("failed", "RuntimeError: out of pencils")
