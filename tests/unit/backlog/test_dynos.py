"""Dynos are added at once, and removed only after some time without any work."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from scoreline.tasks.backlog.dynos import Decision, Policy, decide, processes_for_deadlines, processes_needed
from scoreline.tasks.backlog.reader import Backlog, JobBacklog, NextStep

NOW = 1_800_000_000.0
POLICY = Policy(least=0, most=10, finish_within_s=600, idle_after_s=300, start_s=60)
NOTHING = Backlog(jobs=())


def left(seconds: float, *, age_s: float = 0.0, next_step: NextStep = "score") -> JobBacklog:
    return JobBacklog(job_id="j", group="g", next_step=next_step, rows=1, seconds=seconds, since=NOW - age_s)


def made(*jobs: JobBacklog, policy: Policy = POLICY, unread: int = 0, **given: Any) -> Decision:
    known: dict[str, Any] = {"now": NOW, "dynos": 0, "waiting": 0, "worker_size": 2, "idle_s": 0.0}
    return decide(Backlog(jobs=jobs, unread=unread), policy, **known | given)


@pytest.mark.parametrize(
    ("seconds", "dynos"),
    [(0.1, 1), (1_080, 1), (1_081, 2), (5_400, 5), (100_000, 10)],
)
def test_as_many_dynos_are_added_as_finish_in_time(seconds: float, dynos: int) -> None:
    assert made(left(seconds)).dynos == dynos  # two processes for 600 - 60 s


def test_a_job_that_began_earlier_has_less_time() -> None:
    assert [made(left(2_000, age_s=age_s)).dynos for age_s in (0, 200, 400, 500, 9_999)] == [2, 3, 8, 10, 10]


def needed(*jobs: JobBacklog) -> float:
    return processes_needed(Backlog(jobs=jobs), POLICY, NOW)


def test_jobs_may_be_scored_one_after_another() -> None:
    long, short = left(2_000), left(100, age_s=-100)
    assert needed(long, short) == pytest.approx(2_100 / 540)


def test_jobs_may_share_processes_evenly() -> None:
    early, late = left(800, age_s=300), left(2_000)
    assert needed(early, late) == pytest.approx((800 + 800) / 240)  # until the first one ends, the other gets as much
    assert needed(left(100, age_s=300), *9 * [left(900)]) == pytest.approx(8_200 / 540)


def due(seconds: float, in_s: float, **given: Any) -> JobBacklog:
    return replace(left(seconds), deadline=NOW + in_s, **given)


def test_a_job_ends_before_its_deadline_although_more_time_would_be_allowed() -> None:
    assert [made(due(1_080, in_s)).dynos for in_s in (900, 600, 330, 195, 90)] == [1, 1, 2, 4, 9]
    assert made(due(1_080, -1)).dynos == 1  # the job ends as failed, and no dyno helps


@pytest.mark.parametrize(
    ("other", "work"),
    [
        ({"priority": "high"}, 2_000),
        ({"since": NOW - 9}, 2_000),
        ({"priority": "low", "since": NOW - 9}, 1_000),
        ({"since": NOW + 9}, 1_000),
        ({"group": "other"}, 2_000),  # groups share evenly, whatever is younger
        ({"group": "other", "seconds": 50.0, "since": NOW + 9}, 1_050),
    ],
)
def test_the_work_before_a_deadline_is_that_which_comes_first(other: dict[str, Any], work: float) -> None:
    job = due(1_000, 260)
    found, urgent = processes_for_deadlines(Backlog(jobs=(job, replace(left(1_000), **other))), POLICY, NOW)
    assert found == pytest.approx(work / 200)
    assert urgent == job


def test_the_reason_names_the_job_whose_deadline_needs_most() -> None:
    easy, hard = due(100, 500, job_id="easy"), due(1_000, 260, job_id="hard", since=NOW + 1)
    soon = "and hard before its deadline in 4 min 20 s"
    assert made(easy, hard).reason == f"18 min 20 s of work in 2 jobs ends within 10 min, {soon}"
    assert "deadline" not in made(due(5_400, 9_999)).reason
    reason = made(due(9_000, 260)).reason
    assert reason.startswith("2 h 30 min of work in 1 job would need 23 dynos to end within 10 min, and j before")
    assert reason.endswith("and --max is 10")


def test_no_dyno_is_removed_while_there_is_work() -> None:
    assert made(left(1.0), dynos=7, idle_s=9_999).dynos == 7
    assert made(left(0.0, next_step="plan"), dynos=7, idle_s=9_999).dynos == 7
    assert made(left(0.0, next_step="finalize"), dynos=7, idle_s=9_999).dynos == 7
    assert made(dynos=7, unread=1, idle_s=9_999).dynos == 7
    assert made(dynos=7, waiting=1, idle_s=9_999).dynos == 7
    assert made(left(1.0), dynos=12, policy=replace(POLICY, most=10)).dynos == 12  # somebody else added two


def test_dynos_are_removed_after_a_while_without_work() -> None:
    assert made(dynos=7, idle_s=299).dynos == 7
    assert made(dynos=7, idle_s=300).dynos == 0
    assert made(dynos=7, idle_s=300, policy=replace(POLICY, least=2)).dynos == 2


def test_the_smallest_number_is_kept_without_work() -> None:
    assert made(policy=replace(POLICY, least=2)).dynos == 2
    assert made(policy=replace(POLICY, least=2), dynos=2, idle_s=9_999).dynos == 2


def test_any_job_or_message_needs_a_dyno() -> None:
    assert made(left(0.0, next_step="plan")).dynos == 1
    assert made(unread=1).dynos == 1
    assert made(waiting=1).dynos == 1
    assert made().dynos == 0


def test_a_webhook_needs_one_dyno_and_no_more() -> None:
    assert made(left(0.0, next_step="notify")).dynos == 1
    assert made(left(0.0, next_step="notify"), dynos=7, idle_s=300).dynos == 1


def test_a_limit_of_no_dynos_is_kept() -> None:
    assert made(left(9_999), policy=replace(POLICY, most=0)).dynos == 0


@pytest.mark.parametrize(
    ("decision", "reason"),
    [
        (made(left(900)), "15 min of work in 1 job ends within 10 min"),
        (
            made(left(99_999)),
            "1 d 3 h of work in 1 job would need 93 dynos to end within 10 min, and --max is 10",
        ),
        (made(left(9), dynos=3), "9.0 s of work in 1 job needs 1 dyno to end within 10 min; no dyno is removed while"),
        (made(waiting=2), "0 jobs and 2 messages wait for a worker"),
        (made(dynos=3, idle_s=60), "there is no work: dynos are removed in 4 min, if none comes"),
        (made(dynos=3, idle_s=900), "there has been no work for 15 min"),
        (made(), "there is no work"),
    ],
)
def test_the_reason_says_why(decision: Decision, reason: str) -> None:
    assert decision.reason.startswith(reason)
