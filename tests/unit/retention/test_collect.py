"""Jobs whose time is over are removed, and nothing else."""

from __future__ import annotations

import json
import os
import time

import pytest

from scoreline.storage import keys
from scoreline.storage.audit import acting_as
from scoreline.storage.errors import JobRemoved
from scoreline.storage.ledger.memory_ledger import MemoryLedger
from scoreline.tasks.audit.reading import AuditFilter, read_audit
from scoreline.tasks.dispatch.resume import rejected_job_id
from scoreline.tasks.job.documents import Outcome, Run, read_job, read_tombstone
from scoreline.tasks.job.results_keep import ResultsKeep
from scoreline.tasks.retention import rounds
from scoreline.tasks.retention.due_jobs import find_due
from scoreline.tasks.retention.policies import Policies, read_policies
from scoreline.tasks.retention.rounds import Report
from tests.support.old_jobs import OldJobs, receipt

NIGHT = "nightly-202601{:02d}T020000Z"


def collect(old: OldJobs, keep: str | int | None = None) -> Report:
    return rounds.collect(old.buckets, policies(old, keep))


def policies(old: OldJobs, keep: str | int | None = None):  # type: ignore[no-untyped-def]
    return read_policies(old.main, None if keep is None else ResultsKeep.parse(keep))


def removed(report: Report) -> list[str]:
    assert report.failed == []
    return sorted(item.tombstone.job_id for item in report.removed)


def why(report: Report) -> dict[str, str]:
    assert report.failed == []
    return {item.job_id: item.why for item in report.kept}


def test_an_old_job_is_removed_with_its_results_and_leaves_a_tombstone(old: OldJobs) -> None:
    old.add("young", days=89)
    past = old.add("old", days=91, rejected=1, state="partial")
    old.add_records(past)
    old.add_staged(past)
    before = old.objects()
    size = sum(len(b"rows") for _ in past.results)
    report = collect(old, "90d")
    assert removed(report) == ["old"]
    assert before - old.objects() == past.objects
    assert old.objects() - before == set()
    found = read_tombstone(old.main, "old")
    assert found is not None
    assert (found.state, found.rows, found.rejected, found.parts) == ("partial", 8, 1, 2)
    assert found.objects == len(past.objects)
    assert found.size > size
    assert found.manifest_sha256 == "5" * 64
    assert found.why == "it ended 91 days ago: RESULTS_KEEP keeps 90 days"
    with pytest.raises(JobRemoved, match=r"^job 'old' \(partial, 8 rows scored, 1 rejected\) was removed on 20"):
        read_job(old.main, "old")


@pytest.mark.parametrize("piece", [False, True])
def test_rows_that_were_staged_for_a_job_that_was_never_recorded_are_removed_after_a_day(
    old: OldJobs, piece: bool
) -> None:
    old.add_staged(old.add("recorded", days=5))
    for job_id, ages in {"dead": (2.0, 3.0), "alive": (0.9, 3.0)}.items():
        for number, days in enumerate(ages):
            key = keys.staged_part(job_id, "0a", number)
            old.main.put(key, b"rows")
            at_s = time.time() - 86_400 * days
            os.utime(old.folder / old.main.bucket / key, (at_s, at_s))
    before = old.objects()
    collect(old)  # which keeps everything for ever
    assert old.objects() == before
    if piece:
        rounds.collect_piece(old.buckets, MemoryLedger().watchlist, lambda: policies(old, "90d"), "worker")
    else:
        collect(old, "90d")
    assert before - old.objects() == {old.main.uri(keys.staged_part("dead", "0a", number)) for number in range(2)}


def test_the_audit_says_who_removed_a_job(old: OldJobs) -> None:
    old.add("old")
    with acting_as("alice"):
        assert removed(collect(old, "90d")) == ["old"]
    (line,) = read_audit(old.main, AuditFilter(), 10)
    assert (line.action, line.target, line.who) == ("job.remove", "old", "alice")
    assert line.details["why"] == "it ended 100 days ago: RESULTS_KEEP keeps 90 days"


