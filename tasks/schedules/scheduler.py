"""Runs schedules: finds what is due, first records the decision, and then acts on it.

The state of a schedule is one object, which is changed by compare-and-swap, and the job of a slot has a fixed id. Each
slot therefore gets exactly one job, even if two clocks send ticks, a clock was down, or Redis was emptied.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from scoreline.storage import audit, keys
from scoreline.storage.audit import acting_as, is_acting
from scoreline.storage.errors import (
    DocumentCorrupt,
    InvalidRequest,
    InvalidSettings,
    LedgerError,
    ObjectNotFound,
    ScorelineError,
    describe,
)
from scoreline.storage.wording import plural
from scoreline.tasks.client import Client
from scoreline.tasks.job.documents import ENDED, read_outcome
from scoreline.tasks.quality.gate.decisions import check_reason
from scoreline.tasks.schedules.file import Fault, Parsed, decode, parse
from scoreline.tasks.schedules.in_force import InForce, Reading, put_in_force, read_in_force, record_changes
from scoreline.tasks.schedules.reruns import Latest, check_rerun, latest_job
from scoreline.tasks.schedules.runner import OnFault, Runner, Ticked, ignore, job_of, read_state, taken_by_another
from scoreline.tasks.schedules.schedule import Pause, Schedule
from scoreline.tasks.schedules.settings import ScheduleSettings
from scoreline.tasks.schedules.slot_alerts import leave_of_faults
from scoreline.tasks.scoring.interruptions import SoftTimeLimitExceeded

log = logging.getLogger(__name__)

_LISTED_FROM = 3
"""Number of schedules from which a tick lists their states, and reads only those that have changed. A listing is one
request, but a more expensive one than reading a state."""
_NEVER = datetime.max.replace(tzinfo=UTC)
_IN_FORCE_S = 600
"""Seconds between two reads of the stored document with the schedules in force, while the schedules do not change."""
UNREADABLE = "unreadable"
"""The outcome in the row of a schedule if one of its documents cannot be read."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """The row of a schedule in ``scoreline schedule list``."""

    schedule: Schedule
    next: datetime | None
    """The next slot, in the schedule's zone; None if the schedule is not enabled."""
    last: str = ""
    """The slot that ran last."""
    outcome: str = ""
    """The outcome of the last slot, or ``running``, or `UNREADABLE`."""
    error: str = ""
    pending: int = 0
    job_id: str = ""
    """The id of the job of the last slot; empty if no slot has run."""
    paused: str = ""
    """Who paused the schedule and why; empty if it is not paused."""


@dataclass(frozen=True, kw_only=True)
class _Idle:
    """A schedule for which there was nothing to do."""

    schedule: Schedule
    etag: str | None
    """ETag of its state."""
    next: datetime
    """Its next slot."""

    def still_holds(self, schedule: Schedule, etag: str | None, now: datetime) -> bool:
        """Return whether there is nothing to do now, because neither schedule nor state has changed."""
        return etag is not None and etag == self.etag and schedule == self.schedule and now < self.next


