from __future__ import annotations

import random
import secrets
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis

from scoreline.storage.errors import LedgerFenced, LedgerLost, LedgerUnavailable
from scoreline.storage.ledger.base import Recovered
from scoreline.storage.ledger.redis_ledger import LIFE_AFTER_OUTCOME_S, LIFE_S, MAX_FAILED_PARTS, RedisLedger
from scoreline.worker.dev.stack import Stack

LEASE_S = 60


@pytest.fixture
def open_ledger(stack: Stack) -> Callable[..., RedisLedger]:
    def make(patience_s: float = 60) -> RedisLedger:
        return RedisLedger(stack.environ["REDIS_URL"], namespace="bucket", patience_s=patience_s)

    return make


@pytest.fixture
def ledger(open_ledger: Callable[..., RedisLedger]) -> RedisLedger:
    return open_ledger()


@pytest.fixture
def job() -> str:
    return f"job-{secrets.token_hex(4)}"


def test_a_window_is_dispatched_and_each_completion_is_given_one_more(ledger: RedisLedger, job: str) -> None:
    assert ledger.begin(job, "p", 4, budget=9)
    assert ledger.dispatch(job, "p", window=2).parts == (0, 1)
    assert ledger.complete(job, "p", 0, rows=5, rejected=1).next_part == 2
    assert ledger.complete(job, "p", 1, rows=5, rejected=0).next_part == 3
    assert ledger.complete(job, "p", 2, rows=5, rejected=0).next_part is None
    assert ledger.complete(job, "p", 3, rows=0, rejected=0, failure="why").all_done
    progress = ledger.progress(job)
    assert progress is not None
    assert (progress.rows, progress.rejected, progress.parts_done, progress.failures) == (15, 1, 4, {3: "why"})
    assert (progress.in_flight, progress.all_done) == (0, True)


def test_a_part_counts_once_and_dispatches_once(ledger: RedisLedger, job: str) -> None:
    ledger.begin(job, "p", 5, budget=0)
    ledger.dispatch(job, "p", window=1)
    assert ledger.complete(job, "p", 0, rows=5, rejected=0).next_part == 1
    assert ledger.complete(job, "p", 0, rows=5, rejected=0).next_part is None
    progress = ledger.progress(job)
    assert progress is not None
    assert (progress.rows, progress.parts_done, progress.in_flight) == (5, 1, 1)


def test_ten_who_dispatch_at_once_are_given_each_part_once(open_ledger: Callable[..., RedisLedger], job: str) -> None:
    open_ledger().begin(job, "p", 100, budget=0)
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda _: open_ledger().dispatch(job, "p", window=40).parts, range(10)))
    assert sorted(part for parts in answers for part in parts) == list(range(40))


def test_what_got_lost_is_dispatched_again_and_waited_for_twice_as_long(
    open_ledger: Callable[..., RedisLedger], job: str
) -> None:
    hasty = open_ledger(patience_s=0.2)
    hasty.begin(job, "p", 9, budget=0)
    assert hasty.dispatch(job, "p", window=2).parts == (0, 1)
    assert hasty.start(job, "p", 1, "m1", LEASE_S).to_do == "run"
    assert hasty.dispatch(job, "p", window=2).parts == ()
    time.sleep(0.25)
    assert hasty.dispatch(job, "p", window=2).parts == (0,)  # 1 is leased
    time.sleep(0.25)
    assert hasty.dispatch(job, "p", window=2).parts == ()  # for 0.4 s now
    time.sleep(0.2)
    assert hasty.dispatch(job, "p", window=2).parts == (0,)


def test_a_wider_window_is_filled(ledger: RedisLedger, job: str) -> None:
    ledger.begin(job, "p", 9, budget=0)
    ledger.dispatch(job, "p", window=2)
    assert ledger.dispatch(job, "p", window=5).parts == (2, 3, 4)


def test_a_lease_keeps_others_out_until_it_ends_and_lets_its_own_message_in(ledger: RedisLedger, job: str) -> None:
    ledger.begin(job, "p", 1, budget=0)
    ledger.dispatch(job, "p", window=1)
    assert ledger.start(job, "p", 0, "m1", 0.3).attempt == 1
    assert ledger.start(job, "p", 0, "m2", LEASE_S).to_do == "busy"
    assert ledger.start(job, "p", 0, "m1", 0.3).attempt == 2
    assert ledger.renew(job, "p", 0, "m1", 0.3)
    assert not ledger.renew(job, "p", 0, "m2", 0.3)
    time.sleep(0.35)
    taken = ledger.start(job, "p", 0, "m2", LEASE_S)
    assert (taken.to_do, taken.attempt, taken.result_may_exist) == ("run", 3, True)


def test_attempts_count_but_for_transient_ends(ledger: RedisLedger, job: str) -> None:
    ledger.begin(job, "p", 1, budget=0)
    ledger.dispatch(job, "p", window=1)
    assert ledger.start(job, "p", 0, "m", LEASE_S).attempt == 1
    ledger.release(job, "p", 0, "m")
    assert ledger.start(job, "p", 0, "m", LEASE_S).attempt == 1
    assert ledger.start(job, "p", 0, "m", LEASE_S).attempt == 2


