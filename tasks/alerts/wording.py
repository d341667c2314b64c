"""Writes the messages that people receive. The messages contain no values of the input."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime

from scoreline.storage.wording import plural
from scoreline.tasks.job.alert import Alert, Event

MAX_ALERTS = 20
"""Maximum number of alerts of which one message tells the details."""
_MAX_DETAIL = 500
_HAPPENED: dict[Event, str] = {
    "succeeded": "succeeded",
    "partial": "ended with rejected rows",
    "failed": "failed",
    "cancelled": "was cancelled",
    "blocked": "was blocked by its checks",
    "unloaded": "could not be loaded into a table",
    "late": "is late",
    "missed": "was missed",
    "refused": "was refused",
}


def title(about: str, alerts: Sequence[Alert]) -> str:
    """Return the subject of a message.

    Parameters
    ----------
    about : str
        The schedule or the group that the alerts are about.

    >>> title("nightly", [Alert(id="1", event="failed", at="2026-11-29T02:31:00+00:00")])
    'Scoreline: nightly failed'
    """
    if alerts[0].event == "schedules":
        return "Scoreline: the schedules have a mistake"
    counts = Counter(_HAPPENED[alert.event] for alert in alerts)
    if len(alerts) == 1:
        return f"Scoreline: {about} {next(iter(counts))}"
    return f"Scoreline: {about}: " + ", ".join(f"{count} {happened}" for happened, count in counts.items())


def body(alerts: Sequence[Alert], web_url: str) -> str:
    """Return the text of a message, with one paragraph for each alert.

    Parameters
    ----------
    web_url : str
        Address of the page, without a slash at the end; empty if there is none.
    """
    shown = [_paragraph(alert, web_url) for alert in alerts[:MAX_ALERTS]]
    if more := len(alerts) - len(shown):
        shown.append(f"There {'is' if more == 1 else 'are'} {plural(more, 'more alert')}; see `scoreline jobs`.")
    return "\n\n".join(shown)


def _paragraph(alert: Alert, web_url: str) -> str:
    """Return the sentences about one alert: what happened, why, and where to look."""
    return " ".join(filter(None, (_sentence(alert), _detail(alert), _where(alert, web_url))))


def _sentence(alert: Alert) -> str:
    when = f"{datetime.fromisoformat(alert.at):%Y-%m-%d %H:%M} UTC"
    slot = f"The slot {datetime.fromisoformat(alert.slot):%Y-%m-%d %H:%M} UTC" if alert.slot else ""
    match alert.event:
        case "schedules":
            return f"{when}: The schedules have a mistake, so they run as they were before."
        case "missed":
            return f"{slot} of the schedule {alert.schedule} was missed."
        case "refused":
            return f"{when}: The job of the slot {slot.removeprefix('The slot ')} of {alert.schedule} was refused."
        case "unloaded":
            of_schedule = f" of the schedule {alert.schedule}" if alert.schedule else ""
            return f"{when}: The results of the job {alert.job_id}{of_schedule} could not be loaded into a table."
        case "late" if alert.slot:
            return f"{slot} of the schedule {alert.schedule} is late."
        case "late":
            return f"{when}: The job {alert.job_id} was ended because its deadline had passed."
    of_schedule = f" of the schedule {alert.schedule}" if alert.schedule else ""
    rows = f" {alert.rejected:,} of {alert.rows:,} rows were rejected." if alert.rejected else ""
    return f"{when}: The job {alert.job_id}{of_schedule} {_HAPPENED[alert.event]}.{rows}"


def _detail(alert: Alert) -> str:
    detail = alert.detail.strip()
    if len(detail) > _MAX_DETAIL:
        detail = detail[:_MAX_DETAIL] + "…"
    return detail if not detail or detail[-1] in ".!?…" else f"{detail}."


def _where(alert: Alert, web_url: str) -> str:
    if not alert.job_id:  # of a slot, or of the file with the schedules
        return f"See {web_url}/schedules/" if web_url else "See `scoreline schedule list`."
    return f"See {web_url}/jobs/{alert.job_id}/" if web_url else f"See `scoreline status {alert.job_id}`."
