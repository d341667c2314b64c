"""A process renews its leases while it works, and the attempts of a step are limited."""

from __future__ import annotations

import threading
import time
import weakref
from typing import Any

import pytest

from scoreline.storage.errors import LedgerUnavailable, ProcessDied
from scoreline.storage.ledger.memory_ledger import MemoryLedger
from scoreline.tasks.dispatch import renewal
from scoreline.tasks.dispatch.dispatcher import Dispatcher
from scoreline.tasks.dispatch.leases import STEP_ATTEMPTS, describe_deaths, hold_step, keep_renewed, object_notes
from tests.support.waiting import wait_until


def renewing() -> int:
    return sum(thread.name == "renew" for thread in threading.enumerate())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_lease_is_renewed_again_and_again_even_if_it_fails_once() -> None:
    times: list[float] = []

    def renew() -> None:
        times.append(time.monotonic())
        if len(times) == 1:
            raise LedgerUnavailable("no Redis")

    with keep_renewed(renew, 0.001):
        wait_until(lambda: len(times) >= 3 or not renewing(), "three renewals")
    assert len(times) >= 3


def test_a_short_lease_is_renewed_while_the_process_holds_longer_ones() -> None:
    times: list[float] = []
    with keep_renewed(lambda: None, 60), keep_renewed(lambda: times.append(time.monotonic()), 0.001):
        wait_until(lambda: len(times) >= 3, "three renewals")
    assert renewing() == 1


def test_an_unexpected_error_is_reported_and_stops_no_renewals(monkeypatch: pytest.MonkeyPatch) -> None:
    reported: list[object] = []
    monkeypatch.setattr(threading, "excepthook", lambda hooked: reported.append(hooked.exc_value))
    error, times = ValueError("a defect"), list[float]()

    def fail() -> None:
        raise error

    with keep_renewed(fail, 0.001), keep_renewed(lambda: times.append(time.monotonic()), 0.001):
        wait_until(lambda: (len(reported) >= 2 and len(times) >= 3) or not renewing(), "renewals of both")
    assert reported[:2] == [error, error]
    assert len(times) >= 3


def test_a_block_ends_after_the_renewal_that_is_under_way_and_is_the_last() -> None:
    begun, goes_on, ends = threading.Event(), threading.Event(), list[str]()

    def renew() -> None:
        begun.set()
        assert goes_on.wait(10)
        ends.append("renewal")

    def hold() -> None:
        with keep_renewed(renew, 0.001):
            assert begun.wait(10)
            threading.Timer(0.05, goes_on.set).start()
        ends.append("block")

    hold()
    later: list[float] = []  # by the time that this lease is renewed, the other would have been
    with keep_renewed(lambda: later.append(0), 0.002):
        wait_until(lambda: len(later) >= 3, "three renewals")
    assert ends == ["renewal", "block"]


def test_leases_are_renewed_after_a_thread_could_not_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    renewer = renewal._Renewer()
    monkeypatch.setattr(renewal, "_renewer", renewer)

    def fail(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    unheld, held = list[float](), list[float]()
    with monkeypatch.context() as full:
        full.setattr(threading.Thread, "start", fail)
        with pytest.raises(RuntimeError), keep_renewed(lambda: unheld.append(0), 0.001):
            pass
    with keep_renewed(lambda: held.append(0), 0.002):
        assert renewer._thread is not None
        assert renewer._thread.is_alive()
        wait_until(lambda: len(held) >= 3, "three renewals")
    assert not unheld


def test_a_lease_that_has_ended_keeps_nothing_in_memory() -> None:
    class Step:
        def renew(self) -> None: ...

    step = Step()
    gone = weakref.ref(step)
    with keep_renewed(step.renew, 60):
        del step
        assert gone() is not None
    assert gone() is None


def dispatcher() -> Dispatcher:
    buckets: Any = None
    return Dispatcher(buckets=buckets, ledger=MemoryLedger(), send=lambda name, **_: None)


def test_a_step_in_which_the_process_died_too_often_is_not_tried_again() -> None:
    at = dispatcher()
    for _ in range(STEP_ATTEMPTS):  # the process dies in each attempt
        at.ledger.begin_step("j", "plan", 60)
    with pytest.raises(ProcessDied, match="died 3 times at the step 'plan'"), hold_step(at, "j", "plan"):
        pytest.fail("the step was tried")


def test_the_error_names_the_object_that_the_last_attempt_began_to_read() -> None:
    at = dispatcher()
    for _ in range(STEP_ATTEMPTS):
        at.ledger.begin_step("j", "plan", 60)
    note = object_notes(at, "j", "plan")
    note("s3://data/in/a.parquet")
    note("s3://data/in/b.parquet")
    with pytest.raises(ProcessDied) as died, hold_step(at, "j", "plan"):
        pytest.fail("the step was tried")
    assert str(died.value) == (
        "the worker process died 3 times at the step 'plan', the last time after it began to read "
        "s3://data/in/b.parquet: the object may be damaged, or memory may be too small"
    )
    # And an attempt that has not read anything yet does not repeat the note of an earlier one
    object_notes(at, "j", "plan")
    with pytest.raises(ProcessDied, match="'plan': it may be out of memory"), hold_step(at, "j", "plan"):
        pytest.fail("the step was tried")


class LostLedger(MemoryLedger):
    """Cannot be reached for notes of objects."""

    def note_object(self, job_id: str, step: str, uri: str) -> None:
        raise LedgerUnavailable("no Redis")

    def noted_object(self, job_id: str, step: str) -> str:
        raise LedgerUnavailable("no Redis")


def test_a_ledger_that_cannot_be_reached_for_a_note_does_not_stop_a_step() -> None:
    at = dispatcher()
    at.ledger = LostLedger()
    object_notes(at, "j", "plan")("s3://data/in/a.parquet")
    assert describe_deaths(at, "j", "plan", 3, "there").endswith("died 3 times there: it may be out of memory")


def test_a_step_that_failed_belongs_to_its_retry_and_not_to_the_reconciler() -> None:
    at = dispatcher()
    with pytest.raises(LedgerUnavailable), hold_step(at, "j", "plan"):
        raise LedgerUnavailable("no Redis")
    assert not at.ledger.claim_step("j", "plan")
    assert at.ledger.begin_step("j", "plan", 60) == 1
    with hold_step(at, "k", "plan"):
        assert not at.ledger.claim_step("k", "plan")
    assert at.ledger.claim_step("k", "plan")