def test_nothing_is_removed_again(old: OldJobs) -> None:
    old.add("old")
    assert removed(collect(old, "90d")) == ["old"]
    after = old.objects()
    report = collect(old, "90d")
    assert (removed(report), why(report), old.objects()) == ([], {}, after)


def test_without_a_limit_everything_is_kept(old: OldJobs) -> None:
    old.in_force(nightly=None)
    old.add("old", days=3000)
    old.add(NIGHT.format(1), schedule="nightly", days=3000)
    before = old.objects()
    assert removed(collect(old)) == []
    assert old.objects() == before


def test_a_job_is_not_confused_with_another_whose_id_begins_alike(old: OldJobs) -> None:
    old.add("a", days=100)
    for other in ("ab", "a.b", "a-rejected"):
        old.add(other, days=1.5)
    others = old.all_of(["ab", "a.b", "a-rejected"])
    assert removed(collect(old, "90d")) == ["a"]
    assert others <= old.objects()


def test_the_latest_runs_of_a_schedule_are_kept_by_slot(old: OldJobs) -> None:
    old.in_force(nightly=2)
    # Slots 1 to 5, of which slot 1 was run again last, slot 3 failed, and slot 4 is partial
    for slot, days in ((1, 50), (2, 40), (3, 30), (4, 20), (5, 10)):
        state = {3: "failed", 4: "partial"}.get(slot, "succeeded")
        old.add(NIGHT.format(slot), schedule="nightly", days=days, state=state)
    old.add(NIGHT.format(1) + "-2", schedule="nightly", days=5)
    old.add("other", days=500)
    report = collect(old)
    assert removed(report) == [NIGHT.format(1), NIGHT.format(1) + "-2", NIGHT.format(2), NIGHT.format(3)]


def test_a_failed_run_can_be_resumed_for_some_days_whatever_is_kept(old: OldJobs) -> None:
    old.in_force(nightly=1)
    old.add(NIGHT.format(1), schedule="nightly", days=13, state="failed")
    old.add(NIGHT.format(2), schedule="nightly", days=12)
    report = collect(old)
    assert why(report) == {NIGHT.format(1): "it can be resumed: it ended less than 14 days ago"}
    assert removed(report) == []


def test_failed_runs_do_not_count_as_those_that_are_kept(old: OldJobs) -> None:
    old.in_force(nightly=1)
    for slot, state in ((1, "succeeded"), (2, "succeeded"), (3, "failed"), (4, "cancelled")):
        old.add(NIGHT.format(slot), schedule="nightly", days=50 - slot, state=state)
    assert removed(collect(old)) == [NIGHT.format(1)]


def test_runs_of_today_are_kept_but_counted(old: OldJobs) -> None:
    old.in_force(nightly=1)
    old.add(NIGHT.format(1), schedule="nightly", days=3)
    old.add(NIGHT.format(2), schedule="nightly", days=0.5)
    old.add(NIGHT.format(3), schedule="nightly", days=0.1)
    assert removed(collect(old)) == [NIGHT.format(1)]


def test_jobs_without_a_schedule_are_counted_by_output(old: OldJobs) -> None:
    for output in ("s3://data/out/", "s3://other/out/"):
        for number in range(3):
            old.add(f"{output[5:9].strip('/')}-{number}", days=10 - number, output=output)
    assert removed(collect(old, 2)) == ["data-0", "othe-0"]


def test_a_schedule_decides_for_its_jobs_and_for_the_jobs_with_their_rejected_rows(old: OldJobs) -> None:
    old.in_force(nightly="200d")
    old.add(NIGHT.format(1), schedule="nightly", days=150)
    old.add(NIGHT.format(1) + "-rejected-1", days=150, rejected_of=NIGHT.format(1))
    old.add("adhoc", days=150)
    assert removed(collect(old, "90d")) == ["adhoc"]


