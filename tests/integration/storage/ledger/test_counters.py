"""Counters count each event once; tests of Redis alone have "redis" in their names."""

from __future__ import annotations

import secrets
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis

from scoreline.storage import keys
from scoreline.storage.errors import LedgerUnavailable
from scoreline.storage.ledger.base import Ledger, Recovered
from scoreline.storage.ledger.counters import MAX_MODELS, MAX_PACES, OTHER_MODELS, Counters
from scoreline.storage.ledger.memory_ledger import MemoryLedger
from scoreline.storage.ledger.redis_ledger import RedisLedger
from scoreline.storage.models.manifest import PinnedModel
from scoreline.storage.objects.buckets import Buckets
from scoreline.tasks.dispatch.dispatcher import Dispatcher
from scoreline.tasks.dispatch.outcome import end_job
from scoreline.tasks.job.documents import Job, Outcome
from scoreline.tasks.job.spec import JobSpec
from scoreline.tasks.steps import score_part as parts
from scoreline.tasks.steps.engine import Engine
from scoreline.worker.dev.stack import Stack


@pytest.fixture
def redis_ledger(stack: Stack) -> RedisLedger:
    return RedisLedger(stack.environ["REDIS_URL"], namespace=f"bucket-{secrets.token_hex(4)}")


@pytest.fixture(params=["redis", "memory"])
def ledger(request: pytest.FixtureRequest) -> Ledger:
    if request.param == "memory":
        return MemoryLedger()
    ledger: RedisLedger = request.getfixturevalue("redis_ledger")
    return ledger


@pytest.fixture
def counters(ledger: Ledger) -> Counters:
    return ledger.counters


def part(
    counters: Counters, rows: int = 0, rejected: int = 0, failed: bool = False, seconds: float | None = None
) -> None:
    counters.count_part(rows=rows, rejected=rejected, failed=failed, seconds=seconds)


def test_counters_begin_at_zero_and_add_up(counters: Counters) -> None:
    before = counters.read()
    assert (before.rows, before.parts_scored, before.part_seconds) == (0, 0, 0.0)
    assert before.jobs == {"succeeded": 0, "partial": 0, "failed": 0, "cancelled": 0, "blocked": 0}
    assert before.loads == {}
    part(counters, rows=90, rejected=10, seconds=0.2)
    part(counters, rows=5, seconds=0.3)
    part(counters, failed=True)
    counters.count_job("partial")
    counters.count_load("churn", 1.5)
    counters.count_load("churn", 0.25)
    after = counters.read()
    assert (after.rows, after.rejected, after.parts_scored, after.parts_failed) == (95, 10, 2, 1)
    assert (after.jobs["partial"], after.jobs["failed"]) == (1, 0)
    assert (after.loads["churn"].count, after.loads["churn"].seconds) == (2, 1.75)
    assert after.part_seconds == 0.5
    assert counters.read() == after


@pytest.mark.parametrize(
    ("seconds", "bound"), [(0.0, 0.1), (0.1, 0.1), (0.100001, 0.25), (600.0, 600.0), (601.0, float("inf"))]
)
def test_a_part_counts_in_every_bucket_of_the_histogram_from_its_duration_on(
    counters: Counters, seconds: float, bound: float
) -> None:
    part(counters, seconds=seconds)
    assert [at for at, count in counters.read().part_buckets if count] == [
        at for at, _ in counters.read().part_buckets if at >= bound
    ]


def test_a_part_that_was_found_written_has_no_duration(counters: Counters) -> None:
    part(counters, rows=7)
    found = counters.read()
    assert (found.parts_scored, found.rows, found.part_buckets[-1][1]) == (1, 7, 0)


def test_ten_threads_that_count_at_once_lose_no_count(counters: Counters) -> None:
    with ThreadPoolExecutor(10) as pool:
        list(pool.map(lambda number: part(counters, rows=number, seconds=0.5), range(200)))
    found = counters.read()
    assert (found.rows, found.parts_scored, found.part_seconds) == (19_900, 200, 100.0)


