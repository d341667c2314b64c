"""A schedule with `only_new` scores each object once, even if its jobs fail, are resumed or overlap."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from scoreline.storage import keys
from scoreline.storage.errors import NothingToResume, PlanPending, StoreUnavailable
from scoreline.storage.objects.base import exists
from scoreline.tasks.dispatch.memory_queue import Message
from scoreline.tasks.job.documents import COMPLETE, read_outcome
from scoreline.tasks.schedules.schedule import Past
from tests.unit.schedules.conftest import HOURLY, Night, X, at

TABLE = HOURLY + "only_new = true\n"
START = at("2026-11-25T00:30")
SEEN = keys.schedule_seen("hourly")


def job(hour: int) -> str:
    return f"hourly-20261125T{hour:02}0000Z"


@pytest.fixture
def hourly(make: Callable[..., Night]) -> Night:
    """A deployment whose jobs wait until a test calls `run`, and a schedule over one object with two rows."""
    night = make(run=False)
    night.client.registry.rollback("churn", "champion")
    night.write(TABLE.replace('"churn"', '"churn@champion"'))
    night.tick(START)
    return night


def tick(night: Night, hour: int) -> list[str]:
    """Tick at an hour of the day, and return the actions of the schedule."""
    return night.tick(at(f"2026-11-25T{hour:02}:00"))["hourly"]


def spoil(night: Night) -> None:
    """Replace the input by one in which too many rows are rejected."""
    night.client.put("in/a.parquet", X.assign(x=[0.0, float("nan")]))


def rows(night: Night, hour: int) -> tuple[str, int, int]:
    done = night.client.status(job(hour))
    return done.state, done.rows, done.rejected


def test_scored_objects_are_recorded_before_their_job_has_ended(hourly: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    store = hourly.client.buckets.main
    put, order = store.put, []

    def noted(key: str, data: bytes, **options: Any) -> Any:
        order.append(key.rpartition("/")[2])
        return put(key, data, **options)

    tick(hourly, 1)
    monkeypatch.setattr(store, "put", noted)
    hourly.client.run()
    ended = [name for name in order if name in ("_SUCCESS", "seen.json.gz", "latest.json", "outcome.json")]
    assert ended == ["_SUCCESS", "seen.json.gz", "latest.json", "outcome.json"]
    # And without any tick
    assert tick(hourly, 2) == [f"submitted {job(2)}"]
    hourly.client.run()
    assert rows(hourly, 2) == ("succeeded", 0, 0)


def test_objects_that_a_resumed_job_scored_are_not_scored_again(hourly: Night) -> None:
    # Given a slot whose job failed, and a tick that has recorded the failure
    spoil(hourly)
    tick(hourly, 1)
    hourly.client.run()
    assert hourly.outcome(job(1)).state == "failed"
    assert hourly.tick(at("2026-11-25T01:10")) == {"hourly": []}
    # When the job is resumed with a larger budget
    hourly.client.resume(job(1), max_rejected="50%")
    hourly.client.run()
    assert rows(hourly, 1) == ("partial", 1, 1)
    # Then the job of the next slot finds no new object
    tick(hourly, 2)
    hourly.client.run()
    assert rows(hourly, 2) == ("succeeded", 0, 0)


def test_objects_that_a_resumed_job_is_about_to_score_are_left_out(hourly: Night) -> None:
    spoil(hourly)
    tick(hourly, 1)
    hourly.client.run()
    hourly.tick(at("2026-11-25T01:10"))
    hourly.client.resume(job(1), max_rejected="50%")
    hourly.client.put("in/b.parquet", X)
    # When the next slot is planned while the resumed job is under way
    tick(hourly, 2)
    hourly.client.run()
    assert [rows(hourly, hour) for hour in (1, 2)] == [("partial", 1, 1), ("succeeded", 2, 0)]


def test_a_job_whose_objects_a_later_one_scored_cannot_be_resumed(hourly: Night) -> None:
    spoil(hourly)
    tick(hourly, 1)
    hourly.client.run()
    hourly.write(TABLE.replace('"churn"', '"churn@champion"') + 'max_rejected = "50%"\n')
    tick(hourly, 2)
    hourly.client.run(1)  # plans the later job
    with pytest.raises(NothingToResume, match=rf"job {job(2)} scores objects of job {job(1)}, and 'hourly' .*--again"):
        hourly.client.resume(job(1))
    hourly.client.run()
    assert rows(hourly, 2) == ("partial", 1, 1)
    with pytest.raises(NothingToResume, match=rf"1 of 1 object of job {job(1)} was scored by a later job, .*--again"):
        hourly.client.resume(job(1))
    with pytest.raises(NothingToResume, match=r"has all its results \(partial\)"):
        hourly.client.resume(job(2))
    assert hourly.outcome(job(1)).state == "failed"


@pytest.mark.parametrize(
    "damaged", [b"no gzip", gzip.compress(b"[]")[:-4], gzip.compress(b"[")], ids=["no gzip", "cut", "no JSON"]
)
def test_a_record_that_is_damaged_does_not_keep_a_job_from_ending(
    hourly: Night, caplog: pytest.LogCaptureFixture, damaged: bytes
) -> None:
    tick(hourly, 1)
    hourly.client.run(1)
    hourly.client.buckets.main.put(SEEN, damaged)
    hourly.client.run()
    assert hourly.outcome(job(1)).state == "succeeded"
    assert "only_new.not_recorded" in [record.msg for record in caplog.records]


# Tests of a resume while another job of the schedule is being planned


def deliver(night: Night, step: str, hour: int) -> None:
    """Let another worker handle the message of a step."""
    night.client._messages._deliver(Message(name=f"scoreline.{step}", kwargs={"job_id": job(hour)}))


def during(night: Night, monkeypatch: pytest.MonkeyPatch, key: str, act: Callable[[], object]) -> None:
    """Call `act` once, right before an object is written."""
    store = night.client.buckets.main
    put = store.put
    done: list[str] = []

    def hooked(name: str, data: bytes, **options: Any) -> Any:
        if name == key and not done:
            done.append(key)
            act()
        return put(name, data, **options)

    monkeypatch.setattr(store, "put", hooked)


@pytest.fixture
def failed(hourly: Night) -> Night:
    """A schedule whose first job failed after it was planned; a tick has recorded the failure."""
    spoil(hourly)
    hourly.write(TABLE.replace('"churn"', '"churn@champion"'))
    tick(hourly, 1)
    hourly.client.run()
    hourly.write(TABLE.replace('"churn"', '"churn@champion"') + 'max_rejected = "50%"\n')
    hourly.tick(at("2026-11-25T01:10"))
    return hourly


@pytest.fixture
def unplanned(hourly: Night) -> Night:
    """A schedule whose first job failed before it was planned; the failure is recorded, and the input is corrected."""
    hourly.client.put("in/a.parquet", b"no Parquet")
    tick(hourly, 1)
    hourly.client.run()
    assert hourly.outcome(job(1)).state == "failed"
    hourly.tick(at("2026-11-25T01:10"))
    hourly.client.put("in/a.parquet", X)
    return hourly


def scored(night: Night) -> dict[str, int]:
    """Return how many rows of the input each job has scored or rejected."""
    ended = {hour: night.client.status(job(hour)) for hour in (1, 2)}
    return {job(hour): done.rows + done.rejected for hour, done in ended.items() if done.state in COMPLETE}


def test_a_job_is_not_resumed_while_a_later_one_is_being_planned(
    failed: Night, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a failed first job, and a later job whose planner has found the new objects but has not written the plan yet
    refused: list[PlanPending] = []

    def resume() -> None:
        with pytest.raises(PlanPending, match=rf"job {job(2)} .* is being planned") as caught:
            failed.client.resume(job(1), max_rejected="50%")
        refused.append(caught.value)

    tick(failed, 2)
    during(failed, monkeypatch, keys.plan(job(2)), resume)
    failed.client.run()
    # Then a resume of the first job is refused with a transient error, and with a permanent one once the plan exists
    assert [error.transient for error in refused] == [True]
    assert scored(failed) == {job(2): 2}
    with pytest.raises(NothingToResume, match="scored by a later job"):
        failed.client.resume(job(1), max_rejected="50%")


@pytest.mark.parametrize("planned", [True, False], ids=["planned", "about to be planned"])
def test_a_resume_is_taken_back_if_a_later_job_began_meanwhile(
    failed: Night, monkeypatch: pytest.MonkeyPatch, planned: bool
) -> None:
    before = failed.outcome(job(1))

    def begin() -> None:
        tick(failed, 2)
        if planned:
            deliver(failed, "plan", 2)

    # Given a failed first job, and a later job that begins after the checks of a resume but before the resume is
    # recorded
    during(failed, monkeypatch, keys.run(job(1)), begin)
    with pytest.raises((NothingToResume, PlanPending), match=job(2)):
        failed.client.resume(job(1), max_rejected="50%")
    # Then the first job stays failed, and only the later job scores the objects
    assert failed.outcome(job(1)) == replace(before, run=2)
    assert not exists(failed.client.buckets.main, keys.active(job(1)))
    failed.client.run()
    assert scored(failed) == {job(2): 2}


def test_the_later_of_two_jobs_without_a_plan_waits_for_the_earlier(
    unplanned: Night, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[PlanPending] = []

    def plan_later() -> None:
        tick(unplanned, 2)
        with pytest.raises(PlanPending, match=rf"job {job(2)} .* until job {job(1)} is planned") as caught:
            deliver(unplanned, "plan", 2)
        waited.append(caught.value)

    # Given a resumed job that has no plan yet, and a later job that is planned at the same time
    unplanned.client.resume(job(1))
    during(unplanned, monkeypatch, keys.plan(job(1)), plan_later)
    unplanned.client.run()
    assert [error.transient for error in waited] == [True]
    # Then each object is scored once
    assert scored(unplanned) == {job(1): 2, job(2): 0}


def test_a_job_without_a_plan_does_not_wait_for_a_later_one(unplanned: Night) -> None:
    unplanned.client.resume(job(1))
    tick(unplanned, 2)
    deliver(unplanned, "plan", 1)
    unplanned.client.run()
    assert scored(unplanned) == {job(1): 2, job(2): 0}


def test_a_job_without_a_plan_is_not_resumed_while_another_is_being_planned(unplanned: Night) -> None:
    tick(unplanned, 2)
    with pytest.raises(PlanPending, match=rf"job {job(2)} .* is being planned"):
        unplanned.client.resume(job(1))
    unplanned.client.run()
    unplanned.client.resume(job(1))
    unplanned.client.run()
    assert scored(unplanned) == {job(1): 0, job(2): 2}


# cancel_running


@pytest.fixture
def cancelling(hourly: Night) -> Night:
    hourly.write(TABLE.replace('"churn"', '"churn@champion"') + 'overlap = "cancel_running"\n')
    hourly.tick(START)
    return hourly


def test_a_slot_that_cancels_the_running_job_starts_once_that_has_ended(cancelling: Night) -> None:
    tick(cancelling, 1)
    cancelling.client.run(1)
    assert tick(cancelling, 2) == [f"cancelled {job(1)}", f"submitted {job(2)}"]
    cancelling.client.run()
    assert [rows(cancelling, hour)[:2] for hour in (1, 2)] == [("cancelled", 0), ("succeeded", 2)]
    assert [past.state for past in cancelling.state("hourly").history] == ["cancelled"]


def test_a_slot_whose_cancel_comes_too_late_waits_and_scores_nothing_twice(
    cancelling: Night, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = cancelling.client.buckets.main
    put = store.put
    ticked: list[Any] = []
    tick(cancelling, 1)

    def hooked(key: str, data: bytes, **options: Any) -> Any:
        # Given a job whose finalizer is about to write _SUCCESS
        if key.endswith("_SUCCESS") and not ticked:
            ticked.append(None)
            ticked.append(tick(cancelling, 2))
        return put(key, data, **options)

    monkeypatch.setattr(store, "put", hooked)
    cancelling.client.run()
    # Then the next job waits for the end of this job, instead of cancelling it
    assert ticked == [None, []]
    assert rows(cancelling, 1) == ("succeeded", 2, 0)
    assert cancelling.tick(at("2026-11-25T02:01")) == {"hourly": [f"submitted {job(2)}"]}
    cancelling.client.run()
    assert rows(cancelling, 2) == ("succeeded", 0, 0)
    assert cancelling.state("hourly").history == (Past(slot="2026-11-25T01:00:00+00:00", state="succeeded"),)


@pytest.mark.parametrize("where", ["claim", "outcome"])
def test_a_cancel_that_fails_is_tried_again_at_the_next_tick(
    cancelling: Night, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    store = cancelling.client.buckets.main
    put = store.put
    failed: list[str] = []
    tick(cancelling, 1)
    cancelling.client.run(1)

    def hooked(key: str, data: bytes, **options: Any) -> Any:
        if where in key and not failed:
            failed.append(key)
            raise StoreUnavailable("no answer")
        return put(key, data, **options)

    monkeypatch.setattr(store, "put", hooked)
    assert tick(cancelling, 2) == ["failed: no answer"]
    assert read_outcome(store, job(1)) is None
    assert cancelling.tick(at("2026-11-25T02:01")) == {"hourly": [f"cancelled {job(1)}", f"submitted {job(2)}"]}
    cancelling.client.run()
    assert [rows(cancelling, hour)[:2] for hour in (1, 2)] == [("cancelled", 0), ("succeeded", 2)]


def test_the_last_of_many_slots_that_wait_for_a_cancel_runs(cancelling: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    tick(cancelling, 1)
    cancel = cancelling.client.cancel

    def unreachable(job_id: str) -> Any:
        raise StoreUnavailable("no answer")

    monkeypatch.setattr(cancelling.client, "cancel", unreachable)
    assert tick(cancelling, 2) == tick(cancelling, 3) == ["failed: no answer"]
    monkeypatch.setattr(cancelling.client, "cancel", cancel)
    assert tick(cancelling, 4) == [f"cancelled {job(1)}", f"submitted {job(4)}"]
    assert [past.state for past in cancelling.state("hourly").history] == ["superseded", "superseded", "cancelled"]
