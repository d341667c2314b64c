"""The rules of a job's checks are pinned when it is planned, and every part rejects the rows that break them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from scoreline.storage.errors import InvalidRequest, ScoringError
from scoreline.storage.hashing import sha256_hex
from scoreline.storage.models.attachments import Attachment
from scoreline.storage.models.manifest import PinnedModel
from scoreline.storage.objects.buckets import Buckets
from scoreline.storage.tables.row_rules import RowRule
from scoreline.tasks.job.documents import Job
from scoreline.tasks.job.spec import JobSpec
from scoreline.tasks.steps.engine import Engine
from scoreline.tasks.steps.job_checks import checks_of_job
from scoreline.tasks.steps.planner import draft
from tests.support.one_model import Models

PUBLISHED = b"[columns]\nx = {max = 100}\n"
CSV = b"x,country\n1,DE\n2,DE\n300,DE\n4,XX\n"


class WithChecks(Models):
    """A source of a model whose version has checks."""

    def __init__(self, checks: bytes | None = None) -> None:
        super().__init__()
        self.checks = checks

    def manifest(self, pinned: PinnedModel) -> Any:
        found = super().manifest(pinned)
        found.name, found.version = "m", "20260101T000000000000Z-00000000"
        if self.checks is not None:
            found.attachments = {"checks.toml": Attachment(size=len(self.checks), sha256=sha256_hex(self.checks))}
        return found


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    environ = {"ENVIRONMENT": "development", "R2_BUCKET": "data", "STORE_DIR": str(tmp_path)}
    made = Engine(buckets=Buckets.from_env(environ), ledger=None, send=None, models=WithChecks())  # type: ignore[arg-type]
    made.buckets.main.put("in/a.csv", CSV)
    return made


def publish(engine: Engine, checks: bytes) -> None:
    engine.models = WithChecks(checks)
    engine.buckets.main.put("models/m/20260101T000000000000Z-00000000/checks.toml", checks)


def job(checks: str | None = None, keep: str = "all") -> Job:
    spec = JobSpec(
        job_id="j", model="m", inputs=("s3://data/in/",), output="s3://data/out/", checks=checks, keep=keep
    ).check()
    return Job(spec=spec, model=PinnedModel(name="m", version="1", manifest_sha256="a"), submitted="2026-11-25")


def test_a_plan_has_the_rules_of_the_version(engine: Engine) -> None:
    publish(engine, PUBLISHED)
    made = draft(engine, job())
    assert made.columns.rules == (RowRule(column="x", rule="max", value=100),)
    assert made.reason == "'x' is 300, but the contract has max = 100"
    assert (made.tried, made.rejected) == (4, 1)


def test_checks_of_the_job_come_before_those_of_the_version(engine: Engine) -> None:
    publish(engine, PUBLISHED)
    made = draft(engine, job("[columns]\ncountry = {in = ['DE']}\n"))
    assert made.columns.rules == (RowRule(column="country", rule="in", value=["DE"]),)
    assert made.reason == "'country' is 'XX', but the contract has in = ['DE']"
    assert draft(engine, job("none")).columns.rules == ()


def test_a_version_without_checks_has_the_defaults_and_no_rules(engine: Engine) -> None:
    assert draft(engine, job()).columns.rules == ()
    assert checks_of_job(engine, job()).table["drift"].level == "warn"


def test_checks_of_a_version_are_read_once_by_a_process(engine: Engine) -> None:
    publish(engine, PUBLISHED)
    draft(engine, job())
    engine.buckets.main.delete("models/m/20260101T000000000000Z-00000000/checks.toml")
    assert checks_of_job(engine, job()).rules


@pytest.mark.parametrize(
    ("checks", "keep", "message"),
    [
        (
            "[columns]\ncountry = {min = 0}",
            "all",
            "'country' is read as string, but the row rule min = 0",
        ),
        ("[columns]\ncountry = {not_null = true}", "none", "'country' has row rules .not_null., but it is neither"),
        ("[columns]\nx = {min = 'a'}", "all", "the text of the checks has 1 fault:\n  line 2: min = 'a' is not"),
    ],
)
def test_a_job_whose_rules_do_not_fit_fails_before_it_scores(
    engine: Engine, checks: str, keep: str, message: str
) -> None:
    with pytest.raises(InvalidRequest, match=message):
        draft(engine, job(checks, keep))


def test_a_job_without_a_row_that_keeps_the_rules_fails_with_the_rule(engine: Engine) -> None:
    with pytest.raises(ScoringError, match="'x' is 1, but the contract has min = 1000"):
        draft(engine, job("[columns]\nx = {min = 1000}\n"))


def test_a_text_that_is_too_long_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="checks has more than 100,000 bytes"):
        job("#" * 100_001)