@pytest.mark.parametrize("known", [True, False])
def test_jobs_of_unknown_schedules_are_kept_while_a_schedule_has_a_fault(old: OldJobs, known: bool) -> None:
    if known:
        old.in_force(faults=("line 3: [nightly] unknown key",))
    old.add(NIGHT.format(1), schedule="nightly", days=150)
    assert removed(collect(old, "90d")) == []
    old.in_force()  # the schedule was deleted, so that the default applies
    assert removed(collect(old, "90d")) == [NIGHT.format(1)]


def test_a_job_that_someone_gave_the_id_of_a_slot_in_advance_is_no_job_of_the_schedule(old: OldJobs) -> None:
    old.in_force(nightly="1d")
    old.add("nightly-20991231T020000Z", days=50)
    assert why(collect(old)) == {"nightly-20991231T020000Z": "no time limit is set for it"}
    old.add("nightly-20200101T020000Z", days=50)  # submitted after the slot: by a release that did not record schedules
    assert removed(collect(old)) == ["nightly-20200101T020000Z"]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"active": True}, "it is under way, or its webhook is not delivered"),
        ({"output": "s3://elsewhere/out/", "planned": False}, "bucket 'elsewhere' is not in ALLOWED_BUCKETS"),
    ],
)
def test_a_job_that_may_go_on_or_cannot_be_reached_is_kept(old: OldJobs, options: dict, reason: str) -> None:  # type: ignore[type-arg]
    if "output" in options:
        old.buckets._settings = old.buckets._settings.__class__(
            **{**vars(old.buckets._settings), "allowed_buckets": frozenset({"data", "other", "elsewhere"})}
        )
    old.add("old", **options)
    old.buckets = OldJobs(old.folder).buckets
    before = old.objects()
    report = collect(old, "90d")
    assert why(report)["old"].startswith(reason)
    assert old.objects() == before


def test_a_job_under_way_is_not_even_due(old: OldJobs) -> None:
    old.add("running", state=None, days=500, active=True)
    old.add("lost", state=None, days=500)
    report = collect(old, "90d")
    assert (removed(report), why(report), report.young) == ([], {}, {"under way": 2})


def test_a_job_that_was_resumed_within_the_last_minute_is_kept(old: OldJobs) -> None:
    old.add("old", state="failed")
    old.main.put(keys.run("old"), Run(number=2).to_json())
    before = old.objects()
    assert why(collect(old, "90d")) == {"old": "it is under way"}
    assert old.objects() == before


@pytest.mark.parametrize(
    "document",
    [
        {"job": "old"},
        {"job_id": "new", "history": [{"job": "older"}, {"job": "old"}]},
        {"files": [{"key": "out/job_id=old/part-00000.parquet"}]},
        {"files": {"s3://data/out/job_id=old": 1}},
    ],
)
def test_what_latest_or_its_history_names_is_kept(old: OldJobs, document: object) -> None:
    old.add("old")
    old.add("ol")
    old.add("older-job", output="s3://other/out/")
    old.main.put("out/latest.json", json.dumps(document).encode())
    report = collect(old, "90d")
    assert why(report) == {"old": "s3://data/out/latest.json names it"}
    assert removed(report) == ["ol", "older-job"]


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff", b'"old"'])
def test_nothing_of_an_output_is_removed_while_its_latest_cannot_be_read(old: OldJobs, data: bytes) -> None:
    old.add("old")
    old.add("elsewhere", output="s3://other/out/")
    old.main.put("out/latest.json", data)
    report = collect(old, "90d")
    assert why(report) == {"old": "s3://data/out/latest.json cannot be read, so nothing of this output is removed"}
    assert removed(report) == ["elsewhere"]


@pytest.mark.parametrize(
    ("child", "kept"),
    [
        ({"state": None}, True),
        ({"state": None, "planned": False, "active": True}, True),  # it is just submitted
        ({"state": "failed"}, True),
        ({"state": "cancelled"}, True),
        ({"state": "succeeded"}, False),
        (None, False),
    ],
)
def test_a_job_is_kept_while_another_may_score_its_rejected_rows(
    old: OldJobs, child: dict[str, str] | None, kept: bool
) -> None:
    old.add("old", state="partial", rejected=1)
    if child is not None:
        old.add("old-rejected-1", days=2, rejected_of="old", **child)  # type: ignore[arg-type]
    assert removed(collect(old, "90d")) == ([] if kept else ["old"])


