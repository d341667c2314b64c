"""Answers over the broker, and the ledger, never quote data of the bucket, because other applications can read them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from sklearn.linear_model import LinearRegression

from scoreline.storage import keys
from scoreline.storage.errors import DocumentCorrupt, JobFailed, MissingColumns, ModelNotFound, ScoringError
from scoreline.tasks.job.documents import read_outcome
from scoreline.tasks.steps import score_part
from scoreline.testing import EagerClient, eager
from scoreline.worker.retries import answerable

SSN = "078-05-1120"
PEOPLE = f"ssn,x\n{SSN},1\n{SSN},2\n"
LINE = LinearRegression().fit(pd.DataFrame({"x": [0.0, 1.0]}), [1.0, 3.0])
BARE = LinearRegression().fit([[0.0], [1.0]], [1.0, 3.0])
"""A model that does not know the names of its features."""


@pytest.fixture
def client(tmp_path: Path) -> Iterator[EagerClient]:
    with eager(tmp_path) as client:
        client.models.publish("line", LINE)
        client.models.publish("bare", BARE)
        yield client


@pytest.mark.parametrize(
    ("content", "options"),
    [
        (PEOPLE, {"model": "bare", "features": ["ssn"]}),
        (f'{{"ssn": "{SSN}"}}\n{{}}\n', {"format": "csv"}),
        (f'{{"ssn": "{SSN}"}}\n{{}}\n', {"format": "csv", "keep": ["x"]}),
        (f"x,{SSN}\n1,2\n", {"partition_by": "y"}),
        (PEOPLE, {"types": {"ssn": "int64"}, "keep": ["ssn"], "max_rejected": 0}),
    ],
)
def test_an_answer_about_a_failed_job_quotes_nothing_of_its_input(
    client: EagerClient, content: str, options: dict[str, Any]
) -> None:
    model = options.pop("model", "line")
    failed = client.submit(model, client.put("in/people.csv", content), **options)
    assert failed.state == "failed"
    assert SSN in failed.error
    answer = client.answer(client.status(failed.job_id))
    assert SSN not in str(answer)
    assert answer["reason"] == failed.reason
    assert f"scoreline status {failed.job_id}" in answer["error"]
    assert answer | {"error": ""} == replace(failed, submitter=None).to_dict() | {"error": ""}


def test_an_answer_contains_an_error_that_quotes_nothing(client: EagerClient) -> None:
    failed = client.submit("line", "s3://scoreline/nowhere/")
    assert client.answer(client.status(failed.job_id)) == replace(failed, submitter=None).to_dict()
    assert "no input at s3://scoreline/nowhere/" in failed.error


def test_an_answer_about_a_job_that_an_earlier_release_ended_says_only_that_it_failed(client: EagerClient) -> None:
    failed = client.submit("bare", client.put("in/people.csv", PEOPLE), features=["ssn"])
    key = keys.outcome(failed.job_id)
    document = json.loads(client.buckets.main.get(key).data)
    del document["summary"]
    client.buckets.main.put(key, json.dumps(document).encode())
    assert client.answer(client.status(failed.job_id))["error"].startswith("the job failed; `scoreline status ")


def test_the_ledger_has_no_more_of_a_failed_part_than_an_answer(
    client: EagerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ScoringError(f"row 1: {SSN} is not a number")

    monkeypatch.setattr(score_part, "commit_part", fail)
    uri = client.put("in/people.csv", PEOPLE)
    failed = client.submit("line", uri, job_id="parts")
    # The outcome in the bucket contains the full reason why the part failed
    outcome = read_outcome(client.buckets.main, "parts")
    assert outcome is not None
    assert outcome.failures == {"0": f"row 1: {SSN} is not a number"}
    assert failed.error == f"1 of 1 part failed; part 0: row 1: {SSN} is not a number"
    # The ledger and the answer over the broker do not quote the input
    progress = client.ledger.progress("parts")
    assert progress is not None
    assert list(progress.failures) == [0]
    assert SSN not in str(progress.failures)
    assert client.answer(client.status("parts"))["error"].startswith("1 of 1 part failed; `scoreline status parts`")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (DocumentCorrupt(f"job.json is not what Scoreline writes there: {SSN}"), DocumentCorrupt),
        (MissingColumns(f"it has {SSN}"), MissingColumns),
        (ValueError(SSN), JobFailed),
    ],
)
def test_an_error_that_is_stored_as_an_answer_quotes_nothing(error: Exception, kind: type) -> None:
    stored = answerable(error)
    assert type(stored) is kind
    assert SSN not in str(stored)
    assert type(error).__name__ in str(stored)


def test_an_error_about_the_request_is_stored_unchanged() -> None:
    error = ModelNotFound("no model 'x' in bucket 'b' (models: y)")
    assert answerable(error) is error
