"""Labels and the submitter of a job are recorded when it is submitted, and shown with its status."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from scoreline.storage import keys
from scoreline.storage.audit import Submitter, acting_as
from scoreline.storage.errors import InvalidRequest
from scoreline.tasks.job.documents import Job, read_job
from scoreline.tasks.job.labels import check_labels
from scoreline.testing import EagerClient
from scoreline.worker import lifecycle, tasks
from scoreline.worker.cli.main import cli
from tests.support.line_jobs import Desk, desk

LABELS = {"team": "risk", "run": "nightly"}


@pytest.fixture
def at(tmp_path: Path) -> Iterator[Desk]:
    with desk(tmp_path) as made:
        yield made


def document(client: EagerClient, job_id: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(client.buckets.main.get(keys.job(job_id)).data)
    return found


def test_a_job_records_its_labels_and_its_submitter(at: Desk) -> None:
    with acting_as("alice", "laptop, CLI"):
        job_id = at.submit(labels=LABELS)
    stored = document(at.client, job_id)
    assert (stored["labels"], stored["submitter"]) == (LABELS, {"who": "alice", "where": "laptop, CLI"})
    status = at.client.status(job_id)
    assert (status.labels, status.submitter) == (LABELS, Submitter(who="alice", where="laptop, CLI"))
    at.client.cancel(job_id)
    assert at.client.status(job_id).labels == LABELS
    assert status.to_dict()["submitter"] == {"who": "alice", "where": "laptop, CLI"}


def test_the_answer_over_the_broker_does_not_name_the_submitter(at: Desk) -> None:
    answer = at.client.answer(at.client.status(at.submit(labels=LABELS)))
    assert (answer["labels"], "submitter" in answer) == (LABELS, False)


def test_an_earlier_release_reads_the_spec_of_a_job_with_labels(at: Desk) -> None:
    # It refuses a field of the spec that it does not know, so that labels stand beside the spec
    plain, labelled = (
        document(at.client, at.submit(job_id="a")),
        document(at.client, at.submit(job_id="b", labels=LABELS)),
    )
    assert labelled["spec"].keys() == plain["spec"].keys()
    assert "labels" not in plain


def test_a_document_of_an_earlier_release_has_neither(at: Desk) -> None:
    stored = document(at.client, at.submit())
    del stored["submitter"]
    job = Job.from_json(json.dumps(stored).encode())
    assert (job.labels, job.submitter) == ({}, None)
    assert json.loads(job.to_json()) == stored


@pytest.mark.parametrize(
    "labels", [{"a b": "c"}, {"": "c"}, {"a": ""}, {"a": 1}, {"a": "b\nc"}, {"a": "b" * 201}, "a=b"]
)
def test_a_malformed_label_is_refused_before_anything_is_written(at: Desk, labels: Any) -> None:
    with pytest.raises(InvalidRequest, match="label"):
        at.submit(job_id="refused", labels=labels)
    assert list(at.client.buckets.main.list("jobs/")) == []


def test_too_many_labels_are_refused() -> None:
    assert len(check_labels({f"n{number}": "x" for number in range(16)})) == 16
    with pytest.raises(InvalidRequest, match="at most 16"):
        check_labels({f"n{number}": "x" for number in range(17)})


def test_the_first_submission_of_a_job_sets_its_labels(at: Desk) -> None:
    at.submit(job_id="a", labels=LABELS)
    at.submit(job_id="a", labels={"team": "other"})
    assert at.client.status("a").labels == LABELS


def test_rejected_rows_are_scored_again_with_the_labels_of_the_job(at: Desk) -> None:
    job_id = at.plan(broken=(1,), labels=LABELS)
    at.score(job_id, 0)
    at.client.cancel(job_id)
    assert at.client.resume_rejected(job_id).labels == LABELS


def test_a_job_of_records_has_labels(at: Desk) -> None:
    job = at.client.submit_records("line", [{"x": 1.0}], labels=LABELS)
    assert read_job(at.client.buckets.main, job.job_id).labels == LABELS


@pytest.mark.parametrize(("named", "who"), [({}, "an application"), ({"submitter": "shop"}, "shop")])
def test_a_message_says_which_host_sent_it_and_may_name_its_submitter(
    at: Desk, monkeypatch: pytest.MonkeyPatch, named: dict[str, str], who: str
) -> None:
    monkeypatch.setattr(lifecycle, "process", lifecycle.Process(engine=at.engine, client=at.client))
    tasks.submit.push_request(id="from-afar", origin="gen4711@web-1")
    try:
        tasks.submit.run("line", "s3://scoreline/in/", labels=LABELS, **named)
        with pytest.raises(InvalidRequest, match="submitter 7 is not a text"):
            tasks.submit.run("line", "s3://scoreline/in/", submitter=7)
    finally:
        tasks.submit.pop_request()
    status = at.client.status("from-afar")
    assert (status.labels, status.submitter) == (LABELS, Submitter(who=who, where="web-1, message"))


def test_the_command_line_sets_and_shows_labels(at: Desk, tmp_path: Path) -> None:
    run = CliRunner(env={"SUBMITTER": "alice"}).invoke
    words = ["submit", "line", "s3://scoreline/in/", "--job-id", "a", "--label", "team=risk", "--label", "run=a=b"]
    assert run(cli, words, catch_exceptions=False).output == "a\n"
    shown = run(cli, ["status", "a"], catch_exceptions=False).output
    assert "  labels   run=a=b, team=risk\n" in shown
    assert "  by       alice (" in shown
    assert ", CLI), submitted " in shown
    for wrong in ("team", "team=", "=risk"):
        refused = run(cli, [*words[:3], "--label", wrong])
        assert (refused.exit_code, "is not of the form NAME=VALUE" in refused.output) == (2, True)
    twice = run(cli, [*words[:3], "--label", "a=1", "--label", "a=2"])
    assert (twice.exit_code, "a label is given twice" in twice.output) == (2, True)
