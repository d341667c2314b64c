"""Runs one schedule: first records in the state of the schedule what is due, and then submits or cancels jobs."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from scoreline.storage import keys
from scoreline.storage.audit import acting_as
from scoreline.storage.errors import (
    DocumentCorrupt,
    JobConflict,
    JobNotFound,
    JobRemoved,
    ObjectNotFound,
    PreconditionFailed,
    ScorelineError,
    StoreUnavailable,
    describe,
)
from scoreline.storage.objects.base import ObjectStore, if_unchanged
from scoreline.tasks.client import Client
from scoreline.tasks.inputs.only_new import remember_scored
from scoreline.tasks.job.documents import COMPLETE, decoding, read_job, read_outcome, read_tombstone
from scoreline.tasks.job.spec import JobSpec
from scoreline.tasks.schedules.check_in import check_in
from scoreline.tasks.schedules.file import render, spec_of
from scoreline.tasks.schedules.refusals import settle
from scoreline.tasks.schedules.reruns import is_of_slot, is_tombstone_of_slot
from scoreline.tasks.schedules.schedule import Pause, Refusal, Schedule, State, decide
from scoreline.tasks.schedules.slot_alerts import SlotAlerts

log = logging.getLogger(__name__)

_ROUNDS = 20
"""Maximum number of times that one tick processes a schedule. A schedule is processed again if another process changes
its state, or if the job of a slot is refused."""

type OnFault = Callable[..., None]
"""``on_fault(error, job_id=...)`` receives the error for which a job was refused, and any unexpected error."""


def ignore(error: BaseException, **where: object) -> None:
    """Ignore a fault."""


@dataclass(frozen=True, kw_only=True)
class Ticked:
    """The result of a tick for one schedule."""

    done: list[str]
    state: State
    """The state of the schedule after the tick."""
    etag: str | None
    """ETag of the object with the state when it was read last."""
    ended: tuple[str, ...] = ()
    """The states in which jobs of slots have ended, of which the outside monitor has to hear."""


class Runner:
    """Runs schedules one at a time.

    Parameters
    ----------
    client : Client
        The client, which submits and cancels jobs.
    on_fault : callable
        Receives errors (see `OnFault`).
    """

    def __init__(self, client: Client, on_fault: OnFault) -> None:
        self._client = client
        self._on_fault = on_fault
        self._main = client.buckets.main
        self._alerts = SlotAlerts(client.submission.dispatcher.outbox)

    def tick(self, schedule: Schedule, now: datetime) -> Ticked:
        """Submit and cancel the jobs that are due for a schedule."""
        done: list[str] = []
        ended: list[str] = []
        tried: str | None = None
        etag: str | None = None
        for _ in range(_ROUNDS):
            state, etag = self._state(schedule, now)
            seen, refused = self._follow_current(schedule, state, now, done)
            step = decide(schedule, seen, now, running=seen.current is not None)
            same = step.state == state and etag is not None
            if same and (step.cancel is None or step.cancel == tried):
                break
            if not same:
                self._alerts.leave_ended(schedule, state, step.state, now)
                if not self._swap(schedule, step.state, etag):
                    continue  # another tick has changed the state: read its decision
                if state.current is not None and seen.current is None and seen.history:
                    ended.append(seen.history[-1].state)
            if refused is not None:
                done.append(self._count_refused(seen.refusals[-1], refused))
            if step.cancel is not None and step.cancel != tried:
                tried = step.cancel  # each tick cancels again, until the job has ended
                job_id = job_of(schedule, step.state, step.cancel)
                with acting_as(f"schedule {schedule.name}"):
                    cancelled = self._client.cancel(job_id).state == "cancelled"
                if cancelled:
                    done.append(f"cancelled {job_id}")
        self._alerts.leave_late(schedule, state, now)
        return Ticked(done=done, state=state, etag=etag, ended=tuple(ended))

    def ask(self, schedule: Schedule, numbers: dict[str, int], now: datetime) -> None:
        """Add slots to the state, because a user requested them. `numbers` has the job number of each slot."""
        for _ in range(_ROUNDS):
            state, etag = self._state(schedule, now)
            known = (*state.pending, *state.asked, state.current)
            fresh = {slot: number for slot, number in numbers.items() if slot not in known}
            asked = replace(state, asked=(*state.asked, *fresh), numbers={**state.numbers, **fresh})
            if self._swap(schedule, asked, etag):
                return

    def pause(self, schedule: Schedule, pause: Pause | None, now: datetime) -> bool:
        """Pause a schedule, or resume it if `pause` is None. Return whether the schedule was changed.

        Raises
        ------
        StoreUnavailable
            Other processes changed the state again and again: try again.
        """
        for _ in range(_ROUNDS):
            state, etag = self._state(schedule, now)
            if (state.paused is None) == (pause is None):
                return False
            if self._swap(schedule, replace(state, paused=pause), etag):
                return True
        where = self._main.uri(keys.schedule_state(schedule.name))
        raise StoreUnavailable(f"{where} was changed {_ROUNDS} times meanwhile: try again")

    def check_in(self, schedule: Schedule, ticked: Ticked) -> None:
        """Call the outside monitor of a schedule if jobs of slots have ended. The monitor may be slow."""
        for state in ticked.ended if schedule.check_in else ():
            check_in(schedule.check_in or "", self._client.webhooks, schedule.name, state)

    def settle(self, schedule: Schedule, now: datetime) -> None:
        """Send the webhooks of refused jobs, and remove the refusals that need no further attempt."""
        state, _ = self._state(schedule, now)
        client = self._client
        settled = {item.job_id for item in state.refusals if settle(item, client.webhooks, client.send_webhook, now)}
        for _ in range(_ROUNDS):
            state, etag = self._state(schedule, now)
            left = tuple(item for item in state.refusals if item.job_id not in settled)
            if left == state.refusals or self._swap(schedule, replace(state, refusals=left), etag):
                return

    def _follow_current(
        self, schedule: Schedule, state: State, now: datetime, done: list[str]
    ) -> tuple[State, ScorelineError | None]:
        """Submit the current slot's job if it is not submitted yet. Record the job's outcome once the job has ended.

        Returns
        -------
        state : State
            The state of the schedule after this step.
        refused : ScorelineError or None
            The error if the job was refused.
        """
        if state.current is None:
            return state, None
        job_id = job_of(schedule, state, state.current)
        try:
            job = read_job(self._main, job_id)
            outcome = read_outcome(self._main, job_id)
        except DocumentCorrupt as error:  # the job cannot continue, but the jobs of the next slots can run
            log.error("schedule.job_unreadable", extra={"job_id": job_id, "error": describe(error)})
            return replace(state.noted([state.current], "failed", describe(error)), current=None), None
        except JobRemoved:
            return self._follow_removed(schedule, state, state.current, done), None
        except JobNotFound:
            try:
                self._submit(schedule, state, state.current)
            except JobConflict:  # another tick submitted a job with this id; the next tick checks that job
                return state, None
            except ScorelineError as error:
                if error.transient:
                    raise
                return self._refused(schedule, state, state.current, describe(error), now), error
            done.append(f"submitted {job_id}")
            return state, None
        slot, number = datetime.fromisoformat(state.current), state.number(state.current)
        if not is_of_slot(job, schedule, slot, number, self._client.default_output(schedule.model)):
            return self._evade(schedule, state, state.current, done), None
        if outcome is None:
            return state, None
        if schedule.only_new and outcome.state in COMPLETE:  # a worker of release 0.1.0 records no scored objects
            remember_scored(self._main, schedule.name, job_id)
        return replace(state.noted([state.current], outcome.state, outcome.error), current=None), None

    def _follow_removed(self, schedule: Schedule, state: State, slot: str, done: list[str]) -> State:
        """Record how a removed job had ended. Its slot is not run again, unless that was another's job."""
        found = read_tombstone(self._main, job_of(schedule, state, slot))
        if found is None or not is_tombstone_of_slot(found, schedule, datetime.fromisoformat(slot)):
            return self._evade(schedule, state, slot, done)
        return replace(state.noted([slot], found.state, f"the results were removed: {found.why}"), current=None)

    def _spec(self, schedule: Schedule, state: State, slot: str) -> JobSpec:
        output = self._client.default_output(schedule.model)
        return spec_of(schedule, datetime.fromisoformat(slot), output, state.number(slot))

    def _submit(self, schedule: Schedule, state: State, slot: str) -> None:
        spec = self._spec(schedule, state, slot)
        with acting_as(f"schedule {schedule.name}"):
            webhook, labels = schedule.options.get("webhook"), schedule.options.get("labels")
            self._client.submit_spec(spec, webhook=webhook, schedule=schedule.name, labels=labels)

    def _evade(self, schedule: Schedule, state: State, slot: str, done: list[str]) -> State:
        """Give a slot the next job id, because another job has its current id. Return the new state."""
        taken = job_of(schedule, state, slot)
        evaded = replace(state, numbers={**state.numbers, slot: state.number(slot) + 1})
        log.error("schedule.id_taken", extra={"job_id": taken, "instead": job_of(schedule, evaded, slot)})
        done.append(taken_by_another(taken, job_of(schedule, evaded, slot)))
        return evaded

    def _refused(self, schedule: Schedule, state: State, slot: str, error: str, now: datetime) -> State:
        moment = datetime.fromisoformat(slot)
        refusal = Refusal(
            job_id=job_of(schedule, state, slot),
            at=now.astimezone(UTC).isoformat(timespec="milliseconds"),
            error=error,
            model=render(schedule, schedule.model, moment),
            output=render(
                schedule, schedule.options.get("output") or self._client.default_output(schedule.model), moment
            ),
            webhook=schedule.options.get("webhook") or None,
        )
        noted = state.noted([slot], "refused", error)
        return replace(noted, current=None, refusals=(*noted.refusals, refusal))

    def _count_refused(self, refusal: Refusal, error: ScorelineError) -> str:
        """Report a refused job as a failed job."""
        log.error("schedule.refused", extra={"job_id": refusal.job_id, "error": refusal.error})
        self._client.ledger.counters.count_job("failed")
        self._on_fault(error, job_id=refusal.job_id)
        return f"refused {refusal.job_id}: {refusal.error}"

    def _state(self, schedule: Schedule, now: datetime) -> tuple[State, str | None]:
        """Return the state of a schedule. If the schedule is new, only its slots from now on are due."""
        state, etag = read_state(self._main, schedule)
        return state or State(through=(now - timedelta(microseconds=1)).isoformat()), etag

    def _swap(self, schedule: Schedule, state: State, etag: str | None) -> bool:
        """Replace the state, unless it has changed since it was read. Return whether this call replaced it."""
        try:
            self._main.put(keys.schedule_state(schedule.name), state.to_json(), mode=if_unchanged(etag))
        except PreconditionFailed:
            return False
        return True


def taken_by_another(job_id: str, instead: str) -> str:
    """Return the message for a slot whose job id is already in use by another job."""
    return f"{job_id} is another job: the slot is run as {instead}"


def job_of(schedule: Schedule, state: State, slot: str) -> str:
    """Return the id of the latest job of a slot."""
    return schedule.job_id(datetime.fromisoformat(slot), state.number(slot))


def read_state(main: ObjectStore, schedule: Schedule) -> tuple[State | None, str | None]:
    """Return the state of a schedule and its ETag, or None twice if the schedule has never run.

    Raises
    ------
    DocumentCorrupt
        The state cannot be read. A user must decide what to do, because a new state would skip all missed slots.
    """
    key = keys.schedule_state(schedule.name)
    try:
        got = main.get(key)
    except ObjectNotFound:
        return None, None
    with decoding(main, key, remedy="delete the object, and the schedule begins anew with the next slot"):
        return State.from_json(got.data), got.info.etag
