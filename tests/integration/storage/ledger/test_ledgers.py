"""Every ledger fulfils one contract; tests of a single ledger are at the end."""

from __future__ import annotations

import random
import re
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import FrameType
from typing import Any

import pytest
import redis

from scoreline.storage.errors import LedgerCorrupt, LedgerFenced, LedgerLost, LedgerUnavailable
from scoreline.storage.ledger import memory_ledger
from scoreline.storage.ledger.base import (
    LIFE_AFTER_OUTCOME_S,
    LIFE_S,
    LONGEST_PATIENCE_S,
    MAX_FAILED_PARTS,
    Completed,
    Ledger,
    Recovered,
)
from scoreline.storage.ledger.memory_ledger import MemoryLedger
from scoreline.storage.ledger.redis_ledger import RedisLedger
from scoreline.storage.ledger.watchlist import THOROUGH_S
from scoreline.worker.dev.stack import Stack
from tests.support.ledgers import LEASE_S, PATIENCE_S, Clock, lease


@pytest.fixture(params=["redis", "memory"])
def own_clock(request: pytest.FixtureRequest) -> Callable[[], Ledger]:
    """Return a function that opens the ledger as another process does, with the clock of a real deployment."""
    if request.param == "memory":
        ledger = MemoryLedger(patience_s=PATIENCE_S)
        return lambda: ledger
    stack: Stack = request.getfixturevalue("stack")
    url, bucket = stack.environ["REDIS_URL"], f"bucket-{secrets.token_hex(4)}"
    return lambda: RedisLedger(url, namespace=bucket, patience_s=PATIENCE_S)


@pytest.mark.parametrize("parts", [1, 7, 8, 9, 64, 65])
def test_a_rebuilt_ledger_dispatches_exactly_the_missing_parts(ledger: Ledger, job: str, parts: int) -> None:
    random_ = random.Random(parts)
    for number, share in enumerate((0.0, 0.1, 0.5, 0.9, 1.0)):
        done = frozenset(part for part in range(parts) if random_.random() < share)
        missing = [part for part in range(parts) if part not in done]
        name = f"{job}-{number}"
        ledger.begin(name, "p", parts, budget=0, recovered=Recovered(done=done, rows=len(done), rejected=0))
        sent = list(ledger.dispatch(name, "p", window=2).parts)
        for part in sent:
            following = ledger.complete(name, "p", part, rows=1, rejected=0).next_part
            sent += [] if following is None else [following]
        assert sent == missing
        assert ledger.dispatch(name, "p", window=2).all_done


def test_a_part_that_was_done_out_of_turn_is_passed_over(ledger: Ledger, job: str) -> None:
    ledger.begin(job, "p", 30, budget=0)
    first = ledger.complete(job, "p", 2, rows=1, rejected=0).next_part  # the ledger has few bits yet
    sent = [*([] if first is None else [first]), *ledger.dispatch(job, "p", window=2).parts]
    for part in sent:
        following = ledger.complete(job, "p", part, rows=1, rejected=0).next_part
        sent += [] if following is None else [following]
    assert sent == [part for part in range(30) if part != 2]


def test_a_window_is_dispatched_and_each_completion_is_given_one_more(ledger: Ledger, job: str) -> None:
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


def test_a_part_counts_once_and_dispatches_once(ledger: Ledger, job: str) -> None:
    ledger.begin(job, "p", 5, budget=0)
    ledger.dispatch(job, "p", window=1)
    assert ledger.complete(job, "p", 0, rows=5, rejected=0).next_part == 1
    assert ledger.complete(job, "p", 0, rows=5, rejected=0).next_part is None
    progress = ledger.progress(job)
    assert progress is not None
    assert (progress.rows, progress.parts_done, progress.in_flight) == (5, 1, 1)


def test_ten_threads_that_dispatch_at_once_get_each_part_once(open_ledger: Callable[[], Ledger], job: str) -> None:
    open_ledger().begin(job, "p", 100, budget=0)
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda _: open_ledger().dispatch(job, "p", window=40).parts, range(10)))
    assert sorted(part for parts in answers for part in parts) == list(range(40))


def test_a_lost_part_is_dispatched_again_and_waited_for_twice_as_long(ledger: Ledger, clock: Clock, job: str) -> None:
    ledger.begin(job, "p", 9, budget=0)
    assert ledger.dispatch(job, "p", window=2).parts == (0, 1)
    assert ledger.start(lease(job, 1, lease_s=3600)).to_do == "run"
    assert ledger.dispatch(job, "p", window=2).parts == ()
    clock.advance(PATIENCE_S - 1)
    assert ledger.dispatch(job, "p", window=2).parts == ()
    clock.advance(1)
    assert ledger.dispatch(job, "p", window=2).parts == (0,)  # part 1 is leased
    clock.advance(2 * PATIENCE_S - 1)
    assert ledger.dispatch(job, "p", window=2).parts == ()
    clock.advance(1)
    assert ledger.dispatch(job, "p", window=2).parts == (0,)


