"""A schedule scores each slot by its own job, even if another user has submitted a job with the id of the slot."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from scoreline.storage import keys
from scoreline.storage.errors import InvalidRequest
from scoreline.tasks.job.documents import read_job, read_outcome
from scoreline.tasks.schedules.guarded_inputs import check_outside_schedules
from tests.unit.schedules.conftest import JOB, MORNING, NIGHTLY, SLOT, Night, X


def squat(night: Night, job_id: str, **changed: Any) -> None:
    """Write a job with the id of a future slot, which earlier releases let any user submit."""
    done = night.client.submit("churn", night.client.put("other/a.parquet", X), job_id="other")
    job = read_job(night.client.buckets.main, done.job_id)
    taken = replace(job, spec=replace(job.spec, job_id=job_id, **changed), submitted="2026-11-01T00:00:00+00:00")
    night.client.buckets.main.put(keys.job(job_id), taken.to_json())


def test_no_request_may_take_the_id_of_a_slot(night: Night) -> None:
    with pytest.raises(InvalidRequest, match="those of schedules"):
        night.client.submit("churn", "s3://scoreline/in/", job_id=JOB)
    with pytest.raises(InvalidRequest, match="those of schedules"):
        night.client.submit_records("churn", [{"x": 1.0, "tenure": 2.0}], job_id=JOB)
    with pytest.raises(InvalidRequest, match="those of schedules"):
        night.client.preflight("churn", "s3://scoreline/in/", job_id=JOB)
    assert night.tick(SLOT) == {"nightly": [f"submitted {JOB}"]}
    assert read_job(night.client.buckets.main, JOB).schedule == "nightly"


def test_a_slot_whose_id_is_taken_is_run_under_the_next(night: Night, caplog: pytest.LogCaptureFixture) -> None:
    night.write(NIGHTLY.replace("@champion", ""))
    squat(night, JOB)
    squat(night, f"{JOB}-2")
    (done,) = night.tick(SLOT).values()
    assert done == [
        f"{JOB} is another job: the slot is run as {JOB}-2",
        f"{JOB}-2 is another job: the slot is run as {JOB}-3",
        f"submitted {JOB}-3",
    ]
    assert read_job(night.client.buckets.main, f"{JOB}-3").spec.inputs == ("s3://scoreline/in/",)
    assert [record.getMessage() for record in caplog.records].count("schedule.id_taken") == 2
    night.tick(SLOT)
    assert night.state().current is None


# Slots that a user requests


def ask(night: Night, *, again: bool = False) -> list[str]:
    scheduler = night.scheduler()
    return scheduler.ask(scheduler.get("nightly"), [SLOT], MORNING, again=again)


@pytest.mark.parametrize("again", [False, True])
def test_a_slot_has_no_job_if_its_id_is_taken_by_another(night: Night, again: bool) -> None:
    night.write(NIGHTLY.replace("@champion", "") + "enabled = false\n")
    squat(night, JOB)
    assert ask(night, again=again) == [
        f"{JOB} is another job: the slot is run as {JOB}-2",
        "asked for 1 of 1",
        f"submitted {JOB}-2",
    ]
    assert read_job(night.client.buckets.main, f"{JOB}-2").spec.inputs == ("s3://scoreline/in/",)
    # And a second request starts no job, because the slot now has one
    night.tick(MORNING)
    assert ask(night) == ["asked for 0 of 1; the others have a job"]


def test_a_slot_is_run_again_beyond_the_jobs_of_others(night: Night) -> None:
    night.write(NIGHTLY + "enabled = false\n")
    ask(night)
    squat(night, f"{JOB}-2", model="churn")
    assert ask(night, again=True)[-1] == f"submitted {JOB}-3"
    assert night.outcome(f"{JOB}-3").state == "failed"


def test_the_command_line_counts_no_job_of_others(night: Night) -> None:
    night.write(NIGHTLY.replace("@champion", "") + "enabled = false\n")
    at = "2026-11-25T02:30"
    period = ("backfill", "nightly", "--from", at, "--to", at)
    squat(night, JOB)
    # If a foreign job with the id of a slot failed, the slot is not run again
    main = night.client.buckets.main
    outcome = read_outcome(main, "other")
    assert outcome is not None
    main.put(keys.outcome(JOB), replace(outcome, state="failed").to_json())
    assert night.cli(*period, "--again").stdout.splitlines() == ["asked for 0 of 0"]
    assert night.cli(*period, "--dry-run").stdout.splitlines() == [f"2026-11-25T02:30:00+01:00  {JOB}-2"]
    said = night.cli("run", "nightly", "--at", at)
    assert said.stdout.splitlines() == [
        f"slot 2026-11-25 02:30 CET is job {JOB}-2",
        f"{JOB} is another job: the slot is run as {JOB}-2",
        "asked for 1 of 1",
        f"submitted {JOB}-2",
    ]
    assert night.cli(*period, "--dry-run").stdout.splitlines() == [f"2026-11-25T02:30:00+01:00  {JOB}-2"]


def test_a_job_of_an_earlier_release_is_the_slots_if_it_is_what_the_slot_asks_for(make: Callable[..., Night]) -> None:
    night = make(run=False)
    night.tick(SLOT)
    document = json.loads(night.client.buckets.main.get(keys.job(JOB)).data)
    assert document.pop("schedule") == "nightly"  # earlier releases do not write this field
    night.client.buckets.main.put(keys.job(JOB), json.dumps(document).encode())
    assert night.tick(SLOT) == {"nightly": []}


def test_a_job_of_an_earlier_release_stays_the_slots_if_the_schedule_was_edited_since(
    make: Callable[..., Night],
) -> None:
    night = make(run=False)
    night.tick(SLOT)
    document = json.loads(night.client.buckets.main.get(keys.job(JOB)).data)
    del document["schedule"]
    night.client.buckets.main.put(keys.job(JOB), json.dumps(document).encode())
    night.write(NIGHTLY.replace("in/", "elsewhere/"))
    assert night.tick(SLOT) == {"nightly": []}


def test_a_schedule_that_was_edited_keeps_the_job_of_its_slot(make: Callable[..., Night]) -> None:
    night = make(run=False)
    night.tick(SLOT)
    night.write(NIGHTLY.replace("in/", "elsewhere/"))
    assert night.tick(SLOT) == {"nightly": []}


@pytest.mark.parametrize(
    ("read", "output", "refused"),
    [
        ("s3://scoreline/in/", "s3://scoreline/in/", True),
        ("s3://scoreline/in/", "s3://scoreline/in/deep/er/", True),
        ("s3://scoreline/in/", "s3://scoreline/in/_scores/", False),
        ("s3://scoreline/in/", "s3://scoreline/inner/", False),
        ("s3://scoreline/in/{slot:%Y-%m-%d}/", "s3://scoreline/in/2026-11-30/", True),
        ("s3://scoreline/in/{slot:%Y-%m-%d}/", "s3://scoreline/in/2026-11-30/more/", True),
        ("s3://scoreline/in/{slot:%Y}.parquet", "s3://scoreline/in/", True),
        ("s3://scoreline/in/{slot:%Y}.csv", "s3://scoreline/in/", False),
        ("s3://scoreline/in/a.csv", "s3://scoreline/in/", False),
    ],
)
def test_results_of_a_request_may_not_be_input_of_a_schedule(
    night: Night, read: str, output: str, refused: bool
) -> None:
    night.write(NIGHTLY.replace("s3://scoreline/in/", read) + 'output = "s3://scoreline/elsewhere/"\n')
    night.tick(SLOT)
    main = night.client.buckets.main
    spec = night.client.submission.spec("churn", "s3://scoreline/other/", {"output": output, "job_id": "mine"})
    if refused:
        with pytest.raises(InvalidRequest, match="which the schedule 'nightly' reads"):
            check_outside_schedules(main, spec)
    else:
        check_outside_schedules(main, spec)


def test_a_check_names_a_place_that_a_schedule_may_not_use(night: Night) -> None:
    night.write(NIGHTLY.replace("s3://scoreline/in/", "s3://scoreline/models/"))
    said = night.cli("check", STORE_DIR=str(night.folder / "buckets"))
    assert said.exit_code == 1
    assert "keeps for itself" in said.output
