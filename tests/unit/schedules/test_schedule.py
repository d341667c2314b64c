from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from scoreline.tasks.schedules.schedule import MAX_DUE, Schedule, State, decide

NIGHTLY = Schedule(name="nightly", cron="0 2 * * *", model="m", input="s3://b/in/")
DAY = timedelta(days=1)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def local(schedule: Schedule, after: str, until: str) -> list[str]:
    """Return the slots between two times, in UTC."""
    return [f"{slot:%d %H:%M}" for slot in schedule.slots(at(after), at(until))]


@pytest.mark.parametrize(
    ("zone", "cron", "after", "until", "expected"),
    [
        # Berlin, spring: 02:00 to 03:00 does not exist on 29 March, so 02:30 is due at 03:00 (01:00 UTC)
        ("Europe/Berlin", "30 2 * * *", "2026-03-28T00:00", "2026-03-30T23:00", ["28 01:30", "29 01:00", "30 00:30"]),
        # Berlin, autumn: 02:30 occurs twice on 25 October, and the slot is at the first one (00:30 UTC)
        ("Europe/Berlin", "30 2 * * *", "2026-10-24T00:00", "2026-10-26T23:00", ["24 00:30", "25 00:30", "26 01:30"]),
        # hourly: on these days, 23 and 25 hours pass, and each hour has one slot
        ("Europe/Berlin", "0 * * * *", "2026-03-28T23:59", "2026-03-29T02:30", ["29 00:00", "29 01:00", "29 02:00"]),
        ("Europe/Berlin", "0 * * * *", "2026-10-24T23:30", "2026-10-25T02:30", ["25 00:00", "25 01:00", "25 02:00"]),
        # Sydney has summer in December: an hour is missing on 4 October, and occurs twice on 5 April
        (
            "Australia/Sydney",
            "30 2 * * *",
            "2026-10-02T00:00",
            "2026-10-05T00:00",
            ["02 16:30", "03 16:00", "04 15:30"],
        ),
        (
            "Australia/Sydney",
            "30 2 * * *",
            "2026-04-03T00:00",
            "2026-04-06T00:00",
            ["03 15:30", "04 15:30", "05 16:30"],
        ),
        ("Australia/Sydney", "0 * * * *", "2026-04-04T14:30", "2026-04-04T17:30", ["04 15:00", "04 16:00", "04 17:00"]),
        # Lord Howe moves its clocks by half an hour
        (
            "Australia/Lord_Howe",
            "15 2 * * *",
            "2026-10-02T12:00",
            "2026-10-04T20:00",
            ["02 15:45", "03 15:30", "04 15:15"],
        ),
        # a zone without daylight saving
        ("Asia/Kolkata", "30 2 * * *", "2026-03-28T00:00", "2026-03-30T00:00", ["28 21:00", "29 21:00"]),
    ],
)
def test_slots_follow_the_rule_for_daylight_saving(
    zone: str, cron: str, after: str, until: str, expected: list[str]
) -> None:
    assert local(replace(NIGHTLY, zone=zone, cron=cron), after, until) == expected


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "America/Santiago", "Australia/Sydney", "UTC"])
@pytest.mark.parametrize(("cron", "most"), [("30 2 * * *", 365), ("0 * * * *", 8_760)])
def test_a_year_has_each_slot_once_in_every_zone(zone: str, cron: str, most: int) -> None:
    schedule = replace(NIGHTLY, zone=zone, cron=cron)
    slots = schedule.between(at("2026-01-01T12:00"), at("2027-01-01T11:59"))
    assert len(slots) == len({schedule.job_id(slot) for slot in slots}) == most
    assert slots == sorted(slots)


def test_slots_of_consecutive_intervals_are_the_slots_of_the_whole() -> None:
    chance = random.Random(1)
    schedule = replace(NIGHTLY, zone="Europe/Berlin", cron="*/20 1-3 * * *")
    start, end = at("2026-10-23T00:00"), at("2026-10-27T00:00")
    moment, found = start, []
    while moment < end:
        step = min(end, moment + timedelta(minutes=chance.randrange(1, 300)))
        found += schedule.slots(moment, step)
        moment = step
    assert found == schedule.slots(start, end)


