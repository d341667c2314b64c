"""A user can watch a job even if Redis or the bucket fails from time to time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from scoreline.storage.errors import (
    AccessDenied,
    JobNotFound,
    LedgerUnavailable,
    ScorelineError,
    StoreUnavailable,
)
from scoreline.tasks.client import Client
from scoreline.tasks.job.documents import Status
from scoreline.tasks.job.loads import LoadStatus
from scoreline.worker.cli import progress
from scoreline.worker.cli.main import cli

RUNNING = Status(job_id="j", state="running", model="m@1", output="s3://b/out/", parts=2, total_rows=10, seconds=1.0)
DONE = replace(RUNNING, state="partial", parts_done=2, rows=9, rejected=1)


class Services:
    """A client whose services answer with one status or error after another; each call of `watch` connects again."""

    queue = SimpleNamespace(workers=lambda **_: ["celery@here"])

    def __init__(self, *answers: Status | ScorelineError) -> None:
        self.answers = list(answers)

    def status(self, job_id: str) -> Status:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, ScorelineError):
            raise answer
        return answer

    def watch(self, job_id: str) -> Iterator[Status]:
        while True:
            now = self.status(job_id)
            yield now
            if now.ended:
                return


def follow(*answers: Status | ScorelineError, outage_s: float = 60.0) -> int:
    client: Any = Services(*answers)
    return progress.follow_job(client, "j", outage_s=outage_s)


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_RETRY_S", 0.0)
    monkeypatch.setenv("REDIS_URL", "redis://10.0.0.1:6379/0")


HICCUP = LedgerUnavailable("cannot reach Redis at 10.0.0.1:6379")


@pytest.mark.parametrize("error", [HICCUP, StoreUnavailable("cannot read s3://b/jobs/j/job.json")])
@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_watch_outlasts_a_hiccup(error: ScorelineError, at: int, capsys: pytest.CaptureFixture[str]) -> None:
    answers: list[Status | ScorelineError] = [RUNNING, RUNNING, DONE]
    answers[at:at] = [error, error, error]
    assert follow(*answers) == 3
    said = capsys.readouterr()
    assert said.err.count(f"{error}; asking again for 60 s, and j goes on") == 1
    assert "j: partial after 1.0 s" in said.out


@pytest.mark.parametrize("before", [[], [RUNNING]], ids=["at once", "later"])
@pytest.mark.parametrize("error", [HICCUP, AccessDenied("cannot read s3://b/jobs/j/job.json")])
def test_an_outcome_that_cannot_be_known_is_not_reported_as_a_failure(
    before: list[Status], error: ScorelineError, capsys: pytest.CaptureFixture[str]
) -> None:
    assert follow(*before, error, outage_s=0.0) == 6
    assert f"error: {error}" in capsys.readouterr().err


def loaded(**load: Any) -> Status:
    """Return the status of a job whose results are loaded into a table."""
    given: dict[str, Any] = {"number": 1, "state": "loaded", "load_id": "l", "table": "public.scores", "mode": "upsert"}
    return replace(DONE, state="succeeded", rows=10, rejected=0, loads=(LoadStatus(**given | load),))


@pytest.mark.parametrize(
    ("load", "code"),
    [
        ({"rows": 10}, 0),
        ({"rows": 8, "set_aside": 2}, 3),
        ({"state": "failed", "error": "no such table"}, 1),
        ({"state": "superseded", "error": "job k is newer"}, 1),
    ],
)
def test_a_watch_goes_on_until_the_results_are_loaded(
    load: dict[str, Any], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    waits, goes_on = loaded(state="waiting"), loaded(state="loading", parts=2, parts_done=1, rows=5)
    assert follow(RUNNING, waits, waits, HICCUP, goes_on, loaded(**load)) == code
    said = " ".join(capsys.readouterr().out.split())
    assert f"load {load.get('state', 'loaded')}: {load.get('rows', 0)} rows" in said
    assert load.get("error", "") in said
    assert said.count("into public.scores") == 1


def test_a_watch_of_a_load_ends_if_a_person_withdraws_the_results() -> None:
    assert follow(loaded(state="waiting"), replace(DONE, state="blocked")) == 5


def test_a_watch_of_a_load_that_is_interrupted_says_that_the_job_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", interrupt)
    assert follow(loaded(state="loading")) == 130
    assert "j goes on" in capsys.readouterr().err


def test_a_job_that_does_not_exist_is_a_wrong_usage() -> None:
    with pytest.raises(JobNotFound):
        follow(JobNotFound("no job 'j'"))


@pytest.mark.parametrize(("answer", "code"), [(HICCUP, 6), (replace(RUNNING, state="failed"), 1), (RUNNING, 0)])
def test_a_status_that_is_not_known_is_not_reported_as_failed(
    answer: Status | ScorelineError, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Client, "from_env", lambda: Services(answer))
    assert CliRunner().invoke(cli, ["status", "j"]).exit_code == code
