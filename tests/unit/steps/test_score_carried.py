"""A small job of records is scored from what it carries, with few requests, and as if it carried nothing."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import math
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pandas as pd
import pyarrow.parquet as pq
import pytest
from sklearn.linear_model import LinearRegression

from scoreline.storage import keys
from scoreline.storage.errors import JobFailed, JobNotFound, JobRemoved, LedgerLost, StoreUnavailable
from scoreline.storage.ledger.answers import Answer
from scoreline.storage.ledger.waiting import WaitingStep
from scoreline.storage.objects import requests
from scoreline.storage.objects.base import exists
from scoreline.storage.objects.directory import DirectoryStore
from scoreline.tasks.dispatch import reconcile as reconciling
from scoreline.tasks.dispatch.job_index import mark_built
from scoreline.tasks.dispatch.listing import JobListing
from scoreline.tasks.dispatch.reconcile import reconcile_job
from scoreline.tasks.dispatch.status import StatusReader
from scoreline.tasks.job import plan_file
from scoreline.tasks.job.deadline import resolve_deadline
from scoreline.tasks.job.documents import Status, read_job, read_outcome
from scoreline.tasks.job.index_entry import IndexEntry, entry_of
from scoreline.tasks.job.job_filter import JobFilter
from scoreline.tasks.job.layout import ResultsLayout
from scoreline.tasks.job.results_keep import ResultsKeep
from scoreline.tasks.records import carried as carrying
from scoreline.tasks.records import job as records_job
from scoreline.tasks.records.carried import Carried
from scoreline.tasks.records.job import RecordsJob
from scoreline.tasks.retention import rounds
from scoreline.tasks.retention.policies import read_policies
from scoreline.tasks.steps import score_carried as scoring
from scoreline.tasks.steps.eager import LoadedModels
from scoreline.tasks.steps.engine import Engine
from scoreline.tasks.steps.inline import score_records, score_small
from scoreline.tasks.steps.planner import make_plan
from scoreline.tasks.steps.score_alike import alike_beside
from scoreline.tasks.steps.score_carried import score_carried
from scoreline.testing import EagerClient, eager
from tests.support.counting_store import RequestLog
from tests.support.waiting import HANG_S

ROWS: list[dict[str, Any]] = [{"id": n, "x": float(n), "day": f"d{n}"} for n in range(5)]
BAD = [*ROWS, {"id": 5, "x": None, "day": "d5"}]
BUCKET = "scoreline"


class Desk:
    """An application and the engine of a worker, which share a folder, and whose requests are counted apart."""

    def __init__(self, folder: Path, client: EagerClient) -> None:
        self.client = client
        self.bucket = client.buckets.main.bucket
        self.folder = folder
        self.asked = RequestLog(folder, self.bucket)
        client.buckets._stores[self.bucket] = self.asked
        models = LoadedModels(models=client.models, counters=client.ledger.counters)
        self.engine = Engine(buckets=client.buckets, ledger=client.ledger, send=client.queue.send, models=models)

    def submit(self, rows: list[dict[str, Any]] = ROWS, **options: Any) -> tuple[RecordsJob, Carried]:
        """Submit records, and return what they carry, as the message of the job brings it to a worker."""
        job = self.client.submit_records("line@champion", rows, **options)
        _, text = self.client.ledger.waiting.receive(WaitingStep(task="scoreline.score_staged", job_id=job.job_id))
        carried = Carried.of(text)
        assert carried is not None
        self.client.queue._messages.clear()  # type: ignore[attr-defined]  # the message is delivered
        self.asked.requests.clear()
        return job, carried

    def results(self, job: RecordsJob) -> dict[str, bytes]:
        """Return the objects for readers, without their folder, which contains the id of the job."""
        layout = ResultsLayout.of(self.client.buckets, read_job(self.asked, job.job_id))
        return {
            info.key.removeprefix(layout.folder): self.asked.get(info.key).data
            for info in self.asked.list(layout.folder)
        }


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    with eager(folder) as client:
        model = LinearRegression().fit(pd.DataFrame({"x": [0.0, 1.0]}), [1.0, 3.0])
        client.models.publish("line", model, alias="champion")
    return folder


@pytest.fixture
def at(published: Path) -> Iterator[Desk]:
    with eager(published, run=False) as client:
        yield Desk(published, client)


def test_an_application_writes_four_objects_side_by_side_and_reads_the_alias(at: Desk) -> None:
    at.client.submit_records("line@champion", ROWS)  # reads the manifest of the version, which never changes
    at.asked.requests.clear()
    job = at.client.submit_records("line@champion", ROWS)
    read, *written = at.asked.requests
    assert read == ("get", keys.alias("line", "champion"))
    assert {key.rpartition("-")[0] if "records" in key else key for _, key in written} == {
        keys.active(job.job_id),
        keys.job(job.job_id),
        f"jobs/{job.job_id}/records",
        entry_of(read_job(at.asked, job.job_id)).key,
    }
    assert [operation for operation, _ in written] == ["put"] * 4


def test_a_worker_needs_eight_requests_and_answers_after_two_of_them(at: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    job, carried = at.submit()
    before: list[list[tuple[str, str]]] = []
    give = at.client.ledger.answers.give

    def noted(*answer: Any) -> None:
        before.append(list(at.asked.requests))
        give(*answer)

    monkeypatch.setattr(at.client.ledger.answers, "give", noted)
    assert score_carried(at.engine, job.job_id, carried)
    document = read_job(DirectoryStore(at.folder, at.bucket), job.job_id)
    layout = ResultsLayout.of(at.client.buckets, document)
    [answered] = before
    assert answered[0] == ("head", keys.active(job.job_id))
    assert sorted(answered[1:]) == sorted([("put", layout.part(0)), ("put", keys.plan(job.job_id))])
    rest = at.asked.requests[len(answered) :]
    assert sorted(rest[:2]) == sorted([("put", layout.manifest), ("put", keys.claim(job.job_id, 1))])
    assert rest[2:4] == [("put", layout.success), ("put", keys.outcome(job.job_id))]
    assert rest[4:] == [("delete", keys.active(job.job_id))]
    # And the application needs no request for its answer
    at.asked.requests.clear()
    assert [row["prediction"] for row in job.wait(HANG_S)] == pytest.approx([2 * n + 1 for n in range(5)])


@pytest.mark.parametrize("rows", [ROWS, BAD], ids=["all scored", "one rejected"])
def test_a_job_has_the_same_objects_whether_or_not_it_carries_its_records(at: Desk, rows: list[dict[str, Any]]) -> None:
    (one, carried), (other, _) = at.submit(rows, keep="id,day"), at.submit(rows, keep="id,day")
    assert score_carried(at.engine, one.job_id, carried)
    assert score_small(at.engine, other.job_id, "holder")
    answers = [job.wait(HANG_S) for job in (one, other)]
    assert answers[0] == answers[1]
    assert one.rejected == other.rejected
    assert len(one.rejected) == len(rows) - 5
    # And another process reads the same from the bucket
    assert RecordsJob(at.client, one.job_id).wait(HANG_S) == answers[0]
    folders = [at.results(job) for job in (one, other)]
    assert [*map(_without_digest, folders[0])] == [*map(_without_digest, folders[1])]
    tables = [pq.read_table(io.BytesIO(found["part-00000.parquet"])) for found in folders]
    assert tables[0].equals(tables[1])
    manifests = [json.loads(found["_manifest.json"]) for found in folders]
    for manifest, job in zip(manifests, (one, other), strict=True):
        text = json.dumps({**manifest, "seconds": None}).replace(job.job_id, "j")
        manifest.clear()
        manifest |= json.loads(text)
        for entry in manifest["parts"]:
            for name in ("sha256", "rejected_sha256", "rejected_key"):
                entry.pop(name, None)
            entry["source"][0].pop("etag")
    assert manifests[0] == manifests[1]
    # And the status and what is left in the ledger are the same
    alone = {"job_id", "output", "seconds", "submitted", "work_s", "class_a", "class_b"}
    statuses = [
        {name: value for name, value in vars(job.status()).items() if name not in alone} for job in (one, other)
    ]
    assert statuses[0] == statuses[1]
    assert not any(exists(at.asked, keys.active(job.job_id)) for job in (one, other))


def test_a_listing_reads_from_the_outcome_alone_how_a_job_ended(at: Desk) -> None:
    job, carried = at.submit(BAD, labels={"team": "a"}, group="web", priority="high")
    under_way, _ = at.submit(group="web")
    assert score_carried(at.engine, job.job_id, carried)
    document, outcome = read_job(at.asked, job.job_id), read_outcome(at.asked, job.job_id)
    found = _listed(at, job, under_way)
    assert found[job.job_id] == entry_of(document, outcome).status
    assert (found[job.job_id].state, found[job.job_id].rows, found[job.job_id].rejected) == ("partial", 5, 1)
    assert (found[job.job_id].labels, found[under_way.job_id].state) == ({"team": "a"}, "submitted")
    assert document.spec.priority == "high"
    read = [key for operation, key in at.asked.requests if operation == "get"]
    assert sorted(read) == sorted([keys.outcome(job.job_id), keys.job(under_way.job_id)])
    # And by state, the job is found without reading the others, and is not read if its state is not asked for
    for state in ("partial", "succeeded"):
        assert (job.job_id in _listed(at, job, under_way, states=(state,))) == (state == "partial")
        again = [key for operation, key in at.asked.requests if operation == "get"]
        assert sorted(again) == sorted(read)
    for state in ("failed", "blocked", "cancelled", "submitted"):
        assert [*_listed(at, job, under_way, states=(state,))] == [under_way.job_id] * (state == "submitted")
        assert ("get", keys.outcome(job.job_id)) not in at.asked.requests


def _listed(at: Desk, *jobs: RecordsJob, **chosen: Any) -> dict[str, Status]:
    """List jobs of the group ``web``, and return those in `jobs`; `at` then knows the requests."""
    mark_built(at.asked, 1)
    at.asked.requests.clear()
    ids = {job.job_id for job in jobs}
    since = min(datetime.fromisoformat(read_job(DirectoryStore(at.folder, at.bucket), name).submitted) for name in ids)
    listing = JobListing(at.asked, StatusReader(at.asked, at.client.ledger))
    found = listing.jobs(JobFilter(group="web", since=since, **chosen))
    return {status.job_id: status for status in found if status.job_id in ids}


def test_a_job_without_an_entry_in_the_index_gets_one_at_its_end(at: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    put = at.asked.put

    def failing(name: str, *arguments: Any, **options: Any) -> Any:
        if name.startswith(keys.JOBS_INDEX):
            raise StoreUnavailable("503")
        return put(name, *arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(at.asked, "put", failing)
        job = at.client.submit_records("line@champion", ROWS, group="web")
    at.client.run()
    assert len(job.wait(5)) == 5
    entry = IndexEntry.from_json(at.asked.get(entry_of(read_job(at.asked, job.job_id)).key).data)
    assert (entry.status.state, entry.group) == ("succeeded", "web")


def test_the_address_of_a_webhook_is_not_copied_into_the_outcome(at: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(at.client.submission, "webhooks", Mock(url=None))
    job, carried = at.submit(webhook="https://example.com/secret")
    assert score_carried(at.engine, job.job_id, carried)
    assert b"secret" not in at.asked.get(keys.outcome(job.job_id)).data
    entry = IndexEntry.from_json(at.asked.get(entry_of(read_job(at.asked, job.job_id)).key).data)
    assert entry.status.state == "succeeded"


def test_a_job_whose_load_is_requested_is_still_listed_as_complete(at: Desk) -> None:
    job, carried = at.submit(group="web")
    assert score_carried(at.engine, job.job_id, carried)
    at.client.load(job.job_id, into="scores", mode="append")
    assert exists(at.asked, keys.active(job.job_id))
    for chosen in ({}, {"states": ("succeeded",)}):
        assert [status.state for status in _listed(at, job, **chosen).values()] == ["succeeded"]


def test_a_job_that_a_person_withdraws_while_its_load_is_requested_is_listed_as_withdrawn(
    at: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, carried = at.submit(group="web")
    assert score_carried(at.engine, job.job_id, carried)
    put = at.asked.put

    def deciding(key: str, *arguments: Any, **options: Any) -> Any:
        if key.startswith(keys.JOBS_INDEX):
            monkeypatch.setattr(at.asked, "put", put)
            at.client.reject(job.job_id, "wrong prices")
        return put(key, *arguments, **options)

    monkeypatch.setattr(at.asked, "put", deciding)
    at.client.load(job.job_id, into="scores", mode="append")
    assert at.asked.put == put, "no entry was written"
    entry = at.asked.get(entry_of(read_job(at.asked, job.job_id)).key)
    assert IndexEntry.from_json(entry.data).status.state == "blocked"


class Died(BaseException):
    """Raised in place of a request when the process is to die."""


@pytest.mark.parametrize("number", range(8))
def test_a_job_ends_once_and_is_listed_whichever_request_of_the_worker_was_its_last(
    at: Desk, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    job, carried = at.submit(BAD, group="web")
    asked, guard = list[str](), threading.Lock()

    def dying(behind: Callable[..., Any]) -> Callable[..., Any]:
        def call(key: str, *arguments: Any, **options: Any) -> Any:
            with guard:
                asked.append(key)
                if len(asked) > number:
                    raise Died(key)
            return behind(key, *arguments, **options)

        return call

    with monkeypatch.context() as patched:
        for name in ("head", "get", "put", "delete"):
            patched.setattr(at.asked, name, dying(getattr(at.asked, name)))
        with pytest.raises(Died):
            score_carried(at.engine, job.job_id, carried)
    # With an empty ledger, the reconciler ends the job, unless only the entry of its end was not written
    at.client.ledger.forget(job.job_id)
    reconcile_job(at.engine, job.job_id)
    at.client.run()
    assert len(job.wait(5)) == 5
    assert not exists(at.asked, keys.active(job.job_id))
    assert sorted(map(_without_digest, at.results(job))) == [
        "_SUCCESS",
        "_manifest.json",
        "_rejected",
        "part-00000.parquet",
    ]
    document, outcome = read_job(at.asked, job.job_id), read_outcome(at.asked, job.job_id)
    for chosen in ({}, {"states": ("partial",)}):
        assert _listed(at, job, **chosen) == {job.job_id: entry_of(document, outcome).status}
    assert not _listed(at, job, states=("failed", "submitted", "running"))


def test_the_outcome_knows_work_and_requests_of_a_job(at: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    first, carried = at.submit()
    assert score_carried(at.engine, first.job_id, carried)  # loads the model
    for rows, most in ((ROWS, scoring.MAX_RESULTS_IN_OUTCOME), (BAD, scoring.MAX_RESULTS_IN_OUTCOME), (ROWS, 10)):
        monkeypatch.setattr(scoring, "MAX_RESULTS_IN_OUTCOME", most)
        before = requests.so_far()
        job, carried = at.submit(rows)
        assert score_carried(at.engine, job.job_id, carried)
        used = requests.so_far() - before
        now = job.status()
        # The models of this test read the manifest for each plan, but those of a worker remember it
        assert (now.class_a, now.class_b) == (used.class_a, used.class_b - 1)
        assert now.work_s > 0
        assert now.result_bytes == len(at.results(job)["part-00000.parquet"])
    # And the job with a webhook writes its entry in the index again
    monkeypatch.setattr(at.client.submission, "webhooks", Mock(url=None))
    before = requests.so_far()
    job, carried = at.submit(webhook="https://example.com/secret")
    assert score_carried(at.engine, job.job_id, carried)
    assert job.status().class_a == (requests.so_far() - before).class_a


def test_a_late_job_is_not_scored_from_what_it_carries(at: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    job, carried = at.submit(deadline="1h")
    passed = iter([False, True])  # while its records are scored
    monkeypatch.setattr(scoring, "has_passed", lambda deadline: deadline is not None and next(passed))
    assert not score_carried(at.engine, job.job_id, carried)
    assert [operation for operation, _ in at.asked.requests if operation == "put"] == []
    for module in (scoring, reconciling):
        monkeypatch.setattr(module, "has_passed", lambda deadline: deadline is not None)
    assert score_records(at.engine, job.job_id, "holder", carried)
    assert (job.status().state, job.status().reason) == ("failed", "deadline")
    assert not at.results(job)


def test_a_job_of_records_before_its_deadline_keeps_it(at: Desk) -> None:
    job, carried = at.submit(deadline="1h")
    assert score_carried(at.engine, job.job_id, carried)
    assert job.status().state == "succeeded"
    found = read_job(at.asked, job.job_id)
    assert found.spec.deadline == resolve_deadline("1h", found.submitted)


def _without_digest(name: str) -> str:
    return "_rejected" if name.startswith("_rejected/") else name


def test_the_rejected_records_can_be_scored_again(at: Desk) -> None:
    job, carried = at.submit(BAD, keep="id")
    assert score_carried(at.engine, job.job_id, carried)
    again = at.client.resume_rejected(job.job_id)
    at.client.run()
    assert "none of 1 row tried" in at.client.status(again.job_id).error  # it is rejected again
    assert at.client.rejected(job.job_id).rows == 1


def _other_digest(at: Desk, job: RecordsJob, carried: Carried) -> Carried:
    document = json.loads(carried.document)
    document["spec"]["keep"] = "none"
    return replace(carried, document=json.dumps(document))


def _other_records(at: Desk, job: RecordsJob, carried: Carried) -> Carried:
    _, other = at.submit([{"id": 7, "x": 7.0, "day": "d"}])
    return replace(carried, records=other.records)


def _ended(at: Desk, job: RecordsJob, carried: Carried) -> Carried:
    at.client.cancel(job.job_id)
    return carried


@pytest.mark.parametrize("change", [_other_digest, _other_records, _ended])
def test_nothing_is_written_unless_the_bucket_confirms_what_a_job_carries(
    at: Desk, change: Callable[[Desk, RecordsJob, Carried], Carried]
) -> None:
    job, carried = at.submit()
    carried = change(at, job, carried)
    at.asked.requests.clear()
    assert not score_carried(at.engine, job.job_id, carried)
    assert [operation for operation, _ in at.asked.requests if operation != "head"] == []


def test_a_malformed_text_carries_nothing(at: Desk) -> None:
    _, carried = at.submit()
    text = carried.to_text(carried.job(), [])
    assert Carried.of(text) == carried
    for wrong in ("", "x", text[:-1], text[:16], text[:16] + "[]", text[:16] + '{"document": 1}'):
        assert Carried.of(wrong) is None


def test_an_answer_waits_until_the_plan_and_the_results_are_written(at: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("plan.json.gz", "part-00000.parquet"):
        job, carried = at.submit()
        put = at.asked.put

        def fail(name: str, data: bytes, key: str = key, put: Any = put, **options: Any) -> Any:
            if name.endswith(key):
                raise StoreUnavailable("503")
            return put(name, data, **options)

        with monkeypatch.context() as patched:
            patched.setattr(at.asked, "put", fail)
            assert not score_carried(at.engine, job.job_id, carried)
        with pytest.raises(TimeoutError):
            job.wait(0.01)
        # The message goes on from what is written
        assert score_small(at.engine, job.job_id, "holder")
        assert len(job.wait(HANG_S)) == 5


@pytest.mark.parametrize(
    "key", ["_manifest.json", "claim-1.json", "_SUCCESS", "outcome.json", "active"], ids=lambda key: key.strip("_")
)
def test_a_job_that_is_answered_is_ended_later_if_the_store_fails(
    at: Desk, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    job, carried = at.submit(BAD)

    def failing(behind: Callable[..., Any]) -> Callable[..., Any]:
        def call(name: str, *arguments: Any, **options: Any) -> Any:
            if key in name:
                raise StoreUnavailable("503")
            return behind(name, *arguments, **options)

        return call

    with monkeypatch.context() as patched:
        patched.setattr(at.asked, "put", failing(at.asked.put))
        patched.setattr(at.asked, "delete", failing(at.asked.delete))
        with pytest.raises(StoreUnavailable):
            score_carried(at.engine, job.job_id, carried)
    answered = job.wait(HANG_S)
    assert len(answered) == 5
    assert exists(at.asked, keys.active(job.job_id))
    # With an empty ledger, the reconciler ends the job with the same results
    at.client.ledger.forget(job.job_id)
    at.client.queue._messages.clear()  # type: ignore[attr-defined]
    reconcile_job(at.engine, job.job_id)
    at.client.run()
    assert not exists(at.asked, keys.active(job.job_id))
    assert (job.status().state, job.status().rows, job.status().rejected) == ("partial", 5, 1)
    assert RecordsJob(at.client, job.job_id).wait(HANG_S) == answered
    assert sorted(map(_without_digest, at.results(job))) == [
        "_SUCCESS",
        "_manifest.json",
        "_rejected",
        "part-00000.parquet",
    ]


def test_a_plan_of_another_process_is_kept_and_own_results_are_removed(
    at: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, carried = at.submit()
    monkeypatch.setattr(scoring, "make_plan", lambda *given: _as_earlier_release(make_plan(*given)))
    put = at.asked.put

    def plan_first(name: str, data: bytes, **options: Any) -> Any:
        if name == keys.plan(job.job_id):
            put(name, make_plan(at.engine, read_job(at.asked, job.job_id)), **options)
        return put(name, data, **options)

    monkeypatch.setattr(at.asked, "put", plan_first)
    assert score_records(at.engine, job.job_id, "holder", carried)
    assert len(job.wait(HANG_S)) == 5
    assert job.status().state == "succeeded"


def _as_earlier_release(plan: bytes) -> bytes:
    """Return a plan with another header, which earlier or later releases may write."""
    text, size = plan_file._member(plan)  # type: ignore[misc]
    return gzip.compress(text.replace(b'"warnings":[]', b'"warnings":["w"]')) + plan[size:]


def test_a_job_that_is_cancelled_while_it_is_scored_stays_cancelled(at: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    job, carried = at.submit()
    put = at.asked.put

    def cancel_first(name: str, data: bytes, **options: Any) -> Any:
        if name.endswith("part-00000.parquet"):
            monkeypatch.setattr(at.asked, "put", put)
            at.client.cancel(job.job_id)
        return put(name, data, **options)

    monkeypatch.setattr(at.asked, "put", cancel_first)
    with contextlib.suppress(LedgerLost):  # the message then reconciles the job, which has ended
        score_records(at.engine, job.job_id, "holder", carried)
    assert "_SUCCESS" not in at.results(job)
    assert at.client.status(job.job_id).state == "cancelled"


def test_a_job_over_its_budget_fails_and_is_not_answered(at: Desk) -> None:
    job, carried = at.submit(BAD, max_rejected=0)
    assert score_records(at.engine, job.job_id, "holder", carried)
    at.client.run()
    with pytest.raises(JobFailed, match="1 of 6 rows"):
        job.wait(HANG_S)


def test_results_that_are_large_are_stored_apart(at: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "MAX_RESULTS_IN_OUTCOME", 10)
    for most in (scoring.MAX_ANSWER_BYTES, 10):  # given through the ledger, or only read from the bucket
        monkeypatch.setattr(scoring, "MAX_ANSWER_BYTES", most)
        job, carried = at.submit()
        assert score_carried(at.engine, job.job_id, carried)
        assert exists(at.asked, keys.answer(job.job_id))
        outcome = read_outcome(at.asked, job.job_id)
        assert outcome is not None
        assert outcome.results == ""
        assert len(job.wait(HANG_S)) == len(RecordsJob(at.client, job.job_id).wait(HANG_S)) == 5


def test_many_or_large_records_are_staged_as_parquet(at: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = at.client.ledger.waiting
    for name in ("MAX_CARRIED_ROWS", "MAX_CARRIED_BYTES"):
        with monkeypatch.context() as patched:
            for module in (carrying, scoring):
                patched.setattr(module, name, 4, raising=False)
            job = at.client.submit_records("line@champion", ROWS)
            assert waiting.receive(WaitingStep(task="scoreline.score_staged", job_id=job.job_id)) == ("", "")
            at.client.run()
            assert len(job.wait(HANG_S)) == 5
            assert [info.key for info in at.asked.list(f"jobs/{job.job_id}/records-") if info.key.endswith(".parquet")]


def test_an_application_without_an_answer_finds_the_outcome(at: Desk) -> None:
    job, _ = at.submit()
    assert score_small(at.engine, job.job_id, "holder")  # a worker of an earlier release gives no answer
    assert len(job.wait(HANG_S)) == 5


def test_the_threads_of_an_application_receive_their_answers_over_one_connection(
    at: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(at.client.queue, "pause", lambda seconds: True)  # as if workers were running
    jobs = [at.submit([{"id": n, "x": float(n), "day": ""}]) for n in range(8)]
    asking, most = 0, 0
    receive, guard = at.client.ledger.answers.receive, threading.Lock()

    def counted(reader: str, seconds: float) -> Any:
        nonlocal asking, most
        with guard:
            asking += 1
            most = max(most, asking)
        try:
            return receive(reader, seconds)
        finally:
            with guard:
                asking -= 1

    at.client.ledger.answers.receive = counted  # type: ignore[method-assign]
    found: dict[int, Any] = {}
    threads = [
        threading.Thread(target=lambda n=n, job=job: found.update({n: job.wait(HANG_S)[0]["id"]}))
        for n, (job, _) in enumerate(jobs)
    ]
    for thread in threads:
        thread.start()
    for job, carried in reversed(jobs):
        assert score_carried(at.engine, job.job_id, carried)
    for thread in threads:
        thread.join()
    assert found == {n: n for n in range(8)}
    assert most == 1


def _steps(at: Desk, rows: Sequence[list[dict[str, Any]]]) -> list[WaitingStep]:
    """Submit jobs, and leave their steps in the list."""
    jobs = [at.client.submit_records("line@champion", some, keep="id") for some in rows]
    at.client.queue._messages.clear()  # type: ignore[attr-defined]
    return [WaitingStep(task="scoreline.score_staged", job_id=job.job_id) for job in jobs]


def _receive(at: Desk, step: WaitingStep) -> WaitingStep:
    return replace(step, carried=at.client.ledger.waiting.receive(step)[1])


def test_jobs_that_wait_together_are_done_together_and_each_for_itself(
    at: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given four jobs of one model, one of them with a bad record, and a fifth with other columns
    rows: list[list[dict[str, Any]]] = [[{"id": n, "x": float(n)}] for n in range(3)]
    rows.append([{"id": 3, "x": 3.0}, {"id": 4, "x": None}])
    first, *others = _steps(at, rows)
    [apart] = _steps(at, [[{"id": 5, "x": 5.0, "more": 1}]])
    first = _receive(at, first)
    # When a worker does the first job, and all of them are written at once
    writing = threading.Barrier(4)
    put = at.asked.put

    def together(key: str, data: bytes, **options: Any) -> Any:
        if key.endswith("part-00000.parquet"):
            writing.wait(HANG_S)
        return put(key, data, **options)

    monkeypatch.setattr(at.asked, "put", together)
    carried = Carried.of(first.carried)
    assert carried is not None
    with alike_beside(at.engine, first):
        assert score_carried(at.engine, first.job_id, carried)
    # Then each has its own results, and the bad record concerns one job alone
    states = [at.client.status(step.job_id).state for step in (first, *others)]
    assert states == ["succeeded"] * 3 + ["partial"]
    found = [RecordsJob(at.client, step.job_id).wait(HANG_S) for step in (first, *others)]
    assert [[row["id"] for row in some] for some in found] == [[0], [1], [2], [3]]
    assert [[row["prediction"] for row in some] for some in found] == [[pytest.approx(2 * n + 1)] for n in range(4)]
    # And the messages of the others find that they are done, but not that of the job with other columns
    assert [at.client.ledger.waiting.receive(step)[0] for step in others] == ["done"] * 3
    assert at.client.ledger.waiting.receive(apart)[0] == ""


def test_a_job_that_fails_beside_another_is_left_to_its_message(at: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    first, other = _steps(at, [[{"id": 0, "x": 0.0}], [{"id": 1, "x": 1.0}]])
    first = _receive(at, first)
    put = at.asked.put

    def fail(key: str, data: bytes, **options: Any) -> Any:
        if other.job_id in key and "outcome" in key:
            raise StoreUnavailable("503")
        return put(key, data, **options)

    with monkeypatch.context() as patched:
        patched.setattr(at.asked, "put", fail)
        with alike_beside(at.engine, first):
            pass
    assert at.client.ledger.waiting.receive(other) == ("", "")
    assert score_records(at.engine, other.job_id, "holder", None)
    at.client.run()
    assert at.client.status(other.job_id).state == "succeeded"


def test_an_old_job_is_removed_with_the_results_in_its_outcome_and_its_records(at: Desk) -> None:
    job, carried = at.submit()
    assert score_carried(at.engine, job.job_id, carried)
    ended = read_outcome(at.asked, job.job_id)
    assert ended is not None
    assert ended.results
    assert [info.key for info in at.asked.list(f"jobs/{job.job_id}/") if keys.is_records(info.key)]
    for path in at.folder.rglob(f"jobs/{job.job_id}/*"):
        os.utime(path, (0, 0))
    report = rounds.collect(at.client.buckets, read_policies(at.asked, ResultsKeep.parse("90d")))
    assert report.failed == []
    assert job.job_id in [item.tombstone.job_id for item in report.removed]
    assert [info.key for info in at.asked.list(f"jobs/{job.job_id}/")] == [keys.job(job.job_id)]
    with pytest.raises(JobRemoved):
        RecordsJob(at.client, job.job_id).wait(HANG_S)
    # And its message, which comes again, scores nothing
    assert not score_carried(at.engine, job.job_id, carried)


class Box:
    """Stands for the answers of an application. Nothing comes at the first calls."""

    def __init__(self, *answers: Answer | None) -> None:
        self._answers = list(answers)

    def wait(self, job_id: str, seconds: float) -> Answer | None:
        return self._answers.pop(0)


def test_an_application_that_waits_for_an_answer_asks_neither_the_bucket_nor_for_progress(
    at: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, carried = at.submit()
    assert score_carried(at.engine, job.job_id, carried)
    (answer,) = at.client.ledger.answers.receive(carried.reader, 0.0)
    monkeypatch.setattr(at.client.queue, "pause", lambda seconds: True)  # other processes may work
    monkeypatch.setattr(records_job, "_LOOK_EVERY_S", HANG_S)
    monkeypatch.setattr(at.client.ledger, "progress", None)
    job._answers = Box(None, None, answer)  # type: ignore[assignment]
    at.asked.requests.clear()
    assert len(job.wait(2 * HANG_S)) == len(ROWS)
    assert at.asked.requests == []


def test_an_application_whose_answer_is_lost_finds_the_results_in_the_bucket(
    at: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, carried = at.submit()
    assert score_carried(at.engine, job.job_id, carried)
    monkeypatch.setattr(at.client.queue, "pause", lambda seconds: True)
    monkeypatch.setattr(records_job, "_LOOK_EVERY_S", 0.0)
    monkeypatch.setattr(records_job, "_LOOK_SHARE", 0.0)
    job._answers = Box()  # type: ignore[assignment]
    at.asked.requests.clear()
    assert len(job.wait(HANG_S)) == len(ROWS)
    assert at.asked.requests == [("get", keys.outcome(job.job_id))]


def test_an_application_that_is_told_to_look_in_the_bucket_asks_the_ledger_for_the_end_of_its_job(
    at: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given an answer without results, because the records are scored as a part, which goes on for long
    job, _ = at.submit()
    monkeypatch.setattr(at.client.queue, "pause", lambda seconds: True)
    monkeypatch.setattr(records_job, "_LOOK_EVERY_S", HANG_S)
    progress = at.client.ledger.progress

    def end_and_ask(job_id: str) -> Any:
        monkeypatch.setattr(at.client.ledger, "progress", progress)
        score_small(at.engine, job_id, "holder")
        return progress(job_id)

    monkeypatch.setattr(at.client.ledger, "progress", end_and_ask)
    job._answers = Box(Answer(job_id=job.job_id))  # type: ignore[assignment]
    # When the job ends
    assert len(job.wait(HANG_S / 2)) == len(ROWS)


def test_an_application_whose_answer_is_lost_asks_the_ledger_for_the_end_of_its_job(
    at: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a job whose process died, so that its message came again, and nobody gives the answer
    job, _ = at.submit()
    assert score_small(at.engine, job.job_id, "holder")
    monkeypatch.setattr(at.client.queue, "pause", lambda seconds: True)
    monkeypatch.setattr(records_job, "_LOOK_EVERY_S", 0.0)
    monkeypatch.setattr(records_job, "_LOOK_SHARE", math.inf)  # the bucket is asked only if the ledger says so
    job._answers = Box()  # type: ignore[assignment]
    assert len(job.wait(HANG_S)) == len(ROWS)


def test_an_application_learns_that_its_job_was_deleted(at: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    job, _ = at.submit()
    at.asked.delete(keys.job(job.job_id))
    monkeypatch.setattr(at.client.queue, "pause", lambda seconds: True)
    monkeypatch.setattr(records_job, "_LOOK_EVERY_S", 0.0)
    monkeypatch.setattr(records_job, "_LOOK_SHARE", 0.0)
    monkeypatch.setattr(records_job, "_JOB_EVERY_S", 0.0)
    job._answers = Box()  # type: ignore[assignment]
    with pytest.raises(JobNotFound):
        job.wait(HANG_S)
