"""A job that is checked leaves a report beside its results, after its outcome, and no fault of it harms the job."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from scoreline.storage.errors import StoreUnavailable
from scoreline.storage.objects.base import exists
from scoreline.tasks.job.documents import read_outcome
from scoreline.tasks.quality.report import html
from scoreline.tasks.retention.owned import find_results
from scoreline.tasks.scoring.interruptions import SoftTimeLimitExceeded
from scoreline.tasks.steps import job_report
from scoreline.tasks.steps.job_report import leave_report
from tests.support.gated import BLOCKS, WARNS, Gated, gated

REPORT = "out/job_id=j/_report.html"


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Gated]:
    with gated(tmp_path) as found:
        yield found


def page(jobs: Gated) -> str:
    return jobs.main.get(REPORT).data.decode()


def test_a_job_leaves_a_page_that_says_what_its_checks_found(jobs: Gated) -> None:
    jobs.run("j", WARNS)
    assert "Accepted with 1 warning" in page(jobs)
    assert WARNS.message in page(jobs)


def test_a_blocked_job_leaves_a_page_too(jobs: Gated) -> None:
    jobs.run("j", BLOCKS, broken=(3,), max_rejected="100%")
    assert "Blocked by its checks" in page(jobs)
    assert '<h2 id="rejects-h">Rejected rows</h2>' in page(jobs)


@pytest.mark.parametrize("options", [{"checks": "none"}, {"profile": "off"}], ids=["no checks", "no profile"])
def test_a_job_without_checks_or_profile_leaves_no_page(jobs: Gated, options: dict[str, str]) -> None:
    jobs.run("j", **options)
    assert not exists(jobs.main, REPORT)


def test_a_job_that_failed_leaves_no_page(jobs: Gated) -> None:
    jobs.score("j", broken=(3,), max_rejected="0")
    assert jobs.finalize("j").state == "failed"
    assert not exists(jobs.main, REPORT)


@pytest.mark.parametrize(
    "error", [ZeroDivisionError("broken"), StoreUnavailable("503"), MemoryError()], ids=["bug", "store", "memory"]
)
def test_a_report_that_fails_harms_nothing_and_is_logged_with_its_reason(
    jobs: Gated, error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(report: object) -> str:
        assert read_outcome(jobs.main, "j") is not None, "the job has to end first"
        raise error

    monkeypatch.setattr(html, "render", fail)
    with caplog.at_level(logging.WARNING):
        assert jobs.run("j").state == "succeeded"
    assert jobs.named == "j"
    assert not exists(jobs.main, REPORT)
    (record,) = [record for record in caplog.records if record.message == "report.failed"]
    assert record.__dict__["job_id"] == "j"
    assert record.__dict__["error"]


def test_the_time_limit_of_a_part_between_whose_batches_a_job_ends_interrupts_the_part(
    jobs: Gated, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit raises its error only once, and later kills the process."""

    def run_out(report: object) -> str:
        raise SoftTimeLimitExceeded

    monkeypatch.setattr(html, "render", run_out)
    jobs.score("j")
    with pytest.raises(SoftTimeLimitExceeded):
        jobs.finalize("j")
    assert jobs.outcome("j").state == "succeeded"


def test_a_process_that_dies_before_the_report_leaves_a_job_that_has_ended(
    jobs: Gated, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*arguments: object, **options: object) -> None:
        raise SystemExit("killed")

    monkeypatch.setattr(job_report, "report_of", die)
    jobs.score("j")
    with pytest.raises(SystemExit):
        jobs.finalize("j")
    assert jobs.outcome("j").state == "succeeded"
    assert jobs.named == "j"
    monkeypatch.undo()
    assert jobs.client.report("j").state == "succeeded"


def test_the_report_of_a_very_long_job_is_left_to_those_who_ask(jobs: Gated, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_report, "_MAX_PARTS", 3)
    jobs.run("j")
    assert not exists(jobs.main, REPORT)
    monkeypatch.undo()
    documents = jobs.at.engine.documents("j", fresh=True)
    leave_report(jobs.at.engine, documents, jobs.outcome("j"))
    assert exists(jobs.main, REPORT)


def test_retention_removes_the_page_with_the_results(jobs: Gated) -> None:
    outcome = jobs.run("j")
    sha256 = jobs.at.engine.documents("j", fresh=True).plan.sha256
    found = find_results(jobs.buckets, "s3://scoreline/out/", "j", sha256, "succeeded", outcome)
    assert REPORT in {info.key for info in found.objects}
    found.delete()
    assert not exists(jobs.main, REPORT)