def test_the_preceding_slot_follows_cron() -> None:
    assert NIGHTLY.preceding(at("2026-11-25T02:00")) == at("2026-11-24T02:00")
    assert replace(NIGHTLY, cron="0 2 * * MON").preceding(at("2026-11-25T02:00")) == at("2026-11-23T02:00")


STATE = State(through="2026-11-20T12:00:00+00:00")
LATE = at("2026-11-25T09:00")


def slots(*days: int) -> tuple[str, ...]:
    return tuple(f"2026-11-{day}T02:00:00+00:00" for day in days)


@pytest.mark.parametrize(
    ("catch_up", "now", "current", "pending"),
    [
        ("none", LATE, None, ()),
        ("latest", LATE, 25, ()),
        ("all", LATE, 21, (22, 23, 24, 25)),
        ("none", at("2026-11-25T02:01"), 25, ()),
        ("latest", at("2026-11-25T02:01"), 25, ()),
    ],
)
def test_missed_slots_are_caught_up_as_the_schedule_says(
    catch_up: str, now: datetime, current: int | None, pending: tuple[int, ...]
) -> None:
    step = decide(replace(NIGHTLY, catch_up=catch_up), STATE, now, running=False)  # type: ignore[arg-type]
    assert step.state.current == (slots(current)[0] if current else None)
    assert step.state.pending == slots(*pending)
    assert step.state.through == slots(25)[0]
    assert len(step.state.history) == 5 - len(pending) - bool(current)
    assert {past.state for past in step.state.history} <= {"missed"}


@pytest.mark.parametrize(
    ("overlap", "current", "pending", "cancel", "noted"),
    [
        ("skip", 24, (), None, ["skipped"]),
        ("queue", 24, (25,), None, []),
        ("cancel_running", 24, (25,), 24, []),
    ],
)
def test_a_slot_due_during_a_run_is_handled_as_the_schedule_says(
    overlap: str, current: int, pending: tuple[int, ...], cancel: int | None, noted: list[str]
) -> None:
    running = State(through=slots(24)[0], current=slots(24)[0])
    step = decide(replace(NIGHTLY, overlap=overlap), running, LATE, running=True)  # type: ignore[arg-type]
    assert (step.state.current, step.state.pending) == (slots(current)[0], slots(*pending))
    assert step.cancel == (slots(cancel)[0] if cancel else None)
    assert [past.state for past in step.state.history] == noted


def test_a_run_that_has_ended_makes_room_for_the_next_pending_slot() -> None:
    waiting = State(through=slots(25)[0], pending=slots(24, 25), asked=slots(1 + 9))
    step = decide(replace(NIGHTLY, overlap="queue"), waiting, LATE, running=False)
    assert (step.state.current, step.state.pending, step.state.asked) == (slots(24)[0], slots(25), slots(10))


def test_a_backfilled_slot_runs_when_nothing_is_due_and_is_never_dropped() -> None:
    asked = State(through=slots(25)[0], asked=slots(10, 11, 12))
    step = decide(replace(NIGHTLY, overlap="cancel_running"), asked, LATE, running=False)
    assert (step.state.current, step.state.asked, step.state.history) == (slots(10)[0], slots(11, 12), ())


def test_nothing_due_changes_nothing() -> None:
    state = State(through=slots(25)[0], current=slots(25)[0])
    assert decide(NIGHTLY, state, LATE, running=True).state == state


def test_a_disabled_schedule_lets_its_slots_pass() -> None:
    step = decide(replace(NIGHTLY, enabled=False, catch_up="all"), STATE, LATE, running=False)
    assert step.state == replace(STATE, through=slots(25)[0])


def test_years_of_missed_slots_are_taken_up_in_pieces() -> None:
    step = decide(replace(NIGHTLY, cron="* * * * *", catch_up="all"), STATE, LATE, running=False)
    assert len(step.state.pending) == MAX_DUE - 1
    assert State.from_json(step.state.to_json()) == step.state