def test_a_transient_end_is_no_attempt_though_it_could_not_be_told(ledger: RedisLedger, job: str) -> None:
    ledger.begin(job, "p", 1, budget=0)
    ledger.dispatch(job, "p", window=1)
    assert ledger.start(job, "p", 0, "m", LEASE_S).attempt == 1
    assert ledger.start(job, "p", 0, "m", LEASE_S, is_retry=True).attempt == 1
    assert ledger.start(job, "p", 0, "m", LEASE_S).attempt == 2
    ledger.release(job, "p", 0, "m")
    assert ledger.start(job, "p", 0, "m", LEASE_S, is_retry=True).attempt == 2


def test_a_window_of_thousands_is_dispatched(ledger: RedisLedger, job: str) -> None:
    ledger.begin(job, "p", 20_000, budget=0)
    assert len(ledger.dispatch(job, "p", window=9_000).parts) == 9_000


def test_a_part_counted_out_of_turn_leaves_no_gap_in_the_window(ledger: RedisLedger, job: str) -> None:
    ledger.begin(job, "p", 12, budget=0)
    given = list(ledger.dispatch(job, "p", window=2).parts)
    for part in (2, 3, 5):  # scored for a ledger that Redis has lost since
        given += [n for n in [ledger.complete(job, "p", part, rows=1, rejected=0).next_part] if n is not None]
    for part in given:
        if (further := ledger.complete(job, "p", part, rows=1, rejected=0).next_part) is not None:
            given.append(further)
    progress = ledger.progress(job)
    assert progress is not None
    assert (progress.all_done, progress.in_flight, progress.rows) == (True, 0, 12)
    assert len(given) == len(set(given))


def test_messages_out_of_turn_are_told_so(ledger: RedisLedger, job: str) -> None:
    ledger.begin(job, "p", 3, budget=0)
    ledger.dispatch(job, "p", window=1)
    assert ledger.start(job, "p", 2, "m", LEASE_S).to_do == "unknown"
    ledger.complete(job, "p", 0, rows=1, rejected=0)
    assert ledger.start(job, "p", 0, "m", LEASE_S).to_do == "done"
    ledger.close(job)
    assert ledger.start(job, "p", 1, "m", LEASE_S).to_do == "stopped"
    assert ledger.stopped(job)


def test_a_ledger_opened_from_the_bucket_dispatches_only_what_is_missing(ledger: RedisLedger, job: str) -> None:
    done = frozenset({0, 1, 2, 5, 8, 63, 64})
    assert ledger.begin(job, "p", 66, budget=9, recovered=Recovered(done=done, rows=70, rejected=3))
    assert not ledger.begin(job, "p", 66, budget=9)
    assert ledger.dispatch(job, "p", window=4).parts == (3, 4, 6, 7)
    assert ledger.start(job, "p", 3, "m", LEASE_S).result_may_exist
    given = [3, 4, 6, 7]
    for part in given:
        if (further := ledger.complete(job, "p", part, rows=10, rejected=0).next_part) is not None:
            given.append(further)
    assert sorted(given) == sorted(set(range(66)) - done)
    progress = ledger.progress(job)
    assert progress is not None
    assert (progress.rows, progress.rejected, progress.all_done) == (70 + 10 * len(given), 3, True)


@pytest.mark.parametrize("seed", range(5))
def test_whatever_the_order_of_events_each_part_is_counted_once(ledger: RedisLedger, job: str, seed: int) -> None:
    chance = random.Random(seed)
    done = frozenset(part for part in range(40) if chance.random() < 0.3)
    ledger.begin(job, "p", 40, budget=0, recovered=Recovered(done=done, rows=len(done), rejected=0))
    queue: list[int] = []
    for _ in range(2_000):
        event = chance.random()
        if event < 0.1 or not queue:
            queue += ledger.dispatch(job, "p", window=chance.randrange(1, 9)).parts
        elif event < 0.2:
            queue.append(chance.choice(queue))  # delivered twice
        elif event < 0.6:
            ledger.start(job, "p", chance.choice(queue), f"m{chance.randrange(3)}", LEASE_S)
        else:
            answer = ledger.complete(job, "p", queue.pop(chance.randrange(len(queue))), rows=1, rejected=0)
            if answer.next_part is not None:
                queue.append(answer.next_part)
            if answer.all_done:
                break
    progress = ledger.progress(job)
    assert progress is not None
    assert (progress.parts_done, progress.rows, progress.in_flight) == (40, 40, 0)