def test_a_part_is_waited_for_an_hour_at_most(ledger: Ledger, clock: Clock, job: str) -> None:
    ledger.begin(job, "p", 1, budget=0)
    ledger.dispatch(job, "p", window=1)
    for _ in range(9):
        clock.advance(LONGEST_PATIENCE_S)
        assert ledger.dispatch(job, "p", window=1).parts == (0,)


def test_a_part_given_out_by_a_completion_is_sent_again_when_it_got_lost(
    ledger: Ledger, clock: Clock, job: str
) -> None:
    ledger.begin(job, "p", 2, budget=0)
    ledger.dispatch(job, "p", window=1)
    ledger.complete(job, "p", 0, rows=1, rejected=0)
    clock.advance(PATIENCE_S - 1)
    assert ledger.dispatch(job, "p", window=1).parts == ()
    clock.advance(1)
    assert ledger.dispatch(job, "p", window=1).parts == (1,)


def test_a_part_whose_lease_ended_is_dispatched_again_and_its_attempts_are_kept(
    ledger: Ledger, clock: Clock, job: str
) -> None:
    ledger.begin(job, "p", 1, budget=0)
    ledger.dispatch(job, "p", window=1)
    ledger.start(lease(job, 0, "m1"))
    clock.advance(LEASE_S)
    assert ledger.dispatch(job, "p", window=1).parts == (0,)
    # The lease of "m1" has expired, so the next message starts the part at once
    assert not ledger.renew(lease(job, 0, "m1"))
    assert ledger.start(lease(job, 0, "m2")).attempt == 2


def test_a_wider_window_is_filled(ledger: Ledger, job: str) -> None:
    ledger.begin(job, "p", 9, budget=0)
    ledger.dispatch(job, "p", window=2)
    assert ledger.dispatch(job, "p", window=5).parts == (2, 3, 4)


def test_a_lease_keeps_others_out_until_it_ends_and_lets_its_own_message_in(
    ledger: Ledger, clock: Clock, job: str
) -> None:
    ledger.begin(job, "p", 1, budget=7)
    ledger.dispatch(job, "p", window=1)
    first = ledger.start(lease(job, 0, "m1"))
    assert (first.attempt, first.budget, first.result_may_exist) == (1, 7, False)
    refused = ledger.start(lease(job, 0, "m2"))
    assert (refused.to_do, refused.attempt) == ("busy", 1)
    assert ledger.start(lease(job, 0, "m1")).attempt == 2
    clock.advance(LEASE_S - 1)
    assert ledger.renew(lease(job, 0, "m1"))
    assert not ledger.renew(lease(job, 0, "m2", 2 * LEASE_S))
    clock.advance(LEASE_S - 1)
    assert ledger.start(lease(job, 0, "m2")).to_do == "busy"
    clock.advance(1)
    taken = ledger.start(lease(job, 0, "m2"))
    assert (taken.to_do, taken.attempt, taken.result_may_exist) == ("run", 3, True)
    assert not ledger.renew(lease(job, 0, "m1"))


@pytest.mark.parametrize("ahead_s", [-7_200.0, 7_200.0])
def test_a_caller_whose_clock_is_wrong_changes_no_deadline(
    own_clock: Callable[[], Ledger], job: str, monkeypatch: pytest.MonkeyPatch, ahead_s: float
) -> None:
    # Given a part that is being scored, a part whose message waits, and a step under way
    ours, theirs = own_clock(), own_clock()
    ours.begin(job, "p", 3, budget=0)
    ours.dispatch(job, "p", window=2)
    ours.start(lease(job, 0))
    ours.begin_step(job, "finalize", LEASE_S)
    # When a process whose clock is two hours ahead or behind requests work, and takes leases itself
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + ahead_s)
    assert theirs.dispatch(job, "p", window=2).parts == ()
    assert theirs.start(lease(job, 0, holder="n")).to_do == "busy"
    assert not theirs.claim_step(job, "finalize")
    assert theirs.start(lease(job, 1, holder="n")).to_do == "run"
    assert theirs.renew(lease(job, 1, holder="n"))
    assert theirs.complete(job, "p", 2, rows=1, rejected=0).counted
    theirs.begin_step(job, "plan", LEASE_S)
    monkeypatch.undo()
    # Then other processes take that work only after its lease has expired
    assert ours.dispatch(job, "p", window=2).parts == ()
    assert ours.start(lease(job, 1)).to_do == "busy"
    assert not ours.claim_step(job, "plan")
    theirs.renew(lease(job, 1, holder="n", lease_s=-1))
    assert ours.dispatch(job, "p", window=2).parts == (1,)


