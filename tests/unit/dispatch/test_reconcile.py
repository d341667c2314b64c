"""A round of the reconciler needs few requests, and finds each job that has stalled."""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from sklearn.linear_model import LinearRegression

from scoreline import testing
from scoreline.storage import keys
from scoreline.storage.errors import StoreUnavailable
from scoreline.storage.ledger.base import PartLease
from scoreline.storage.ledger.memory_ledger import MemoryLedger
from scoreline.storage.ledger.watchlist import THOROUGH_S
from scoreline.storage.objects.directory import DirectoryStore
from scoreline.tasks.dispatch import reconcile as reconciling
from scoreline.tasks.dispatch.dispatcher import Dispatcher
from scoreline.tasks.dispatch.reconcile import LIST_EVERY, reconcile, reconcile_due
from scoreline.tasks.job.submit_options import SubmitOptions
from scoreline.testing import EagerClient, eager
from tests.support.waiting import HANG_S

X = pd.DataFrame({"x": [0.0, 1.0]})
ROUND_S = 60.0


class Clock:
    """A clock that stands still until a test advances it."""

    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def client(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Iterator[EagerClient]:
    """A client whose messages are not delivered, so that its jobs wait."""
    monkeypatch.setattr(testing, "MemoryLedger", partial(MemoryLedger, clock=clock))
    with eager(tmp_path, run=False) as client:
        client.models.publish("line", LinearRegression().fit(X, [1.0, 3.0]))
        yield client


@pytest.fixture
def dispatcher(client: EagerClient) -> Dispatcher:
    return client.submission.dispatcher


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count the requests to the bucket."""
    counts: Counter[str] = Counter()

    def counted(name: str) -> Callable[..., Any]:
        method = getattr(DirectoryStore, name)

        def call(self: DirectoryStore, *arguments: Any, **options: Any) -> Any:
            counts[name] += 1
            return method(self, *arguments, **options)

        return call

    for name in ("get", "head", "put", "list", "delete"):
        monkeypatch.setattr(DirectoryStore, name, counted(name))
    return counts


def submit(client: EagerClient, jobs: int) -> list[str]:
    uri = client.put("in/a.parquet", X)
    return [client.submit("line", uri, job_id=f"job-{n:03d}").job_id for n in range(jobs)]


def score_for_ever(client: EagerClient, clock: Clock, jobs: list[str]) -> None:
    """Plan jobs of one part each, and give each part a lease that never expires."""
    client.run(len(jobs))
    for job in jobs:
        plan = client.submission.dispatcher.documents(job).plan
        lease = PartLease(job_id=job, plan_sha256=plan.sha256, part=0, holder="busy", lease_s=1e9)
        assert client.ledger.start(lease).to_do == "run"


def test_a_job_whose_parts_are_being_scored_costs_a_few_requests_an_hour(
    client: EagerClient, dispatcher: Dispatcher, clock: Clock, requests: Counter[str]
) -> None:
    jobs = submit(client, 20)
    score_for_ever(client, clock, jobs)
    reconcile_due(dispatcher)
    requests.clear()
    # When the reconciler runs once a minute for an hour
    done: Counter[str] = Counter()
    for _ in range(60):
        clock.now += ROUND_S
        done.update(reconcile_due(dispatcher).keys())
    # Then it has examined each job once, and listed the markers every ten minutes
    assert done == dict.fromkeys(jobs, 1)
    assert requests["list"] == 60 / LIST_EVERY
    assert sum(requests.values()) - requests["list"] <= 6 * len(jobs)
    # And it sends less than a tenth of the requests that examining each job in each round would take
    requests.clear()
    reconcile(dispatcher)
    assert sum(requests.values()) >= 3 * len(jobs)


def test_without_jobs_only_the_listing_is_left(dispatcher: Dispatcher, clock: Clock, requests: Counter[str]) -> None:
    for _ in range(10 * LIST_EVERY):
        assert reconcile_due(dispatcher) == {}
        clock.now += ROUND_S
    assert requests == {"list": 10}


def test_a_job_whose_submitter_died_is_planned_in_the_next_round(
    client: EagerClient, dispatcher: Dispatcher, clock: Clock
) -> None:
    reconcile_due(dispatcher)  # after this listing of markers, the next one is ten minutes away
    uri = client.put("in/a.parquet", X)
    client.submission.accept(client.submission.spec("line", uri, SubmitOptions()))
    clock.now += ROUND_S
    assert list(reconcile_due(dispatcher).values()) == ["planning"]


def test_a_lost_message_is_found_in_the_next_round(client: EagerClient, dispatcher: Dispatcher, clock: Clock) -> None:
    (job,) = submit(client, 1)
    client.run(1)
    clock.now += ROUND_S
    assert reconcile_due(dispatcher) == {}
    clock.now += ROUND_S  # now the message has waited as long as the ledger allows
    assert reconcile_due(dispatcher) == {job: "dispatched 1"}


def test_an_emptied_ledger_is_rebuilt_in_the_next_round(
    client: EagerClient, dispatcher: Dispatcher, clock: Clock
) -> None:
    jobs = submit(client, 3)
    client.run(3)
    reconcile_due(dispatcher)
    emptied = replace(dispatcher, ledger=MemoryLedger(clock=clock))
    assert reconcile_due(emptied) == dict.fromkeys(jobs, "dispatched 1")


def fail(*_: object, **__: object) -> None:
    raise StoreUnavailable("down")


def test_a_listing_that_fails_is_tried_again_in_the_next_round(
    client: EagerClient, dispatcher: Dispatcher, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    (job,) = submit(client, 1)
    emptied = replace(dispatcher, ledger=MemoryLedger(clock=clock))
    with monkeypatch.context() as broken:
        broken.setattr(DirectoryStore, "list", fail)
        with pytest.raises(StoreUnavailable):
            reconcile_due(emptied)
    assert reconcile_due(emptied) == {job: "planning"}


def test_a_job_that_ended_is_no_longer_looked_at(client: EagerClient, dispatcher: Dispatcher, clock: Clock) -> None:
    submit(client, 3)
    client.run()
    clock.now += ROUND_S
    assert list(dispatcher.ledger.watchlist.take(9, 1)) == []


def test_a_job_that_cannot_be_reconciled_is_tried_less_often_and_other_jobs_go_on(
    client: EagerClient, dispatcher: Dispatcher, clock: Clock, requests: Counter[str]
) -> None:
    broken, sound = submit(client, 2)
    client.buckets.main.put(keys.job(broken), b"{")
    emptied = replace(dispatcher, ledger=MemoryLedger(clock=clock))
    done = reconcile_due(emptied)
    assert (done[broken].startswith("failed: "), done[sound]) == (True, "planning")
    tries = 0
    for _ in range(3 * LIST_EVERY):
        clock.now += ROUND_S
        tries += broken in reconcile_due(emptied)
    assert tries == 3


def test_a_marker_without_a_job_costs_little_and_goes_when_its_marker_does(
    client: EagerClient, dispatcher: Dispatcher, clock: Clock, requests: Counter[str]
) -> None:
    dispatcher.mark_active("orphan")
    assert reconcile_due(dispatcher) == {"orphan": "submitting"}
    requests.clear()
    for _ in range(LIST_EVERY - 1):
        clock.now += ROUND_S
        assert reconcile_due(dispatcher) == {}
    assert not requests
    client.buckets.main.delete(keys.active("orphan"))
    clock.now += ROUND_S
    assert reconcile_due(dispatcher) == {"orphan": "submitting"}
    clock.now += 99 * ROUND_S
    assert reconcile_due(dispatcher) == {}


def test_no_round_begins_while_another_runs_however_long_that_takes(
    client: EagerClient, dispatcher: Dispatcher, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a round of the reconciler that hangs at a job
    jobs = submit(client, 2)
    hurried = replace(dispatcher, lease_s=0.03)
    begun, go_on, renewed = threading.Event(), threading.Event(), threading.Event()
    real, watchlist = reconciling.reconcile_job, dispatcher.ledger.watchlist
    renewals = itertools.count()
    lock = watchlist.lock

    def hang(dispatcher: Dispatcher, job_id: str, **_: bool) -> str:
        if begun.is_set():
            return real(dispatcher, job_id)
        begun.set()
        assert go_on.wait(HANG_S)
        return real(dispatcher, job_id)

    def count(what: str, holder: str, seconds: float) -> bool:
        if next(renewals) > 9:
            renewed.set()
        return lock(what, holder, seconds)

    monkeypatch.setattr(reconciling, "reconcile_job", hang)
    monkeypatch.setattr(watchlist, "lock", count)
    clock.now += 999
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(reconcile_due, hurried)
        assert begun.wait(HANG_S)
        # When so much time passes that the round's lock would have expired if it were not renewed
        for _ in range(9):
            renewed.clear()
            clock.now += 0.02
            assert renewed.wait(HANG_S)
        # Then no second round begins, although another job is due
        watchlist.add(["orphan"])
        assert reconcile_due(hurried) == {}
        go_on.set()
        assert set(first.result(HANG_S)) == {*jobs, "orphan"}
    # And the next round begins after the first has ended
    clock.now += 999
    assert set(reconcile_due(hurried)) == set(jobs)


def test_a_round_that_takes_too_long_ends_and_the_next_one_continues(
    client: EagerClient, dispatcher: Dispatcher, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given 30 jobs without a ledger, each of which takes the reconciler eight seconds
    jobs = submit(client, 30)
    emptied = replace(dispatcher, ledger=MemoryLedger(clock=clock, patience_s=999))
    real = reconciling.reconcile_job

    def slowly(dispatcher: Dispatcher, job_id: str, **_: bool) -> str:
        clock.now += 8
        return real(dispatcher, job_id)

    monkeypatch.setattr(reconciling, "reconcile_job", slowly)
    # When the reconciler runs several rounds
    rounds: list[list[str]] = []
    while len([job for done in rounds for job in done]) < len(jobs):
        rounds.append(list(reconcile_due(emptied, clock=clock)))
        clock.now += 1
    # Then each round stops after half of its period, and every job was reconciled once
    assert [len(done) for done in rounds] == [4] * 7 + [2]
    assert sorted(job for done in rounds for job in done) == jobs


def test_a_job_that_a_round_does_not_reach_is_looked_at_in_the_next_one(
    client: EagerClient, dispatcher: Dispatcher, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given jobs that are due for their hourly comparison with the bucket; each comparison takes eight seconds
    jobs = submit(client, 10)
    score_for_ever(client, clock, jobs)
    reconcile_due(dispatcher)
    clock.now += THOROUGH_S
    real = reconciling.reconcile_job

    def slowly(dispatcher: Dispatcher, job_id: str, **_: bool) -> str:
        clock.now += 8
        return real(dispatcher, job_id)

    monkeypatch.setattr(reconciling, "reconcile_job", slowly)
    # When the reconciler runs three rounds
    rounds = []
    for _ in range(3):
        rounds.append(list(reconcile_due(dispatcher, clock=clock)))
        clock.now += ROUND_S - 30
    # Then each job was examined once
    assert sorted(job for done in rounds for job in done) == jobs
    assert [len(done) for done in rounds] == [4, 4, 2]


@pytest.mark.parametrize(
    ("messages", "done"), [(1_000, "waiting"), (0, "dispatched 1"), (None, "dispatched 1"), (8, "dispatched 1")]
)
def test_no_message_is_sent_again_while_the_queue_is_long(
    client: EagerClient, dispatcher: Dispatcher, clock: Clock, messages: int | None, done: str
) -> None:
    (job,) = submit(client, 1)
    client.run(1)
    clock.now += 3_600
    counting = replace(dispatcher, count_messages=lambda: messages)
    assert reconcile_due(counting) == {job: done}
    # A part whose process died is sent again in any case
    plan = dispatcher.documents(job).plan
    client.ledger.start(PartLease(job_id=job, plan_sha256=plan.sha256, part=0, holder="died", lease_s=60))
    clock.now += 3_600
    assert reconcile_due(counting) == {job: "dispatched 1"}


def test_a_look_at_the_bucket_that_fails_is_tried_again_in_the_next_round(
    client: EagerClient, dispatcher: Dispatcher, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    (job,) = jobs = submit(client, 1)
    score_for_ever(client, clock, jobs)
    reconcile_due(dispatcher)
    clock.now += THOROUGH_S
    with monkeypatch.context() as broken:
        broken.setattr(reconciling, "reconcile_job", fail)
        assert reconcile_due(dispatcher) == {job: "failed: down"}
    clock.now += ROUND_S
    assert reconcile_due(dispatcher) == {job: "waiting"}
    clock.now += ROUND_S
    assert reconcile_due(dispatcher) == {}
