"""Runs schedules: finds what is due, records the decision, and only then acts on it.

The state of a schedule is one object that is changed by compare-and-swap, and the job of a slot has a fixed id. Each
slot therefore gets exactly one job, even if there are two clocks, a clock was down, ten ticks run at once, or Redis was
emptied.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from scoreline.storage import keys
from scoreline.storage.errors import (
    DocumentCorrupt,
    InvalidRequest,
    JobConflict,
    ObjectNotFound,
    PreconditionFailed,
    ScorelineError,
    describe,
)
from scoreline.storage.objects.base import exists, if_unchanged
from scoreline.tasks.client import Client
from scoreline.tasks.inputs.only_new import remember_scored
from scoreline.tasks.job.documents import decoding, read_outcome
from scoreline.tasks.schedules.file import Parsed, parse, spec_of
from scoreline.tasks.schedules.schedule import Schedule, State, decide

log = logging.getLogger(__name__)

_ROUNDS = 20
"""Maximum number of times that one tick processes a schedule. Others may change its state meanwhile, and when a slot is
refused, the next one follows."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """The row of a schedule in ``scoreline schedule list``."""

    schedule: Schedule
    next: datetime | None
    """The next slot, in the schedule's zone; None if the schedule is not enabled."""
    last: str
    """The slot that ran last."""
    outcome: str
    error: str
    pending: int


