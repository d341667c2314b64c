"""Defines schedules, and decides when a schedule is due and what a tick does then.

All functions are pure and read no clock.

A slot is a time at which a schedule is due. Cron computes the slots in the schedule's time zone, with Debian's rule for
daylight saving time. When the clock jumps ahead, slots in the skipped hour are due at the end of that hour. When the
clock goes back, a fixed time of day is due once, at its first occurrence. An hourly (or more frequent) schedule follows
elapsed time: an hourly schedule has 23 slots when the clock jumps ahead, and 25 when it goes back.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, time, timedelta
from typing import Literal
from zoneinfo import ZoneInfo

from cronsim import CronSim

from scoreline.storage.typed_json import build, decode_object, moment
from scoreline.tasks.job.submit_options import SubmitOptions

CatchUp = Literal["none", "latest", "all"]
Overlap = Literal["skip", "queue", "cancel_running"]
CATCH_UP: tuple[CatchUp, ...] = ("none", "latest", "all")
OVERLAP: tuple[Overlap, ...] = ("skip", "queue", "cancel_running")

ON_TIME = timedelta(minutes=5)
"""Maximum delay of a slot that still counts as on time, because a tick may have to wait."""
MAX_DUE = 1_000
"""Maximum number of slots that one tick handles, the earliest first. The next tick handles the others."""
HISTORY_KEPT = 50


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A schedule, which is one table of ``schedules.toml``."""

    name: str
    cron: str
    zone: str = "UTC"
    """Time zone, by its IANA name."""
    model: str
    input: str | Sequence[str] = ()
    """One or more inputs; none if the options name a query or a table. Inputs, the values of parameters and `model` may
    contain ``{slot:%Y-%m-%d}`` and ``{previous:...}``, in the schedule's zone."""
    options: SubmitOptions = field(default_factory=SubmitOptions)
    """Options of each job. They do not contain `job_id`, because each slot has its own job id. The option `output` may
    contain ``{slot:...}``."""
    catch_up: CatchUp = "latest"
    """Which missed slots are run: ``none``, the ``latest``, or ``all``, one after another."""
    overlap: Overlap = "skip"
    """What to do if the previous run is still under way."""
    enabled: bool = True
    only_new: bool = False
    """Whether to score only objects that no earlier run of the schedule has scored, by key and ETag."""
    results_keep: str | int | None = None
    """How long results are kept: a number of days such as ``90d``, or a number of runs. By default, RESULTS_KEEP
    decides."""

    check_in: str | None = None
    """Address to call when the job of a slot has ended, so that an outside monitor notices if nothing ends any more."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """The inputs as a tuple."""
        return (self.input,) if isinstance(self.input, str) else tuple(self.input)

    def slots(self, after: datetime, until: datetime) -> list[datetime]:
        """Return the slots in ``after < slot <= until``, in UTC, the earliest first and at most `MAX_DUE`."""
        found: list[datetime] = []
        for slot in CronSim(self.cron, after.astimezone(ZoneInfo(self.zone))):
            if slot > until or len(found) == MAX_DUE:
                break
            found.append(slot.astimezone(UTC))
        return found

    def between(self, first: datetime, last: datetime) -> list[datetime]:
        """Return all slots in ``first <= slot <= last``, in UTC."""
        found: list[datetime] = []
        after = first - timedelta(minutes=1)
        while more := self.slots(after, last):
            found += more
            after = more[-1]
        return [slot for slot in found if slot >= first]

    def due_by(self, slot: datetime) -> datetime | None:
        """Return when a slot is late, in UTC: at the time of day in `deadline` that follows the slot. None if never."""
        found = clock_time(self.options.get("deadline") or "")
        if found is None:
            return None
        local = slot.astimezone(ZoneInfo(self.zone))
        due = local.replace(hour=found.hour, minute=found.minute, second=0, microsecond=0)
        if due <= local:
            due = (local + timedelta(days=1)).replace(hour=found.hour, minute=found.minute, second=0, microsecond=0)
        return due.astimezone(UTC)

    def following(self, moment: datetime) -> datetime:
        """Return the first slot after `moment`, in the schedule's zone."""
        return next(CronSim(self.cron, moment.astimezone(ZoneInfo(self.zone))))

    def preceding(self, slot: datetime) -> datetime:
        """Return the slot before a given slot, in the schedule's zone."""
        return next(CronSim(self.cron, slot.astimezone(ZoneInfo(self.zone)), reverse=True))

    def job_id(self, slot: datetime, number: int = 1) -> str:
        """Return the id of a slot's job; every process computes the same id.

        Parameters
        ----------
        number : int
            The number of the job within the slot: 1, or more if the slot is run again.

        >>> nightly = Schedule(name="nightly", cron="0 2 * * *", model="m", input="s3://b/in/")
        >>> nightly.job_id(datetime(2026, 11, 25, 2, tzinfo=UTC))
        'nightly-20261125T020000Z'
        >>> nightly.job_id(datetime(2026, 11, 25, 2, tzinfo=UTC), 2)
        'nightly-20261125T020000Z-2'
        """
        suffix = f"-{number}" if number > 1 else ""
        return f"{self.name}-{slot.astimezone(UTC):%Y%m%dT%H%M%SZ}{suffix}"


def clock_time(text: str) -> time | None:
    """Return a time of day such as ``06:00``; None if the text is something else.

    >>> clock_time("06:30"), clock_time("6h"), clock_time("2026-11-29T06:00:00Z")
    (datetime.time(6, 30), None, None)
    """
    return time.fromisoformat(text) if re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d", text) else None


