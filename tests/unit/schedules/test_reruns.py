"""A slot whose job failed can be run again, with the model that the schedule names at that time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from scoreline.storage import keys
from scoreline.storage.errors import InvalidRequest
from tests.unit.schedules.conftest import GOOD, JOB, MORNING, NIGHTLY, SLOT, Night, X, at


def ask(night: Night, *, again: bool) -> list[str]:
    scheduler = night.scheduler()
    return scheduler.ask(scheduler.get("nightly"), [SLOT], MORNING, again=again)


def roll_back(night: Night) -> None:
    night.client.registry.rollback("churn", "champion")


def test_a_failed_slot_is_run_again_with_the_current_model_and_keeps_its_earlier_results(night: Night) -> None:
    # Given a slot whose job failed, because its model needs a missing column
    assert night.tick(SLOT) == {"nightly": [f"submitted {JOB}"]}
    assert "tenure" in night.outcome(JOB).error
    assert ask(night, again=False) == ["asked for 0 of 1; the others have a job"]
    # When the alias is rolled back, and the slot is run again
    roll_back(night)
    assert ask(night, again=True) == ["asked for 1 of 1", f"submitted {JOB}-2"]
    # Then the new job scores every row with the current model, and the failed job is unchanged
    done = night.client.status(f"{JOB}-2")
    assert (done.state, done.rows, done.output.endswith(f"/job_id={JOB}-2/")) == ("succeeded", 2, True)
    assert done.model != night.client.status(JOB).model
    assert night.client.results(f"{JOB}-2")["prediction"].tolist() == GOOD.predict(X).tolist()
    assert night.outcome(JOB).state == "failed"
    (row,) = night.scheduler().rows(MORNING)
    assert (row.outcome, row.job_id, row.last) == ("succeeded", f"{JOB}-2", SLOT.isoformat())


def test_each_further_run_has_the_next_number(night: Night) -> None:
    night.tick(SLOT)
    for number in (2, 3):
        assert f"submitted {JOB}-{number}" in ask(night, again=True)
        assert night.outcome(f"{JOB}-{number}").state == "failed"
    night.tick(MORNING)
    assert [past.state for past in night.state().history] == ["failed"] * 3


def test_the_next_slot_is_run_once_and_without_a_number(night: Night) -> None:
    night.tick(SLOT)
    ask(night, again=True)
    assert night.tick(at("2026-11-26T01:30")) == {"nightly": ["submitted nightly-20261126T013000Z"]}
    assert night.tick(at("2026-11-26T01:31")) == {"nightly": []}


def test_a_slot_that_was_refused_keeps_its_number_for_the_next_try(night: Night) -> None:
    night.write(NIGHTLY.replace("churn@", "chrun@"))
    night.tick(SLOT)
    roll_back(night)
    night.write(NIGHTLY)
    assert f"submitted {JOB}" in ask(night, again=True)
    night.write(NIGHTLY.replace("churn@", "chrun@"))
    assert ask(night, again=True)[-1].startswith(f"refused {JOB}-2: no model 'chrun'")
    night.write(NIGHTLY)
    assert f"submitted {JOB}-2" in ask(night, again=True)


def test_a_tick_that_dies_before_it_submits_leaves_the_number_to_the_next_one(night: Night) -> None:
    night.tick(SLOT)
    night.tick(MORNING)
    asked = replace(night.state(), asked=(SLOT.isoformat(),), numbers={SLOT.isoformat(): 2})
    night.client.buckets.main.put(keys.schedule_state("nightly"), asked.to_json())
    assert night.tick(MORNING) == {"nightly": [f"submitted {JOB}-2"]}


def test_a_slot_whose_job_is_under_way_is_not_run_again(make: Callable[..., Night]) -> None:
    night = make(run=False)
    night.tick(SLOT)
    with pytest.raises(InvalidRequest, match=rf"job {JOB} is still under way: wait until it ends, or end it with"):
        ask(night, again=True)
    night.client.cancel(JOB)
    assert f"submitted {JOB}-2" in ask(night, again=True)


def test_a_slot_that_has_to_wait_says_for_what(make: Callable[..., Night]) -> None:
    night = make(run=False)
    night.tick(SLOT)
    night.client.cancel(JOB)
    night.tick(at("2026-11-26T01:30"))
    scheduler, now = night.scheduler(), at("2026-11-26T08:00")
    done = scheduler.ask(scheduler.get("nightly"), [SLOT], now, again=True)
    assert done == ["asked for 1 of 1", "1 slot waits until nightly-20261126T013000Z has ended"]
    night.client.run()
    assert night.tick(now) == {"nightly": [f"submitted {JOB}-2"]}


def test_a_schedule_of_new_objects_can_rerun_only_a_slot_that_failed(night: Night) -> None:
    night.write(NIGHTLY + "only_new = true\n")
    night.tick(SLOT)
    roll_back(night)
    ask(night, again=True)
    assert night.client.status(f"{JOB}-2").rows == 2
    with pytest.raises(InvalidRequest, match=r"has scored the objects of this slot, and 'nightly' scores only new"):
        ask(night, again=True)


def test_the_state_of_a_schedule_forgets_the_numbers_of_old_slots(night: Night) -> None:
    night.tick(SLOT)
    ask(night, again=True)
    night.tick(MORNING)
    assert night.state().numbers == {SLOT.isoformat(): 2}
    later = night.state().noted([f"2027-01-{day:02}" for day in range(1, 60)], "missed")
    assert later.numbers == {}
    # And the number of the next job is derived from the existing jobs
    assert f"submitted {JOB}-3" in ask(night, again=True)


# The command line


@pytest.fixture
def idle(night: Night) -> Night:
    """A deployment whose schedule runs only on request, because the command line uses the real time."""
    night.write(NIGHTLY + "enabled = false\n")
    return night


def test_a_run_says_which_slot_and_job_it_is_about(idle: Night) -> None:
    said = idle.cli("run", "nightly", "--at", "2026-11-24T02:30")
    assert said.stdout.splitlines() == [
        "slot 2026-11-24 02:30 CET is job nightly-20261124T013000Z",
        "asked for 1 of 1",
        "submitted nightly-20261124T013000Z",
    ]
    said = idle.cli("run", "nightly", "--at", "2026-11-24T01:30+00:00")
    first, second, third = said.stdout.splitlines()
    assert first == "slot 2026-11-24 02:30 CET is job nightly-20261124T013000Z"
    assert second.startswith("nightly-20261124T013000Z failed: ")
    assert second.endswith("; use --again to run the slot anew")
    assert third == "asked for 0 of 1; the others have a job"


def test_run_again_says_that_the_results_of_the_failed_job_stay(idle: Night) -> None:
    idle.cli("run", "nightly", "--at", "2026-11-24T02:30")
    roll_back(idle)
    said = idle.cli("run", "nightly", "--at", "2026-11-24T02:30", "--again")
    first, *rest = said.stdout.splitlines()
    assert first == (
        "slot 2026-11-24 02:30 CET is run again as job nightly-20261124T013000Z-2; "
        "the results of nightly-20261124T013000Z (failed) stay"
    )
    assert rest == ["asked for 1 of 1", "submitted nightly-20261124T013000Z-2"]
    assert said.exit_code == 0


def test_a_backfill_again_runs_only_what_failed(idle: Night) -> None:
    # Given two slots, the first of which failed
    idle.cli("run", "nightly", "--at", "2026-11-21T02:30")
    roll_back(idle)
    idle.cli("run", "nightly", "--at", "2026-11-22T02:30")
    period = ("backfill", "nightly", "--from", "2026-11-21", "--to", "2026-11-22")
    # When the period is run again
    preview = idle.cli(*period, "--again", "--dry-run").stdout.splitlines()
    assert preview == ["2026-11-21T02:30:00+01:00  nightly-20261121T013000Z-2"]
    assert "submitted nightly-20261121T013000Z-2" in idle.cli(*period, "--again").stdout
    # Then only the slot that failed has a second job
    assert idle.client.status("nightly-20261121T013000Z-2").state == "succeeded"
    assert idle.cli(*period, "--again").stdout.splitlines()[0] == "asked for 0 of 0"
    assert "nightly-20261122T013000Z-2" not in {job.job_id for job in idle.client.jobs()}


def test_the_list_says_how_to_mend_a_night_that_failed(night: Night) -> None:
    night.tick(SLOT)
    lines = night.cli("list").stdout.splitlines()
    assert lines[2].startswith("nightly: failed: ")
    assert lines[3:] == [
        "nightly: once that is mended, run the slot again:",
        "  scoreline schedule run nightly --at 2026-11-25T02:30 --again",
    ]