def test_a_job_is_kept_while_a_job_with_its_rejected_rows_cannot_be_read(old: OldJobs) -> None:
    old.add("old", state="partial", rejected=1)
    old.add("old-rejected-1", days=2, rejected_of="old")
    old.main.put(keys.outcome("old-rejected-1"), b"{")
    assert why(collect(old, "90d")) == {"old": "job old-rejected-1 scores its rejected rows, and cannot be read"}


def test_records_are_kept_while_a_job_further_down_may_read_them(old: OldJobs) -> None:
    past = old.add("old", state="partial", rejected=1)
    old.add_records(past)
    old.add("old-rejected-1", state="partial", rejected=1, rejected_of="old", days=50)
    old.add("old-rejected-1-rejected-1", state="failed", rejected_of="old-rejected-1", days=50)
    reason = "job old-rejected-1-rejected-1 scores its rejected rows, and can be resumed"
    assert why(collect(old, "90d")) == {"old": reason}


@pytest.mark.parametrize("state", ["succeeded", "failed"])
def test_objects_of_another_deployment_in_the_same_folder_are_left_alone(old: OldJobs, state: str) -> None:
    past = old.add("old", state=state)
    foreign = old.main.put("out/job_id=old/part-00007.parquet", b"theirs", metadata=receipt("9" * 64, 7)).key
    assert removed(collect(old, "90d")) == ["old"]
    assert old.main.get(foreign).data == b"theirs"
    assert past.results & old.objects() == set()


def test_a_failed_job_does_not_take_the_results_of_another_that_succeeded_in_its_folder(old: OldJobs) -> None:
    old.add("old", state="failed")
    old.main.put("out/job_id=old/_SUCCESS", b'{"job_id": "old", "rows": 1, "rejected": 0}')
    before = old.objects()
    reason = "s3://data/out/job_id=old/_SUCCESS belongs to another job with the same id"
    assert why(collect(old, "90d")) == {"old": reason}
    assert old.objects() == before


def test_partitioned_results_and_those_in_other_buckets_are_removed(old: OldJobs) -> None:
    first = old.add("old", partition_by="day", output="s3://other/shared/")
    second = old.add("older", partition_by="day", output="s3://other/shared/", days=5)
    assert removed(collect(old, "90d")) == ["old"]
    assert first.objects & old.objects() == set()
    assert second.objects <= old.objects()


def test_a_job_without_a_plan_has_no_results_to_remove(old: OldJobs) -> None:
    old.add("old", state="failed", planned=False)
    foreign = old.main.put("out/job_id=old/part-00000.parquet", b"theirs").key
    assert removed(collect(old, "90d")) == ["old"]
    assert old.main.get(foreign).data == b"theirs"


def test_a_corrupt_document_keeps_its_job_and_stops_no_other(old: OldJobs) -> None:
    old.add("good")
    for number, key in enumerate((keys.job, keys.outcome, keys.plan, keys.run)):
        job_id = f"bad-{number}"
        old.add(job_id, state="failed", run=2)
        old.main.put(key(job_id), b"{")
        at_s = time.time() - 100 * 86_400
        os.utime(old.folder / "data" / key(job_id), (at_s, at_s))
    before = old.all_of(f"bad-{number}" for number in range(4))
    report = collect(old, "90d")
    assert [item.tombstone.job_id for item in report.removed] == ["good"]
    assert len(report.failed) == 4
    assert before <= old.objects()


def test_a_clock_that_runs_ahead_removes_nothing_too_early(old: OldJobs, monkeypatch: pytest.MonkeyPatch) -> None:
    old.add("old", days=89)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 5 * 86_400)
    assert removed(collect(old, "90d")) == []


