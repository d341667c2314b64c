"""In the folder of a job's results, what belongs to another job is recognized."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

from scoreline.storage import keys
from scoreline.tasks.job.plan_file import PlanFile
from scoreline.tasks.job.results_keep import ResultsKeep
from scoreline.tasks.retention import rounds
from scoreline.tasks.retention.policies import Policies
from scoreline.tasks.retention.rounds import Report
from tests.support.old_jobs import ROWS, OldJobs, receipt

FOLDER = "out/job_id=old/"
FOREIGN = "9" * 64
REASON = f"s3://data/{FOLDER}_SUCCESS belongs to another job with the same id"


def collect(old: OldJobs) -> Report:
    report = rounds.collect(old.buckets, Policies(default=ResultsKeep(days=90)))
    assert report.failed == []
    return report


def put_success(old: OldJobs, **fields: Any) -> None:
    given = {"job_id": "old", "rows": 2 * ROWS, "rejected": 0, "manifest_sha256": "5" * 64} | fields
    old.main.put(keys.success(FOLDER), json.dumps(given).encode())


@pytest.mark.parametrize("fields", [{"job_id": "another"}, {"plan": FOREIGN}, {"rows": 2 * ROWS + 1}, {"rejected": 1}])
def test_a_success_that_differs_in_one_respect_belongs_to_another_job(old: OldJobs, fields: dict[str, Any]) -> None:
    old.add("old")
    put_success(old, **fields)
    before = old.objects()
    assert [(item.job_id, item.why) for item in collect(old).kept] == [("old", REASON)]
    assert old.objects() == before


def test_a_success_beside_a_failed_job_belongs_to_another_job(old: OldJobs) -> None:
    old.add("old", state="failed")
    put_success(old)
    before = old.objects()
    assert [item.why for item in collect(old).kept] == [REASON]
    assert old.objects() == before


def test_equal_results_that_another_deployment_wrote_into_an_emptied_folder_are_left_alone(old: OldJobs) -> None:
    old.add("old")
    for number in range(2):
        old.main.put(keys.result_part(FOLDER, number), b"theirs", metadata=receipt(FOREIGN, number))
    before = old.objects()
    assert [item.why for item in collect(old).kept] == [REASON]
    assert old.objects() == before


def test_the_manifest_that_another_deployment_is_about_to_complete_is_left_alone(old: OldJobs) -> None:
    past = old.add("old", state="failed", parts=1)  # none of its parts is written
    foreign = [
        old.main.put(keys.result_part(FOLDER, 0), b"theirs", metadata=receipt(FOREIGN, 0)),
        old.main.put(keys.results_manifest(FOLDER), b"theirs"),
    ]
    assert [item.tombstone.job_id for item in collect(old).removed] == ["old"]
    assert {old.main.uri(info.key) for info in foreign} <= old.objects()
    assert past.objects & old.objects() == set()


@pytest.mark.parametrize("name", ["_rejected/rejected-00000-0123456789abcdef.parquet", "day=x/part-00000.parquet"])
def test_an_object_below_the_folder_is_not_taken_for_a_checked_part(old: OldJobs, name: str) -> None:
    past = old.add("old")
    foreign = old.main.put(f"{FOLDER}{name}", b"theirs", metadata=receipt(FOREIGN, 0))
    assert [item.tombstone.job_id for item in collect(old).removed] == ["old"]
    assert old.main.get(foreign.key).data == b"theirs"
    assert past.objects & old.objects() == set()


def test_a_job_whose_output_is_in_the_folder_of_another_job_keeps_its_results(old: OldJobs) -> None:
    past = old.add("old")
    # Release 0.1.0 accepted such an output
    other = old.add("young", output="s3://data/out/job_id=old/", days=2, rejected=1, state="partial")
    assert [item.tombstone.job_id for item in collect(old).removed] == ["old"]
    assert other.objects <= old.objects()
    assert past.objects & old.objects() == set()


def test_results_that_are_partitioned_by_a_column_named_job_id_are_removed(old: OldJobs) -> None:
    past = old.add("old", partition_by="day")
    found = old.main.put(
        f"{FOLDER}job_id=7/part-00000.parquet", b"", metadata=receipt(PlanFile(old.main, "old").sha256, 0)
    )
    assert [item.tombstone.job_id for item in collect(old).removed] == ["old"]
    assert (past.objects | {old.main.uri(found.key)}) & old.objects() == set()


def test_without_success_the_receipt_of_each_part_counts(old: OldJobs) -> None:
    old.add("old")
    old.main.delete(keys.success(FOLDER))
    foreign = old.main.put(keys.result_part(FOLDER, 1), b"theirs", metadata=receipt(FOREIGN, 1))
    collect(old)
    assert [info.key for info in old.main.list(FOLDER)] == [foreign.key]


def test_an_interrupted_removal_does_not_take_what_another_deployment_has_completed_since(old: OldJobs) -> None:
    old.add("old")
    outcome = old.main.get(keys.outcome("old")).data
    collect(old)
    old.main.put(keys.outcome("old"), outcome)  # the removal died before it deleted this
    os.utime(old.folder / "data" / keys.outcome("old"), (0, 0))
    old.main.put(keys.result_part(FOLDER, 0), b"theirs", metadata=receipt(FOREIGN, 0))
    put_success(old)
    before = old.objects()
    assert [item.why for item in collect(old).kept] == [REASON]
    assert old.objects() == before