def test_a_lease_needs_the_plan_of_the_job_and_a_part_in_flight(ledger: Ledger, job: str) -> None:
    assert not ledger.renew(lease(job, 0))
    ledger.release(lease(job, 0))
    ledger.begin(job, "p", 2, budget=0)
    ledger.dispatch(job, "p", window=1)
    ledger.start(lease(job, 0))
    assert not ledger.renew(lease(job, 0, plan="q"))
    assert not ledger.renew(lease(job, 1))
    ledger.release(lease(job, 0, plan="q"))
    assert ledger.renew(lease(job, 0))
    ledger.complete(job, "p", 0, rows=1, rejected=0)
    assert not ledger.renew(lease(job, 0))


def test_a_released_part_is_free_at_once_and_sent_again_when_its_message_got_lost(
    ledger: Ledger, clock: Clock, job: str
) -> None:
    ledger.begin(job, "p", 1, budget=0)
    ledger.dispatch(job, "p", window=1)
    ledger.start(lease(job, 0, "m1", 3600))
    ledger.release(lease(job, 0, "m2"))  # the holder "m2" has no lease
    assert ledger.start(lease(job, 0, "m2")).to_do == "busy"
    ledger.release(lease(job, 0, "m1"))
    clock.advance(PATIENCE_S - 1)
    assert ledger.dispatch(job, "p", window=1).parts == ()
    clock.advance(1)
    assert ledger.dispatch(job, "p", window=1).parts == (0,)
    assert ledger.start(lease(job, 0, "m2")).attempt == 1


def test_a_start_is_no_attempt_if_its_lease_is_released(ledger: Ledger, job: str) -> None:
    ledger.begin(job, "p", 1, budget=0)
    ledger.dispatch(job, "p", window=1)
    assert ledger.start(lease(job, 0)).attempt == 1
    ledger.release(lease(job, 0))
    assert ledger.start(lease(job, 0)).attempt == 1
    assert ledger.start(lease(job, 0)).attempt == 2


def test_a_retry_is_no_attempt_even_if_the_lease_was_not_released(ledger: Ledger, job: str) -> None:
    ledger.begin(job, "p", 1, budget=0)
    ledger.dispatch(job, "p", window=1)
    assert ledger.start(lease(job, 0)).attempt == 1
    assert ledger.start(lease(job, 0), is_retry=True).attempt == 1
    assert ledger.start(lease(job, 0)).attempt == 2
    ledger.release(lease(job, 0))
    assert ledger.start(lease(job, 0), is_retry=True).attempt == 2


def test_a_window_of_thousands_is_dispatched(ledger: Ledger, job: str) -> None:
    ledger.begin(job, "p", 20_000, budget=0)
    assert len(ledger.dispatch(job, "p", window=9_000).parts) == 9_000


def test_a_part_counted_out_of_turn_leaves_no_gap_in_the_window(ledger: Ledger, job: str) -> None:
    ledger.begin(job, "p", 12, budget=0)
    given = list(ledger.dispatch(job, "p", window=2).parts)
    for part in (2, 3, 5):  # a previous ledger, which Redis has lost, had dispatched these parts
        given += [n for n in [ledger.complete(job, "p", part, rows=1, rejected=0).next_part] if n is not None]
    for part in given:
        if (further := ledger.complete(job, "p", part, rows=1, rejected=0).next_part) is not None:
            given.append(further)
    progress = ledger.progress(job)
    assert progress is not None
    assert (progress.all_done, progress.in_flight, progress.rows) == (True, 0, 12)
    assert len(given) == len(set(given))


def test_a_part_counted_out_of_turn_says_that_others_may_be_written_too(ledger: Ledger, job: str) -> None:
    ledger.begin(job, "p", 9, budget=0)
    ledger.dispatch(job, "p", window=2)
    assert not ledger.start(lease(job, 0)).result_may_exist
    ledger.complete(job, "p", 5, rows=1, rejected=0)
    assert ledger.start(lease(job, 1)).result_may_exist


def test_a_message_out_of_turn_learns_why_it_may_not_start(ledger: Ledger, job: str) -> None:
    ledger.begin(job, "p", 3, budget=0)
    ledger.dispatch(job, "p", window=1)
    assert ledger.start(lease(job, 2)).to_do == "unknown"
    ledger.complete(job, "p", 0, rows=1, rejected=0)
    assert ledger.start(lease(job, 0)).to_do == "done"
    assert not ledger.stopped(job)
    ledger.close(job)
    assert ledger.start(lease(job, 1)).to_do == "stopped"
    assert ledger.stopped(job)
    assert ledger.dispatch(job, "p", window=3).parts == ()


