"""While nothing is due, ticks cost few requests; what is due, or was changed, is still noticed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from scoreline import testing
from scoreline.storage import keys
from scoreline.storage.errors import LedgerUnavailable
from scoreline.storage.ledger.memory_ledger import MemoryLedger
from scoreline.storage.objects.directory import DirectoryStore
from scoreline.tasks.dispatch.reconcile import reconcile_due
from scoreline.tasks.schedules.schedule import State
from scoreline.tasks.schedules.scheduler import Scheduler
from scoreline.testing import EagerClient, eager
from tests.unit.schedules.conftest import GOOD, NIGHTLY, X

TICK_S = 30.0
BEGUN = datetime(2026, 11, 25, 12, tzinfo=UTC)


class Deployment:
    """Two processes that take turns at the ticks of beat, with a simulated clock."""

    def __init__(self, client: EagerClient, folder: Path) -> None:
        self.client, self.ticks = client, 0
        missing = folder / "missing.toml"
        self.schedulers = [Scheduler(client, missing, rest_s=1.5 * TICK_S) for _ in range(2)]

    @property
    def now(self) -> datetime:
        return BEGUN + timedelta(seconds=TICK_S * self.ticks)

    def tick(self) -> dict[str, list[str]]:
        self.ticks += 1
        if self.ticks % 2:
            reconcile_due(self.client.submission.dispatcher, clock=lambda: 0.0)
        return self.schedulers[self.ticks % 2].tick(self.now)

    def run(self, ticks: int) -> list[str]:
        return [done for _ in range(ticks) for found in self.tick().values() for done in found]


@pytest.fixture
def deployment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Deployment]:
    found: list[Deployment] = []
    monkeypatch.setattr(
        testing, "MemoryLedger", partial(MemoryLedger, clock=lambda: found[0].now.timestamp() if found else 0.0)
    )
    with eager(tmp_path / "buckets") as client:
        client.models.publish("churn", GOOD, alias="champion")
        client.put("in/a.parquet", X)
        found.append(Deployment(client, tmp_path))
        yield found[0]


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    counts: Counter[str] = Counter()
    for name in ("get", "head", "put", "list", "delete"):
        method = getattr(DirectoryStore, name)

        def call(self: DirectoryStore, *given: Any, _name: str = name, _method: Any = method, **options: Any) -> Any:
            counts[_name] += 1
            return _method(self, *given, **options)

        monkeypatch.setattr(DirectoryStore, name, call)
    return counts


FIVE = "".join(NIGHTLY.replace("[nightly]", f"[nightly-{number}]") for number in range(5))


@pytest.mark.parametrize("text", ["", NIGHTLY, FIVE], ids=["no schedule", "a nightly schedule", "five"])
def test_an_idle_hour_costs_at_most_200_requests(deployment: Deployment, requests: Counter[str], text: str) -> None:
    if text:
        deployment.client.put(keys.SCHEDULES, text)
    deployment.run(4)
    requests.clear()
    assert deployment.run(120) == []
    assert requests.total() <= 150
    assert requests["put"] == requests["delete"] == requests["head"] == 0


def test_a_slot_is_run_at_the_tick_after_it(deployment: Deployment) -> None:
    hourly = NIGHTLY.replace("30 2 * * *", "0 * * * *")
    assert hourly != NIGHTLY
    deployment.client.put(keys.SCHEDULES, hourly)
    ran = [deployment.now for _ in range(4 * 120) if any(deployment.tick().values())]
    assert [moment for moment in ran if moment.minute == 0 and moment.second == 0] == [
        BEGUN + timedelta(hours=hours) for hours in (1, 2, 3, 4)
    ]


def test_the_end_of_a_job_is_noticed_at_the_next_tick_of_the_process(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment.client.put(keys.SCHEDULES, NIGHTLY.replace("30 2 * * *", "0 * * * *"))
    deployment.schedulers[1] = deployment.schedulers[0]
    deployment.run(4)
    monkeypatch.setattr(deployment.client.ledger, "once_in", lambda *_: False)  # other processes read the bucket
    while not deployment.run(1):
        pass
    deployment.run(2)
    state = State.from_json(deployment.client.buckets.main.get(keys.schedule_state("nightly")).data)
    assert (state.current, len(state.history)) == (None, 1)


def test_a_change_of_the_schedules_is_noticed_within_two_ticks(deployment: Deployment) -> None:
    deployment.run(60)
    deployment.client.put(keys.SCHEDULES, NIGHTLY)
    found = [deployment.tick() for _ in range(2)]
    assert any("nightly" in ticked for ticked in found)


def test_schedules_in_force_that_were_replaced_are_put_in_force_again(deployment: Deployment) -> None:
    deployment.client.put(keys.SCHEDULES, NIGHTLY)
    deployment.run(4)
    main = deployment.client.buckets.main
    good = main.get(keys.SCHEDULES_IN_FORCE).data
    main.put(keys.SCHEDULES_IN_FORCE, b'{"source": "of an older worker", "tables": {}, "faults": []}')
    deployment.run(30)
    assert main.get(keys.SCHEDULES_IN_FORCE).data == good


def test_every_tick_reads_the_bucket_if_redis_does_not_answer(
    deployment: Deployment, requests: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment.run(4)

    def unavailable(*_: object) -> bool:
        raise LedgerUnavailable("Redis does not answer")

    monkeypatch.setattr(deployment.client.ledger, "once_in", unavailable)
    requests.clear()
    deployment.run(10)
    assert requests["get"] >= 10


def test_a_slot_of_one_of_many_schedules_is_run_at_the_tick_after_it(deployment: Deployment) -> None:
    hourly = NIGHTLY.replace("[nightly]", "[hourly]").replace("30 2 * * *", "0 * * * *")
    deployment.client.put(keys.SCHEDULES, FIVE + hourly)
    ran = [deployment.now for _ in range(4 * 120) if any(deployment.tick().values())]
    assert [moment for moment in ran if moment.minute == 0 and moment.second == 0] == [
        BEGUN + timedelta(hours=hours) for hours in (1, 2, 3, 4)
    ]


def test_a_slot_that_a_user_asks_for_is_noticed_within_two_ticks(deployment: Deployment) -> None:
    deployment.client.put(keys.SCHEDULES, FIVE)
    deployment.run(60)
    main, key = deployment.client.buckets.main, keys.schedule_state("nightly-3")
    state = State.from_json(main.get(key).data)
    main.put(key, replace(state, asked=("2026-11-20T01:30:00+00:00",)).to_json())
    assert any("submitted" in done for done in deployment.run(2))


def test_a_schedule_that_was_changed_is_run_by_its_new_slots(deployment: Deployment) -> None:
    deployment.client.put(keys.SCHEDULES, FIVE)
    deployment.run(60)
    deployment.client.put(keys.SCHEDULES, FIVE.replace("30 2 * * *", "* * * * *"))
    assert sum("submitted" in done for done in deployment.run(6)) >= 5


def test_the_state_of_each_schedule_is_read_if_it_was_deleted(deployment: Deployment) -> None:
    deployment.client.put(keys.SCHEDULES, FIVE)
    deployment.run(60)
    main, key = deployment.client.buckets.main, keys.schedule_state("nightly-3")
    main.delete(key)
    deployment.run(4)
    assert State.from_json(main.get(key).data).is_idle
