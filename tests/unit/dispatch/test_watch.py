"""A watch notices the end of a job at its next question, and asks the bucket and the ledger few questions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from sklearn.linear_model import LinearRegression

from scoreline.storage.errors import JobNotFound, LedgerUnavailable
from scoreline.storage.ledger.memory_ledger import MemoryLedger
from scoreline.storage.objects.directory import DirectoryStore
from scoreline.tasks.dispatch import status
from scoreline.tasks.job.documents import Status
from scoreline.testing import EagerClient, eager

X = pd.DataFrame({"x": [0.0, 1.0, 2.0, 3.0]})


class Clock:
    """A clock that only the pauses of a watch move. It calls a function when a moment has come."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.due: list[tuple[float, Callable[[], object]]] = []
        self.pauses: list[float] = []

    def after(self, seconds: float, act: Callable[[], object]) -> None:
        self.due.append((self.now + seconds, act))

    def pause(self, seconds: float) -> bool:
        self.now += seconds
        self.pauses.append(seconds)
        for moment, act in self.due:
            if moment <= self.now:
                act()
        self.due = [item for item in self.due if item[0] > self.now]
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(status, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


@pytest.fixture
def client(tmp_path: Path) -> Iterator[EagerClient]:
    with eager(tmp_path, run=False) as client:
        client.models.publish("line", LinearRegression().fit(X, [1.0, 3.0, 5.0, 7.0]))
        yield client


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count the questions to the bucket and to the ledger."""
    counts: Counter[str] = Counter()
    get, progress = DirectoryStore.get, MemoryLedger.progress

    def counted_get(self: DirectoryStore, key: str, **options: Any) -> Any:
        counts[key.rpartition("/")[2]] += 1
        return get(self, key, **options)

    def counted_progress(self: MemoryLedger, job_id: str) -> Any:
        counts["ledger"] += 1
        return progress(self, job_id)

    monkeypatch.setattr(DirectoryStore, "get", counted_get)
    monkeypatch.setattr(MemoryLedger, "progress", counted_progress)
    return counts


def submit(client: EagerClient, messages: int) -> str:
    """Submit a job of four parts, and deliver some of its messages."""
    job_id = client.submit("line", client.put("in/a.parquet", X), part_rows=1).job_id
    assert client.run(messages) == messages
    return job_id


def watch(client: EagerClient, clock: Clock, job_id: str, timeout_s: float | None = None) -> list[Status]:
    return list(client._statuses.watch(job_id, timeout_s, clock.pause))


@pytest.mark.parametrize("messages", [0, 2], ids=["in the queue", "under way"])
def test_an_hour_costs_few_questions(client: EagerClient, clock: Clock, asked: Counter[str], messages: int) -> None:
    job_id = submit(client, messages)
    asked.clear()
    with pytest.raises(TimeoutError, match="has not ended after 3600 s"):
        watch(client, clock, job_id, 3600)
    assert asked["job.json"] <= 61
    assert asked["outcome.json"] < 1_900
    assert asked["ledger"] < 3_900
    assert max(clock.pauses) == 1.0


@pytest.mark.parametrize("seconds", [0.0, 0.3, 5.0, 600.0])
def test_the_end_of_a_job_is_seen_at_the_next_question_to_the_ledger(
    client: EagerClient, clock: Clock, asked: Counter[str], seconds: float
) -> None:
    # Given a job of which one part is done
    job_id = submit(client, 2)
    # When its last message is processed during a pause
    clock.after(seconds, client.run)
    seen = watch(client, clock, job_id)
    # Then the pause is the last one, and it is short compared with the wait
    assert seen[-1].state == "succeeded"
    assert {now.state for now in seen[:-1]} == {"running"}
    assert clock.now - 1_000.0 <= seconds + max(0.02, min(1.0, seconds / 39))


def test_a_job_whose_parts_are_all_done_is_asked_for_its_outcome_each_time(
    client: EagerClient, clock: Clock, asked: Counter[str]
) -> None:
    job_id = submit(client, 5)  # all but the message of the finalizer
    assert client.status(job_id).parts_done == 4
    clock.after(500.0, client.run)
    asked.clear()
    assert watch(client, clock, job_id)[-1].state == "succeeded"
    assert asked["outcome.json"] >= len(clock.pauses)


def test_a_job_that_fails_before_it_is_planned_is_seen_soon(client: EagerClient, clock: Clock) -> None:
    job_id = submit(client, 0)
    clock.after(5.0, lambda: client.cancel(job_id))
    assert watch(client, clock, job_id)[-1].state == "cancelled"
    assert clock.now - 1_000.0 <= 5.0 * 1.15


def test_an_outcome_is_shown_though_the_ledger_cannot_be_reached(
    client: EagerClient, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = submit(client, 2)

    def end() -> None:
        client.run()
        monkeypatch.setattr(MemoryLedger, "progress", unreachable)

    def unreachable(self: MemoryLedger, job_id: str) -> Any:
        raise LedgerUnavailable("cannot reach Redis")

    clock.after(0.5, end)
    assert watch(client, clock, job_id)[-1].state == "succeeded"


def test_a_watch_ends_if_the_job_is_deleted(client: EagerClient, clock: Clock) -> None:
    job_id = submit(client, 1)

    def delete() -> None:
        for info in list(client.buckets.main.list(f"jobs/{job_id}/")):
            client.buckets.main.delete(info.key)
        client.ledger.forget(job_id)

    clock.after(10, delete)
    with pytest.raises(JobNotFound):
        watch(client, clock, job_id)