def test_a_job_that_is_closed_counts_nothing_more(ledger: Ledger, job: str) -> None:
    ledger.begin(job, "p", 3, budget=0)
    ledger.dispatch(job, "p", window=2)
    ledger.complete(job, "p", 0, rows=1, rejected=0)
    ledger.close(job)
    late = ledger.complete(job, "p", 1, rows=1, rejected=9)
    assert (late.counted, late.next_part, late.stopped, late.all_done) == (False, None, "closed", False)
    progress = ledger.progress(job)
    assert progress is not None
    assert (progress.rows, progress.rejected, progress.parts_done, progress.stopped) == (1, 0, 1, "closed")
    assert not progress.over


@pytest.mark.parametrize(("rejected", "stopped"), [(9, ""), (10, "budget")])
def test_a_ledger_opened_from_the_bucket_gives_nothing_out_when_it_is_over_its_budget(
    ledger: Ledger, job: str, rejected: int, stopped: str
) -> None:
    ledger.begin(job, "p", 3, budget=9, recovered=Recovered(done=frozenset({0}), rows=1, rejected=rejected))
    due = ledger.dispatch(job, "p", window=3)
    assert (due.stopped, due.parts) == (stopped, () if stopped else (1, 2))


def test_the_last_part_ends_a_job_and_does_not_stop_it(ledger: Ledger, job: str) -> None:
    ledger.begin(job, "p", 1, budget=0)
    ledger.dispatch(job, "p", window=1)
    last = ledger.complete(job, "p", 0, rows=1, rejected=9)
    assert (last.all_done, last.stopped, last.counted) == (True, "", True)
    due = ledger.dispatch(job, "p", window=1)
    assert (due.all_done, due.parts) == (True, ())


def test_a_forgotten_job_can_begin_again_with_any_plan(ledger: Ledger, job: str) -> None:
    ledger.begin(job, "p", 3, budget=0)
    ledger.dispatch(job, "p", window=2)
    ledger.complete(job, "p", 0, rows=0, rejected=0, failure="why")
    ledger.forget(job)
    assert ledger.progress(job) is None
    assert ledger.begin(job, "q", 2, budget=0)
    progress = ledger.progress(job)
    assert progress is not None
    assert (progress.parts, progress.parts_done, progress.in_flight, progress.failures) == (2, 0, 0, {})


def test_a_ledger_opened_from_the_bucket_dispatches_only_what_is_missing(ledger: Ledger, job: str) -> None:
    done = frozenset({0, 1, 2, 5, 8, 63, 64})
    assert ledger.begin(job, "p", 66, budget=9, recovered=Recovered(done=done, rows=70, rejected=3))
    assert not ledger.begin(job, "p", 66, budget=9)
    assert ledger.dispatch(job, "p", window=4).parts == (3, 4, 6, 7)
    assert ledger.start(lease(job, 3)).result_may_exist
    given = [3, 4, 6, 7]
    for part in given:
        if (further := ledger.complete(job, "p", part, rows=10, rejected=0).next_part) is not None:
            given.append(further)
    assert sorted(given) == sorted(set(range(66)) - done)
    progress = ledger.progress(job)
    assert progress is not None
    assert (progress.rows, progress.rejected, progress.all_done) == (70 + 10 * len(given), 3, True)
    assert progress.uncounted == 0


def test_a_ledger_knows_how_often_parts_were_uncounted(ledger: Ledger, job: str) -> None:
    ledger.begin(job, "p", 2, budget=9, recovered=Recovered(done=frozenset(), rows=0, rejected=0, uncounted=2))
    progress = ledger.progress(job)
    assert progress is not None
    assert progress.uncounted == 2
    ledger.forget(job)
    ledger.begin(job, "p", 2, budget=9)
    progress = ledger.progress(job)
    assert progress is not None
    assert progress.uncounted == 0


@pytest.mark.parametrize("seed", range(5))
def test_each_part_is_counted_once_in_any_order_of_events(ledger: Ledger, job: str, seed: int) -> None:
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
            ledger.start(lease(job, chance.choice(queue), f"m{chance.randrange(3)}"))
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
def test_a_job_stops_after_too_many_rejected_rows_or_failed_parts(ledger: Ledger, job: str, why: str) -> None:
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


def test_a_job_may_reject_as_many_rows_as_its_budget_says(ledger: Ledger, job: str) -> None:
    ledger.begin(job, "p", 3, budget=4)
    ledger.dispatch(job, "p", window=3)
    assert ledger.complete(job, "p", 0, rows=1, rejected=4).stopped == ""
    assert ledger.complete(job, "p", 1, rows=1, rejected=1).stopped == "budget"


def test_another_plan_is_fenced_off(ledger: Ledger, job: str) -> None:
    ledger.begin(job, "p", 1, budget=0)
    for use in (
        lambda: ledger.begin(job, "q", 1, budget=0),
        lambda: ledger.dispatch(job, "q", window=1),
        lambda: ledger.start(lease(job, 0, plan="q")),
        lambda: ledger.complete(job, "q", 0, rows=1, rejected=0),
    ):
        with pytest.raises(LedgerFenced):
            use()


