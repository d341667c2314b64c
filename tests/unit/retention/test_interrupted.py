"""A removal may die at any change, and be repeated by several processes: it finishes, and removes nothing else."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from scoreline.storage import keys
from scoreline.storage.errors import JobRemoved, NothingToResume
from scoreline.storage.ledger.memory_ledger import MemoryLedger
from scoreline.storage.objects.base import ObjectStore
from scoreline.tasks.dispatch.dispatcher import Dispatcher
from scoreline.tasks.dispatch.reconcile import reconcile
from scoreline.tasks.dispatch.resume import begin_run
from scoreline.tasks.job.documents import Run, read_job, read_outcome, read_run, read_tombstone
from scoreline.tasks.job.results_keep import ResultsKeep
from scoreline.tasks.retention import removal, rounds
from scoreline.tasks.retention.due_jobs import Due
from scoreline.tasks.retention.policies import Policies
from scoreline.tasks.retention.removal import Kept, Removable, examine, remove
from tests.support.old_jobs import Died, DyingBuckets, OldJobs, buckets_in

POLICIES = Policies(default=ResultsKeep(days=90))
DUE = Due(job_id="old", why="it is old")


def fill(folder: Path) -> OldJobs:
    """Write three jobs that are due, and some that are not."""
    old = OldJobs(folder)
    old.add_records(old.add("complete", rejected=1, state="partial"))
    old.add("failed", state="failed", run=2)
    old.add("elsewhere", output="s3://other/out/", partition_by="day")
    old.add("completely", days=10)
    old.add("fail", days=10, state="failed")
    old.add("running", state=None, active=True)
    old.add("named", days=500)
    old.main.put("out/latest.json", b'{"job": "named"}')
    return old


def test_killed_at_any_change_it_finishes_later_and_removes_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "_THREADS", 1)  # one job after another, so that each run makes the same changes
    # Given the state after a removal that was not interrupted
    whole = fill(tmp_path / "whole")
    uninterrupted = DyingBuckets(tmp_path / "whole", left=10_000)
    rounds.collect(uninterrupted, POLICIES)
    end, changes = whole.objects(), len(uninterrupted.changed)
    assert changes > 20
    for left in range(changes + 1):
        folder = tmp_path / str(left)
        old = fill(folder)
        before = old.objects()
        kept = old.all_of(["completely", "fail", "running", "named"])
        # When a process dies at one of the changes, and another one after half of what is left to do
        for allowed in (left, (changes - left) // 2):
            with contextlib.suppress(Died):
                rounds.collect(DyingBuckets(folder, allowed), POLICIES)
            now = old.objects()
            assert now <= before
            assert kept <= now
            # Then no results are gone whose job has no tombstone, and no incomplete results look complete
            for job_id in ("complete", "failed", "elsewhere"):
                past = old.jobs[job_id]
                if not past.results <= now:
                    assert read_tombstone(old.main, job_id) is not None
                    assert not any(uri.endswith("/_SUCCESS") for uri in past.results & now)
        # And the next round ends as if nothing had happened
        rounds.collect(buckets_in(folder), POLICIES)
        assert old.objects() == end, left
        shutil.rmtree(folder)


def test_two_removals_at_once_do_what_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fill(tmp_path / "whole")
    rounds.collect(buckets_in(tmp_path / "whole"), POLICIES)
    old, others = fill(tmp_path / "two"), [buckets_in(tmp_path / "two") for _ in range(2)]
    real = removal._decide

    def decide(buckets, found):  # type: ignore[no-untyped-def]
        if others:
            rounds.collect(others.pop(), POLICIES)
        return real(buckets, found)

    monkeypatch.setattr(removal, "_decide", decide)
    report = rounds.collect(old.buckets, POLICIES)
    assert report.failed == []
    assert old.objects() == whole.objects()


def dispatcher(old: OldJobs) -> Dispatcher:
    return Dispatcher(buckets=old.buckets, ledger=MemoryLedger(), send=lambda *_, **__: None)


def before_write(
    monkeypatch: pytest.MonkeyPatch, store: ObjectStore, key: str, act: Callable[[], object], *, after: bool = False
) -> None:
    """Call `act` once, before or after the first write of a key, to simulate another process."""
    put, pending = store.put, [act]

    def hooked(name: str, data: bytes, **options):  # type: ignore[no-untyped-def]
        if name == key and not after and pending:
            pending.pop()()
        info = put(name, data, **options)
        if name == key and after and pending:
            pending.pop()()
        return info

    monkeypatch.setattr(store, "put", hooked)


def found(old: OldJobs) -> Removable:
    removable = examine(old.buckets, POLICIES, DUE, rounds._store_time(old.main))
    assert isinstance(removable, Removable)
    return removable


@pytest.mark.parametrize("key", [keys.run("old"), keys.job("old")])
def test_a_job_that_is_resumed_before_the_decision_stays_and_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    old = OldJobs(tmp_path)
    past = old.add("old", state="failed")
    removable = found(old)
    allowed = []

    def resume() -> None:
        try:
            begin_run(dispatcher(OldJobs(tmp_path)), "old")
            allowed.append(True)
        except (JobRemoved, NothingToResume):
            allowed.append(False)

    before_write(monkeypatch, old.main, key, resume)
    kept = remove(old.buckets, removable)
    if allowed == [True]:
        assert kept == Kept(job_id="old", why="it was resumed, or is being removed by another process")
        assert past.results <= old.objects()
        assert read_job(old.main, "old").spec.job_id == "old"
        assert read_outcome(old.main, "old") is None
    else:  # the removal had begun
        assert kept is None
        assert past.objects & old.objects() == set()
    assert allowed == [key == keys.run("old")]


def test_a_decision_is_withdrawn_if_an_earlier_release_resumed_the_job_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = OldJobs(tmp_path)
    past = old.add("old", state="failed")
    job, removable = old.main.get(keys.job("old")).data, found(old)
    # Earlier releases do not know the field `removing`
    before_write(monkeypatch, old.main, keys.job("old"), lambda: old.main.put(keys.run("old"), Run(number=2).to_json()))
    assert remove(old.buckets, removable) == Kept(job_id="old", why="it was resumed")
    assert old.main.get(keys.job("old")).data == job
    assert past.objects <= old.objects()


def test_a_decision_is_withdrawn_if_latest_names_the_job_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = OldJobs(tmp_path)
    past = old.add("old")
    job, removable = old.main.get(keys.job("old")).data, found(old)
    before_write(
        monkeypatch, old.main, keys.job("old"), lambda: old.main.put("out/latest.json", b'{"job": "old"}'), after=True
    )
    assert remove(old.buckets, removable) == Kept(job_id="old", why="s3://data/out/latest.json names it")
    assert old.main.get(keys.job("old")).data == job
    assert past.objects <= old.objects()


def test_a_decision_is_withdrawn_if_a_job_that_scores_the_rejected_rows_is_submitted_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = OldJobs(tmp_path)
    past = old.add("old", state="partial", rejected=1)
    job, removable = old.main.get(keys.job("old")).data, found(old)

    def submit() -> None:
        old.add("old-rejected-1", state=None, active=True, rejected_of="old")

    before_write(monkeypatch, old.main, keys.job("old"), submit)
    assert remove(old.buckets, removable) == Kept(
        job_id="old", why="job old-rejected-1 scores its rejected rows, and is under way"
    )
    assert old.main.get(keys.job("old")).data == job
    assert past.objects <= old.objects()


@pytest.mark.parametrize("change", ["latest", "run", "rejected"])
def test_an_interrupted_removal_does_not_go_on_with_a_job_that_is_needed_again(tmp_path: Path, change: str) -> None:
    old = OldJobs(tmp_path)
    past = old.add("old", state="failed", rejected=1)
    with pytest.raises(Died):
        rounds.collect(DyingBuckets(tmp_path, left=4), POLICIES)  # the clock, the audit, run.json and the tombstone
    assert read_tombstone(old.main, "old") is not None
    if change == "rejected":
        old.add("old-rejected-1", state=None, active=True, rejected_of="old")
    elif change == "latest":
        old.main.put("out/latest.json", b'{"job": "old"}')
    else:
        old.main.put(keys.run("old"), Run(number=2).to_json())
    report = rounds.collect(old.buckets, POLICIES)
    assert [item.job_id for item in report.kept] == ["old"]
    assert past.results <= old.objects()


def test_a_job_with_a_tombstone_cannot_be_resumed_and_its_marker_is_removed(tmp_path: Path) -> None:
    old = OldJobs(tmp_path)
    old.add("old", state="failed")
    rounds.collect(old.buckets, POLICIES)
    with pytest.raises(JobRemoved, match="was removed on"):
        begin_run(dispatcher(old), "old")
    old.main.put(keys.active("old"), b"2026-01-01T00:00:00+00:00")
    assert reconcile(dispatcher(old)) == {"old": "removed"}
    assert list(old.main.list(keys.JOBS_ACTIVE)) == []


def test_a_removal_that_began_and_was_given_up_forbids_a_resume_for_an_hour(tmp_path: Path) -> None:
    old = OldJobs(tmp_path)
    old.add("old", state="failed")
    with pytest.raises(Died):
        rounds.collect(DyingBuckets(tmp_path, left=3), POLICIES)  # the clock, the audit and run.json
    run, _ = read_run(old.main, "old")
    assert (run.number, bool(run.removing)) == (1, True)
    with pytest.raises(JobRemoved, match="is being removed"):
        begin_run(dispatcher(old), "old")
    old.main.put(keys.run("old"), Run(removing="2026-01-01T00:00:00+00:00").to_json())
    begin_run(dispatcher(old), "old")
    assert read_run(old.main, "old")[0] == Run(number=2)


def test_a_resume_that_a_removal_overtakes_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = OldJobs(tmp_path)
    old.add("old", state="failed")
    removing = Run(removing=datetime.now(UTC).isoformat()).to_json()
    at_work = dispatcher(old)
    before_write(monkeypatch, old.main, keys.run("old"), lambda: OldJobs(tmp_path).main.put(keys.run("old"), removing))
    with pytest.raises(JobRemoved, match="is being removed"):
        begin_run(at_work, "old")


def test_a_job_that_another_process_has_removed_meanwhile_keeps_its_tombstone(tmp_path: Path) -> None:
    old = OldJobs(tmp_path)
    old.add("old")
    first, second = found(old), found(OldJobs(tmp_path))
    assert remove(old.buckets, first) is None
    tombstone = old.main.get(keys.job("old")).data
    assert remove(old.buckets, second) is not None
    assert old.main.get(keys.job("old")).data == tombstone


def test_results_are_never_incomplete_while_success_says_that_they_are_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = OldJobs(tmp_path)
    past = old.add("old")

    def die(names: list[str]) -> None:  # a store may delete the keys of a request in any order
        old.main.delete(max(names))
        raise Died

    monkeypatch.setattr(old.main, "delete_many", die)
    with pytest.raises(Died):
        remove(old.buckets, found(old))
    left = {uri.rpartition("/")[2] for uri in past.results & old.objects()}
    assert left == {"part-00000.parquet"}
