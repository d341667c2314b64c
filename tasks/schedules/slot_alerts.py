"""Writes alerts about slots that were missed, refused or are late, and about a file with mistakes.

The alerts about jobs that have ended are written where jobs end (see `scoreline.tasks.dispatch.outcome`).
"""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime

from scoreline.tasks.dispatch.outbox import Outbox
from scoreline.tasks.job.alert import Alert, Event, alert_id
from scoreline.tasks.schedules.in_force import InForce
from scoreline.tasks.schedules.schedule import Past, Schedule, State

_EVENTS: dict[str, Event] = {"missed": "missed", "refused": "refused"}


class SlotAlerts:
    """Writes the alerts about slots of schedules.

    Parameters
    ----------
    outbox : Outbox
        The alerts that are not sent yet.
    """

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._late: set[str] = set()
        """The ids of alerts about late slots that this process has written, so that no tick writes them again."""

    def leave_ended(self, schedule: Schedule, before: State, after: State, now: datetime) -> None:
        """Write the alerts about slots that a tick has missed or whose jobs were refused.

        This is called before the new state is written, so that the death of the process loses no alert.
        """
        for past in Counter(after.history) - Counter(before.history):
            if event := _EVENTS.get(past.state):
                number = str(before.number(past.slot))
                self._outbox.leave(_alert(schedule, past, event, now, schedule.name, past.slot, number))

    def leave_late(self, schedule: Schedule, state: State, now: datetime) -> None:
        """Write the alerts about slots that have not ended by the deadline of the schedule."""
        running = () if state.current is None else (state.current,)
        for slot in (*running, *state.pending):  # what waits since before a pause still runs
            if slot in state.numbers:  # a user has asked for this slot, perhaps long after its deadline
                continue
            due = schedule.due_by(datetime.fromisoformat(slot))
            if due is None or now < due or (late := alert_id("late", schedule.name, slot)) in self._late:
                continue
            was = "has not ended" if slot == state.current else "has not begun"
            past = Past(slot=slot, state="late", error=f"Its job {was} by {schedule.options.get('deadline')}.")
            self._outbox.leave(_alert(schedule, past, "late", now, schedule.name, slot))
            self._late.add(late)


def leave_of_faults(outbox: Outbox, last: InForce | None, found: InForce) -> None:
    """Write an alert if the file with the schedules has other faults than at the last tick."""
    if found.faults and (last is None or found.faults != last.faults):
        now = datetime.now(UTC)
        detail = "; ".join(found.faults)
        event_id = alert_id("schedules", f"{now:%Y-%m-%d}", *found.faults)
        at = now.isoformat(timespec="seconds")
        outbox.leave(Alert(id=event_id, event="schedules", at=at, detail=f"{found.source}: {detail}"))


def _alert(schedule: Schedule, past: Past, event: Event, now: datetime, *identity: str) -> Alert:
    group = schedule.options.get("group") or schedule.model.partition("@")[0]
    return Alert(
        id=alert_id(event, *identity),
        event=event,
        at=now.astimezone(UTC).isoformat(timespec="seconds"),
        model=schedule.model.partition("@")[0],
        group=group,
        schedule=schedule.name,
        slot=past.slot,
        detail=past.error,
    )