def test_a_late_outcome_beside_a_tombstone_is_cleaned_up(old: OldJobs) -> None:
    old.add("old")
    collect(old, "90d")
    old.main.put(keys.outcome("old"), Outcome(state="succeeded", failures={}).to_json())
    at_s = time.time() + 10
    os.utime(old.folder / "data" / keys.outcome("old"), (at_s - 200 * 86_400, at_s - 200 * 86_400))
    assert removed(collect(old, "90d")) == ["old"]
    assert [info.key for info in old.main.list("jobs/old/")] == ["jobs/old/job.json"]


def test_a_preview_writes_nothing_and_says_the_same(old: OldJobs) -> None:
    past = old.add("old")
    old.add("kept", active=True)
    before = {info.key: info.etag for info in old.main.list("")}
    report = rounds.preview(old.buckets, policies(old, "90d"))
    assert {info.key: info.etag for info in old.main.list("")} == before
    assert removed(report) == ["old"]
    assert rounds.total(report.removed)[0] == len(past.objects)
    assert why(report).keys() == {"kept"}


def test_jobs_that_were_due_by_another_rule_stay_until_their_later_runs_are_counted(old: OldJobs) -> None:
    for number in range(3):
        old.add(f"a-{number}", days=50 - number)
    # Given a round that has begun, before someone corrects RESULTS_KEEP
    now_s = rounds._store_time(old.main)
    due = tuple(find_due(old.main, Policies(default=ResultsKeep(days=1)), now_s).due)
    old.main.put(keys.retention_state(), rounds.State(begun=rounds._text(now_s), due=due).to_json())
    report = rounds.collect_piece(
        old.buckets, MemoryLedger().watchlist, lambda: Policies(default=ResultsKeep(runs=2)), "me"
    )
    assert report is not None
    assert removed(report) == []
    assert set(why(report).values()) == {"its later runs have not been counted for 2 runs (RESULTS_KEEP)"}
    # Then the next round counts them
    assert removed(collect(old, 2)) == ["a-0"]


def test_a_job_whose_id_belongs_to_a_policy_of_days_and_itself_to_one_of_runs_is_kept(old: OldJobs) -> None:
    old.in_force(nightly="1d")
    old.add(NIGHT.format(1) + "-rejected-1", days=50)  # submitted by a user, who may choose such an id
    assert removed(collect(old, 30)) == []


def test_a_job_is_kept_while_the_tenth_job_with_its_rejected_rows_may_read_them(old: OldJobs) -> None:
    for job_id in ("n" * 89, "n" * 95):  # its id is too long for one more digit
        old.add(job_id, state="partial", rejected=1)
        for number in range(1, 10):
            old.add(rejected_job_id(job_id, number), days=2, rejected_of=job_id)
        old.add(rejected_job_id(job_id, 10), days=2, state="failed", rejected_of=job_id)
    assert removed(collect(old, "90d")) == []


@pytest.mark.parametrize("output", ["s3://data/", "s3://other/"])
def test_only_the_folder_of_the_job_is_removed_from_the_root_of_a_bucket(old: OldJobs, output: str) -> None:
    past = old.add("old", output=output, rejected=1, state="partial")
    others = {"latest.json", "job_id=older/part-00000.parquet", "file"}
    store = old.buckets[output.removeprefix("s3://").rstrip("/")]
    for key in others:
        store.put(key, b'{"job": "another"}')
    assert removed(collect(old, "90d")) == ["old"]
    assert {store.uri(key) for key in others} <= old.objects()
    assert past.objects & old.objects() == set()


@pytest.mark.parametrize("job_id", ["job.json", "outcome.json", "a..", "a--", "Z-1", "a-rejected-1"])
def test_a_job_with_an_unusual_id_is_removed_alone(old: OldJobs, job_id: str) -> None:
    past = old.add(job_id)
    old.add(f"{job_id}.x", days=1.5)
    assert removed(collect(old, "90d")) == [job_id]
    assert past.objects & old.objects() == set()
    assert old.all_of([f"{job_id}.x"]) <= old.objects()
