"""A finalizer names its run from what it has read and written itself, as another process would from the bucket."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from scoreline.storage import keys
from scoreline.tasks.quality.gate import published as publishing
from scoreline.tasks.quality.gate.published import published
from scoreline.tasks.steps import finalize as finalizing
from scoreline.tasks.steps.before_end import write_before_end
from scoreline.tasks.steps.planner import plan_job
from tests.support.gated import BLOCKS, KEY, OUTPUT, WARNS, Gated, check_latest


@pytest.mark.parametrize("options", [{}, {"gather": True}, {"partition_by": "day"}], ids=["parts", "gather", "folders"])
@pytest.mark.parametrize("most", [1, 20_000])
def test_what_is_named_is_what_is_in_the_bucket(
    jobs: Gated, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], most: int
) -> None:
    monkeypatch.setattr(publishing, "MAX_FILES", most)
    frame = pd.DataFrame({"id": range(40), "x": np.arange(40.0), "day": ["a", "b"] * 20})
    uri = jobs.client.put("in/days.parquet", frame)
    jobs.client.submit("line", uri, part_rows=10, job_id="j", output=OUTPUT, **options)
    plan_job(jobs.at.engine, "j")
    jobs.at.score("j", 0, 1, 2, 3)
    jobs.findings = (WARNS,)
    outcome = jobs.finalize("j")
    assert outcome.checks is not None
    assert jobs.latest.published == published(jobs.main, "out/job_id=j/", outcome.checks)


def test_a_run_that_ends_meanwhile_is_not_forgotten(jobs: Gated, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a finalizer that has read latest.json before another run was named there
    jobs.run("a")
    jobs.score("b")
    jobs.score("c")

    def end_other_first(*arguments: Any) -> Any:
        monkeypatch.undo()
        jobs.at.engine.checker = lambda evidence: ()
        assert jobs.finalize("b").state == "succeeded"
        return write_before_end(*arguments)

    monkeypatch.setattr(finalizing, "write_before_end", end_other_first)
    # When it ends its own job
    jobs.finalize("c")
    # Then both runs are listed
    assert check_latest(jobs.main) == "c"
    assert [run.job_id for run in jobs.latest.runs] == ["c", "b", "a"]


def test_a_blocked_job_is_named_by_nobody(jobs: Gated) -> None:
    jobs.run("a")
    jobs.run("b", BLOCKS)
    assert check_latest(jobs.main) == "a"


def test_a_corrupt_document_does_not_stop_a_job(jobs: Gated) -> None:
    jobs.main.put(KEY, b"{")
    jobs.at.engine.checker = None  # the checks read the document
    assert jobs.run("a").state == "succeeded"
    assert jobs.has_success("a")
    assert jobs.main.get(KEY).data == b"{"
    outcome = jobs.outcome("a")
    assert outcome.checks is not None
    assert "latest.json is not what Scoreline writes there" in outcome.checks.findings[0].message
    assert not list(jobs.main.list(keys.active("a")))