class Scheduler:
    """The schedules of one bucket.

    Parameters
    ----------
    client : Client
        Submits and cancels.
    file : Path
        ``schedules.toml`` in the working directory. If it does not exist, the object of that name in the bucket is
        read.
    """

    def __init__(self, client: Client, file: Path) -> None:
        self._client = client
        self._file = file
        self._main = client.buckets.main

    def source(self) -> tuple[str, str]:
        """Return the location of the schedules and their text. The text is empty if there are no schedules."""
        if self._file.is_file():
            return str(self._file), self._file.read_text()
        try:
            return self._main.uri(keys.SCHEDULES), self._main.get(keys.SCHEDULES).data.decode()
        except ObjectNotFound:
            return self._main.uri(keys.SCHEDULES), ""
        except UnicodeDecodeError as error:
            raise DocumentCorrupt(f"{self._main.uri(keys.SCHEDULES)} is not UTF-8: {error}") from error

    def parsed(self) -> Parsed:
        """Read and parse the schedules."""
        return parse(self.source()[1])

    def get(self, name: str) -> Schedule:
        """Return one schedule; raises `InvalidRequest` if it does not exist or has faults."""
        parsed = self.parsed()
        for schedule in parsed.schedules:
            if schedule.name == name:
                return schedule
        faults = [str(fault) for fault in parsed.faults if fault.schedule in (name, "")]
        if faults:
            raise InvalidRequest(f"schedule {name!r} cannot be used: {'; '.join(faults)}")
        raise InvalidRequest(f"no schedule {name!r} in {self.source()[0]}")

    def tick(self, now: datetime | None = None) -> dict[str, list[str]]:
        """Do what is due for every schedule. If one schedule fails, the others are still processed.

        Returns
        -------
        dict of str to list of str
            What was done, by schedule.
        """
        now = now or datetime.now(UTC)
        parsed = self.parsed()
        for fault in parsed.faults:
            log.error("schedule.invalid", extra={"file": self.source()[0], "error": str(fault)})
        report: dict[str, list[str]] = {}
        for schedule in parsed.schedules:
            try:
                report[schedule.name] = self._tick(schedule, now)
            except ScorelineError as error:
                report[schedule.name] = [f"failed: {describe(error)}"]
                log.error("schedule.failed", extra={"schedule": schedule.name, "error": describe(error)})
        return report

    def ask(self, schedule: Schedule, slots: list[datetime], now: datetime | None = None) -> list[str]:
        """Run each of the given slots once, on request, regardless of earlier runs. Return what was done.

        Raises
        ------
        InvalidRequest
            A slot is in the future, so that its input would not exist yet.
        """
        now = now or datetime.now(UTC)
        if early := [slot for slot in slots if slot > now]:
            raise InvalidRequest(f"{early[0].isoformat()} is still to come: {schedule.name!r} will run then by itself")
        wanted = [slot.astimezone(UTC).isoformat() for slot in slots if not self._exists(schedule, slot)]
        for _ in range(_ROUNDS):
            state, etag = self._state(schedule, now)
            known = (*state.pending, *state.asked, state.current)
            asked = (*state.asked, *(slot for slot in wanted if slot not in known))
            if self._swap(schedule, replace(state, asked=asked), etag):
                break
        others = "; the others have a job" if len(wanted) < len(slots) else ""
        return [f"asked for {len(wanted)} of {len(slots)}{others}", *self._tick(schedule, now)]

    def rows(self, now: datetime | None = None) -> list[Row]:
        """Return the rows of ``scoreline schedule list``, one for each schedule."""
        now = now or datetime.now(UTC)
        rows = []
        for schedule in self.parsed().schedules:
            state, _ = self._read(schedule)
            past = state.history[-1] if state and state.history else None
            current = state.current if state else None
            outcome, error = (past.state, past.error) if past else ("", "")
            if current:
                ended = read_outcome(self._main, schedule.job_id(datetime.fromisoformat(current)))
                outcome, error = (ended.state, ended.error) if ended else ("running", "")
            rows.append(
                Row(
                    schedule=schedule,
                    next=schedule.following(now) if schedule.enabled else None,
                    last=current or (past.slot if past else ""),
                    outcome=outcome,
                    error=error,
                    pending=len(state.pending + state.asked) if state else 0,
                )
            )
        return rows

    def _tick(self, schedule: Schedule, now: datetime) -> list[str]:
        done: list[str] = []
        for _ in range(_ROUNDS):
            state, etag = self._state(schedule, now)
            seen = self._follow_current(schedule, state, done)
            step = decide(schedule, seen, now, running=seen.current is not None)
            if step.state == state and etag is not None:
                return done
            if not self._swap(schedule, step.state, etag):
                continue  # another tick was faster: read its decision
            if step.cancel is not None:
                job_id = schedule.job_id(datetime.fromisoformat(step.cancel))
                self._client.cancel(job_id)
                done.append(f"cancelled {job_id}")
        return done

    def _follow_current(self, schedule: Schedule, state: State, done: list[str]) -> State:
        """Submit the job of the current slot, unless that is done already, and note its outcome once it has ended."""
        if state.current is None:
            return state
        slot = datetime.fromisoformat(state.current)
        job_id = schedule.job_id(slot)
        outcome = read_outcome(self._main, job_id)
        if outcome is None:
            if self._exists(schedule, slot):
                return state
            try:
                self._submit(schedule, slot)
            except JobConflict:  # the schedule was edited meanwhile: the slot keeps the job that it already has
                return state
            except ScorelineError as error:
                if error.transient:
                    raise
                log.error("schedule.refused", extra={"job_id": job_id, "error": describe(error)})
                done.append(f"refused {job_id}: {describe(error)}")
                return replace(state.noted([state.current], "refused", describe(error)), current=None)
            done.append(f"submitted {job_id}")
            return state
        if schedule.only_new and outcome.state in ("succeeded", "partial"):
            remember_scored(self._main, schedule.name, job_id)
        return replace(state.noted([state.current], outcome.state, outcome.error), current=None)

    def _submit(self, schedule: Schedule, slot: datetime) -> None:
        spec = spec_of(schedule, slot, self._client.default_output(schedule.model))
        self._client.submit_spec(spec, webhook=schedule.options.get("webhook"))

    def _exists(self, schedule: Schedule, slot: datetime) -> bool:
        return exists(self._main, keys.job(schedule.job_id(slot)))

    def _state(self, schedule: Schedule, now: datetime) -> tuple[State, str | None]:
        """Return the state of a schedule. For a new schedule, slots are due from now on."""
        state, etag = self._read(schedule)
        return state or State(through=(now - timedelta(microseconds=1)).isoformat()), etag

    def _read(self, schedule: Schedule) -> tuple[State | None, str | None]:
        key = keys.schedule_state(schedule.name)
        try:
            got = self._main.get(key)
        except ObjectNotFound:
            return None, None
        with decoding(self._main, key):
            return State.from_json(got.data), got.info.etag

    def _swap(self, schedule: Schedule, state: State, etag: str | None) -> bool:
        """Replace the state, unless it has changed since it was read. Return whether it was replaced."""
        key = keys.schedule_state(schedule.name)
        try:
            self._main.put(key, state.to_json(), mode=if_unchanged(etag))
        except PreconditionFailed:
            return False
        return True
