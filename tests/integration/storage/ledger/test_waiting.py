"""Every ledger fulfils one contract for waiting steps: each step is done once, with or without its message."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scoreline.storage.ledger import memory_waiting, redis_waiting
from scoreline.storage.ledger.base import Ledger
from scoreline.storage.ledger.waiting import ALIKE_CHARS, DONE_KNOWN_S, LISTED_S, WaitingStep
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


def carrying(job_id: str, alike: str = "a", rest: str = "é") -> WaitingStep:
    return WaitingStep(task=SMALL.task, job_id=job_id, carried=alike * ALIKE_CHARS + rest)


def test_a_step_brings_what_it_carries_once_with_or_without_its_message(ledger: Ledger) -> None:
    for job_id in ("b", "c"):
        ledger.waiting.add(carrying(job_id))
    taken = ledger.waiting.take(LEASE_S)
    assert taken is not None
    assert (taken.job_id, taken.carried) == ("b", carrying("b").carried)
    assert ledger.waiting.receive(carrying("c")) == ("", carrying("c").carried)
    assert ledger.waiting.receive(carrying("c")) == ("", "")  # the message is delivered again
    assert ledger.waiting.receive(carrying("b")) == ("taken", "")


def test_a_message_finds_that_its_step_is_done(ledger: Ledger, clock: Clock) -> None:
    ledger.waiting.add(SMALL)
    assert ledger.waiting.take(LEASE_S) == SMALL
    ledger.waiting.end(SMALL, done=True)
    assert ledger.waiting.receive(SMALL) == ("done", "")
    # Unless the step is sent again, or was done long ago
    ledger.waiting.add(SMALL)
    assert ledger.waiting.receive(SMALL) == ("", "")
    ledger.waiting.end(SMALL, done=True)
    clock.advance(DONE_KNOWN_S)
    assert ledger.waiting.receive(SMALL) == ("", "")


@pytest.mark.parametrize("arrives", [False, True])
def test_a_step_that_is_added_while_it_is_done_is_done_once_more(ledger: Ledger, *, arrives: bool) -> None:
    """The process may have begun before that happened for which the step was added again."""
    ledger.waiting.add(END)
    assert ledger.waiting.take(60) == END
    ledger.waiting.add(END)
    if arrives:
        assert ledger.waiting.receive(END) == ("taken", "")
    ledger.waiting.end(END, done=True)
    assert ledger.waiting.receive(END) == ("", "")


def test_steps_that_can_be_done_together_are_taken_together(ledger: Ledger) -> None:
    first = carrying("1")
    for step in (first, PLAN, carrying("2", "b"), carrying("3"), SMALL, carrying("4"), carrying("5")):
        ledger.waiting.add(step)
    assert ledger.waiting.receive(first) == ("", first.carried)
    alike = ledger.waiting.take_alike(first, 2, LEASE_S)
    assert [(step.job_id, step.carried) for step in alike] == [(n, carrying(n).carried) for n in "34"]
    assert ledger.waiting.receive(carrying("3")) == ("taken", "")
    assert [step.job_id for step in ledger.waiting.take_alike(first, 9, LEASE_S)] == ["5"]
    assert ledger.waiting.take_alike(SMALL, 9, LEASE_S) == []  # it carries nothing, so nothing is known to be alike
    left = [ledger.waiting.take(LEASE_S) for _ in range(4)]
    assert [step and step.job_id for step in left] == ["a", "2", "b", None]


def test_only_some_steps_carry_data(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (memory_waiting, redis_waiting):
        monkeypatch.setattr(module, "MAX_CARRIED", 2)
    for number in range(3):
        ledger.waiting.add(carrying(str(number)))
    assert [bool(ledger.waiting.receive(carrying(str(number)))[1]) for number in range(3)] == [True, True, False]
    ledger.waiting.add(carrying("4"))
    assert ledger.waiting.receive(carrying("4")) == ("", carrying("4").carried)


def test_a_step_is_offered_once_until_it_is_done(ledger: Ledger, clock: Clock) -> None:
    assert ledger.waiting.offer(carrying("b")) == ""
    assert ledger.waiting.offer(carrying("b", rest="again")) == "waiting"
    taken = ledger.waiting.take(LEASE_S)
    assert taken is not None
    assert taken.carried == carrying("b").carried
    assert ledger.waiting.offer(SMALL) == "taken"
    ledger.waiting.end(SMALL, done=True)
    assert ledger.waiting.offer(SMALL) == "done"
    assert ledger.waiting.take(LEASE_S) is None
    # A process that took it and died has not done it
    clock.advance(DONE_KNOWN_S)
    assert ledger.waiting.offer(SMALL) == ""


def test_the_states_of_many_steps_are_known_together(ledger: Ledger, clock: Clock) -> None:
    other = WaitingStep(task="scoreline.submit", job_id="c")
    for step in (PLAN, SMALL, END):
        ledger.waiting.add(step)
        clock.advance(1)
    ledger.waiting.take(LEASE_S)
    ledger.waiting.take(LEASE_S)
    ledger.waiting.end(SMALL, done=True)
    assert list(ledger.waiting.states([SMALL, other, END, PLAN])) == ["done", "", "waiting", "taken"]
    assert list(ledger.waiting.states([])) == []


def test_a_step_brings_its_trace_once(ledger: Ledger) -> None:
    ledger.waiting.add(replace(PLAN, trace="00-1-1-01"))
    ledger.waiting.add(SMALL)
    first, second = ledger.waiting.take(LEASE_S), ledger.waiting.take(LEASE_S)
    assert first is not None
    assert second is not None
    assert (first.trace, second.trace) == ("00-1-1-01", "")
    ledger.waiting.add(PLAN)
    again = ledger.waiting.take(LEASE_S)
    assert again is not None
    assert again.trace == ""
