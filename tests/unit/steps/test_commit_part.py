"""A part is committed once, by one object with a receipt that names its plan and part."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

from scoreline.storage import keys
from scoreline.storage.errors import LedgerUnavailable, ScoringError
from scoreline.tasks.job.layout import ResultsLayout
from scoreline.tasks.job.plan_file import PlanFile
from scoreline.tasks.steps.commit_part import commit_part, read_receipt
from scoreline.tasks.steps.score_rows import PartStopped
from tests.support.line_jobs import Desk, desk
from tests.support.one_model import LINE, Models


@pytest.fixture
def at(tmp_path: Path) -> Iterator[Desk]:
    with desk(tmp_path) as made:
        yield made


class Flat(LinearRegression):
    """Predicts 7 for every row."""

    def predict(self, x: Any) -> Any:
        return np.full(len(x), 7.0)


class Choosy(LinearRegression):
    """Refuses numbers below 3, and otherwise predicts as `LINE` does."""

    def predict(self, x: Any) -> Any:
        if (np.asarray(x) < 3).any():
            raise ValueError("too small")
        return LINE.predict(x)


def part_of(at: Desk, job_id: str, number: int = 0) -> bytes:
    layout = ResultsLayout.of(at.engine.buckets, at.engine.documents(job_id).job)
    return layout.store.get(layout.part(number)).data


def test_a_part_that_is_committed_keeps_its_bytes(at: Desk) -> None:
    job_id = at.plan()
    documents = at.engine.documents(job_id)
    first = commit_part(at.engine, documents, 0, 100)
    before = part_of(at, job_id)
    at.engine.models = Models(Flat())  # simulates a machine on which the model gives other results
    assert commit_part(at.engine, documents, 0, 100).sha256 == first.sha256
    assert part_of(at, job_id) == before


def test_a_process_that_comes_second_counts_the_rows_of_the_committed_part(at: Desk) -> None:
    # Given a process that rejects three rows of a part that another process has committed without rejected rows
    job_id = at.plan()
    documents = at.engine.documents(job_id)
    commit_part(at.engine, documents, 0, 100)
    at.engine.models = Models(Choosy())
    late = commit_part(at.engine, documents, 0, 100)
    assert (late.rows, late.rejected) == (10, 0)
    assert list(at.client.buckets.main.list(f"results/line/job_id={job_id}/_rejected/")) == []


@pytest.mark.parametrize("other", ["plan", "part"])
def test_an_object_of_another_plan_or_part_is_not_counted_as_a_result(
    at: Desk, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    job_id = at.plan()
    documents = at.engine.documents(job_id)
    receipt = commit_part(at.engine, documents, 0, 100)
    assert read_receipt(at.engine, documents, 0) == receipt
    number = 0
    if other == "plan":
        monkeypatch.setattr(documents.plan, "sha256", "of another plan")
    else:
        number, layout = 1, ResultsLayout.of(at.engine.buckets, documents.job)
        metadata = layout.store.head(layout.part(0)).metadata
        layout.store.put(layout.part(1), part_of(at, job_id), metadata=metadata)
    with pytest.raises(ScoringError, match="was not written for this part of this job"):
        read_receipt(at.engine, documents, number)


def test_a_part_that_is_written_after_the_results_were_arranged_is_removed(
    at: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given another process that ends the job just before this process writes its part
    job_id, main = at.plan(gather=True), at.client.buckets.main
    plan = PlanFile(main, job_id)
    folder, put = f"results/line/job_id={job_id}/", main.put

    def late(key: str, data: bytes, **options: Any) -> Any:
        if "/part-" in key:
            success = {"plan": plan.sha256, "rows": 40, "rejected": 0, "parts": 4}
            put(keys.success(folder), json.dumps(success).encode())
        return put(key, data, **options)

    monkeypatch.setattr(main, "put", late)
    with pytest.raises(PartStopped):
        commit_part(at.engine, at.engine.documents(job_id), 0, 100)
    assert [info.key for info in main.list(folder)] == [keys.success(folder)]


def test_an_outage_of_the_ledger_does_not_throw_away_the_rows_scored_so_far(
    at: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a part of two objects, so that it has two batches
    uris = [at.client.put(f"in/{name}.csv", "x\n1\n2\n") for name in "ab"]
    job_id = at.client.submit("line", uris, part_rows=100).job_id
    from scoreline.tasks.steps.planner import plan_job

    plan_job(at.engine, job_id)

    def stopped(job_id: str) -> bool:
        raise LedgerUnavailable("no Redis")

    monkeypatch.setattr(at.engine.ledger, "stopped", stopped)
    assert commit_part(at.engine, at.engine.documents(job_id), 0, 100).rows == 4