@dataclass(frozen=True, kw_only=True)
class Past:
    """A past slot and its final state."""

    slot: str
    state: str
    """The state of the job's outcome, or ``skipped``, ``missed``, ``superseded`` or ``refused``."""
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A slot whose job was refused. The state stores refusals until their webhook is settled."""

    job_id: str
    at: str
    """When the job was refused, in UTC and ISO 8601."""
    error: str
    model: str
    output: str
    webhook: str | None = None
    """The webhook of the schedule."""


@dataclass(frozen=True, kw_only=True)
class Pause:
    """A person's decision that a schedule submits no jobs until it is resumed."""

    who: str
    at: str
    """When the schedule was paused, in UTC and ISO 8601."""
    reason: str


@dataclass(frozen=True, kw_only=True)
class State:
    """The state and history of a schedule: the content of ``schedules/<name>/state.json``.

    Times are in UTC and ISO 8601.
    """

    through: str
    """Slots up to this time have been handled."""
    pending: tuple[str, ...] = ()
    """Slots that are due and waiting, in the order in which they will run."""
    asked: tuple[str, ...] = ()
    """Slots that a user requested. Requested slots run when no other slot is due."""
    current: str | None = None
    """The slot whose job was started and whose end is not recorded yet."""
    history: tuple[Past, ...] = ()
    numbers: Mapping[str, int] = field(default_factory=dict)
    """The number of the latest job of a slot, for slots that have been run again."""
    refusals: tuple[Refusal, ...] = ()
    """Slots whose job was refused and whose webhook is not settled yet."""
    paused: Pause | None = None
    """The pause, while the schedule is paused. Slots that are due meanwhile are left out."""

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to do before the next slot."""
        return self.current is None and not (self.pending or self.asked or self.refusals)

    def number(self, slot: str) -> int:
        """Return the number of the latest job of a slot (see `Schedule.job_id`)."""
        return self.numbers.get(slot, 1)

    def to_json(self) -> bytes:
        """Encode. `paused` is left out if it is not set, because earlier releases do not know it."""
        kept = {name: value for name, value in asdict(self).items() if name != "paused" or value}
        return json.dumps(kept, indent=1).encode()

    @classmethod
    def from_json(cls, data: bytes) -> State:
        """Decode and check the document; raises one of the errors in `MALFORMED`."""
        state = build(cls, decode_object(data))
        slots = (*state.pending, *state.asked, *(past.slot for past in state.history))
        for slot in (state.through, *slots, *([] if state.current is None else [state.current])):
            moment(slot, "a slot")
        for refusal in state.refusals:
            moment(refusal.at, "the time of a refusal")
        if state.paused is not None:
            moment(state.paused.at, "the time of the pause")
        return state

    def noted(self, slots: Sequence[str], state: str, error: str = "") -> State:
        """Return this state with the given slots in its history. `state` says how the slots ended."""
        past = [Past(slot=slot, state=state, error=error) for slot in slots]
        history = (*self.history, *past)[-HISTORY_KEPT:]
        known = {*self.pending, *self.asked, self.current, *(item.slot for item in history)}
        numbers = {slot: number for slot, number in self.numbers.items() if slot in known}
        return replace(self, history=history, numbers=numbers)


@dataclass(frozen=True, kw_only=True)
class Step:
    """The decision of one tick about a schedule."""

    state: State
    cancel: str | None = None
    """The slot whose job should be cancelled. The slot stays the current slot until the job has ended."""


def decide(schedule: Schedule, state: State, now: datetime, *, running: bool) -> Step:
    """Decide which slots are due. The caller must write the new state before it acts on the decision.

    Parameters
    ----------
    running : bool
        Whether the job of ``state.current`` is under way.

    Returns
    -------
    Step
        The decision. If the new state has another `current` slot than `state`, the caller must submit the job of the
        new slot.
    """
    if state.paused is not None:
        schedule = replace(schedule, enabled=False)
    due = schedule.slots(datetime.fromisoformat(state.through), now)
    if due:
        state = replace(state, through=due[-1].isoformat())
        wanted = _wanted(schedule, due, now)
        missed = [slot.isoformat() for slot in due if slot not in wanted]
        fresh = tuple(slot.isoformat() for slot in wanted)
        if schedule.enabled:
            state = state.noted(missed, "missed")
        if running and schedule.overlap == "skip":
            state, fresh = state.noted(fresh, "skipped"), ()
        state = replace(state, pending=(*state.pending, *fresh))
    if schedule.overlap == "cancel_running" and state.pending:
        state = replace(state.noted(state.pending[:-1], "superseded"), pending=state.pending[-1:])
        if running:  # wait for the end of the running job, which may still succeed
            return Step(state=state, cancel=state.current)
    if not running and state.pending:
        state = replace(state, current=state.pending[0], pending=state.pending[1:])
    elif not running and state.asked:
        state = replace(state, current=state.asked[0], asked=state.asked[1:])
    return Step(state=state)


def _wanted(schedule: Schedule, due: Sequence[datetime], now: datetime) -> list[datetime]:
    if not schedule.enabled:
        return []
    if schedule.catch_up == "all":
        return list(due)
    on_time = [slot for slot in due if now - slot <= ON_TIME]
    if schedule.catch_up == "latest":
        return on_time or list(due[-1:])
    return on_time
