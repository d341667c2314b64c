from __future__ import annotations

import secrets
import time

import pytest

from storage.errors import LedgerError, LedgerLost, LedgerUnavailable
from storage.ledger.redis_ledger import RedisLedger
from worker.dev.stack import Stack


@pytest.fixture
def ledger(stack: Stack) -> RedisLedger:
    return RedisLedger(stack.environ["REDIS_URL"])


@pytest.fixture
def job() -> str:
    return f"job-{secrets.token_hex(4)}"


def test_a_window_is_dispatched_and_each_completion_is_given_one_more(ledger: RedisLedger, job: str) -> None:
    assert ledger.begin(job, "p", parts=4, window=2) == [0, 1]
    assert ledger.complete(job, "p", 0, rows=5, rejected=1).next_part == 2
    assert ledger.complete(job, "p", 1, rows=5, rejected=0).next_part == 3
    assert ledger.complete(job, "p", 2, rows=5, rejected=0).next_part is None
    assert ledger.complete(job, "p", 3, rows=5, rejected=0, failure="why").all_done
    progress = ledger.progress(job)
    assert progress is not None
    assert (progress.rows, progress.rejected, progress.parts_done, progress.failures) == (20, 1, 4, {3: "why"})


def test_a_part_counts_once_and_dispatches_once(ledger: RedisLedger, job: str) -> None:
    ledger.begin(job, "p", parts=5, window=1)
    assert ledger.complete(job, "p", 0, rows=5, rejected=0).next_part == 1
    assert ledger.complete(job, "p", 0, rows=5, rejected=0).next_part is None
    progress = ledger.progress(job)
    assert progress is not None
    assert (progress.rows, progress.parts_done) == (5, 1)


def test_beginning_again_names_what_is_neither_done_nor_under_way(ledger: RedisLedger, job: str) -> None:
    ledger.begin(job, "p", parts=5, window=3)
    ledger.start(job, "p", 0, lease_s=60)
    ledger.complete(job, "p", 1, rows=1, rejected=0)
    assert ledger.begin(job, "p", parts=5, window=3) == [2, 3]


def test_attempts_count_but_for_transient_ends(ledger: RedisLedger, job: str) -> None:
    ledger.begin(job, "p", parts=1, window=1)
    assert ledger.start(job, "p", 0, 60).attempt == 1
    ledger.release(job, 0)
    assert ledger.start(job, "p", 0, 60).attempt == 1
    assert ledger.start(job, "p", 0, 60).attempt == 2


def test_another_plan_is_fenced_off(ledger: RedisLedger, job: str) -> None:
    ledger.begin(job, "p", parts=1, window=1)
    for use in (
        lambda: ledger.begin(job, "q", 1, 1),
        lambda: ledger.start(job, "q", 0, 60),
        lambda: ledger.complete(job, "q", 0, rows=1, rejected=0),
    ):
        with pytest.raises(LedgerError):
            use()


def test_an_unreachable_redis_is_named_within_ten_seconds() -> None:
    started = time.monotonic()
    with pytest.raises(LedgerUnavailable, match=r"127\.0\.0\.1:9"):
        RedisLedger("redis://:hush@127.0.0.1:9/0").ping()
    assert time.monotonic() - started < 10


def test_an_emptied_redis_is_told_from_another_plan(ledger: RedisLedger, job: str) -> None:
    with pytest.raises(LedgerLost):
        ledger.start(job, "p", 0, 60)
    with pytest.raises(LedgerLost):
        ledger.complete(job, "p", 0, rows=1, rejected=0)
