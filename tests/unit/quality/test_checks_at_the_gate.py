"""The checks of a job, as they are published or given, end it as blocked or show warnings."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.support.gated import Gated

TOO_FEW = "level = 'block'\n[rows]\nmin = 41\n"


@pytest.fixture
def held(jobs: Gated) -> Gated:
    jobs.at.engine.checker = None
    return jobs


def test_a_job_that_fails_a_check_is_blocked_until_it_is_accepted(held: Gated) -> None:
    outcome = held.run("j", checks=TOO_FEW)
    assert outcome.state == "blocked"
    assert outcome.checks is not None
    (finding,) = outcome.checks.findings
    assert (finding.check, finding.level, finding.value, finding.limit) == ("rows", "block", 40, 41)
    assert "The input has 40 rows; at least 41 are expected." in finding.message
    assert held.client.accept("j", "a holiday").latest == "j"


def test_rows_are_compared_with_the_last_accepted_run_and_not_with_a_blocked_one(held: Gated) -> None:
    held.run("a")
    assert held.run("b", rows=400, part_rows=100, checks="level = 'block'\n").state == "blocked"
    outcome = held.run("c", rows=400, part_rows=100)
    assert outcome.state == "succeeded"
    assert outcome.checks is not None
    (finding,) = (finding for finding in outcome.checks.findings if finding.check == "rows")
    assert finding.level == "warn"
    assert "40 of the last accepted run" in finding.message
    outcome = held.run("d", rows=400, part_rows=100)
    assert outcome.checks is not None, "the scores still differ from those of the first run"
    assert "rows" not in {finding.check for finding in outcome.checks.findings}


def test_an_old_input_is_a_finding(held: Gated, tmp_path: Path) -> None:
    held.score("j", checks="[freshness]\nmax_age = '1h'\n")
    assert held.finalize("j").checks is None
    held.score("k", checks="[freshness]\nmax_age = '1h'\n")
    old = time.time() - 7_300
    os.utime(held.at.client.folder / "scoreline" / "in" / "a.parquet", (old, old))
    outcome = held.finalize("k")
    assert outcome.checks is not None
    assert [finding.check for finding in outcome.checks.findings] == ["freshness"]


def test_checks_that_cannot_be_read_are_a_warning(held: Gated, monkeypatch: pytest.MonkeyPatch) -> None:
    held.score("j")
    held.main.put("out/latest.json", b"{}")
    outcome = held.finalize("j")
    assert outcome.state == "succeeded"
    assert outcome.checks is not None
    (finding,) = outcome.checks.findings
    assert finding.level == "warn"
    assert "latest.json is not what Scoreline writes there" in finding.message
