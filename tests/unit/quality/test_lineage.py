"""The lineage of a job."""

from __future__ import annotations

import json

import pytest

from scoreline.storage.errors import JobNotFound
from scoreline.tasks.client import Client
from scoreline.tasks.job.documents import read_job
from scoreline.tasks.quality.trace import lineage
from scoreline.tasks.quality.trace.lineage import lineage_of
from tests.support.gated import BLOCKS, OUTPUT, WARNS, Gated


@pytest.fixture
def client(jobs: Gated) -> Client:
    return Client(jobs.buckets, jobs.client.queue, jobs.client.ledger, submitter="alice")


def test_the_lineage_of_a_job_lists_its_objects_with_their_rows(
    jobs: Gated, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs.run("j", WARNS)
    found = lineage_of(jobs.buckets, client.registry, "j", {"numpy": "2.0"})
    etag = jobs.main.head("in/a.parquet").etag
    assert [(item.uri, item.etag, item.rows) for item in found.inputs] == [("s3://scoreline/in/a.parquet", etag, 40)]
    assert (found.input_objects, found.state, found.output) == (1, "succeeded", f"{OUTPUT}job_id=j/")
    assert found.model.manifest_sha256 == read_job(jobs.main, "j").model.manifest_sha256
    assert set(found.model.libraries) >= {"numpy", "scikit-learn"}
    assert json.loads(json.dumps(found.to_dict()))["libraries"] == {"numpy": "2.0"}
    monkeypatch.setattr(lineage, "MAX_INPUTS", 0)
    cut = lineage_of(jobs.buckets, client.registry, "j")
    assert (cut.inputs, cut.input_objects) == ((), 1)
    assert lineage_of(jobs.buckets, client.registry, "j", with_inputs=False).input_objects == 0


def test_the_objects_of_a_very_long_plan_are_counted_up_to_a_limit(
    jobs: Gated, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs.run("j", WARNS)
    monkeypatch.setattr(lineage, "MAX_PARTS", 3)
    found = lineage_of(jobs.buckets, client.registry, "j")
    assert [item.rows for item in found.inputs] == [30]


def test_the_decision_is_that_of_the_checks_or_of_the_last_person(jobs: Gated, client: Client) -> None:
    def decision(job_id: str) -> tuple[str, str, str, bool]:
        found = lineage_of(jobs.buckets, client.registry, job_id).acceptance
        return found.decision, found.who, found.reason, found.is_latest

    jobs.at.plan(job_id="c", output=OUTPUT)
    assert decision("c")[0] == "not published"
    jobs.run("a", WARNS)
    assert decision("a") == ("accepted", "checks", "1 finding, none of which blocks", True)
    jobs.run("b", BLOCKS)
    assert decision("b") == ("blocked", "checks", "half of the rows are missing", False)
    client.accept("b", "a holiday")
    assert decision("b") == ("accepted", "alice", "a holiday", True)
    assert decision("a")[3] is False
    with pytest.raises(JobNotFound):
        lineage_of(jobs.buckets, client.registry, "none")
