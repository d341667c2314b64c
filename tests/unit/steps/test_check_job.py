"""The checker of an engine holds jobs against their checks, their baseline, and the last accepted run."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from scoreline.tasks.job.documents import Outcome
from tests.support.gated import OUTPUT, Gated, gated


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Gated]:
    with gated(tmp_path) as found:
        found.at.engine.checker = None
        yield found


def run(jobs: Gated, job_id: str, rows: int = 40, checks: str | None = None, broken: tuple[int, ...] = ()) -> Outcome:
    jobs.at.plan(rows, broken, job_id=job_id, output=OUTPUT, checks=checks, max_rejected="50%")
    jobs.at.score(job_id, *range(rows // 10))
    return jobs.finalize(job_id)


def said(outcome: Outcome) -> list[str]:
    return [finding.message for finding in outcome.checks.findings] if outcome.checks is not None else []


def test_rows_are_compared_with_the_last_accepted_run(jobs: Gated) -> None:
    assert said(run(jobs, "one")) == []
    found = run(jobs, "two", rows=20)
    assert (found.state, said(found)) == (
        "succeeded",
        [
            "The input has 20 rows, 50% fewer than the 40 of the last accepted run; up to 30% fewer are expected.",
        ],
    )
    assert said(run(jobs, "three", rows=20, broken=(1, 2))) == []
    assert said(run(jobs, "four", rows=40, checks="none")) == []


def test_rejected_rows_count_as_rows_of_the_last_run(jobs: Gated) -> None:
    run(jobs, "one", broken=tuple(range(0, 40, 2)))
    assert said(run(jobs, "two")) == [], "the last run had 40 rows, and not 20"


def test_without_a_baseline_scores_are_compared_with_the_first_accepted_run(jobs: Gated) -> None:
    run(jobs, "one", checks="level = 'block'\n[rows]\nmin = 41\n")  # blocked, so that it does not count
    assert said(run(jobs, "two")) == []
    assert said(run(jobs, "three")) == []
    (message,) = said(run(jobs, "four", broken=tuple(range(20)), checks="[rejects]\nlevel = 'off'\n"))
    assert message == "50% of 'x' is null or NaN, but 0% in the first accepted run."


def test_a_check_that_blocks_keeps_the_job_from_readers(jobs: Gated) -> None:
    run(jobs, "one")
    found = run(jobs, "two", rows=20, checks="[rows]\nlevel = 'block'\n")
    assert (found.state, jobs.named) == ("blocked", "one")


def test_the_age_of_the_input_is_that_of_its_newest_object(jobs: Gated) -> None:
    found = run(jobs, "one", checks="[freshness]\nmax_age = '0s'\n")
    (message,) = said(found)
    assert message.startswith("The newest object of the input was written ")
    assert datetime.now(UTC) - timedelta(hours=1) < datetime.fromisoformat(message.split(" at ")[1][:16] + "+00:00")
    assert said(run(jobs, "two", checks="[freshness]\nmax_age = '10d'\n")) == []


def test_rows_that_break_a_rule_are_counted_by_column_and_rule_and_keep_their_numbers(jobs: Gated) -> None:
    found = run(jobs, "one", checks="[columns]\nx = {max = 35}\nid = {min = 2}\n")
    assert (found.state, found.rows, found.rejected) == ("partial", 34, 6)
    counted = jobs.client.rejected("one", examples=9)
    assert counted.stages == {"contract": 6}
    assert counted.columns == {"x": 4, "id": 2}
    over, under = counted.reasons
    assert [example.row for example in over.examples] == [36, 37, 38, 39]
    assert over.examples[0].message == "'x' is 36.0, but the contract has max = 35"
    assert [example.row for example in under.examples] == [0, 1]
    assert over.examples[0].columns == {"x": 36.0, "id": 36}
