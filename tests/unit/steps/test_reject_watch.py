"""A part ends once the rejected rows of its job, in counted parts and parts under way, exceed the budget of the job."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest

from scoreline.storage.errors import LedgerUnavailable
from scoreline.storage.ledger.base import PartLease
from scoreline.storage.ledger.memory_ledger import MemoryLedger
from scoreline.tasks.steps.reject_watch import NOTE_S, PATIENCE_S, REJECTED_SHOWN, RejectWatch


class Clock:
    """A clock that a test advances."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def nothing() -> None:
    pass


def watch(clock: Clock, note: Callable[[int], int] | None, budget: int = 10) -> RejectWatch:
    return RejectWatch(budget=budget, note=note, check_stopped=nothing, clock=clock)


def test_a_part_that_takes_a_moment_leaves_no_note() -> None:
    noted: list[int] = []

    def note(count: int) -> int:
        noted.append(count)
        return count

    seen = watch(Clock(), note)
    assert not any(seen(count) for count in range(100))
    assert noted == []


def test_parts_under_way_count_together() -> None:
    ledger, clock = MemoryLedger(), Clock()
    ledger.begin("j", "p", 2, budget=1_500)
    ledger.dispatch("j", "p", window=2)
    watches = []
    for part in range(2):
        lease = PartLease(job_id="j", plan_sha256="p", part=part, holder=f"m{part}", lease_s=60)
        ledger.start(lease)
        watches.append(watch(clock, functools.partial(ledger.note_rejects, lease), budget=1_500))
    clock.now += NOTE_S
    assert not watches[0](800)
    assert watches[1](800)
    assert watches[1].over == 1_600


def test_a_part_over_a_small_budget_goes_on_for_a_while_so_that_its_reasons_can_be_read() -> None:
    clock = Clock()
    seen = watch(clock, lambda count: count)
    clock.now += NOTE_S
    assert not seen(11)
    clock.now += PATIENCE_S
    assert not seen(12)
    clock.now += NOTE_S
    assert seen(13)
    many = watch(clock, lambda count: count)
    clock.now += NOTE_S
    assert many(REJECTED_SHOWN + 1)


def test_without_a_ledger_a_part_counts_its_own_rows() -> None:
    def unavailable(count: int) -> int:
        raise LedgerUnavailable("no")

    clock = Clock()
    seen = watch(clock, unavailable)
    clock.now += NOTE_S
    assert seen(REJECTED_SHOWN + 1)
    assert not watch(clock, None)(10**9)


def test_a_part_of_a_job_that_has_ended_stops_within_its_batch() -> None:
    class Ended(Exception):
        pass

    def ended() -> None:
        raise Ended

    clock = Clock()
    seen = RejectWatch(budget=10, note=int, check_stopped=ended, clock=clock)
    clock.now += NOTE_S
    with pytest.raises(Ended):
        seen(1)