def test_an_emptied_redis_is_distinguished_from_another_plan(ledger: Ledger, job: str) -> None:
    for use in (
        lambda: ledger.dispatch(job, "p", window=1),
        lambda: ledger.start(lease(job, 0)),
        lambda: ledger.complete(job, "p", 0, rows=1, rejected=0),
    ):
        with pytest.raises(LedgerLost):
            use()
    ledger.close(job)
    assert ledger.progress(job) is None


def test_a_step_is_claimed_by_one_and_sent_again_after_twice_the_time(ledger: Ledger, clock: Clock, job: str) -> None:
    assert ledger.claim_step(job, "plan")
    assert not ledger.claim_step(job, "plan")
    clock.advance(PATIENCE_S)
    assert ledger.claim_step(job, "plan")
    clock.advance(2 * PATIENCE_S - 1)
    assert not ledger.claim_step(job, "plan")
    assert ledger.claim_step(job, "finalize")
    clock.advance(1)
    assert ledger.claim_step(job, "plan")
    ledger.end_step(job, "plan")
    assert ledger.claim_step(job, "plan")
    ledger.forget(job)
    assert ledger.claim_step(job, "plan")


def test_a_step_is_waited_for_an_hour_at_most(ledger: Ledger, clock: Clock, job: str) -> None:
    for _ in range(9):
        assert ledger.claim_step(job, "plan")
        clock.advance(LONGEST_PATIENCE_S)


def test_a_step_that_is_worked_on_is_not_sent_again_and_its_deaths_are_counted(
    ledger: Ledger, clock: Clock, job: str
) -> None:
    assert ledger.begin_step(job, "plan", 10) == 1
    clock.advance(9)
    assert not ledger.claim_step(job, "plan")
    ledger.renew_step(job, "plan", 60)
    clock.advance(59)
    assert not ledger.claim_step(job, "plan")
    assert ledger.begin_step(job, "plan", 60) == 2  # this is the second attempt, because the first one never ended
    ledger.end_step(job, "plan", will_retry=True)
    assert not ledger.claim_step(job, "plan")
    assert ledger.begin_step(job, "plan", 60) == 2
    ledger.end_step(job, "plan")
    assert ledger.begin_step(job, "plan", 60) == 1


def test_a_step_that_ended_is_not_brought_back_by_a_late_renewal(ledger: Ledger, job: str) -> None:
    ledger.begin_step(job, "plan", 60)
    ledger.end_step(job, "plan")
    ledger.renew_step(job, "plan", 60)
    assert ledger.claim_step(job, "plan")
    ledger.end_step(job, "events", will_retry=True)
    assert ledger.begin_step(job, "events", 60) == 1


def test_the_object_that_a_step_or_a_part_reads_is_known_until_the_step_ends(ledger: Ledger, job: str) -> None:
    assert ledger.noted_object(job, "plan") == ""
    ledger.begin_step(job, "plan", 60)
    ledger.note_object(job, "plan", "s3://data/in/a.csv")
    ledger.note_object(job, "plan", "s3://data/in/b.csv")
    ledger.note_object(job, "part 3", "s3://data/in/c.csv")
    assert (ledger.noted_object(job, "plan"), ledger.noted_object(job, "part 3")) == (
        "s3://data/in/b.csv",
        "s3://data/in/c.csv",
    )
    ledger.end_step(job, "plan", will_retry=True)
    assert ledger.noted_object(job, "plan") == "s3://data/in/b.csv"
    ledger.end_step(job, "plan")
    ledger.note_object(job, "part 3", "")
    assert (ledger.noted_object(job, "plan"), ledger.noted_object(job, "part 3")) == ("", "")


def test_once_in_returns_true_again_after_its_time(ledger: Ledger, elapse: Callable[[float], None], job: str) -> None:
    assert ledger.once_in(job, 0.05)
    elapse(0.1)
    assert ledger.once_in(job, 60)
    assert not ledger.once_in(job, 60)


def test_processes_are_remembered_for_a_while(ledger: Ledger, elapse: Callable[[float], None]) -> None:
    assert ledger.processes() == 0
    ledger.note_processes(3, 60)
    ledger.note_processes(5, 60)
    assert ledger.processes() == 5
    ledger.note_processes(7, 0.05)
    elapse(0.1)
    assert ledger.processes() == 0


def test_the_size_of_a_worker_is_remembered_while_no_worker_runs(ledger: Ledger, clock: Clock) -> None:
    assert ledger.worker_size() == 0
    ledger.note_worker_size(4)
    ledger.note_processes(0, 1)
    assert ledger.worker_size() == 4


