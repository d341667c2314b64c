"""A slot whose job was removed is not run again."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from scoreline.storage import keys
from scoreline.storage.errors import JobRemoved
from scoreline.tasks.job.documents import read_job
from scoreline.tasks.job.tombstone import Tombstone
from scoreline.tasks.schedules.file import parse
from tests.unit.schedules.conftest import JOB, MORNING, NIGHTLY, SLOT, Night


def bury(night: Night, schedule: str | None) -> None:
    found = Tombstone(
        job_id=JOB,
        state="failed",
        why="it is old",
        at="2026-11-29T03:00:00+00:00",
        model="churn@1",
        output="s3://scoreline/results/churn/",
        submitted=SLOT.isoformat(),
        schedule=schedule,
    )
    main = night.client.buckets.main
    for info in list(main.list(f"jobs/{JOB}/")):
        main.delete(info.key)
    main.delete(keys.active(JOB))
    main.put(keys.job(JOB), found.to_json())


def test_a_tick_records_how_a_removed_job_had_ended(make: Callable[..., Night]) -> None:
    night = make(run=False)
    night.tick(SLOT)
    assert night.state().current == SLOT.isoformat()
    bury(night, "nightly")
    night.tick(SLOT + timedelta(minutes=1))
    (past,) = night.state().history
    assert (past.slot, past.state, past.error) == (SLOT.isoformat(), "failed", "the results were removed: it is old")
    assert night.state().current is None
    with pytest.raises(JobRemoved):
        read_job(night.client.buckets.main, JOB)
    # A backfill takes the slot for done, and running it again needs a new number
    assert night.scheduler().ask(parse(NIGHTLY).schedules[0], [SLOT], MORNING)[0].startswith("asked for 0 of 1")
    night.scheduler().ask(parse(NIGHTLY).schedules[0], [SLOT], MORNING, again=True)
    assert night.state().number(SLOT.isoformat()) == 2


def test_a_slot_whose_id_belonged_to_another_removed_job_is_run_under_the_next_id(make: Callable[..., Night]) -> None:
    night = make(run=False)
    night.tick(SLOT)
    bury(night, "another")
    night.tick(SLOT + timedelta(minutes=1))
    assert night.state().number(SLOT.isoformat()) == 2
    assert read_job(night.client.buckets.main, f"{JOB}-2").schedule == "nightly"


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ('results_keep = "90d"', ""),
        ("results_keep = 30", ""),
        ('results_keep = "soon"', "is not a number of runs such as 30, or of days"),
        ("results_keep = 0", "is not a number of runs"),
        ("results_keep = true", "is not a number of runs"),
        ("results_keep = 1.5", "is not a number of runs"),
        ("keep = 30", "is not a string or a list of strings: results_keep = 30 keeps the results of 30 runs"),
        ('keep = "90d"', ""),  # the name of a column, as before
    ],
)
def test_a_schedule_says_how_long_results_are_kept(line: str, fault: str) -> None:
    parsed = parse(f"{NIGHTLY}{line}\n")
    if fault:
        assert fault in str(parsed.faults[0])
    else:
        assert parsed.faults == ()