def test_models_beyond_a_hundred_are_added_up_under_one_name(counters: Counters) -> None:
    for number in range(MAX_MODELS + 3):
        counters.count_load(f"model-{number}", 1.0)
    counters.count_load("model-0", 1.0)
    loads = counters.read().loads
    assert len(loads) == MAX_MODELS + 1
    assert (loads["model-0"].count, loads[OTHER_MODELS].count, loads[OTHER_MODELS].seconds) == (2, 3, 3.0)


def test_two_deployments_that_share_a_redis_count_apart(stack: Stack, redis_ledger: RedisLedger) -> None:
    part(redis_ledger.counters, rows=1)
    other = RedisLedger(stack.environ["REDIS_URL"], namespace=f"bucket-{secrets.token_hex(4)}")
    assert other.counters.read().rows == 0


def test_without_redis_counting_does_nothing_and_reading_raises_an_error() -> None:
    counters = RedisLedger("redis://127.0.0.1:9/0", namespace="bucket").counters
    part(counters, rows=1)
    counters.count_load("churn", 1.0)
    with pytest.raises(LedgerUnavailable):
        counters.read()


def test_a_part_costs_redis_one_command(stack: Stack, redis_ledger: RedisLedger) -> None:
    counters = redis_ledger.counters
    with redis.Redis.from_url(stack.environ["REDIS_URL"]) as connection:
        before = connection.info("commandstats")["cmdstat_bitfield"]["calls"] if counters.read() else 0
        part(counters, rows=1, rejected=1, seconds=0.1)
        assert connection.info("commandstats")["cmdstat_bitfield"]["calls"] == before + 1


@pytest.mark.parametrize("again", ["done", "recovered", "closed"])
def test_only_the_call_that_counts_a_part_learns_so(ledger: Ledger, again: str) -> None:
    recovered = Recovered(done=frozenset({0}), rows=1, rejected=0) if again == "recovered" else None
    ledger.begin("job", "p", 2, budget=0, recovered=recovered)
    ledger.dispatch("job", "p", window=2)
    if again == "done":
        assert ledger.complete("job", "p", 0, rows=1, rejected=0).counted
    if again == "closed":
        ledger.close("job")
    assert not ledger.complete("job", "p", 0, rows=1, rejected=0).counted


def test_a_part_is_counted_by_the_call_that_completes_it(ledger: Ledger) -> None:
    ledger.begin("job", "p", 2, budget=9)
    for part_number, failure, seconds in ((0, "", 0.2), (0, "", 0.2), (1, "why", None)):
        ledger.complete("job", "p", part_number, rows=90, rejected=1, failure=failure, seconds=seconds)
    found = ledger.counters.read()
    assert (found.parts_scored, found.parts_failed, found.rows, found.rejected) == (1, 1, 180, 2)
    assert (found.part_buckets[-1][1], found.part_seconds) == (1, 0.2)


def test_a_part_is_completed_in_redis_even_if_its_counters_cannot_be_changed(
    stack: Stack, redis_ledger: RedisLedger, caplog: pytest.LogCaptureFixture
) -> None:
    redis_ledger.begin("job", "p", 3, budget=0)
    redis_ledger.dispatch("job", "p", window=1)
    with redis.Redis.from_url(stack.environ["REDIS_URL"]) as connection:
        connection.hset(redis_ledger.counters.key, "not", "a bitfield")
    done = redis_ledger.complete("job", "p", 0, rows=1, rejected=0)
    assert (done.counted, done.next_part) == (True, 1)
    lost = {record.message: vars(record).get("error", "") for record in caplog.records}
    assert "WRONGTYPE" in lost["counters.lost"]


