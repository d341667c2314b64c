"""Reads how the slots of schedules went: the last night at a glance, and a calendar of slots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Literal
from zoneinfo import ZoneInfo

from scoreline.storage.errors import DocumentCorrupt, JobNotFound, LedgerCorrupt, describe
from scoreline.tasks.client import Client
from scoreline.tasks.job.documents import COMPLETE, Status
from scoreline.tasks.schedules.file import parse_tables
from scoreline.tasks.schedules.in_force import read_in_force
from scoreline.tasks.schedules.runner import job_of, read_state
from scoreline.tasks.schedules.schedule import ON_TIME, Pause, Schedule, State
from scoreline.tasks.schedules.scheduler import Scheduler

Health = Literal["good", "running", "bad", "late", "off", "new"]
"""``bad``: the last slot failed, was blocked, missed or refused. ``late``: the last slot has not begun. ``off``: the
schedule is paused or not enabled. ``new``: no slot has run yet."""
_THREADS = 8
WEEKS = 5
"""Number of weeks that the calendar shows."""
_WORST = (
    "failed",
    "refused",
    "missed",
    "blocked",
    "cancelled",
    "partial",
    "superseded",
    "skipped",
    "running",
    "waiting",
)


@dataclass(frozen=True, kw_only=True)
class Slot:
    """A slot, and what became of it."""

    at: datetime
    """The slot, in the zone of the schedule."""
    state: str
    """A state of a job, or ``waiting``, ``skipped``, ``missed``, ``superseded`` or ``refused``."""
    job_id: str = ""
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class Day:
    """A day of the calendar."""

    date: date
    slots: tuple[Slot, ...] = ()
    is_future: bool = False

    @property
    def state(self) -> str:
        """The state that needs most attention; empty if no slot of the day is known."""
        states = {slot.state for slot in self.slots}
        return next((state for state in _WORST if state in states), "succeeded" if states else "")


@dataclass(frozen=True, kw_only=True)
class ScheduleFacts:
    """A schedule, its slots and its last job."""

    schedule: Schedule
    health: Health
    sentence: str
    """What a person needs to know, in one sentence."""
    next: datetime | None = None
    paused: Pause | None = None
    slots: tuple[Slot, ...] = ()
    """The known slots, the newest first."""
    last: Status | None = None
    """The status of the job of the newest slot that has one."""
    fault: str = ""

    def weeks(self, now: datetime) -> tuple[tuple[Day, ...], ...]:
        """Return the calendar: the last weeks, each from Monday to Sunday."""
        today = now.astimezone(ZoneInfo(self.schedule.zone)).date()
        monday = today - timedelta(days=today.weekday() + 7 * (WEEKS - 1))
        by_day: dict[date, list[Slot]] = {}
        for slot in self.slots:
            by_day.setdefault(slot.at.date(), []).append(slot)
        days = [monday + timedelta(days=number) for number in range(7 * WEEKS)]
        made = [Day(date=day, slots=tuple(by_day.get(day, ())), is_future=day > today) for day in days]
        return tuple(tuple(made[start : start + 7]) for start in range(0, len(made), 7))


@dataclass(frozen=True, kw_only=True)
class Night:
    """All schedules in force, and the faults of their text."""

    schedules: tuple[ScheduleFacts, ...]
    faults: tuple[str, ...] = ()
    source: str = ""
    now: datetime = field(default_factory=lambda: datetime.now(UTC))

    def of(self, name: str) -> ScheduleFacts | None:
        """Return the facts of one schedule; None if no such schedule is in force."""
        return next((facts for facts in self.schedules if facts.schedule.name == name), None)

    @property
    def counts(self) -> Mapping[Health, int]:
        """Number of schedules by health."""
        found: dict[Health, int] = {}
        for facts in self.schedules:
            found[facts.health] = found.get(facts.health, 0) + 1
        return found


def read_night(client: Client, scheduler: Scheduler, now: datetime) -> Night:
    """Return all schedules that the latest tick found in force; before the first tick, those of ``schedules.toml``.

    This takes one request, and one to four for each schedule.
    """
    stored = read_in_force(client.buckets.main)
    schedules: Sequence[Schedule]
    if stored is not None:
        schedules, faults, source = parse_tables(stored.tables).schedules, stored.faults, stored.source
    else:
        reading = scheduler.reading()
        schedules, faults, source = reading.schedules, tuple(map(str, reading.faults)), reading.source
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="schedules") as pool:
        found = tuple(pool.map(lambda schedule: _facts(client, schedule, now), schedules))
    return Night(schedules=found, faults=faults, source=source, now=now)


def _facts(client: Client, schedule: Schedule, now: datetime) -> ScheduleFacts:
    try:
        state, _ = read_state(client.buckets.main, schedule)
    except DocumentCorrupt as error:
        return ScheduleFacts(
            schedule=schedule, health="bad", sentence="The state of the schedule cannot be read.", fault=describe(error)
        )
    following = schedule.following(now) if schedule.enabled else None
    if state is None:
        sentence = "No slot has run yet." if schedule.enabled else "The schedule is not enabled."
        health: Health = "new" if schedule.enabled else "off"
        return ScheduleFacts(schedule=schedule, health=health, sentence=sentence, next=following)
    slots = _slots(schedule, state)
    job_id = next((slot.job_id for slot in slots if slot.job_id), "")
    last = _status(client, job_id) if job_id else None
    slots = tuple(_with_status(slot, last) for slot in slots)
    health, sentence = _judge(schedule, state, slots, last, now)
    return ScheduleFacts(
        schedule=schedule,
        health=health,
        sentence=sentence,
        next=None if state.paused else following,
        paused=state.paused,
        slots=slots,
        last=last,
    )


def _slots(schedule: Schedule, state: State) -> tuple[Slot, ...]:
    zone = ZoneInfo(schedule.zone)

    def at(text: str) -> datetime:
        return datetime.fromisoformat(text).astimezone(zone)

    found = {
        past.slot: Slot(
            at=at(past.slot),
            state=past.state,
            error=past.error,
            job_id=""
            if past.state in ("skipped", "missed", "superseded", "refused")
            else job_of(schedule, state, past.slot),
        )
        for past in state.history
    }
    for text in (*state.pending, *state.asked):
        found[text] = Slot(at=at(text), state="waiting")
    if state.current is not None:
        found[state.current] = Slot(
            at=at(state.current), state="running", job_id=job_of(schedule, state, state.current)
        )
    return tuple(sorted(found.values(), key=lambda slot: slot.at, reverse=True))


def _with_status(slot: Slot, last: Status | None) -> Slot:
    """Return a slot with the state of its job, which may be newer than what the last tick recorded."""
    if last is None or slot.job_id != last.job_id:
        return slot
    return Slot(at=slot.at, state=last.state, job_id=slot.job_id, error=last.error)


def _status(client: Client, job_id: str) -> Status | None:
    try:
        return client.status(job_id)
    except (JobNotFound, DocumentCorrupt, LedgerCorrupt):
        return None


def _judge(
    schedule: Schedule, state: State, slots: Sequence[Slot], last: Status | None, now: datetime
) -> tuple[Health, str]:
    """Return the health of a schedule, and a sentence about it."""
    if state.paused is not None:
        return "off", f"Paused by {state.paused.who}: {state.paused.reason}"
    if not schedule.enabled:
        return "off", "The schedule is not enabled."
    due = schedule.preceding(now - ON_TIME)
    if due > datetime.fromisoformat(state.through):
        return "late", f"The slot of {due:%Y-%m-%d %H:%M} has not begun. Is beat running?"
    newest = next((slot for slot in slots if slot.state != "waiting"), None)
    if newest is None:
        return "new", "No slot has run yet."
    at = f"{newest.at:%Y-%m-%d %H:%M}"
    if newest.state in ("running", "submitted"):
        return "running", f"The slot of {at} is under way."
    if newest.state in COMPLETE:
        rejected = f", {last.rejected:,} rejected" if last is not None and last.rejected else ""
        rows = f"{last.rows:,} rows{rejected}." if last is not None else "its results are complete."
        return "good", f"The slot of {at}: {rows}"
    words = {
        "missed": "was missed, because no clock was running.",
        "refused": f"was refused: {newest.error}",
        "skipped": "was skipped, because the job before was still under way.",
        "superseded": "was left out, because a later slot replaced it.",
        "blocked": "is blocked: its checks found something. Accept or reject it.",
        "cancelled": "was cancelled.",
    }
    return "bad", f"The slot of {at} {words.get(newest.state, f'failed: {newest.error}')}"
