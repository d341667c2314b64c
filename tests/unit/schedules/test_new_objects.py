"""A schedule with `only_new` scores each version of an object once, and again only if its job failed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from scoreline.storage import keys
from scoreline.storage.errors import InvalidRequest
from scoreline.storage.objects.directory import DirectoryStore
from scoreline.tasks.inputs import only_new
from scoreline.tasks.inputs.listing import list_inputs
from scoreline.tasks.inputs.only_new import forget_scored, remember_scored, unseen
from scoreline.tasks.job.documents import Outcome, read_job
from scoreline.tasks.job.results_keep import ResultsKeep
from scoreline.tasks.retention.due_jobs import Due
from scoreline.tasks.retention.policies import Policies
from scoreline.tasks.retention.removal import Removable, examine, remove
from tests.unit.schedules.conftest import NIGHTLY, SLOT, Night, X

DAY = timedelta(days=1)


@pytest.fixture
def night(night: Night) -> Night:
    """Return a deployment whose schedule scores new objects only, with a model that can score them."""
    night.client.registry.rollback("churn", "champion")
    night.write(NIGHTLY + "only_new = true\n")
    return night


def job(day: int) -> str:
    return f"nightly-{SLOT + day * DAY:%Y%m%dT%H%M%SZ}"


def run(night: Night, day: int) -> Outcome:
    """Run the slot of a day, and tick again so that the schedule records the end of the job."""
    night.tick(SLOT + day * DAY)
    night.tick(SLOT + day * DAY + timedelta(minutes=1))
    return night.outcome(job(day))


def test_an_object_is_scored_once_and_again_when_it_was_replaced(night: Night) -> None:
    assert run(night, 0).rows == len(X)
    night.client.put("in/b.parquet", X)
    assert run(night, 1).rows == len(X)
    assert run(night, 2).rows == 0
    night.client.put("in/a.parquet", X)
    assert run(night, 3).rows == len(X)


def test_objects_of_a_job_that_failed_are_still_new(night: Night) -> None:
    night.client.put("in/a.parquet", X.assign(x=[0.0, float("nan")]))
    assert run(night, 0).state == "failed"
    night.client.put("in/b.parquet", X)
    night.write(NIGHTLY + "only_new = true\nmax_rejected = 1\n")
    done = run(night, 1)
    assert (done.rows, done.rejected) == (3, 1)


def test_objects_of_a_withdrawn_job_are_scored_again_only_once(night: Night) -> None:
    assert run(night, 0).rows == len(X)
    night.client.reject(job(0), "wrong prices")
    assert run(night, 1).rows == len(X)
    night.client.reject(job(0), "wrong prices of all days")
    assert run(night, 2).rows == 0, "the second job has scored them"


def test_a_withdrawn_job_is_not_accepted_once_a_later_job_has_scored_its_objects(night: Night) -> None:
    assert run(night, 0).rows == len(X)
    night.client.reject(job(0), "wrong prices")
    assert run(night, 1).rows == len(X)
    with pytest.raises(InvalidRequest, match=r"1 of 1 object of job .* was scored by a later job"):
        night.client.accept(job(0), "not after all")
    assert night.outcome(job(0)).state == "blocked"
    night.client.reject(job(1), "this one instead")
    night.client.accept(job(0), "not after all")
    night.client.accept(job(0), "not after all")
    assert run(night, 2).rows == 0


def accept_beside_a_tick(night: Night, monkeypatch: pytest.MonkeyPatch, before: str, act: Callable[[], object]) -> None:
    """Withdraw a job and accept it again. Once the acceptance has got as far as changing a document, do something."""
    assert run(night, 0).rows == len(X)
    night.client.reject(job(0), "wrong prices")
    put, acts = DirectoryStore.put, [act]

    def late(store: DirectoryStore, key: str, *arguments: Any, **options: Any) -> Any:
        if key.endswith(before) and acts:
            acts.pop()()
        return put(store, key, *arguments, **options)

    monkeypatch.setattr(DirectoryStore, "put", late)
    night.client.accept(job(0), "not after all")
    assert not acts


@pytest.mark.parametrize("before", ["review.json", "seen.json.gz"])
def test_a_job_stays_withdrawn_if_its_objects_are_scored_while_it_is_accepted(
    night: Night, monkeypatch: pytest.MonkeyPatch, before: str
) -> None:
    with pytest.raises(InvalidRequest, match="was scored by a later job"):
        accept_beside_a_tick(night, monkeypatch, before, lambda: run(night, 1))
    assert (night.outcome(job(0)).state, night.outcome(job(1)).state) == ("blocked", "succeeded")
    main = night.client.buckets.main
    output = read_job(main, job(1)).spec.output.removeprefix(f"s3://{main.bucket}/")
    latest = json.loads(main.get(f"{output}latest.json").data)
    assert latest["job_id"] == job(1)
    assert night.client.status(job(0)).state == "blocked"
    night.client.put("in/b.parquet", X)
    night.client.reject(job(0), "wrong prices of all days")
    assert run(night, 2).rows == len(X), "only the new object is left"


@pytest.mark.parametrize("before", ["_SUCCESS", "outcome.json"])
def test_a_tick_leaves_out_the_objects_of_a_job_that_is_being_accepted(
    night: Night, monkeypatch: pytest.MonkeyPatch, before: str
) -> None:
    scored: list[int] = []
    accept_beside_a_tick(night, monkeypatch, before, lambda: scored.append(run(night, 1).rows))
    assert scored == [0]
    assert (night.outcome(job(0)).state, run(night, 2).rows) == ("succeeded", 0)


@pytest.mark.parametrize("before", ["_SUCCESS", "outcome.json", "seen.json.gz"])
def test_an_acceptance_that_is_killed_keeps_its_objects_until_it_is_repeated_or_withdrawn(
    night: Night, monkeypatch: pytest.MonkeyPatch, before: str
) -> None:
    def die() -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        accept_beside_a_tick(night, patch, before, die)
    if before != "seen.json.gz":
        assert run(night, 1).rows == 0
    night.client.accept(job(0), "not after all")
    assert (night.outcome(job(0)).state, run(night, 2).rows) == ("succeeded", 0)
    night.client.reject(job(0), "wrong prices")
    assert run(night, 3).rows == len(X)


def test_an_acceptance_that_is_killed_and_then_withdrawn_gives_its_objects_back(
    night: Night, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die() -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        accept_beside_a_tick(night, patch, "_SUCCESS", die)
    night.client.reject(job(0), "wrong prices")
    assert run(night, 1).rows == len(X)


@pytest.mark.parametrize("before", ["seen.json.gz", "_SUCCESS", "outcome.json"])
def test_two_people_who_accept_a_withdrawn_job_at_once_have_accepted_it(
    night: Night, monkeypatch: pytest.MonkeyPatch, before: str
) -> None:
    accept_beside_a_tick(night, monkeypatch, before, lambda: night.client.accept(job(0), "it was right"))
    assert (night.outcome(job(0)).state, run(night, 1).rows) == ("succeeded", 0)


@pytest.mark.parametrize("before", ["seen.json.gz", "_SUCCESS", "outcome.json"])
def test_a_person_who_withdraws_a_job_that_is_being_accepted_gives_its_objects_back(
    night: Night, monkeypatch: pytest.MonkeyPatch, before: str
) -> None:
    accept_beside_a_tick(night, monkeypatch, before, lambda: night.client.reject(job(0), "wrong all the same"))
    assert (night.outcome(job(0)).state, run(night, 1).rows) == ("blocked", len(X))


def test_a_withdrawal_that_is_killed_is_finished_before_the_job_is_accepted_again(
    night: Night, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(night, 0).rows == len(X)
    put = DirectoryStore.put

    def die(store: DirectoryStore, key: str, *arguments: Any, **options: Any) -> Any:
        if key.endswith("outcome.json"):
            raise KeyboardInterrupt
        return put(store, key, *arguments, **options)

    monkeypatch.setattr(DirectoryStore, "put", die)
    with pytest.raises(KeyboardInterrupt):
        night.client.reject(job(0), "wrong prices")
    monkeypatch.setattr(DirectoryStore, "put", put)
    night.client.accept(job(0), "not after all")
    assert (night.outcome(job(0)).state, run(night, 1).rows) == ("succeeded", 0)


@pytest.mark.parametrize("known", [True, False])
def test_a_tick_that_follows_a_job_does_not_record_what_is_withdrawn_meanwhile(
    night: Night, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    # Given a tick that has read that the job succeeded, when a person withdraws it
    night.tick(SLOT)
    main, seen = night.client.buckets.main, keys.schedule_seen("nightly")
    if not known:  # as after a worker of release 0.1.0
        main.delete(seen)

    def late(main: DirectoryStore, schedule: str, job_id: str) -> None:
        if job_id == job(0) and night.outcome(job(0)).state == "succeeded":
            night.client.reject(job(0), "wrong prices")
        remember_scored(main, schedule, job_id)

    monkeypatch.setattr("scoreline.tasks.schedules.runner.remember_scored", late)
    night.tick(SLOT + timedelta(minutes=1))
    assert night.outcome(job(0)).state == "blocked"
    # Then the next job scores the objects
    assert run(night, 1).rows == len(X)
    assert run(night, 2).rows == 0


def test_objects_that_are_withdrawn_while_they_are_recorded_stay_new(
    night: Night, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a slow process that has found objects to record, as after a worker of release 0.1.0
    assert run(night, 0).rows == len(X)
    seen, put = keys.schedule_seen("nightly"), DirectoryStore.put
    withdrawn: list[object] = []
    night.client.buckets.main.delete(seen)

    def late(store: DirectoryStore, key: str, *arguments: Any, **options: Any) -> Any:
        if key == seen and not withdrawn:
            withdrawn.append(night.client.reject(job(0), "wrong prices"))
        return put(store, key, *arguments, **options)

    # When a person withdraws the results before they are recorded, and there is nothing to forget
    with monkeypatch.context() as patch:
        patch.setattr(DirectoryStore, "put", late)
        remember_scored(night.client.buckets.main, "nightly", job(0))
    # Then the next job scores the objects
    assert withdrawn
    assert run(night, 1).rows == len(X)


def test_a_slow_withdrawal_does_not_forget_the_objects_of_a_job_that_is_accepted_again(night: Night) -> None:
    assert run(night, 0).rows == len(X)
    night.client.reject(job(0), "wrong prices")
    night.client.accept(job(0), "not after all")
    forget_scored(night.client.buckets.main, "nightly", job(0))
    assert run(night, 1).rows == 0


def remove_old(night: Night, day: int) -> None:
    """Remove the job of a slot as if it had ended long ago."""
    buckets, due = night.client.buckets, Due(job_id=job(day), why="it is old")
    found = examine(buckets, Policies(default=ResultsKeep(days=30)), due, time.time() + 100 * DAY.total_seconds())
    assert isinstance(found, Removable), found
    assert remove(buckets, found) is None


@pytest.mark.parametrize("withdrawn", [False, True])
def test_objects_of_a_job_that_was_blocked_until_its_removal_are_scored_again(night: Night, withdrawn: bool) -> None:
    night.write(NIGHTLY + "only_new = true\nchecks = \"[rows]\\nlevel = 'block'\\nmin = 100\"\n")
    assert run(night, 0).state == "blocked"
    night.write(NIGHTLY + "only_new = true\n")
    if withdrawn:
        night.client.reject(job(0), "wrong prices")
        assert run(night, 1).rows == len(X)
    else:
        assert run(night, 1).rows == 0, "a person may accept the blocked job"
    remove_old(night, 0)
    assert run(night, 2).rows == (0 if withdrawn else len(X))


def test_if_two_jobs_record_scored_objects_at_once_none_is_lost(night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    main = night.client.buckets.main
    for name in "ab":
        night.client.put(f"in/{name}.parquet", X)
        night.client.submit("churn@champion", f"s3://scoreline/in/{name}.parquet", job_id=name)
    main.delete(keys.schedule_seen("s"))
    encode = only_new._encode
    others = [lambda: remember_scored(main, "s", "b")]

    def slowly(fingerprints: object) -> bytes:
        if others:
            others.pop()()
        return encode(fingerprints)  # type: ignore[arg-type]

    monkeypatch.setattr(only_new, "_encode", slowly)
    remember_scored(main, "s", "a")
    another = read_job(main, "a")
    another = replace(another, spec=replace(another.spec, job_id="another"))
    assert unseen(main, "s", another, list_inputs(night.client.buckets, ["s3://scoreline/in/"])) == []