def test_idle_time_counts_from_the_first_look_without_work(ledger: Ledger, elapse: Callable[[float], None]) -> None:
    assert ledger.note_idle() < 0.01
    elapse(0.1)
    assert 0.09 < ledger.note_idle() < 60
    ledger.note_busy()
    assert ledger.note_idle() < 0.05


def test_the_last_tick_is_remembered(ledger: Ledger, elapse: Callable[[float], None]) -> None:
    assert ledger.seconds_since_tick() is None
    ledger.note_tick()
    elapse(0.1)
    since_s = ledger.seconds_since_tick()
    assert since_s is not None
    assert 0.09 < since_s < 60
    begun = time.monotonic()
    ledger.note_tick()
    since_s = ledger.seconds_since_tick()
    assert since_s is not None
    assert since_s < time.monotonic() - begun + 0.05


@pytest.fixture
def switching_threads() -> Iterator[None]:
    """Switch threads after each line of a ledger in memory, so that a missing lock makes the test fail."""

    def switch(frame: FrameType, event: str, argument: Any) -> Any:
        if frame.f_code.co_filename != memory_ledger.__file__:
            return None
        time.sleep(1e-6)  # sleeping for 0 seconds would rarely let another thread run
        return switch

    before = threading.gettrace()
    threading.settrace(switch)
    yield
    threading.settrace(before)


