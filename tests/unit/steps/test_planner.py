"""A job is planned once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from scoreline.storage import keys
from scoreline.storage.kept_memory import MEMORY, empty_matrix
from scoreline.tasks.steps import planner
from scoreline.tasks.steps.planner import plan_job
from tests.support.line_jobs import desk


def test_if_two_processes_plan_a_job_at_once_the_first_plan_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with desk(tmp_path) as at:
        job_id, main = at.submit(), at.client.buckets.main
        make_plan = planner.make_plan
        others = [lambda: plan_job(at.engine, job_id)]

        def slowly(*arguments: Any, **options: Any) -> bytes:
            data = make_plan(*arguments, **options)
            if others:  # before the plan is written, the input is replaced, and another process plans the job
                at.client.put("in/a.parquet", pd.DataFrame({"x": [1.0] * 20}))
                others.pop()()
            return data

        monkeypatch.setattr(planner, "make_plan", slowly)
        plan_job(at.engine, job_id)
        assert at.engine.documents(job_id, fresh=True).plan.rows == 20
        assert at.progress(job_id).in_flight == at.engine.documents(job_id).plan.parts
        assert [info.key for info in main.list(keys.plan(job_id))] == [keys.plan(job_id)]


def test_a_part_of_broken_lines_alone_does_not_keep_a_job_from_being_planned(tmp_path: Path) -> None:
    # Given a feature that is a number in some lines and a text in others, and a broken line that is a separate part
    with desk(tmp_path) as at:
        uri = at.client.put("in/a.jsonl", '{"x": \n{"x": 1}\n{"x": "oops"}\n{"x": 2}\n')
        at.client.submit("line", uri, part_rows=1, max_rejected=2, job_id="j")
        at.client.run()
        status = at.client.status("j")
        assert (status.error, status.rows, status.rejected) == ("", 2, 2)


def test_a_dry_run_keeps_no_memory_of_matrices(tmp_path: Path) -> None:
    with desk(tmp_path) as at:
        uri = at.client.put("in/a.parquet", pd.DataFrame({"x": [1.0] * 20}))
        empty_matrix(1_000, 1_000, "f8", "C")
        assert MEMORY.unused_bytes
        at.client.preflight("line", uri)
        assert MEMORY.unused_bytes == 0
