"""Every ledger fulfils one contract for waiting steps: each step is done once, with or without its message."""

from __future__ import annotations

import pytest

from scoreline.storage.ledger import memory_waiting, redis_waiting
from scoreline.storage.ledger.base import Ledger
from scoreline.storage.ledger.waiting import LISTED_S, WaitingStep
from tests.support.ledgers import LEASE_S, Clock

PLAN, SMALL, END = (
    WaitingStep(task=f"scoreline.{name}", job_id=job_id)
    for name, job_id in (("plan", "a"), ("score_staged", "b"), ("finalize", "a"))
)


def test_the_step_that_has_waited_longest_is_taken_first_and_each_step_once(ledger: Ledger, clock: Clock) -> None:
    for step in (PLAN, SMALL, PLAN, END):
        ledger.waiting.add(step)
        clock.advance(1)
    assert [ledger.waiting.take(LEASE_S) for _ in range(4)] == [PLAN, SMALL, END, None]


def test_a_step_whose_message_has_arrived_is_not_taken(ledger: Ledger) -> None:
    ledger.waiting.add(PLAN)
    assert ledger.waiting.begin(PLAN)
    assert ledger.waiting.take(LEASE_S) is None
    assert ledger.waiting.begin(SMALL)  # an earlier release sent this message, and listed no step


def test_a_message_waits_while_another_process_does_its_step(ledger: Ledger, clock: Clock) -> None:
    ledger.waiting.add(PLAN)
    assert ledger.waiting.take(LEASE_S) == PLAN
    clock.advance(LEASE_S - 1)
    assert not ledger.waiting.begin(PLAN)
    ledger.waiting.renew(PLAN, LEASE_S)
    clock.advance(LEASE_S - 1)
    assert not ledger.waiting.begin(PLAN)
    # The process that took the step has died, or has done it
    clock.advance(1)
    assert ledger.waiting.begin(PLAN)
    ledger.waiting.add(PLAN)
    assert ledger.waiting.take(LEASE_S) == PLAN
    ledger.waiting.end(PLAN)
    ledger.waiting.renew(PLAN, LEASE_S)
    assert ledger.waiting.begin(PLAN)


def test_only_the_newest_steps_of_the_last_hour_are_listed(
    ledger: Ledger, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (memory_waiting, redis_waiting):
        monkeypatch.setattr(module, "MAX_WAITING", 2)
    for step in (PLAN, SMALL, END):
        ledger.waiting.add(step)
        clock.advance(1)
    assert ledger.waiting.take(LEASE_S) == SMALL
    clock.advance(LISTED_S)
    ledger.waiting.add(PLAN)
    assert [ledger.waiting.take(LEASE_S) for _ in range(2)] == [PLAN, None]