@pytest.mark.usefixtures("switching_threads")
def test_threads_that_score_at_once_share_each_part_and_lose_none(ledger: Ledger, job: str) -> None:
    parts, threads = 12, range(4)
    ledger.begin(job, "p", parts, budget=0)

    def start(part: int, number: int) -> str:
        return ledger.start(lease(job, part, f"m{number}")).to_do

    def complete(part: int, _: int) -> Completed:
        return ledger.complete(job, "p", part, rows=1, rejected=0)

    with ThreadPoolExecutor(len(threads)) as pool:
        dues = pool.map(lambda _: ledger.dispatch(job, "p", window=parts // 2).parts, threads)
        queue = [part for due in dues for part in due]
        for part in queue:
            starts = list(pool.map(partial(start, part), threads))
            ends = list(pool.map(partial(complete, part), threads))
            assert sorted(starts) == ["busy"] * (len(threads) - 1) + ["run"]
            assert sum(end.counted for end in ends) == 1
            queue += [end.next_part for end in ends if end.next_part is not None]
    assert sorted(queue) == list(range(parts))
    progress = ledger.progress(job)
    assert progress is not None
    assert (progress.rows, progress.all_done, progress.in_flight) == (parts, True, 0)


@pytest.mark.usefixtures("switching_threads")
def test_of_many_callers_at_once_only_one_is_first(ledger: Ledger, job: str) -> None:
    with ThreadPoolExecutor(10) as pool:
        assert sum(pool.map(lambda _: ledger.once_in(job, 60), range(10))) == 1
        assert sum(pool.map(lambda _: ledger.claim_step(job, "plan"), range(10))) == 1
        assert sorted(pool.map(lambda _: ledger.begin_step(job, "plan", 60), range(10))) == list(range(1, 11))
    assert ledger.once_in(f"{job} something else", 60)


# In memory


def test_a_ledger_in_memory_fades_after_the_outcome_and_when_its_job_is_not_tended(clock: Clock) -> None:
    ledger = MemoryLedger(clock=clock)
    for job in ("ended", "tended", "left"):
        ledger.begin(job, "p", 4, budget=0)
        ledger.claim_step(job, "finalize")
    ledger.close("ended")
    clock.advance(LIFE_AFTER_OUTCOME_S)
    assert ledger.progress("ended") is None
    clock.advance(LIFE_S - LIFE_AFTER_OUTCOME_S - 1)
    ledger.dispatch("tended", "p", window=1)
    clock.advance(1)
    assert ledger.progress("left") is None
    assert ledger.progress("tended") is not None
    ledger.begin("another", "p", 1, budget=0)
    assert repr(ledger) == "MemoryLedger(jobs=2)"


# In Redis


@pytest.fixture
def redis_ledger(stack: Stack) -> RedisLedger:
    return RedisLedger(stack.environ["REDIS_URL"], namespace="bucket")


@pytest.mark.parametrize("counted_before_the_end", [True, False])
def test_a_job_keeps_one_slot_of_a_cluster_and_fades_after_its_outcome(
    stack: Stack, redis_ledger: RedisLedger, job: str, counted_before_the_end: bool
) -> None:
    redis_ledger.begin(job, "p", 4, budget=0)
    redis_ledger.dispatch(job, "p", window=2)
    redis_ledger.claim_step(job, "finalize")
    if counted_before_the_end:
        redis_ledger.complete(job, "p", 0, rows=0, rejected=0, failure="no")
    redis_ledger.close(job)
    redis_ledger.complete(job, "p", 1, rows=0, rejected=0, failure="no")
    with redis.Redis.from_url(stack.environ["REDIS_URL"], decode_responses=True) as connection:
        keys = list(connection.scan_iter(f"*{job}*"))
        assert len(keys) == (4 if counted_before_the_end else 2)
        assert {key.partition("}")[0] for key in keys} == {f"scoreline:{{bucket/{job}"}  # the same hash tag
        lives = {key.rpartition(":")[2]: connection.ttl(key) for key in keys}
        assert 0 < lives.pop("steps") <= LIFE_S
        assert all(0 < life <= LIFE_AFTER_OUTCOME_S for life in lives.values())


def test_workers_of_the_release_before_can_read_what_this_one_writes(
    stack: Stack, redis_ledger: RedisLedger, job: str
) -> None:
    # Given a ledger with parts and steps in every state
    redis_ledger.begin(job, "p", 9, budget=0)
    redis_ledger.dispatch(job, "p", window=4)
    for part in (0, 1, 2):
        redis_ledger.start(lease(job, part))
    redis_ledger.renew(lease(job, 0))
    redis_ledger.release(lease(job, 1))
    assert redis_ledger.complete(job, "p", 2, rows=1, rejected=0).next_part == 4
    redis_ledger.claim_step(job, "events")
    redis_ledger.begin_step(job, "plan", LEASE_S)
    redis_ledger.begin_step(job, "finalize", LEASE_S)
    redis_ledger.end_step(job, "finalize", will_retry=True)
    redis_ledger.watchlist.due([job], 4)
    # Then the scripts of the previous release can read the fields, as both releases run during a deploy
    with redis.Redis.from_url(stack.environ["REDIS_URL"], decode_responses=True) as connection:
        state: Any = connection.hgetall(f"scoreline:{{bucket/{job}}}:state")
        steps: Any = connection.hgetall(f"scoreline:{{bucket/{job}}}:steps")
    flights = [value for name, value in state.items() if re.fullmatch(r"f[0-9]+", name)]
    ends = [re.fullmatch(r"([0-9]+\.[0-9]{3}) [0-9]+ [0-9]+ \S+", value) for value in flights]
    ends += [re.fullmatch(r"([0-9]+\.[0-9]{3}) [0-9]+ [0-9]+", value) for value in steps.values()]
    assert len(ends) == 4 + 4
    assert all(end and abs(float(end[1]) - time.time()) < 2 * THOROUGH_S for end in ends)
    later = {"group", "rank", "listed", "work"}  # fields that the previous release does not know
    assert set(state) - {f"f{part}" for part in range(9)} - later == {
        *("plan", "parts", "budget", "cursor", "done", "rows", "rejected", "failures")
    }


def test_two_buckets_share_a_redis(stack: Stack, redis_ledger: RedisLedger, job: str) -> None:
    other = RedisLedger(stack.environ["REDIS_URL"], namespace="other")
    redis_ledger.begin(job, "p", 1, budget=0)
    assert other.progress(job) is None
    assert other.begin(job, "q", 1, budget=0)


def test_an_unreachable_redis_is_an_error_within_ten_seconds() -> None:
    started = time.monotonic()
    with pytest.raises(LedgerUnavailable, match=r"127\.0\.0\.1:9"):
        RedisLedger("redis://:hush@127.0.0.1:9/0", namespace="bucket").ping()
    assert time.monotonic() - started < 10


def test_scored_rows_of_parts_under_way_are_noted_until_the_part_is_counted(ledger: Ledger, job: str) -> None:
    def rows() -> tuple[int, int]:
        progress = ledger.progress(job)
        assert progress is not None
        return progress.rows, progress.rows_under_way

    ledger.begin(job, "p", 3, budget=100)
    ledger.dispatch(job, "p", window=2)
    first, second = lease(job, 0), lease(job, 1)
    ledger.start(first)
    ledger.start(second)
    ledger.note_scored(first, 5)
    ledger.note_scored(second, 7)
    ledger.note_scored(first, 6)
    assert rows() == (0, 13)
    # When one part is counted, and the other is started again after the death of its worker
    ledger.complete(job, "p", 0, rows=10, rejected=0)
    assert rows() == (10, 7)
    ledger.start(second)
    assert rows() == (10, 0)
    # And a note is ignored if its part is not in flight, its plan is another, or its job has no ledger
    ledger.note_scored(first, 50)
    ledger.note_scored(lease(job, 1, plan="q"), 3)
    ledger.note_scored(lease("nobody", 1), 3)
    assert rows() == (10, 0)
    assert ledger.progress("nobody") is None


def test_rejected_rows_of_parts_under_way_are_noted_until_the_part_is_counted(ledger: Ledger, job: str) -> None:
    ledger.begin(job, "p", 3, budget=100)
    ledger.dispatch(job, "p", window=3)
    first, second = lease(job, 0), lease(job, 1)
    ledger.start(first)
    ledger.start(second)
    assert ledger.note_rejects(first, 5) == 5
    assert ledger.note_rejects(second, 7) == 12
    assert ledger.note_rejects(first, 6) == 13
    # When one part is counted, and another is started again after the death of its worker
    ledger.complete(job, "p", 0, rows=10, rejected=6)
    assert ledger.note_rejects(second, 7) == 13
    ledger.start(second)
    assert ledger.note_rejects(lease(job, 2), 1) == 7
    progress = ledger.progress(job)
    assert progress is not None
    assert (progress.rejected, progress.in_flight) == (6, 2)
    # And a note is ignored if its part is not in flight, its plan is another, or its job has no ledger
    assert ledger.note_rejects(first, 50) == 7
    assert ledger.note_rejects(lease(job, 1, plan="q"), 3) == 3
    assert ledger.note_rejects(lease("nobody", 1), 3) == 3


@pytest.mark.parametrize(
    "change",
    [{"parts": "many"}, {"done": "[/red]"}, {"cursor": "x"}, {"f0": "yesterday"}, None],
)
def test_a_key_that_is_not_a_ledger_is_named_and_can_be_opened_again(
    stack: Stack, change: dict[str, str] | None
) -> None:
    bucket = f"bucket-{secrets.token_hex(4)}"
    ledger = RedisLedger(stack.environ["REDIS_URL"], namespace=bucket)
    for job_id in ("good", "broken"):
        ledger.begin(job_id, "plan", 3, budget=0)
        ledger.dispatch(job_id, "plan", 1)
    key = f"scoreline:{{{bucket}/broken}}:state"
    server = redis.Redis.from_url(stack.environ["REDIS_URL"])
    if change is None:
        server.set(key, "x")
    else:
        for name, value in change.items():
            server.hset(key, name, value)
    with pytest.raises(LedgerCorrupt, match=f"{bucket}/broken.*scoreline reconcile"):
        ledger.dispatch("broken", "plan", 1)
    if change is None or change.keys() & {"parts", "done"}:
        with pytest.raises(LedgerCorrupt):
            ledger.progress("broken")
    assert ledger.dispatch("good", "plan", 2).parts == (1,)
    # And the reconciler still sees the other jobs, and deletes the broken ledger
    found = ledger.watchlist.due(["broken", "good"], window=3)
    assert "good" in found
    if change is None or "f0" in change:
        assert "broken" in found
    ledger.forget("broken")
    assert ledger.begin("broken", "plan", 3, budget=0)
    server.close()


def test_a_number_that_something_else_wrote_counts_as_none(stack: Stack) -> None:
    bucket = f"bucket-{secrets.token_hex(4)}"
    ledger = RedisLedger(stack.environ["REDIS_URL"], namespace=bucket)
    ledger.counters.count_load("m", 1.0)
    with redis.Redis.from_url(stack.environ["REDIS_URL"]) as server:
        server.set(f"scoreline:{{{bucket}}}:processes", "x")
        server.hset(f"scoreline:{{{bucket}}}:counters:models", "n count", "x")
    assert ledger.processes() == 0
    loads = ledger.counters.read().loads
    assert (loads["m"].count, loads["n"].count) == (1, 0)


def test_a_rebuilt_ledger_of_a_million_parts_takes_few_commands(stack: Stack, job: str) -> None:
    """Redis answers no other process while a script runs, so that a script may not look at each part."""
    parts = 1_000_000
    done = frozenset(range(parts)) - {parts // 2, parts - 3}
    url, bucket = stack.environ["REDIS_URL"], f"bucket-{secrets.token_hex(4)}"
    ledger = RedisLedger(url, namespace=bucket)
    with redis.Redis.from_url(url) as server:
        ledger.begin(job, "p", parts, budget=0, recovered=Recovered(done=done, rows=len(done), rejected=0))
        before = commands(server)
        assert ledger.dispatch(job, "p", window=1).parts == (parts // 2,)
        assert ledger.complete(job, "p", parts // 2, rows=1, rejected=0).next_part == parts - 3
        assert ledger.complete(job, "p", parts - 3, rows=1, rejected=0).next_part is None
        looked = commands(server) - before
        assert looked["getbit"] + looked["bitpos"] <= 30
        assert server.memory_usage(f"scoreline:{{{bucket}/{job}}}:done") < 300_000
    ledger.disconnect()


def commands(server: redis.Redis) -> Counter[str]:
    """Return how often the server has run each command, also in scripts."""
    stats: Any = server.info("commandstats")
    return Counter({name.removeprefix("cmdstat_"): row["calls"] for name, row in stats.items()})