class Planned(Engine):
    """An engine that reads no plan from the bucket."""

    def documents(self, job_id: str, *, fresh: bool = False) -> Any:
        return SimpleNamespace(plan=SimpleNamespace(sha256="p"))


def test_a_part_that_is_delivered_twice_counts_once(ledger: Ledger, tmp_path: Path) -> None:
    sent: list[int] = []
    unused: Any = None
    buckets = Buckets.from_env({"ENVIRONMENT": "development", "STORE_DIR": str(tmp_path)})
    engine = Planned(buckets=buckets, models=unused, ledger=ledger, send=lambda name, job_id, part: sent.append(part))
    ledger.begin("job", "p", 9, budget=5)
    ledger.dispatch("job", "p", window=2)
    for _ in range(2):
        parts.count_part(engine, "job", 0, rows=90, rejected=1, seconds=0.5)
    for _ in range(2):
        parts.count_part(engine, "job", 1, failure="why")
    found = ledger.counters.read()
    assert (found.parts_scored, found.parts_failed, found.rows, found.rejected) == (1, 1, 90, 1)
    assert (found.part_buckets[-1][1], found.part_seconds) == (1, 0.5)
    assert sent == [2, 3]


def test_a_job_is_counted_by_the_process_that_writes_its_outcome(ledger: Ledger, tmp_path: Path) -> None:
    reported: list[tuple[str, str]] = []
    dispatcher = Dispatcher(
        buckets=Buckets.from_env({"ENVIRONMENT": "development", "STORE_DIR": str(tmp_path)}),
        ledger=ledger,
        send=lambda name, **_: None,
        on_fault=lambda error, job_id: reported.append((job_id, str(error))),
    )
    job = "job-1"
    spec = JobSpec(job_id=job, model="m", inputs=("s3://scoreline/in/",), output="s3://scoreline/out/")
    pinned = PinnedModel(name="m", version="20261101T120000Z-0a1b2", manifest_sha256="0" * 64)
    written = Job(spec=spec, model=pinned, submitted="2026-11-01T12:00:00+00:00")
    dispatcher.buckets.main.put(keys.job(job), written.to_json())

    def since() -> dict[str, int]:
        return {state: count for state, count in ledger.counters.read().jobs.items() if count}

    end_job(dispatcher, job, Outcome(state="cancelled", failures={}))
    end_job(dispatcher, job, Outcome(state="failed", error="too late", failures={}))
    assert (since(), reported) == ({"cancelled": 1}, [])
    # And the outcome of a later run is counted separately
    end_job(dispatcher, job, Outcome(state="failed", error="why", failures={}, run=2))
    end_job(dispatcher, job, Outcome(state="failed", error="why", failures={}, run=2))
    assert (since(), reported) == ({"cancelled": 1, "failed": 1}, [(job, "why")])


def test_the_pace_of_a_model_is_that_of_its_last_job(counters: Counters) -> None:
    assert counters.pace("churn default") is None
    counters.note_pace("churn default", 1234.5)
    counters.note_pace("churn default", 4321.0)
    assert counters.pace("churn default") == 4321.0
    assert counters.pace("fraud default") is None
    for wrong in (float("nan"), float("inf"), 0.0, -1.0):
        counters.note_pace("odd default", wrong)
        assert counters.pace("odd default") is None
    assert counters.paces(["churn default", "fraud default", "odd default"]) == {"churn default": 4321.0}
    assert counters.paces([]) == {}


def test_all_paces_are_dropped_when_there_are_too_many(counters: Counters) -> None:
    for number in range(MAX_PACES):
        counters.note_pace(f"model-{number} default", 1.0)
    counters.note_pace("model-0 default", 2.0)  # this call replaces a known pace
    assert (counters.pace("model-0 default"), counters.pace("model-1 default")) == (2.0, 1.0)
    counters.note_pace("one more default", 3.0)
    assert (counters.pace("model-0 default"), counters.pace("one more default")) == (None, 3.0)
