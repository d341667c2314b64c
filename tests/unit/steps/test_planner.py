"""A job is planned once."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from scoreline.storage import keys
from scoreline.tasks.steps import planner
from scoreline.tasks.steps.planner import plan_job
from tests.support.line_jobs import desk


def test_of_two_planners_at_once_the_first_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with desk(tmp_path) as at:
        job_id, main = at.submit(), at.client.buckets.main
        make_plan = planner.make_plan
        others = [lambda: plan_job(at.engine, job_id)]

        def slowly(*arguments: object) -> bytes:
            data = make_plan(*arguments)  # type: ignore[arg-type]
            if others:  # meanwhile the input is replaced, and another process plans
                at.client.put("in/a.parquet", pd.DataFrame({"x": [1.0] * 20}))
                others.pop()()
            return data

        monkeypatch.setattr(planner, "make_plan", slowly)
        plan_job(at.engine, job_id)
        assert at.engine.documents(job_id, fresh=True).plan.rows == 20
        assert at.progress(job_id).in_flight == at.engine.documents(job_id).plan.parts
        assert [info.key for info in main.list(keys.plan(job_id))] == [keys.plan(job_id)]