@pytest.mark.parametrize("why", ["budget", "failures"])
def test_a_job_stops_when_too_much_went_wrong(ledger: RedisLedger, job: str, why: str) -> None:
    ledger.begin(job, "p", 2 * MAX_FAILED_PARTS, budget=10)
    ledger.dispatch(job, "p", window=3)
    for part in range(2 * MAX_FAILED_PARTS):
        if why == "budget":
            answer = ledger.complete(job, "p", part, rows=1, rejected=4)
        else:
            answer = ledger.complete(job, "p", part, rows=0, rejected=0, failure="no")
        if answer.stopped:
            break
    assert (answer.stopped, answer.next_part) == (why, None)
    assert part == (2 if why == "budget" else MAX_FAILED_PARTS - 1)
    assert ledger.dispatch(job, "p", window=9).parts == ()


def test_another_plan_is_fenced_off(ledger: RedisLedger, job: str) -> None:
    ledger.begin(job, "p", 1, budget=0)
    for use in (
        lambda: ledger.begin(job, "q", 1, budget=0),
        lambda: ledger.dispatch(job, "q", window=1),
        lambda: ledger.start(job, "q", 0, "m", LEASE_S),
        lambda: ledger.complete(job, "q", 0, rows=1, rejected=0),
    ):
        with pytest.raises(LedgerFenced):
            use()


def test_an_emptied_redis_is_told_from_another_plan(ledger: RedisLedger, job: str) -> None:
    for use in (
        lambda: ledger.dispatch(job, "p", window=1),
        lambda: ledger.start(job, "p", 0, "m", LEASE_S),
        lambda: ledger.complete(job, "p", 0, rows=1, rejected=0),
    ):
        with pytest.raises(LedgerLost):
            use()
    ledger.close(job)
    assert ledger.progress(job) is None


def test_a_step_is_claimed_by_one_and_sent_again_after_twice_the_time(
    open_ledger: Callable[..., RedisLedger], job: str
) -> None:
    hasty = open_ledger(patience_s=0.2)
    assert hasty.claim_step(job, "plan")
    assert not hasty.claim_step(job, "plan")
    time.sleep(0.25)
    assert hasty.claim_step(job, "plan")
    time.sleep(0.25)
    assert not hasty.claim_step(job, "plan")  # for 0.4 s now
    assert hasty.claim_step(job, "finalize")
    hasty.end_step(job, "plan")
    assert hasty.claim_step(job, "plan")
    hasty.forget(job)
    assert hasty.claim_step(job, "plan")


def test_a_step_that_is_worked_on_is_not_sent_again_and_its_deaths_are_counted(ledger: RedisLedger, job: str) -> None:
    assert ledger.begin_step(job, "plan", 0.2) == 1
    ledger.renew_step(job, "plan", 60)
    time.sleep(0.25)
    assert not ledger.claim_step(job, "plan")
    assert ledger.begin_step(job, "plan", 60) == 2  # the first never ended
    ledger.end_step(job, "plan", will_retry=True)
    assert ledger.begin_step(job, "plan", 60) == 2
    ledger.end_step(job, "plan")
    assert ledger.begin_step(job, "plan", 60) == 1


def test_the_first_of_many_is_told_so(ledger: RedisLedger, job: str) -> None:
    with ThreadPoolExecutor(10) as pool:
        assert sum(pool.map(lambda _: ledger.once_in(job, 60), range(10))) == 1


@pytest.mark.parametrize("counted_before_the_end", [True, False])
def test_a_job_keeps_one_slot_of_a_cluster_and_fades_after_its_outcome(
    stack: Stack, ledger: RedisLedger, job: str, counted_before_the_end: bool
) -> None:
    ledger.begin(job, "p", 4, budget=0)
    ledger.dispatch(job, "p", window=2)
    ledger.claim_step(job, "finalize")
    if counted_before_the_end:
        ledger.complete(job, "p", 0, rows=0, rejected=0, failure="no")
    ledger.close(job)
    ledger.complete(job, "p", 1, rows=0, rejected=0, failure="no")
    with redis.Redis.from_url(stack.environ["REDIS_URL"], decode_responses=True) as connection:
        keys = list(connection.scan_iter(f"*{job}*"))
        assert len(keys) == (4 if counted_before_the_end else 2)
        assert {key.partition("}")[0] for key in keys} == {f"scoreline:{{bucket/{job}"}  # one hash tag
        lives = {key.rpartition(":")[2]: connection.ttl(key) for key in keys}
        assert 0 < lives.pop("steps") <= LIFE_S
        assert all(0 < life <= LIFE_AFTER_OUTCOME_S for life in lives.values())


def test_two_buckets_share_a_redis(stack: Stack, ledger: RedisLedger, job: str) -> None:
    other = RedisLedger(stack.environ["REDIS_URL"], namespace="other")
    ledger.begin(job, "p", 1, budget=0)
    assert other.progress(job) is None
    assert other.begin(job, "q", 1, budget=0)


def test_an_unreachable_redis_is_named_within_ten_seconds() -> None:
    started = time.monotonic()
    with pytest.raises(LedgerUnavailable, match=r"127\.0\.0\.1:9"):
        RedisLedger("redis://:hush@127.0.0.1:9/0", namespace="bucket").ping()
    assert time.monotonic() - started < 10
