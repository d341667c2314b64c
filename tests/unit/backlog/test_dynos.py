"""Dynos are added at once, and removed only after some time without any work."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from scoreline.tasks.backlog.dynos import Decision, Policy, decide, processes_needed
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
