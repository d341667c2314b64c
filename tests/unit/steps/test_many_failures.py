"""The outcome of a job names some of the parts that failed, and counts all of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from scoreline.tasks.steps import results_manifest
from tests.support.one_job import OneJob


def test_an_outcome_has_the_reasons_of_the_first_parts_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results_manifest, "MAX_FAILURES", 2)
    job = OneJob(tmp_path, rows=5, part_rows=1)
    job.run(6)
    for number in (1, 2, 4):
        job.copy(job.layout.part(number), job.layout.part(number), plan="of another job")
    job.run()
    assert (job.outcome.state, job.outcome.parts, job.outcome.parts_done) == ("failed", 5, 2)
    assert list(job.outcome.failures) == ["1", "2"]
    assert job.outcome.summary == "3 of 5 parts failed"
