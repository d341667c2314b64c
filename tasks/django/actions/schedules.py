"""Actions on schedules: run a slot now, run the slots of a period, pause and resume."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from django import forms
from django.http import Http404, HttpRequest, HttpResponse
from django.urls import reverse

from scoreline.storage.errors import InvalidRequest, ObjectNotFound
from scoreline.storage.wording import plural
from scoreline.tasks.django.access import page
from scoreline.tasks.django.actions.confirmation import Question, Reason, ask
from scoreline.tasks.django.process import overview
from scoreline.tasks.schedules.schedule import Schedule

_SLOTS = 20
_MOST_SLOTS = 400
_AGAIN = "Run slots again that have a job already"


class Backfill(forms.Form):
    """The period of a backfill."""

    first = forms.DateField(label="First day", widget=forms.DateInput(attrs={"type": "date"}))
    last = forms.DateField(label="Last day", widget=forms.DateInput(attrs={"type": "date"}))


@page("operate", methods=("GET", "HEAD", "POST"))
def act(request: HttpRequest, schedule: str, action: str) -> HttpResponse:
    """Ask for an action on a schedule, or carry it out."""
    facts = overview().night().of(schedule)
    if facts is None:
        raise ObjectNotFound(f"no schedule {schedule!r} is in force")
    ways = {"run": _run, "backfill": _backfill, "pause": _pause, "resume": _resume}
    if action not in ways:
        raise Http404
    return ways[action](request, facts.schedule, reverse("scoreline:schedule", args=[schedule]))


def _run(request: HttpRequest, schedule: Schedule, back: str) -> HttpResponse:
    zone = ZoneInfo(schedule.zone)
    slots = []
    at = datetime.now(UTC)
    for _ in range(_SLOTS):
        at = schedule.preceding(at)
        slots.append(at)
    choices = [(slot.isoformat(), f"{slot.astimezone(zone):%Y-%m-%d %H:%M %Z}") for slot in slots]

    class Slot(forms.Form):
        """The slots to choose from."""

        slot = forms.ChoiceField(choices=choices)
        again = forms.BooleanField(required=False, label=_AGAIN, help_text="The new job resolves the model again.")

    question = Question(
        title=f"Run a slot of {schedule.name} now?",
        sentence="The job of the slot is submitted. A slot that has a job already is left out.",
        verb="Run the slot",
        back=back,
        form=Slot,
    )

    def do(given: dict[str, Any]) -> str:
        slot = datetime.fromisoformat(given["slot"])
        return "; ".join(overview().scheduler.ask(schedule, [slot], again=given["again"]))

    return ask(request, question, do)


def _backfill(request: HttpRequest, schedule: Schedule, back: str) -> HttpResponse:
    zone = ZoneInfo(schedule.zone)
    yesterday = datetime.now(zone).date() - timedelta(days=1)
    question = Question(
        title=f"Backfill {schedule.name}?",
        sentence="The slots of the period run one after another. Slots that have a job already are left out.",
        verb="Run the slots",
        back=back,
        form=Backfill,
        initial={"first": yesterday, "last": yesterday},
    )

    def do(given: dict[str, Any]) -> str:
        first = datetime.combine(given["first"], datetime.min.time(), zone)
        last = min(datetime.combine(given["last"], datetime.max.time(), zone), datetime.now(UTC))
        if first > last:
            raise InvalidRequest("the first day is after the last day or still to come: exchange them")
        slots = schedule.between(first, last)
        if not slots:
            raise InvalidRequest("the period has no slot that is over")
        if len(slots) > _MOST_SLOTS:
            raise InvalidRequest(f"the period has {plural(len(slots), 'slot')}, and may have {_MOST_SLOTS}: shorten it")
        return "; ".join(overview().scheduler.ask(schedule, slots, action="schedule.backfill"))

    return ask(request, question, do)


def _pause(request: HttpRequest, schedule: Schedule, back: str) -> HttpResponse:
    question = Question(
        title=f"Pause {schedule.name}?",
        sentence="The schedule submits no jobs until it is resumed. A job under way continues.",
        verb="Pause",
        back=back,
        tone="danger",
        form=Reason,
    )

    def do(given: dict[str, Any]) -> str:
        paused = overview().scheduler.pause(schedule, given["reason"])
        return f"{schedule.name} is paused." if paused else f"{schedule.name} was paused before."

    return ask(request, question, do)


def _resume(request: HttpRequest, schedule: Schedule, back: str) -> HttpResponse:
    question = Question(
        title=f"Resume {schedule.name}?",
        sentence="The schedule continues with its next slot. Slots that were left out can be run by a backfill.",
        verb="Resume",
        back=back,
    )

    def do(_: dict[str, Any]) -> str:
        resumed = overview().scheduler.resume(schedule)
        return f"{schedule.name} runs again." if resumed else f"{schedule.name} was not paused."

    return ask(request, question, do)
