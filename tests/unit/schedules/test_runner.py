"""A tick writes the state of a schedule before it acts on the state, and only one of several ticks writes the state."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from scoreline.storage import keys
from scoreline.storage.errors import StoreUnavailable
from scoreline.tasks.client import Client
from scoreline.tasks.job.documents import read_job
from scoreline.tasks.schedules.schedule import Schedule
from tests.unit.schedules.conftest import BEFORE, HOURLY, JOB, NIGHTLY, SLOT, Night, at

STATE = keys.schedule_state("nightly")


def test_a_state_that_cannot_be_written_leaves_its_slot_due(night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    main = night.client.buckets.main
    put = main.put

    def refuse(key: str, *arguments: Any, **options: Any) -> Any:
        if key == STATE:
            raise StoreUnavailable("503")
        return put(key, *arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(main, "put", refuse)
        assert night.tick(SLOT) == {"nightly": ["failed: 503"]}
    assert list(night.client.jobs()) == []
    assert night.tick(SLOT) == {"nightly": [f"submitted {JOB}"]}


def test_if_two_ticks_run_at_once_one_reads_the_decision_of_the_other(
    make: Callable[..., Night], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a tick that is slow to write its state, while a user requests an earlier slot
    night = make(run=False)
    night.write(NIGHTLY + 'overlap = "queue"\n')
    main = night.client.buckets.main
    put, earlier = main.put, SLOT - timedelta(days=1)
    asks = [lambda: night.scheduler().ask(night.scheduler().get("nightly"), [earlier], BEFORE)]

    def slowly(key: str, *arguments: Any, **options: Any) -> Any:
        if key == STATE and asks:
            asks.pop()()
        return put(key, *arguments, **options)

    monkeypatch.setattr(main, "put", slowly)
    night.tick(SLOT)
    # Then the state of the schedule contains both slots
    state = night.state()
    assert {earlier.isoformat(), SLOT.isoformat()} <= {state.current, *state.pending, *state.asked}


def test_a_slot_keeps_its_job_if_the_schedule_is_edited_while_it_is_submitted(
    make: Callable[..., Night], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a tick that is about to submit the job of a slot, while another tick submits it by the previous text
    night = make(run=False)
    submit = Client.submit_spec

    def by_the_text_of_before() -> None:
        night.write(NIGHTLY)
        night.tick(SLOT)

    others = [by_the_text_of_before]

    def slowly(self: Client, *arguments: Any, **options: Any) -> Any:
        if others:
            others.pop()()
        return submit(self, *arguments, **options)

    monkeypatch.setattr(Client, "submit_spec", slowly)
    night.write(NIGHTLY + 'keep = "none"\n')
    night.tick(SLOT)
    # Then the slot has the job of the other tick, and no job is refused
    assert read_job(night.client.buckets.main, JOB).spec.keep == "all"
    assert (night.state().current, night.state().history) == (SLOT.isoformat(), ())


def test_an_outage_does_not_refuse_a_slot(night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise StoreUnavailable("503")

    with monkeypatch.context() as patched:
        patched.setattr(Client, "submit_spec", refuse)
        assert night.tick(SLOT) == {"nightly": ["failed: 503"]}
    assert (night.state().current, night.state().history) == (SLOT.isoformat(), ())
    assert night.tick(SLOT + timedelta(minutes=1)) == {"nightly": [f"submitted {JOB}"]}


def test_a_schedule_whose_state_cannot_be_read_does_not_hold_up_others(night: Night) -> None:
    night.write(NIGHTLY + HOURLY)
    night.tick(SLOT - timedelta(minutes=31))
    night.client.buckets.main.put(STATE, b"{")
    done = night.tick(at("2026-11-25T02:00"))
    assert "is not what Scoreline writes there" in done["nightly"][0]
    assert done["hourly"] == ["submitted hourly-20261125T020000Z"]


def test_a_slot_has_one_job_in_any_time_zone_that_it_is_given_in() -> None:
    schedule = Schedule(name="nightly", cron="30 2 * * *", zone="Europe/Berlin", model="m", input="s3://b/in/")
    local = datetime(2026, 11, 25, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"))
    assert schedule.job_id(local) == schedule.job_id(SLOT) == JOB


def test_the_deadline_of_a_slot_counts_from_the_submission_of_its_job(make: Callable[..., Night]) -> None:
    night = make(run=False)
    night.write(NIGHTLY + 'deadline = "2h"\ngroup = "reports"\npriority = "low"\nmax_processes = 2\n')
    assert night.tick(SLOT) == {"nightly": [f"submitted {JOB}"]}
    job = read_job(night.client.buckets.main, JOB)
    submitted = datetime.fromisoformat(job.submitted)
    assert datetime.fromisoformat(job.spec.deadline or "") == submitted + timedelta(hours=2)
    assert (job.spec.group, job.spec.priority, job.spec.max_processes) == ("reports", "low", 2)
    # And the next tick finds the job of the slot
    assert night.tick(SLOT) == {"nightly": []}
