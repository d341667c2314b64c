"""Jobs are listed from their index: a page costs the page, and a lost, doubled or old entry is harmless."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from click.testing import CliRunner

from scoreline.storage import keys
from scoreline.storage.errors import InvalidRequest, LedgerUnavailable, StoreUnavailable
from scoreline.storage.ledger.memory_ledger import MemoryLedger
from scoreline.storage.models.manifest import PinnedModel
from scoreline.storage.objects.base import ObjectInfo, ObjectStore, exists
from scoreline.storage.objects.directory import DirectoryStore
from scoreline.tasks.dispatch import job_index
from scoreline.tasks.dispatch.job_index import mark_built, note_submission, rebuild
from scoreline.tasks.dispatch.listing import LEDGER_THREADS, JobListing
from scoreline.tasks.dispatch.reconcile import reconcile_job
from scoreline.tasks.dispatch.status import StatusReader
from scoreline.tasks.job.documents import Job, Outcome, State, Status, read_job
from scoreline.tasks.job.index_entry import IndexEntry, ListedEntry, entry_of
from scoreline.tasks.job.job_filter import JobFilter
from scoreline.tasks.job.plan_file import PlanFile
from scoreline.tasks.job.spec import JobSpec
from scoreline.worker.cli.main import cli
from tests.support.counting_store import CountedRequests
from tests.support.line_jobs import Desk, desk
from tests.support.waiting import HANG_S, wait_until

NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)
STATES: tuple[State, ...] = ("succeeded", "partial", "failed", "cancelled")


@pytest.fixture
def at(tmp_path: Path) -> Iterator[Desk]:
    with desk(tmp_path) as made:
        yield made


def entry(number: int, **fields: Any) -> IndexEntry:
    """Return the entry of a job that ended; a higher number means that it was submitted earlier."""
    model = "churn" if number % 2 else "fraud"
    known: dict[str, Any] = {
        "job_id": f"job-{number}",
        "state": STATES[number % 4],
        "model": f"{model}@20261101T120000Z-0a1b{number % 5}",
        "output": f"results/{model}/job_id=job-{number}/",
        "rows": number,
        "submitted": (NOON - timedelta(minutes=12 * number)).isoformat(timespec="milliseconds"),
        "labels": {"team": "risk"} if number % 50 == 0 else {},
    }
    return IndexEntry(status=Status(**known | fields), group="bulk" if number % 3 else model)


@pytest.fixture
def store(tmp_path: Path) -> CountedRequests:
    """A store with the entries of 300 jobs in three days."""
    made = CountedRequests(tmp_path, "scoreline")
    for number in range(300):
        made.put(entry(number).key, entry(number).to_json())
    mark_built(made, 300)
    made.requests.clear()
    return made


def listed(store: ObjectStore, limit: int | None = None, **chosen: Any) -> list[str]:
    reader = StatusReader(store, MemoryLedger())
    return [status.job_id for status in JobListing(store, reader).jobs(JobFilter(**chosen).check(), limit)]


def names(*numbers: int) -> list[str]:
    return [f"job-{number}" for number in numbers]


def test_a_page_is_read_with_a_request_for_each_job_and_three_more(store: CountedRequests) -> None:
    assert listed(store, 20) == names(*range(20))
    assert store.requests == {"head": 1, "folders": 1, "list": 1, "get": 20}


def test_the_newest_jobs_come_first_over_all_days(store: CountedRequests) -> None:
    assert listed(store) == names(*range(300))


def test_state_model_and_time_are_looked_up_without_reading_other_entries(store: CountedRequests) -> None:
    since, until = NOON - timedelta(hours=25), NOON - timedelta(hours=24)
    found = listed(store, 20, states=("failed",), model="fraud", since=since, until=until)
    assert found == names(122)
    assert store.requests == {"head": 1, "folders": 1, "list": 2, "get": 1}  # the day, and the markers


def test_jobs_are_chosen_by_state_model_group_and_labels(store: CountedRequests) -> None:
    assert listed(store, 3, states=("failed",)) == names(2, 6, 10)
    assert listed(store, 3, states=("failed", "cancelled")) == names(2, 3, 6)
    assert listed(store, 3, model="churn") == names(1, 3, 5)
    assert listed(store, 3, model="churn@20261101T120000Z-0a1b1") == names(1, 11, 21)
    assert listed(store, 3, group="bulk") == names(1, 2, 4)
    assert listed(store, 3, group="churn") == names(3, 9, 15)
    assert listed(store, labels={"team": "risk"}) == names(0, 50, 100, 150, 200, 250)
    assert listed(store, labels={"team": "other"}) == []


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"states": ("done",)}, "state 'done' is unknown"), ({"since": datetime(2026, 11, 25)}, "has no time zone")],
)
def test_a_malformed_filter_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        JobFilter(**wrong).check()


@pytest.mark.parametrize("state", ["submitted", "running", *STATES])
def test_the_size_of_an_entry_says_its_state(state: State) -> None:
    for length in range(40):  # whatever the length of the rest
        made = entry(1, state=state, error="x" * length)
        data = made.to_json()
        found = ListedEntry.of(ObjectInfo(key=made.key, size=len(data), etag=""))
        assert found is not None
        assert (found.state, found.model, found.job_id) == (state, "churn", "job-1")
        assert found.submitted.isoformat(timespec="milliseconds") == made.status.submitted
        assert IndexEntry.from_json(data) == made


def test_an_entry_with_the_longest_names_is_a_file_name(tmp_path: Path) -> None:
    name = "n" * keys.MAX_NAME
    key = keys.job_index(NOON, name, name)
    assert len(key.rpartition("/")[2]) < 255
    DirectoryStore(tmp_path, "scoreline").put(key, b"")


def test_other_objects_among_the_entries_are_ignored(store: CountedRequests) -> None:
    for name in ("notes.txt", "a~b~c~d", "00~b~../x", "00~churn~a b"):
        store.put(f"jobs/index/2026-11-25/{name}".replace("../", ""), b"{}")
    store.put("jobs/index/elsewhere/19800000~churn~a", b"{}")
    assert listed(store) == names(*range(300))


def test_a_doubled_entry_lists_its_job_once(store: CountedRequests) -> None:
    twice = entry(7, submitted=entry(3).status.submitted)
    store.put(twice.key, twice.to_json())
    assert len(listed(store)) == 300
    assert len(listed(store, 20)) == 20


def test_a_malformed_entry_is_replaced_by_the_documents(at: Desk) -> None:
    main, job_id = at.client.buckets.main, at.submit()
    at.client.cancel(job_id)
    mark_built(main, 1)
    (info,) = main.list("jobs/index/2")
    for data in (b"{", b"[]", b'{"status": {}}', IndexEntry(status=entry(1).status).to_json()):
        size = len(data) + (5 - len(data)) % 16  # as an entry of a cancelled job
        main.put(info.key, data.ljust(size))
        (found,) = at.client.jobs(20)
        assert (found.job_id, found.state) == (job_id, "cancelled")


def test_jobs_are_in_the_index_when_they_are_submitted_run_and_end(at: Desk) -> None:
    at.submit(job_id="waits")
    at.plan(job_id="runs")
    at.score("runs", 0)
    at.plan(job_id="ends", labels={"team": "risk"})
    at.client.cancel("ends")
    found = {job.job_id: job for job in at.client.jobs(20)}
    assert not at.client.listing.without_index
    assert {job_id: job.state for job_id, job in found.items()} == {
        "waits": "submitted",
        "runs": "running",
        "ends": "cancelled",
    }
    assert (found["runs"].rows, found["runs"].total_rows, found["runs"].parts_done) == (10, 40, 1)
    assert found["ends"] == at.client.status("ends")
    assert [job.job_id for job in at.client.jobs(state="running")] == ["runs"]
    assert [job.job_id for job in at.client.jobs(state=["submitted", "cancelled"])] == ["ends", "waits"]
    assert [job.job_id for job in at.client.jobs(labels={"team": "risk"})] == ["ends"]


def test_the_index_says_the_same_of_an_ended_job_as_its_documents(at: Desk) -> None:
    job_id = at.plan()
    known = {"rows": 3, "rejected": 1, "parts": 2, "parts_done": 2, "seconds": 1.5}
    costs = {"work_s": 2.5, "class_a": 7, "class_b": 8, "result_bytes": 9}
    outcome = Outcome(state="failed", error="no", reason="rejected", failures={}, **known, **costs)  # type: ignore[arg-type]
    at.client.buckets.main.put(keys.outcome(job_id), outcome.to_json())
    rebuild(at.client.buckets.main)
    assert list(at.client.jobs(20)) == [at.client.status(job_id)]


def test_only_a_complete_job_may_have_no_marker_and_an_entry_that_says_that_it_is_under_way(
    at: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    main, job_id = at.client.buckets.main, at.plan()
    put, refused = main.put, [1]

    def failing(key: str, *arguments: Any, **options: Any) -> ObjectInfo:
        if key.startswith("jobs/index/2") and refused:
            assert exists(main, keys.active(job_id)), "the marker is removed before the entry is written"
            refused.pop()
            raise StoreUnavailable("no answer")
        return put(key, *arguments, **options)

    monkeypatch.setattr(main, "put", failing)
    assert at.client.cancel(job_id).state == "cancelled"
    # The marker stays, so that a listing by state reads the job, and the reconciler writes the entry
    assert not refused
    assert [job.job_id for job in at.client.jobs(state="cancelled")] == [job_id]
    # But not in each round, because the store may refuse the entry for ever
    assert at.client.ledger.watchlist.holds([job_id])
    assert not at.client.ledger.watchlist.take(9, 0)
    reconcile_job(at.engine, job_id)
    assert not exists(main, keys.active(job_id))
    (info,) = main.list("jobs/index/2")
    found = ListedEntry.of(info)
    assert found is not None
    assert found.state == "cancelled"
    assert [job.job_id for job in at.client.jobs(state="cancelled")] == [job_id]


def test_a_job_that_ends_while_jobs_are_listed_by_state_is_not_missed(
    at: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    main, job_id, others = at.client.buckets.main, at.plan(), [lambda: at.client.cancel(job_id)]
    list_objects = main.list

    def slowly(prefix: str) -> Iterator[ObjectInfo]:
        found = [*list_objects(prefix)]
        if prefix.startswith((keys.JOBS_ACTIVE, keys.JOBS_INDEX)) and others:  # between the first two listings
            others.pop()()
        yield from found

    list(at.client.jobs(20))  # records that the index is complete
    monkeypatch.setattr(main, "list", slowly)
    assert [job.job_id for job in at.client.jobs(state="cancelled")] == [job_id]
    assert not others


def test_a_ledger_that_does_not_answer_is_asked_once_in_a_listing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = DirectoryStore(tmp_path, "scoreline")
    pinned = PinnedModel(name="a", version="20261101T120000Z-0a1b2", manifest_sha256="0" * 64)
    mark_built(store, 70)
    for number in range(70):
        spec = JobSpec(job_id=f"small-{number}", model="a", inputs=("s3://scoreline/in/",), output="s3://scoreline/o/")
        job = Job(spec=spec, model=pinned, submitted=NOON.isoformat(), webhook=None)
        outcome = Outcome(state="succeeded", rows=1, failures={}, job=json.loads(job.to_json()))
        store.put(entry_of(job).key, entry_of(job).to_json())
        store.put(keys.outcome(spec.job_id), outcome.to_json())
    ledger = MemoryLedger()
    holds = Mock(side_effect=LedgerUnavailable("no answer"))
    monkeypatch.setattr(ledger.watchlist, "holds", holds)
    found = JobListing(store, StatusReader(store, ledger)).jobs(JobFilter())
    assert [status.state for status in found] == ["succeeded"] * 70
    assert holds.call_count == 1


def test_a_resumed_job_is_under_way_again_in_the_index(at: Desk) -> None:
    job_id = at.plan()
    at.client.cancel(job_id)
    assert [job.state for job in at.client.jobs(20)] == ["cancelled"]
    at.client.resume(job_id)
    assert [job.state for job in at.client.jobs(20)] == ["submitted"]
    at.client.cancel(job_id)
    assert [job.state for job in at.client.jobs(20)] == ["cancelled"]


def test_a_job_whose_resume_died_after_the_new_run_had_begun_is_under_way_in_the_index(
    at: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = at.plan()
    at.client.cancel(job_id)
    put = at.client.buckets.main.put

    def dying(key: str, data: bytes, **options: Any) -> ObjectInfo:
        info = put(key, data, **options)
        if key == keys.run(job_id):
            raise KeyboardInterrupt
        return info

    monkeypatch.setattr(at.client.buckets.main, "put", dying)
    with pytest.raises(KeyboardInterrupt):
        at.client.resume(job_id)
    monkeypatch.undo()
    assert at.client.status(job_id).state == "submitted"
    assert [job.state for job in at.client.jobs(20)] == ["submitted"]


def test_a_job_that_ended_without_a_note_in_the_index_is_listed_as_ended(at: Desk) -> None:
    # as if a worker of an earlier release had ended it
    main, job_id = at.client.buckets.main, at.plan()
    main.put(keys.outcome(job_id), Outcome(state="failed", error="no", failures={}).to_json())
    at.engine.ledger.forget(job_id)
    at.engine.ledger.watchlist.remove(job_id)
    assert [(job.state, job.error) for job in at.client.jobs(20)] == [("failed", "no")]


def test_a_page_of_jobs_under_way_costs_no_more_than_one_of_ended_jobs(at: Desk) -> None:
    for number in range(3):
        at.submit(job_id=f"waits-{number}")
        at.plan(job_id=f"runs-{number}")
    list(at.client.jobs(20))  # the first listing records that the index is complete
    counted = CountedRequests(at.client.folder, "scoreline")
    listing = JobListing(counted, StatusReader(counted, at.engine.ledger))
    found = list(listing.jobs(JobFilter(), 20))
    assert len(found) == 6
    assert counted.requests == {"head": 1, "folders": 1, "list": 1, "get": 6}
    # Though the number of their rows is shown, which is in the plan
    shown = {job.job_id: job.total_rows for job in found}
    assert {shown[f"runs-{number}"] for number in range(3)} == {at.client.status("runs-0").total_rows}
    assert shown["runs-0"] == PlanFile(counted, "runs-0").rows > 0


def test_without_a_limit_a_new_job_is_listed_and_a_removed_one_is_not_read(at: Desk) -> None:
    at.submit(job_id="new")
    at.client.buckets.main.put(keys.job("old"), b"not read")  # without a marker and other documents
    assert [job.job_id for job in at.client.jobs()] == ["new"]


def test_the_time_left_of_a_running_job_is_listed(at: Desk) -> None:
    job_id = at.plan()
    ledger = at.engine.ledger
    ledger.counters.note_pace(read_job(at.client.buckets.main, job_id).work, 2.0)
    ledger.note_processes(4, 60)
    left_s = at.client.status(job_id).left_s
    assert left_s
    assert [job.left_s for job in at.client.jobs(20)] == [left_s]


def test_only_a_few_threads_ask_the_ledger(at: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(2 * LEDGER_THREADS):
        at.submit(job_id=f"waits-{number}")
    together = threading.Barrier(LEDGER_THREADS)  # broken if a thread more or less arrives
    asking, most = [0], [0]
    guard, progress = threading.Lock(), at.client.ledger.progress

    def noted(job_id: str) -> Any:
        with guard:
            asking[0] += 1
            most[0] = max(most[0], asking[0])
        together.wait(HANG_S)
        with guard:
            asking[0] -= 1
        return progress(job_id)

    monkeypatch.setattr(at.client.ledger, "progress", noted)
    assert len(list(at.client.jobs(20))) == 2 * LEDGER_THREADS
    assert most == [LEDGER_THREADS]


def test_an_entry_whose_job_was_never_written_is_not_listed(at: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    main = at.client.buckets.main
    at.submit(job_id="exists")
    put = main.put

    def failing(key: str, *arguments: Any, **options: Any) -> ObjectInfo:
        if key == keys.job("lost"):
            raise StoreUnavailable("no answer")
        return put(key, *arguments, **options)

    monkeypatch.setattr(main, "put", failing)
    with pytest.raises(StoreUnavailable):
        at.submit(job_id="lost")
    assert len(list(main.list("jobs/index/2"))) == 2
    assert [job.job_id for job in at.client.jobs(20)] == ["exists"]


def test_a_job_that_is_submitted_twice_has_one_entry(at: Desk) -> None:
    at.submit(job_id="a")
    at.client.cancel("a")
    at.submit(job_id="a")
    (info,) = at.client.buckets.main.list("jobs/index/2")
    found = ListedEntry.of(info)
    assert found is not None
    assert found.state == "cancelled"


def test_a_late_entry_of_a_submission_does_not_replace_the_end(at: Desk) -> None:
    main, job_id = at.client.buckets.main, at.submit()
    at.client.cancel(job_id)
    assert note_submission(main, read_job(main, job_id))
    assert [job.state for job in at.client.jobs(20)] == ["cancelled"]
    (info,) = main.list("jobs/index/2")
    found = ListedEntry.of(info)
    assert found is not None
    assert found.state == "cancelled"


def test_a_job_is_submitted_and_ends_although_its_entry_cannot_be_written(
    at: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    main = at.client.buckets.main
    put = main.put

    def failing(key: str, *arguments: Any, **options: Any) -> ObjectInfo:
        if key.startswith("jobs/index/2"):
            raise StoreUnavailable("no answer")
        return put(key, *arguments, **options)

    monkeypatch.setattr(main, "put", failing)
    job_id = at.plan()
    assert at.client.cancel(job_id).state == "cancelled"
    assert [job.job_id for job in at.client.jobs(20)] == [job_id]  # every job is looked at
    assert at.client.listing.without_index


def strip(at: Desk) -> None:
    """Remove the index, as in a bucket of an earlier release."""
    main = at.client.buckets.main
    for info in list(main.list("jobs/index/")):
        main.delete(info.key)


def test_the_jobs_of_an_old_bucket_are_listed_and_indexed(at: Desk) -> None:
    for job_id in ("old-1", "old-2", "old-3"):
        at.plan(job_id=job_id)
    at.client.cancel("old-1")
    strip(at)
    at.plan(job_id="new")
    before = {job.job_id: job for job in at.client.jobs(20)}
    assert at.client.listing.without_index
    assert before.keys() == {"old-1", "old-2", "old-3", "new"}
    assert [job.job_id for job in at.client.jobs(20, state="cancelled")] == ["old-1"]
    assert at.client.rebuild_index().jobs == 4
    after = {job.job_id: job for job in at.client.jobs(20)}
    assert not at.client.listing.without_index
    assert {name: job.state for name, job in after.items()} == {name: job.state for name, job in before.items()}
    assert after["old-1"] == before["old-1"]


def test_building_the_index_mends_entries_and_leaves_current_ones(at: Desk) -> None:
    main = at.client.buckets.main
    for job_id in ("kept", "stale", "doubled", "lost", "corrupt"):
        at.plan(job_id=job_id)
        at.client.cancel(job_id)
    by_id = {found.job_id: found.key for info in main.list("jobs/index/2") if (found := ListedEntry.of(info))}
    etag = main.head(by_id["kept"]).etag
    main.put(by_id["stale"], entry_of(read_job(main, "stale")).to_json())
    twice = IndexEntry(
        status=Status(
            job_id="doubled", state="failed", model="line@x", output="", submitted="2026-11-25T00:00:00+00:00"
        )
    )
    main.put(twice.key, twice.to_json())
    main.delete(by_id["lost"])
    main.put(keys.job("corrupt"), b"{")
    gone = entry(9)
    main.put(gone.key, gone.to_json())
    os.utime(at.client.folder / "scoreline" / gone.key, (1, 1))
    fresh = entry(8)  # its job may be being submitted
    main.put(fresh.key, fresh.to_json())
    built = rebuild(main)
    assert (built.jobs, built.written, built.removed) == (5, 4, 3)
    mended = dict.fromkeys(("kept", "stale", "doubled", "lost"), "cancelled")
    states = {job.job_id: job.state for job in at.client.jobs(20)}
    assert states == {**mended, "corrupt": "failed", "job-8": "succeeded"}
    assert main.head(by_id["kept"]).etag == etag
    assert rebuild(main).written == 0


def test_a_job_that_ends_while_the_index_is_built_has_its_end_in_the_index(
    at: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    main, job_id = at.client.buckets.main, at.plan()
    strip(at)
    put, others = main.put, [lambda: at.client.cancel(job_id)]

    def slowly(key: str, *arguments: Any, **options: Any) -> ObjectInfo:
        if key.startswith("jobs/index/2") and others:
            others.pop()()
        return put(key, *arguments, **options)

    monkeypatch.setattr(main, "put", slowly)
    rebuild(main)
    (info,) = main.list("jobs/index/2")
    found = ListedEntry.of(info)
    assert found is not None
    assert found.state == "cancelled"


def test_the_job_id_index_is_reserved_for_new_jobs_only(at: Desk) -> None:
    with pytest.raises(InvalidRequest, match="'index' is reserved"):
        at.submit(job_id="index")
    document = json.loads(at.client.buckets.main.get(keys.job(at.submit())).data)
    document["spec"]["job_id"] = "index"
    at.client.buckets.main.put(keys.job("index"), json.dumps(document).encode())
    assert at.client.status("index").state == "submitted"
    assert {job.job_id for job in at.client.jobs(20)} >= {"index"}
    at.client.rebuild_index()
    assert {job.job_id for job in at.client.jobs(20)} >= {"index"}


def test_the_command_lists_by_filters_and_says_if_the_index_is_incomplete(at: Desk) -> None:
    run = CliRunner().invoke
    at.plan(job_id="a", labels={"team": "risk"})
    at.submit(job_id="b")
    shown = run(cli, ["jobs", "--label", "team=risk", "--since", "1d"])
    assert ([line.split()[0] for line in shown.stdout.splitlines()[1:]], shown.stderr) == (["a"], "")
    shown = run(cli, ["jobs", "--state", "submitted", "--json"])
    assert [job["job_id"] for job in json.loads(shown.stdout)] == ["b"]
    assert json.loads(run(cli, ["jobs", "--model", "other", "--json"]).stdout) == []
    strip(at)
    assert "see `scoreline reconcile --index`" in run(cli, ["jobs"]).stderr
    built = run(cli, ["reconcile", "--index"])
    assert "jobs in the index: 2, 2 of them written anew" in built.stderr
    assert run(cli, ["jobs"]).stderr == ""


@pytest.mark.parametrize("state", ["succeeded", "failed"])
def test_the_end_of_a_short_job_is_noted_once_its_entry_may_be_written_again(
    store: CountedRequests, monkeypatch: pytest.MonkeyPatch, state: State
) -> None:
    slept, go_on = list[float](), threading.Event()
    monkeypatch.setattr(store, "rewrite_after_s", 1.0)

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        go_on.wait()

    monkeypatch.setattr(job_index, "time", Mock(sleep=sleep))
    pinned = PinnedModel(name="m", version="20261129T054500Z-0a1b2", manifest_sha256="0" * 64)
    spec = JobSpec(job_id="short", model="m", inputs=("s3://scoreline/in/",), output="s3://scoreline/out/")
    job = Job(spec=spec, model=pinned, submitted=datetime.now(UTC).isoformat(timespec="milliseconds"))
    noted = partial(exists, store, entry_of(job).key)
    job_index.note_end(
        store, job, Outcome(state=state, rows=1, rejected=0, parts=1, parts_done=1, seconds=0.1, error="", failures={})
    )
    assert noted() == (state == "failed")  # a job that failed may be resumed, so its entry must not be written later
    go_on.set()
    wait_until(noted, "the entry")
    assert [0 < seconds <= 1.5 for seconds in slept] == [True] * (state == "succeeded")


def test_a_decision_that_is_made_before_a_late_note_of_the_end_is_not_overwritten(
    store: CountedRequests, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a short job whose entry may not be written again yet
    go_on = threading.Event()
    monkeypatch.setattr(store, "rewrite_after_s", 1.0)
    monkeypatch.setattr(job_index, "time", Mock(sleep=lambda _: go_on.wait()))
    pinned = PinnedModel(name="m", version="20261129T054500Z-0a1b2", manifest_sha256="0" * 64)
    spec = JobSpec(job_id="short", model="m", inputs=("s3://scoreline/in/",), output="s3://scoreline/out/")
    job = Job(spec=spec, model=pinned, submitted=datetime.now(UTC).isoformat(timespec="milliseconds"))
    end = Outcome(state="succeeded", rows=1, rejected=0, parts=1, parts_done=1, seconds=0.1, error="", failures={})
    before = set(threading.enumerate())
    job_index.note_end(store, job, end)
    (late,) = set(threading.enumerate()) - before
    # When a person withdraws the results before the entry is written
    withdrawn = replace(end, state="blocked")
    store.put(keys.outcome("short"), withdrawn.to_json())
    job_index.note_decision(store, job, withdrawn)
    go_on.set()
    late.join(HANG_S)
    # Then the entry says so
    assert IndexEntry.from_json(store.get(entry_of(job).key).data).status.state == "blocked"
