"""The id of a removed job stays taken: by submissions, by the slots of schedules, and in what users see."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from scoreline.storage import keys
from scoreline.storage.errors import JobConflict, JobRemoved
from scoreline.tasks.dispatch.job_index import rebuild
from scoreline.tasks.dispatch.resume import rejected_again
from scoreline.tasks.job.documents import Job, Run, read_tombstone
from scoreline.tasks.job.results_keep import ResultsKeep
from scoreline.tasks.job.tombstone import Tombstone
from scoreline.tasks.retention import rounds
from scoreline.tasks.retention.policies import Policies
from scoreline.tasks.schedules.file import parse
from scoreline.tasks.schedules.reruns import latest_job
from scoreline.worker.cli.main import cli
from tests.support.line_jobs import desk
from tests.support.old_jobs import OldJobs

SLOT = datetime(2026, 1, 1, 2, tzinfo=UTC)
NIGHT = "nightly-20260101T020000Z"
NIGHTLY = '[nightly]\ncron = "0 2 * * *"\nmodel = "line"\ninput = "s3://scoreline/in/"\nresults_keep = "1d"\n'


def bury(store: Any, job_id: str, **more: Any) -> Tombstone:
    """Put a tombstone in place of a job, and delete its other documents."""
    given: dict[str, Any] = {
        "state": "succeeded",
        "why": "it is old",
        "at": "2026-11-29T03:00:00+00:00",
        "model": "m@1",
    }
    given |= {"output": "s3://data/out/", "submitted": "2026-01-01T02:00:00+00:00", "rows": 8}
    found = Tombstone(job_id=job_id, **given | more)
    for info in list(store.list(f"jobs/{job_id}/")):
        store.delete(info.key)
    store.put(keys.job(job_id), found.to_json())
    return found


def run(old: OldJobs, *words: str, **environ: str) -> Result:
    settings = {
        "ENVIRONMENT": "development",
        "R2_BUCKET": "data",
        "STORE_DIR": str(old.folder),
        "ALLOWED_BUCKETS": "other",
    }
    return CliRunner(env=settings | {"REDIS_URL": "redis://127.0.0.1:9/0"} | environ).invoke(cli, list(words))


def test_a_tombstone_is_read_back_and_is_no_job(old: OldJobs) -> None:
    found = bury(old.main, "old")
    assert read_tombstone(old.main, "old") == found
    assert read_tombstone(old.main, "new") is None
    old.add("job")
    assert read_tombstone(old.main, "job") is None
    with pytest.raises(JobRemoved):
        Job.from_json(found.to_json())
    # Earlier releases look for a spec, and take a document without it for a corrupt one
    assert "spec" not in json.loads(found.to_json())


def test_a_run_without_a_removal_is_written_as_by_earlier_releases() -> None:
    assert json.loads(Run(number=2).to_json()) == {"number": 2, "max_rejected": None}


def test_a_removed_job_cannot_be_submitted_again(tmp_path: Path) -> None:
    with desk(tmp_path) as at:
        job_id = at.submit()
        main = at.client.buckets.main
        bury(main, job_id)
        for submit in (at.client.submit, at.client.preflight):
            with pytest.raises(JobConflict, match=r"was removed on 2026-11-29: it is old\. Its id stays taken"):
                submit("line", "s3://scoreline/in/", job_id=job_id)
        assert list(main.list(keys.active(job_id))) == []
        with pytest.raises(JobConflict):
            at.client.submit_records("line", [{"x": 1.0}], job_id=job_id)
        with pytest.raises(JobRemoved, match="was removed on 2026-11-29"):
            at.client.status(job_id)


def test_rejected_rows_of_a_removed_rescoring_job_are_scored_by_a_job_with_a_new_id(tmp_path: Path) -> None:
    with desk(tmp_path) as at:
        job_id = at.plan(broken=(1,))
        at.client.cancel(job_id)
        main = at.client.buckets.main
        outcome = json.loads(main.get(keys.outcome(job_id)).data) | {"rejected": 1}
        main.put(keys.outcome(job_id), json.dumps(outcome).encode())
        bury(main, f"{job_id}-rejected-1")
        pinned = at.client.registry.resolve("line")
        assert rejected_again(at.engine, job_id, pinned, "line", "100%").job_id == f"{job_id}-rejected-2"


@pytest.mark.parametrize("schedule", ["nightly", None, "another"])
def test_a_slot_whose_job_was_removed_has_a_job(old: OldJobs, schedule: str | None) -> None:
    bury(old.main, NIGHT, schedule=schedule)
    (nightly,) = parse(NIGHTLY).schedules
    latest = latest_job(old.main, nightly, SLOT, "s3://data/out/")
    if schedule == "another":
        assert (latest.number, latest.free) == (0, 2)
        return
    assert (latest.number, latest.free, latest.job_id) == (1, 2, NIGHT)
    assert latest.outcome is not None
    assert (latest.outcome.state, latest.outcome.rows) == ("succeeded", 8)


def test_status_says_when_and_why_a_job_was_removed(old: OldJobs) -> None:
    bury(old.main, "old", state="partial", rejected=1, objects=7, size=1234)
    shown = run(old, "status", "old")
    assert shown.exit_code == 3, shown.output
    assert shown.output.splitlines() == [
        "old: removed on 2026-11-29 03:00 UTC",
        "  why      it is old",
        "  before   partial, 8 rows scored, 1 rejected",
        "  model    m@1",
        "  results  were in s3://data/out/job_id=old/",
        "  removed  7 objects, 1,234 bytes",
        "  hint     the id stays taken: submit the job under another id to have its results again",
    ]
    as_json = json.loads(run(old, "status", "old", "--json").output)
    assert as_json["removed"]["why"] == "it is old"


def test_jobs_leaves_out_removed_jobs_without_reading_them(old: OldJobs) -> None:
    old.add("a", days=3)
    bury(old.main, "old")
    without_index = run(old, "jobs", "--limit", "1", "--json")
    rebuild(old.main)
    for listed in (without_index, run(old, "jobs", "--limit", "1", "--json")):
        (shown,) = json.loads(listed.stdout)
        assert shown["job_id"] == "a"


def test_gc_shows_what_it_would_remove_and_removes_it(old: OldJobs, monkeypatch: pytest.MonkeyPatch) -> None:
    past = old.add("old", days=120)
    old.add("named", days=120)
    old.add("young", days=2)
    old.main.put("out/latest.json", b'{"job": "named"}')
    before = old.objects()
    shown = run(old, "gc", "--dry-run", RESULTS_KEEP="90d")
    assert (shown.exit_code, old.objects()) == (0, before)
    assert "all other results are kept for 90 days (RESULTS_KEEP)" in shown.output
    assert "would be removed: 1 job, 7 objects" in shown.output
    assert "it ended 120 days ago: RESULTS_KEEP keeps 90 days" in shown.output
    assert "  named: s3://data/out/latest.json names it" in shown.output
    assert "kept: 1 job (younger than 90 days (RESULTS_KEEP))" in shown.output
    assert run(old, "gc", RESULTS_KEEP="90d").exit_code == 0
    assert past.objects & old.objects() == set()
    wrong = run(old, "gc", RESULTS_KEEP="soon")
    assert "RESULTS_KEEP: 'soon' is neither a number of days such as '90d'" in str(wrong.exception)


def test_gc_fails_if_a_job_cannot_be_removed(old: OldJobs) -> None:
    old.add("old")
    old.main.put(keys.plan("old"), b"not a plan")
    shown = run(old, "gc", RESULTS_KEEP="90d")
    assert shown.exit_code == 1
    assert "not removed because of an error: 1 job" in shown.output


def test_model_gc_says_what_stays(old: OldJobs) -> None:
    for day in (1, 2, 3):
        version = f"2026010{day}T000000Z-00000"
        old.main.put(keys.artifact("m", version, "model.joblib"), b"model")
        old.main.put(keys.manifest("m", version), b"{}")
    old.add("a", version="20260102T000000Z-00000")
    shown = run(old, "models", "gc", "--keep", "1", "--dry-run").output
    assert "would be removed: 1 version, 7 bytes" in shown
    assert "kept: m@20260102T000000Z-00000: job a scored with it, and is kept" in shown


class Clock:
    """A clock that goes on by a second each time it is read."""

    now_s = 0.0

    def __call__(self) -> float:
        self.now_s += 1
        return self.now_s


def test_the_clock_removes_jobs_in_pieces_and_begins_anew_after_a_day(
    old: OldJobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "PIECE_S", 1.0)
    monkeypatch.setattr(rounds, "_THREADS", 1)
    for number in range(3):
        old.add(f"old-{number}", days=100 - number)
    from scoreline.storage.ledger.memory_ledger import MemoryLedger

    watchlist = MemoryLedger().watchlist

    def piece() -> list[str] | None:
        policies = Policies(default=ResultsKeep(days=90))
        report = rounds.collect_piece(old.buckets, watchlist, lambda: policies, "me", Clock())
        return None if report is None else [item.tombstone.job_id for item in report.removed]

    # Each piece takes the oldest job that is left
    assert [piece() for _ in range(4)] == [["old-0"], ["old-1"], ["old-2"], None]
    old.add("old-3")
    assert piece() is None
    state = rounds.read_state(old.main)
    assert state is not None
    old.main.put(keys.retention_state(), rounds.State(begun="2026-01-01T00:00:00+00:00").to_json())
    assert piece() == ["old-3"]
    # While another process is at work, nothing is done
    old.add("old-4")
    old.main.put(keys.retention_state(), b"{")
    assert watchlist.lock("retention", "another", 60)
    assert piece() is None
    watchlist.unlock("retention", "another")
    assert piece() == ["old-4"]


def test_the_index_of_jobs_has_no_entry_of_a_removed_job(old: OldJobs) -> None:
    old.add("old")
    old.add("young", days=2)
    rebuild(old.main)
    assert len(entries(old)) == 2
    rounds.collect(old.buckets, Policies(default=ResultsKeep(days=90)))
    assert [key.rpartition("~")[2] for key in entries(old)] == ["young"]
    # An entry that a late process has written again goes with the next build of the index
    old.main.put(entries(old)[0].replace("~young", "~old"), b"{}")
    rebuild(old.main)
    assert [key.rpartition("~")[2] for key in entries(old)] == ["young"]


def entries(old: OldJobs) -> list[str]:
    return [info.key for info in old.main.list(keys.JOBS_INDEX) if info.key != keys.JOBS_INDEX_BUILT]
