"""A paused schedule submits nothing until it is resumed."""

from __future__ import annotations

import json
from datetime import UTC, datetime

from scoreline.tasks.schedules.schedule import Pause, Schedule, State, decide

NIGHTLY = Schedule(name="nightly", cron="0 2 * * *", model="m", input="s3://b/in/", catch_up="all")
PAUSE = Pause(who="alice", at="2026-11-27T10:00:00+00:00", reason="the input is late")
BEFORE = State(through="2026-11-27T10:00:00+00:00", paused=PAUSE)


def test_slots_of_a_paused_schedule_are_left_out_and_those_after_it_run() -> None:
    # When slots are due while the schedule is paused
    step = decide(NIGHTLY, BEFORE, datetime(2026, 11, 29, 3, tzinfo=UTC), running=False)
    # Then nothing runs and nothing is missed
    assert step.state == State(through="2026-11-29T02:00:00+00:00", paused=PAUSE)
    # And after it is resumed, the next slot runs
    resumed = State(through=step.state.through)
    after = decide(NIGHTLY, resumed, datetime(2026, 11, 30, 2, 1, tzinfo=UTC), running=False)
    assert after.state.current == "2026-11-30T02:00:00+00:00"


def test_a_slot_that_a_person_asks_for_runs_while_the_schedule_is_paused() -> None:
    asked = State(through=BEFORE.through, paused=PAUSE, asked=("2026-11-26T02:00:00+00:00",))
    step = decide(NIGHTLY, asked, datetime(2026, 11, 27, 11, tzinfo=UTC), running=False)
    assert step.state.current == "2026-11-26T02:00:00+00:00"


def test_the_document_has_a_pause_only_while_there_is_one() -> None:
    assert State.from_json(BEFORE.to_json()) == BEFORE
    assert "paused" not in json.loads(State(through=BEFORE.through).to_json())  # earlier releases refuse the field
