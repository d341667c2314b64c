"""A look at the backlog sets the number of dynos, and trusts an empty Redis only after a look at the bucket."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scoreline.storage import keys
from scoreline.storage.errors import LedgerUnavailable, PlatformRefused, PlatformUnavailable, ScorelineError
from scoreline.storage.objects.base import ObjectInfo
from scoreline.tasks.backlog.dynos import Policy
from scoreline.worker.heroku.scaler import LIST_EVERY, Look, Scaler
from tests.support.one_job import OneJob

POLICY = Policy(least=0, most=10, finish_within_s=600, idle_after_s=300)


class Dynos:
    """A platform in memory, which may fail."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.set: list[int] = []
        self.wait_s = 0.0
        self.error: ScorelineError | None = None

    def quantity(self) -> int:
        if self.error is not None:
            raise self.error
        return self.count

    def scale(self, quantity: int) -> int:
        self.count = quantity
        self.set.append(quantity)
        return quantity


class Case:
    """A scaler with one job in a bucket, and a clock."""

    def __init__(self, folder: Path, dynos: int = 0, **given: Any) -> None:
        self.job = OneJob(folder, rows=8, part_rows=2)
        self.ledger = self.job.ledger
        self.ledger.watchlist.add(["j"])
        self.now = self.ledger._clock()
        self.ledger._clock = self.ledger._notes._clock = lambda: self.now
        self.dynos = Dynos(dynos)
        self.messages = 0
        self.ticks: list[int] = []
        known: dict[str, Any] = {"apply": True, "policy": POLICY, "tick": lambda: self.ticks.append(1)}
        self.scaler = Scaler(
            dynos=self.dynos,
            main=self.job.store,
            ledger=self.ledger,
            waiting=lambda: self.messages,
            now=lambda: self.now,
            **known | given,
        )

    def looks(self, minutes: int) -> list[int]:
        """Look once a minute, and return the numbers of dynos."""
        found = []
        for _ in range(minutes):
            self.scaler.look()
            found.append(self.dynos.count)
            self.now += 60
        return found


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


def test_dynos_come_at_once_and_go_five_minutes_after_the_last_work(case: Case) -> None:
    assert case.looks(2) == [1, 1]
    case.job.run()
    assert case.looks(7) == [1, 1, 1, 1, 1, 0, 0]
    assert case.dynos.set == [1, 0]


def test_new_work_begins_the_idle_time_anew(tmp_path: Path) -> None:
    case = Case(tmp_path, dynos=2)
    case.job.run()
    assert case.looks(4) == [2, 2, 2, 2]
    case.messages = 1
    assert case.looks(1) == [2]
    case.messages = 0
    assert case.looks(6) == [2, 2, 2, 2, 2, 0]


def test_another_process_that_looks_knows_since_when_there_is_no_work(tmp_path: Path) -> None:
    case = Case(tmp_path, dynos=2)
    case.job.run()
    case.looks(1)
    case.now += 240
    other = Scaler(
        dynos=case.dynos, main=case.job.store, ledger=case.ledger, waiting=lambda: 0, policy=POLICY, apply=True
    )
    assert other.look().decision.dynos == 0


def test_no_dyno_is_removed_if_redis_was_emptied(tmp_path: Path) -> None:
    case = Case(tmp_path, dynos=4)
    case.job.run(1)
    case.ledger.forget("j")
    case.ledger.watchlist.remove("j")
    assert case.looks(8) == [4] * 8
    assert [state.job_id for state in case.ledger.watchlist.states()] == ["j"]


def test_the_bucket_is_listed_just_before_dynos_are_removed(tmp_path: Path) -> None:
    case = Case(tmp_path, dynos=4)
    case.job.run()
    assert case.looks(5) == [4] * 5
    case.job.store.put(keys.active("unknown"), b"")
    assert case.looks(5) == [4] * 5


def test_a_job_that_only_the_bucket_knows_gets_a_dyno(case: Case) -> None:
    case.ledger.watchlist.remove("j")
    assert case.looks(1) == [1]


def test_a_job_that_only_the_bucket_knows_later_gets_a_dyno(case: Case) -> None:
    case.ledger.watchlist.remove("j")
    case.job.store.delete(keys.active("j"))
    assert case.looks(2) == [0, 0]
    case.job.store.put(keys.active("j"), b"")
    assert case.looks(LIST_EVERY)[-1] == 1


def test_an_idle_deployment_lists_the_bucket_only_sometimes(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    case.job.run()
    listed: list[str] = []

    def list_nothing(prefix: str) -> Iterator[ObjectInfo]:
        listed.append(prefix)
        return iter(())

    monkeypatch.setattr(case.job.store, "list", list_nothing)
    assert set(case.looks(60)) == {0}
    assert listed == [keys.JOBS_ACTIVE] * (60 // LIST_EVERY)


def test_schedules_run_here_only_while_no_dyno_could(case: Case) -> None:
    case.looks(3)
    assert len(case.ticks) == 1  # the first look has started a dyno


def test_a_fault_of_a_schedule_does_not_keep_work_waiting(tmp_path: Path) -> None:
    def tick() -> None:
        raise LedgerUnavailable("no")

    assert Case(tmp_path, tick=tick).looks(1) == [1]


def test_without_apply_nothing_is_set_and_no_schedule_runs(tmp_path: Path) -> None:
    case = Case(tmp_path, apply=False)
    look = case.scaler.look()
    assert (look.dynos, look.decision.dynos, look.changes) == (0, 1, True)
    assert (case.dynos.set, case.ticks) == ([], [])


def test_looks_go_on_after_an_error_that_passes(case: Case) -> None:
    said: list[Look | ScorelineError] = []
    waits: list[float] = []

    def wait(seconds: float) -> bool:
        waits.append(seconds)
        case.dynos.error, case.dynos.wait_s = (PlatformUnavailable("busy"), 90.0) if len(waits) == 1 else (None, 0.0)
        return len(waits) == 3

    case.scaler.run(60, said.append, wait)
    assert [type(item) for item in said] == [Look, PlatformUnavailable, Look]
    assert waits == [60, 90, 60]


def test_looks_end_after_a_refusal(case: Case) -> None:
    case.dynos.error = PlatformRefused("wrong key")
    with pytest.raises(PlatformRefused):
        case.scaler.run(60, lambda _: None, lambda _: True)


def test_the_processes_of_a_dyno_are_those_that_workers_have_reported(tmp_path: Path) -> None:
    case = Case(tmp_path)
    case.job.run(1)
    case.ledger.counters.note_pace("m@20260101T000000Z-00000 default", 8 / 5_000)
    (job,) = case.job.client.backlog().jobs
    case.now = job.since  # the job has just begun
    assert case.scaler.look().decision.dynos == 10
    case.ledger.note_worker_size(5)
    case.dynos.count = 0
    assert case.scaler.look().decision.dynos == 2
    case.scaler.worker_size = 2
    case.dynos.count = 0
    assert case.scaler.look().decision.dynos == 5