class Scheduler:
    """The schedules of one bucket.

    Parameters
    ----------
    client : Client
        The client, which submits and cancels jobs.
    file : Path
        ``schedules.toml`` in the working directory. If this file does not exist, the object ``schedules.toml`` in the
        bucket is read.
    required : bool
        Whether a missing file is a fault.
    on_fault : callable, optional
        Receives errors (see `OnFault`).
    rest_s : float
        While nothing is due, at most one tick in this many seconds reads the bucket, in any process. By default, every
        tick does.
    """

    def __init__(
        self, client: Client, file: Path, *, required: bool = False, on_fault: OnFault = ignore, rest_s: float = 0
    ) -> None:
        self._client = client
        self._file = file
        self._required = required
        self._on_fault = on_fault
        self._main = client.buckets.main
        self._runner = Runner(client, on_fault)
        self._rest_s = rest_s
        self._due: datetime | None = None
        """The next slot of any schedule, if nothing was under way after the last tick of this process."""
        self._settled: tuple[str, str, Reading] | None = None
        """The location and the text of the schedules at the last tick, and what was read, unless there was a fault."""
        self._idle: dict[str, _Idle] = {}
        """The schedules for which there was nothing to do at the last tick of this process, by name."""

    @classmethod
    def from_settings(
        cls, client: Client, settings: ScheduleSettings, on_fault: OnFault = ignore, rest_s: float = 0
    ) -> Scheduler:
        """Make a scheduler with the location of the schedules that the settings name."""
        return cls(client, settings.file, required=settings.required, on_fault=on_fault, rest_s=rest_s)

    def source(self) -> tuple[str, str]:
        """Return the location and the text of the schedules. If there are no schedules, the text is empty.

        Raises
        ------
        InvalidSettings
            A setting names a file that does not exist, or the file cannot be read.
        DocumentCorrupt
            The text is not UTF-8.
        StoreError
            The object in the bucket cannot be read.
        """
        where = self._where()
        if self._required and not self._file.is_file():
            raise InvalidSettings(f"SCHEDULES_FILE={where} is not a file: deploy the file, or unset SCHEDULES_FILE")
        try:
            if self._file.is_file():
                return where, decode(self._file.read_bytes(), where)
            return where, decode(self._main.get(keys.SCHEDULES).data, where)
        except ObjectNotFound:
            return where, ""
        except OSError as error:
            raise InvalidSettings(f"{where} cannot be read: {error.strerror}") from error

    def reading(self) -> Reading:
        """Read the schedules. A schedule with a fault stays in force as it was."""
        return put_in_force(self._where(), self._parsed(), read_in_force(self._main) or InForce())

    def get(self, name: str) -> Schedule:
        """Return one schedule from the current text; raises `InvalidRequest` if it does not exist or has faults."""
        parsed = self._parsed()
        for schedule in parsed.schedules:
            if schedule.name == name:
                return schedule
        faults = [str(fault) for fault in parsed.faults if fault.schedule in (name, "")]
        if faults:
            raise InvalidRequest(f"schedule {name!r} cannot be used: {'; '.join(faults)}")
        raise InvalidRequest(f"no schedule {name!r} in {self._where()}")

    def tick(self, now: datetime | None = None) -> dict[str, list[str]]:
        """Submit and cancel the jobs that are due. If one schedule fails, the others are still processed.

        Returns
        -------
        dict of str to list of str
            What was done for each schedule, by its name.
        """
        now = now or datetime.now(UTC)
        if self._may_rest(now):
            return {}
        self._due = None
        reading = self._put_in_force()
        report: dict[str, list[str]] = {}
        unsettled: list[Schedule] = []
        ended: list[tuple[Schedule, Ticked]] = []
        idle: dict[str, _Idle] = {}
        etags = self._changed_states(reading.schedules)

        def run(schedule: Schedule) -> list[str]:
            name, known = schedule.name, self._idle.get(schedule.name)
            if known is not None and known.still_holds(schedule, etags.get(name), now):
                idle[name] = known
                return []
            ticked = self._runner.tick(schedule, now)
            unsettled.extend([schedule] * bool(ticked.state.refusals))
            ended.extend([(schedule, ticked)] * bool(ticked.ended))
            if ticked.state.is_idle:
                following = schedule.following(now) if schedule.enabled else None
                idle[name] = _Idle(schedule=schedule, etag=ticked.etag, next=following or _NEVER)
            return ticked.done

        def settle(schedule: Schedule) -> list[str]:
            self._runner.settle(schedule, now)
            return []

        for schedule in reading.schedules:
            report[schedule.name] = self._guarded(schedule, run)
        for schedule in unsettled:  # webhooks are sent last, because a receiver may be slow
            report[schedule.name] += self._guarded(schedule, settle)
        for schedule, ticked in ended:  # a monitor may be slow, too
            report[schedule.name] += self._guarded(schedule, partial(self._check_in, ticked))
        self._idle = idle
        if len(idle) == len(reading.schedules) and not reading.faults:
            self._due = min((known.next for known in idle.values()), default=_NEVER)
        return report

    def _check_in(self, ticked: Ticked, schedule: Schedule) -> list[str]:
        self._runner.check_in(schedule, ticked)
        return []

    def _changed_states(self, schedules: Sequence[Schedule]) -> dict[str, str]:
        """Return the ETags of the states of schedules, by name; empty if each state has to be read."""
        if len(schedules) < _LISTED_FROM or not self._idle:
            return {}
        found = {info.key: info.etag for info in self._main.list(keys.SCHEDULE_STATES)}
        states = {schedule.name: found.get(keys.schedule_state(schedule.name)) for schedule in schedules}
        return {name: etag for name, etag in states.items() if etag}

    def _may_rest(self, now: datetime) -> bool:
        """Return whether nothing is due, and another tick has read the bucket a short while ago.

        Reading shows whether the schedules were changed, or whether a user has asked for a slot.
        """
        if not self._rest_s or self._due is None or self._due <= now:
            return False
        return not self._is_first_in("tick-read", self._rest_s)

    def _put_in_force(self) -> Reading:
        """Read the schedules, and store which are in force if they have changed.

        If the text is the same as at the last tick and has no fault, the stored document is only read once in
        `_IN_FORCE_S` seconds, in case a worker with an older file has replaced it.
        """
        found = self._readable_source()
        settled = self._settled
        if settled is not None and found == settled[:2] and not self._is_first_in("in-force", _IN_FORCE_S):
            return settled[2]
        last = read_in_force(self._main)
        reading = put_in_force(self._where(), self._parsed(found), last or InForce())
        for fault in reading.faults:
            log.error("schedule.invalid", extra={"file": reading.source, "error": str(fault)})
        if reading.document != (last or InForce(source=reading.source)):
            leave_of_faults(self._client.submission.dispatcher.outbox, last, reading.document)
            record_changes(self._main, last, reading.document)
            self._main.put(keys.SCHEDULES_IN_FORCE, reading.document.to_json())
        self._settled = None if found is None or reading.faults else (*found, reading)
        return reading

    def _is_first_in(self, what: str, seconds: float) -> bool:
        """Return whether no process has called this for `what` in the last seconds, or whether that is unknown."""
        try:
            return self._client.ledger.once_in(what, seconds)
        except LedgerError:
            return True

    def latest(self, schedule: Schedule, slot: datetime) -> Latest:
        """Return the latest job of a slot."""
        return latest_job(self._main, schedule, slot, self._client.default_output(schedule.model))

    def ask(
        self,
        schedule: Schedule,
        slots: list[datetime],
        now: datetime | None = None,
        *,
        again: bool = False,
        action: str = "schedule.run",
    ) -> list[str]:
        """Run each of the given slots once, whether it is due or not. Return what was done.

        Parameters
        ----------
        again : bool
            Whether to run slots again that already have a job; by default, these slots are left out. A new job resolves
            the model again.
        action : str
            The action that the audit records.

        Raises
        ------
        InvalidRequest
            A slot is in the future, so that its input may not exist yet; or a slot cannot be run again (see
            `check_rerun`).
        """
        now = now or datetime.now(UTC)
        if early := [slot for slot in slots if slot > now]:
            raise InvalidRequest(f"{early[0].isoformat()} is still to come: {schedule.name!r} will run then by itself")
        before: list[str] = []
        if again:  # a job may have ended since the last tick
            first = self._runner.tick(schedule, now)
            before += first.done
            self._runner.check_in(schedule, first)
        numbers: dict[str, int] = {}
        for slot in slots:
            latest = self.latest(schedule, slot)
            if again:
                check_rerun(schedule, latest)
            if again or latest.number == 0:
                numbers[slot.astimezone(UTC).isoformat()] = latest.free
                for number in range(latest.number + 1, latest.free):
                    before.append(taken_by_another(schedule.job_id(slot, number), schedule.job_id(slot, latest.free)))
        if numbers:
            asked = sorted(numbers)
            details = {"slots": len(asked), "first": asked[0], "last": asked[-1], "again": again}
            with acting_as(None if is_acting() else self._client.submitter):
                audit.record(self._main, action=action, target=schedule.name, details=details)
        self._runner.ask(schedule, numbers, now)
        others = "; the others have a job" if len(numbers) < len(slots) else ""
        ticked = self._runner.tick(schedule, now)
        if ticked.state.refusals:
            self._runner.settle(schedule, now)
        self._runner.check_in(schedule, ticked)
        done = [*before, f"asked for {len(numbers)} of {len(slots)}{others}", *ticked.done]
        if ticked.state.current and (waiting := numbers.keys() & {*ticked.state.pending, *ticked.state.asked}):
            verb = "waits" if len(waiting) == 1 else "wait"
            current = job_of(schedule, ticked.state, ticked.state.current)
            done.append(f"{plural(len(waiting), 'slot')} {verb} until {current} has ended")
        return done

    def pause(self, schedule: Schedule, reason: str, now: datetime | None = None) -> bool:
        """Let a schedule submit no jobs until it is resumed. Return False if it is paused already.

        Jobs under way continue, and slots that a user requests still run.

        Raises
        ------
        InvalidRequest
            There is no reason, or it is too long.
        """
        now, reason = now or datetime.now(UTC), check_reason(reason)
        with acting_as(None if is_acting() else self._client.submitter):
            pause = Pause(who=audit.submitter().who, at=now.isoformat(timespec="milliseconds"), reason=reason)
            audit.record(self._main, action="schedule.pause", target=schedule.name, details={"reason": reason})
            return self._runner.pause(schedule, pause, now)

    def resume(self, schedule: Schedule, now: datetime | None = None) -> bool:
        """Let a paused schedule submit jobs again, from its next slot on. Return False if it is not paused."""
        now = now or datetime.now(UTC)
        with acting_as(None if is_acting() else self._client.submitter):
            audit.record(self._main, action="schedule.resume", target=schedule.name)
            return self._runner.pause(schedule, None, now)

    def rows(self, now: datetime | None = None) -> list[Row]:
        """Return the rows of ``scoreline schedule list``, one for each schedule in force."""
        now = now or datetime.now(UTC)
        return [self._row(schedule, now) for schedule in self.reading().schedules]

    def _row(self, schedule: Schedule, now: datetime) -> Row:
        """Return the row of one schedule. The outcome is `UNREADABLE` if a document of the schedule cannot be read."""
        row = Row(schedule=schedule, next=schedule.following(now) if schedule.enabled else None)
        try:
            state, _ = read_state(self._main, schedule)
            if state is None:
                return row
            past = state.history[-1] if state.history else None
            last = state.current or (past.slot if past else "")
            job_id = job_of(schedule, state, last) if last else ""
            outcome, error = (past.state, past.error) if past else ("", "")
            if state.current:
                ended = read_outcome(self._main, job_id)
                outcome, error = (ended.state, ended.error) if ended else ("running", "")
        except DocumentCorrupt as corrupt:
            return replace(row, outcome=UNREADABLE, error=describe(corrupt))
        return replace(
            row,
            last=last,
            outcome=outcome,
            error=error,
            pending=len(state.pending + state.asked),
            job_id=job_id if state.current or outcome in ENDED else "",
            next=None if state.paused else row.next,
            paused=f"paused by {state.paused.who}: {state.paused.reason}" if state.paused else "",
        )

    def _where(self) -> str:
        in_bucket = not self._required and not self._file.is_file()
        return self._main.uri(keys.SCHEDULES) if in_bucket else str(self._file)

    def _readable_source(self) -> tuple[str, str] | None:
        """Return `source`; None if the text cannot be read. Raise transient errors."""
        try:
            return self.source()
        except ScorelineError as error:
            if error.transient:
                raise
            return None

    def _parsed(self, source: tuple[str, str] | None = None) -> Parsed:
        """Parse the schedules, and read them if they are not given.

        Raise transient errors, and report all other errors as faults.
        """
        try:
            return parse((source or self.source())[1])
        except ScorelineError as error:
            if error.transient:
                raise
            return Parsed(faults=(Fault(message=describe(error)),))

    def _guarded(self, schedule: Schedule, act: Callable[[Schedule], list[str]]) -> list[str]:
        """Act on a schedule. Report an error instead of raising it, so that the other schedules still run."""
        try:
            return act(schedule)
        except SoftTimeLimitExceeded:
            raise
        except ScorelineError as error:
            log.error("schedule.failed", extra={"schedule": schedule.name, "error": describe(error)})
            return [f"failed: {describe(error)}"]
        except Exception as error:
            log.exception("schedule.failed", extra={"schedule": schedule.name})
            self._on_fault(error, schedule=schedule.name)
            return [f"failed: {describe(error)}"]
