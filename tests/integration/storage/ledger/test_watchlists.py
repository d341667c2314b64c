"""Every watchlist fulfils one contract: without a request to the bucket, it lists the jobs to reconcile."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from scoreline.storage.ledger.base import Ledger
from scoreline.storage.ledger.watchlist import THOROUGH_S, JobState
from tests.support.ledgers import LEASE_S, PATIENCE_S, Clock, lease

PERIOD_S = 60.0


def is_due(ledger: Ledger, job: str, window: int = 2) -> bool:
    found = ledger.watchlist.due([job], window)
    assert list(found) in ([], [job])
    return bool(found)


def under_way(ledger: Ledger, job: str, parts: int = 4) -> None:
    """Open a job that is planned, with two parts in flight."""
    ledger.begin(job, "p", parts, budget=9)
    assert ledger.dispatch(job, "p", window=2).parts == (0, 1)


def check_due_unless_sent(ledger: Ledger, clock: Clock, job: str, step: str) -> None:
    """Check that a job is due, but not while the message of its next step is under way."""
    assert is_due(ledger, job)
    ledger.claim_step(job, step)
    assert not is_due(ledger, job)
    clock.advance(PATIENCE_S)
    assert is_due(ledger, job)


def test_jobs_are_taken_in_turn_and_each_only_once_in_a_period(ledger: Ledger, clock: Clock) -> None:
    ledger.watchlist.add(["a", "b", "c"])
    assert [*ledger.watchlist.take(2, PERIOD_S), *ledger.watchlist.take(2, PERIOD_S)] == ["a", "b", "c"]
    assert list(ledger.watchlist.take(2, PERIOD_S)) == []
    clock.advance(PERIOD_S - 1)
    ledger.watchlist.add(["a", "d"])  # the time of "a" does not change
    assert list(ledger.watchlist.take(9, PERIOD_S)) == ["d"]
    clock.advance(1)
    ledger.watchlist.remove("b")
    assert list(ledger.watchlist.take(9, PERIOD_S)) == ["a", "c"]


def test_the_list_says_which_jobs_it_holds(ledger: Ledger) -> None:
    ledger.watchlist.add(["a", "b", "c"])
    ledger.watchlist.remove("b")
    assert list(ledger.watchlist.holds(["c", "b", "unknown", "a"])) == ["c", "a"]
    assert list(ledger.watchlist.holds([])) == []


def test_the_states_of_all_jobs_are_read_at_once(ledger: Ledger, job: str) -> None:
    planned, older, ended = f"{job}-a", f"{job}-b", f"{job}-c"
    ledger.watchlist.add([planned, older, ended, job])
    assert {state.planned for state in ledger.watchlist.states()} == {False}
    ledger.begin(planned, "p", 4, budget=9, work="a description")
    ledger.dispatch(planned, "p", window=3)
    ledger.complete(planned, "p", 0, rows=10, rejected=2)  # dispatches part 3
    ledger.start(lease(planned, 1))
    ledger.note_scored(lease(planned, 1), 5)
    ledger.start(lease(planned, 2))
    ledger.note_rejects(lease(planned, 2), 3)
    ledger.begin(older, "p", 1, budget=0)
    ledger.begin(ended, "p", 1, budget=0)
    ledger.close(ended)
    states = {state.job_id: state for state in ledger.watchlist.states()}
    assert states == {
        planned: JobState(
            job_id=planned, planned=True, work="a description", parts=4, parts_done=1, rows=17, in_flight=3
        ),
        older: JobState(job_id=older, planned=True, parts=1),
        ended: JobState(job_id=ended, planned=True, parts=1, stopped="closed"),
        job: JobState(job_id=job, planned=False),
    }
    ledger.watchlist.remove(job)
    assert job not in {state.job_id for state in ledger.watchlist.states()}


def test_a_job_that_is_put_off_is_taken_later(ledger: Ledger, clock: Clock) -> None:
    ledger.watchlist.add(["a", "b"])
    ledger.watchlist.put_off("a", 600)
    ledger.watchlist.put_off("unknown", 0)
    assert list(ledger.watchlist.take(9, PERIOD_S)) == ["b"]
    clock.advance(600)
    assert list(ledger.watchlist.take(9, PERIOD_S)) == ["b", "a"]
    ledger.watchlist.put_off("b", 0)
    assert list(ledger.watchlist.take(9, PERIOD_S)) == ["b"]


def test_ten_threads_that_take_jobs_at_once_share_them(open_ledger: Callable[[], Ledger]) -> None:
    names = [f"{n:04d}" for n in range(2_100)]
    open_ledger().watchlist.add(names)
    with ThreadPoolExecutor(10) as pool:
        taken = list(pool.map(lambda _: open_ledger().watchlist.take(250, PERIOD_S), range(10)))
    assert sorted(name for some in taken for name in some) == names


def test_a_lock_is_held_by_one_and_renewed_by_its_holder_alone(open_ledger: Callable[[], Ledger]) -> None:
    ours, theirs = open_ledger().watchlist, open_ledger().watchlist
    assert ours.lock("round", "a", 60)
    assert ours.lock("round", "a", 60)
    assert not theirs.lock("round", "b", 60)
    assert theirs.lock("another", "b", 60)
    theirs.unlock("round", "b")
    assert not theirs.lock("round", "b", 60)
    ours.unlock("round", "a")
    assert theirs.lock("round", "b", 60)


def test_a_job_is_not_due_while_its_parts_are_in_flight(ledger: Ledger, clock: Clock, job: str) -> None:
    under_way(ledger, job)
    assert not is_due(ledger, job)
    clock.advance(PATIENCE_S - 1)
    assert not is_due(ledger, job)


def test_a_job_with_a_lost_message_or_worker_is_due(ledger: Ledger, clock: Clock, job: str) -> None:
    under_way(ledger, job)
    ledger.start(lease(job, 0))
    clock.advance(LEASE_S - 1)
    assert not is_due(ledger, job)
    clock.advance(1)
    assert is_due(ledger, job)
    ledger.dispatch(job, "p", window=2)
    assert not is_due(ledger, job)
    clock.advance(PATIENCE_S - LEASE_S)
    assert is_due(ledger, job)  # now the message of part 1 has waited too long


def test_a_job_whose_window_is_not_full_is_due_while_parts_are_left(ledger: Ledger, job: str) -> None:
    under_way(ledger, job, parts=3)
    assert is_due(ledger, job, window=3)
    ledger.dispatch(job, "p", window=3)
    assert not is_due(ledger, job, window=3)
    assert not is_due(ledger, job, window=9)


@pytest.mark.parametrize("end", ["done", "budget", "failures"])
def test_a_job_that_is_over_is_due_unless_it_is_being_finalized(
    ledger: Ledger, clock: Clock, job: str, end: str
) -> None:
    ledger.begin(job, "p", 101 if end == "failures" else 2, budget=0)
    ledger.dispatch(job, "p", window=101)
    for part in range(100 if end == "failures" else 1 if end == "budget" else 2):
        failure = "why" if end == "failures" else ""
        ledger.complete(job, "p", part, rows=0, rejected=int(end == "budget"), failure=failure)
    check_due_unless_sent(ledger, clock, job, "finalize")
    ledger.begin_step(job, "finalize", LEASE_S)
    assert not is_due(ledger, job)
    clock.advance(LEASE_S)
    assert is_due(ledger, job)


def test_a_closed_job_is_due_unless_its_webhook_is_being_sent(ledger: Ledger, clock: Clock, job: str) -> None:
    under_way(ledger, job)
    ledger.close(job)
    check_due_unless_sent(ledger, clock, job, "events")


def test_a_job_without_a_ledger_is_due_unless_it_is_being_planned(ledger: Ledger, clock: Clock, job: str) -> None:
    check_due_unless_sent(ledger, clock, job, "plan")
    ledger.begin_step(job, "plan", LEASE_S)
    assert not is_due(ledger, job)


def test_any_job_is_due_once_in_a_while_because_the_bucket_is_authoritative(
    ledger: Ledger, clock: Clock, job: str
) -> None:
    under_way(ledger, job)
    ledger.start(lease(job, 0, lease_s=9 * THOROUGH_S))
    ledger.start(lease(job, 1, lease_s=9 * THOROUGH_S))
    assert not is_due(ledger, job)
    clock.advance(THOROUGH_S - 1)
    assert not is_due(ledger, job)
    clock.advance(1)
    # And the job stays due until it is examined, because a round may end before it reaches the job
    assert is_due(ledger, job)
    assert is_due(ledger, job)
    ledger.watchlist.looked_at(job)
    assert not is_due(ledger, job)
    clock.advance(THOROUGH_S)
    assert is_due(ledger, job)


def test_a_look_at_a_job_that_the_ledger_has_forgotten_leaves_nothing(ledger: Ledger, clock: Clock, job: str) -> None:
    assert is_due(ledger, job)
    ledger.forget(job)
    ledger.watchlist.looked_at(job)
    clock.advance(THOROUGH_S)
    ledger.claim_step(job, "plan")
    assert not is_due(ledger, job)


def test_many_jobs_are_looked_at_together(ledger: Ledger, job: str) -> None:
    names = [f"{job}-{n}" for n in range(1_203)]
    for name in names[::3]:
        under_way(ledger, name)
    assert list(ledger.watchlist.due(names, 2)) == [name for n, name in enumerate(names) if n % 3]


def test_a_lock_expires(ledger: Ledger, elapse: Callable[[float], None]) -> None:
    assert ledger.watchlist.lock("round", secrets.token_hex(4), 0.2)
    elapse(0.3)
    assert ledger.watchlist.lock("round", secrets.token_hex(4), 0.2)
