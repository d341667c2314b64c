"""A job ends with these writes, in this order: manifest, claim, ``_SUCCESS``, ``latest.json``, outcome, report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from scoreline.tasks.steps.finalize import finalize
from tests.support.line_jobs import desk


@pytest.mark.parametrize("gather", [False, True])
def test_a_job_ends_with_manifest_profile_claim_success_outcome_and_report_in_this_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gather: bool
) -> None:
    with desk(tmp_path) as at:
        job_id, main = at.plan(gather=gather), at.client.buckets.main
        at.score(job_id, 0, 1, 2, 3)
        written: list[str] = []
        put = main.put

        def noted(key: str, *arguments: Any, **options: Any) -> Any:
            written.append(key.rpartition("/")[2])
            return put(key, *arguments, **options)

        monkeypatch.setattr(main, "put", noted)
        finalize(at.engine, job_id)
        assert set(written[-8:-6]) == {"_manifest.json", "_profile.json"}  # side by side
        assert written[-6:-2] == ["claim-1.json", "_SUCCESS", "latest.json", "outcome.json"]
        assert written[-2].endswith(f"~line~{job_id}")  # the entry of the index
        assert written[-1] == "_report.html"  # when the job has ended
        assert len(written) == len(set(written))
