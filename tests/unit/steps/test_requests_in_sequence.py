"""Planning and finalizing read each document once, and send requests that do not depend on each other side by side."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from sklearn.linear_model import LinearRegression

from scoreline.storage import keys
from scoreline.tasks.job.documents import Outcome, Run, claim_end, read_job, read_outcome
from scoreline.tasks.steps.eager import LoadedModels
from scoreline.tasks.steps.engine import Engine
from scoreline.tasks.steps.finalize import finalize
from scoreline.tasks.steps.job_report import REQUESTS as REPORT_REQUESTS
from scoreline.tasks.steps.planner import plan_job
from scoreline.tasks.steps.score_part import score_part
from scoreline.testing import EagerClient, eager
from tests.support.counting_store import Together

MOST_TO_PLAN, MOST_TO_FINALIZE = 5, 9
"""Maximum number of requests one after another, for a job on one small object."""
_DOCUMENTS = {("get", "/job.json"), ("get", "/outcome.json")}


class Desk:
    """A client whose store notes the requests of a worker."""

    def __init__(self, folder: Path, client: EagerClient) -> None:
        self.client = client
        self.store = Together(folder, client.buckets.main.bucket)
        client.buckets._stores[client.buckets.main.bucket] = self.store
        models = LoadedModels(models=client.models, counters=client.ledger.counters)
        self.engine = Engine(buckets=client.buckets, ledger=client.ledger, send=client.queue.send, models=models)

    def submit(self) -> str:
        job_id = self.client.submit("line", "s3://scoreline/in/a.parquet").job_id
        self.store.requests.clear()
        return job_id

    def submit_scored(self) -> str:
        """Return a job whose only part is scored."""
        job_id = self.submit()
        plan_job(self.engine, job_id)
        score_part(self.engine, job_id, 0, "holder")
        self.store.requests.clear()
        return job_id


@pytest.fixture
def at(tmp_path: Path) -> Iterator[Desk]:
    with eager(tmp_path, run=False) as client:
        client.models.publish("line", LinearRegression().fit(pd.DataFrame({"x": [0.0, 1.0]}), [1.0, 3.0]))
        client.put("in/a.parquet", pd.DataFrame({"x": [1.0, 2.0]}))
        desk = Desk(tmp_path, client)
        plan_job(desk.engine, desk.submit())  # loads the model
        yield desk


def test_a_job_on_one_object_is_planned_with_few_requests_one_after_another(at: Desk) -> None:
    job_id = at.submit()
    groups = [_DOCUMENTS | {("head", "/plan.json.gz")}, {("put", "/plan.json.gz"), ("get", "/run.json")}]
    at.store.expect(*groups)
    plan_job(at.engine, job_id)
    asked = [(operation, key.removeprefix(f"jobs/{job_id}/")) for operation, key in at.store.requests]
    assert set(asked[:3]) == {("get", "job.json"), ("get", "outcome.json"), ("head", "plan.json.gz")}
    assert asked[3:5] == [("head", "in/a.parquet"), ("get", "in/a.parquet")]
    # The outcome is read after the ledger is open, because a job that is cancelled later closes it
    assert asked[7:] == [("get", "outcome.json")]
    assert len(asked) - sum(len(group) - 1 for group in groups) == MOST_TO_PLAN
    # And the first part needs no documents, and has the object in memory
    at.store.requests.clear()
    score_part(at.engine, job_id, 0, "holder")
    assert [operation for operation, _ in at.store.requests] == ["put"]


def test_a_job_with_one_part_is_finalized_with_few_requests_one_after_another(at: Desk) -> None:
    job_id = at.submit_scored()
    groups = [
        _DOCUMENTS | {("get", "/run.json"), ("get", "/plan.json.gz")},
        {("list", "/_rejected/"), ("head", "/part-00000.parquet")},
        # The job may be cancelled while its parts are checked; the profile is in the footer of the part; the checks
        # compare the job with the last accepted run
        {("get", "/outcome.json"), ("get", "/part-00000.parquet"), ("get", "/latest.json")},
        {("put", "/_manifest.json"), ("put", "/_profile.json")},
        {("delete", job_id), ("put", f"~line~{job_id}")},
    ]
    at.store.expect(*groups)
    finalize(at.engine, job_id)
    asked = [(operation, key.rpartition("/")[2]) for operation, key in at.store.requests]
    assert asked[11:15] == [
        ("put", "claim-1.json"),
        ("put", "_SUCCESS"),
        ("put", "latest.json"),
        ("put", "outcome.json"),
    ]
    report = asked[17:]
    *read, written = (operation for operation, _ in report)
    assert ({*read}, len(read), written) == ({"get", "head"}, REPORT_REQUESTS.class_b, "put")
    assert len(asked) - len(report) == 17
    assert 17 - sum(len(group) - 1 for group in groups) == MOST_TO_FINALIZE
    assert at.client.status(job_id).state == "succeeded"


def test_a_plan_that_was_just_written_is_like_one_that_is_read(at: Desk) -> None:
    job_id = at.submit()
    plan_job(at.engine, job_id)
    written, read = at.engine.documents(job_id), at.engine.documents(job_id, fresh=True)
    assert written.job == read.job
    assert (written.plan.sha256, [*written.plan]) == (read.plan.sha256, [*read.plan])
    assert (written.plan.columns, written.plan._etag) == (read.plan.columns, read.plan._etag)


def test_a_job_that_another_process_plans_meanwhile_follows_that_plan(
    at: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = at.submit()
    put = at.store.put

    def lose(key: str, data: bytes, **options: object) -> object:
        if key == keys.plan(job_id):
            monkeypatch.undo()
            plan_job(at.engine, job_id)
        return put(key, data, **options)

    monkeypatch.setattr(at.store, "put", lose)
    plan_job(at.engine, job_id)
    assert score_part(at.engine, job_id, 0, "holder") == (2, 0)


def test_an_end_that_another_process_claims_meanwhile_is_the_end_of_a_small_job(
    at: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = at.submit_scored()
    put = at.store.put

    def cancel_first(key: str, data: bytes, **options: object) -> object:
        if key.endswith("_manifest.json"):
            monkeypatch.undo()
            claim_end(at.store, job_id, Outcome(state="cancelled", failures={}))
        return put(key, data, **options)

    monkeypatch.setattr(at.store, "put", cancel_first)
    finalize(at.engine, job_id)
    ended = read_outcome(at.store, job_id)
    assert ended is not None
    assert ended.state == "cancelled"
    assert not [key for operation, key in at.store.requests if operation == "put" and key.endswith("_SUCCESS")]


def test_a_later_run_that_begins_while_a_finalizer_reads_is_not_ended_by_it(
    at: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = at.submit_scored()
    progress = at.engine.ledger.progress

    def resumed_first(name: str) -> object:
        monkeypatch.undo()
        claim_end(at.store, job_id, Outcome(state="cancelled", failures={}))
        at.store.put(keys.run(job_id), Run(number=2).to_json())
        return progress(name)

    monkeypatch.setattr(at.engine.ledger, "progress", resumed_first)
    finalize(at.engine, job_id)
    # It ended the first run as that was claimed, which does not end the second
    assert read_outcome(at.store, job_id) is None
    assert read_job(at.store, job_id).spec.job_id == job_id


def test_a_job_that_is_cancelled_while_its_parts_are_checked_gets_no_manifest(
    at: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = at.submit_scored()
    head = at.store.head

    def cancel_first(key: str) -> object:
        monkeypatch.undo()
        assert at.client.cancel(job_id).state == "cancelled"
        return head(key)

    monkeypatch.setattr(at.store, "head", cancel_first)
    finalize(at.engine, job_id)
    assert not [key for operation, key in at.store.requests if operation == "put" and "_manifest" in key]
    assert at.client.status(job_id).state == "cancelled"


def test_nothing_is_written_for_a_job_that_has_ended(at: Desk) -> None:
    job_id = at.submit_scored()
    at.store.put(keys.outcome(job_id), Outcome(state="cancelled", failures={}).to_json())
    at.store.requests.clear()
    finalize(at.engine, job_id)
    assert [key.rpartition("~")[2] for operation, key in at.store.requests if operation == "put"] == [job_id]
    assert not [key for _, key in at.store.requests if "receipt" in key or "part-" in key]
