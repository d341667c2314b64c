"""Alerts: documents that say that people should hear of something, until the recipients have received them.

An alert is written before the state that it reports is final, so that the death of a process loses no alert.
``scoreline.tasks.alerts`` sends alerts.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Literal, get_args

from scoreline.storage.errors import without_quotes
from scoreline.storage.typed_json import build, decode_object, moment
from scoreline.tasks.job.documents import Job, Outcome
from scoreline.tasks.job.loads import LoadRequest

Event = Literal[
    "succeeded", "partial", "failed", "cancelled", "blocked", "unloaded", "late", "missed", "refused", "schedules"
]
"""What happened. The first five are states of a job that has ended. ``unloaded``: the results of a job could not be
loaded into a table. ``late``: a job or a slot has not ended by its deadline. ``missed``: a slot of a schedule was not
run. ``refused``: the job of a slot was refused. ``schedules``: the file with the schedules has faults."""
EVENTS: tuple[Event, ...] = get_args(Event)
_CLASS = re.compile(r" \(\w+\)$")
"""The class of an error at the end of a summary, which says nothing to people."""


@dataclass(frozen=True, kw_only=True)
class Alert:
    """Something that people should hear of: the content of ``jobs/_alerts/<id>.json``."""

    id: str
    """The same event always has the same id, so that it is reported once."""
    event: Event
    at: str
    """When it happened, in UTC and ISO 8601."""
    job_id: str = ""
    model: str = ""
    """Name of the model."""
    group: str = ""
    schedule: str = ""
    slot: str = ""
    """The slot of the schedule, in UTC and ISO 8601; empty if the alert is not about a slot."""
    detail: str = ""
    """One sentence or more, without values of the input."""
    rows: int = 0
    rejected: int = 0
    received: tuple[str, ...] = ()
    """The recipients that have received the alert."""

    def to_json(self) -> bytes:
        """Encode. Fields that are not set are left out."""
        kept = {name: value for name, value in asdict(self).items() if value}
        return json.dumps(kept, sort_keys=True, ensure_ascii=False).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Alert:
        """Decode and check; raises one of the errors in `MALFORMED`."""
        alert = build(cls, decode_object(data))
        moment(alert.at, "at")
        if alert.slot:
            moment(alert.slot, "slot")
        return alert


def alert_id(*parts: str) -> str:
    """Return an id for an event; the same parts always give the same id.

    >>> alert_id("end", "job-1", "1") == alert_id("end", "job-1", "1") != alert_id("end", "job-1", "2")
    True
    """
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


def alert_of_end(job: Job, outcome: Outcome) -> Alert:
    """Return the alert that says how a run of a job has ended."""
    late = outcome.state == "failed" and outcome.reason == "deadline"
    return Alert(
        id=alert_id("end", job.spec.job_id, str(outcome.run)),
        event="late" if late else outcome.state,  # type: ignore[arg-type]  # the state of an outcome is final
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        job_id=job.spec.job_id,
        model=job.model.name,
        group=job.spec.group_name,
        schedule=job.schedule or "",
        detail=_CLASS.sub("", outcome.summary) or _found(outcome),
        rows=outcome.rows,
        rejected=outcome.rejected,
    )


def alert_of_load(job: Job, request: LoadRequest, error: BaseException) -> Alert:
    """Return the alert that says that a load of a job has failed."""
    return Alert(
        id=alert_id("load", job.spec.job_id, request.load_id, str(request.number)),
        event="unloaded",
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        job_id=job.spec.job_id,
        model=job.model.name,
        group=job.spec.group_name,
        schedule=job.schedule or "",
        detail=f"Table {request.table}: {_CLASS.sub('', without_quotes(error))}",
    )


def _found(outcome: Outcome) -> str:
    """Return what the checks found, by name and column; messages of findings may quote values."""
    if outcome.checks is None:
        return ""
    blocking = [finding for finding in outcome.checks.findings if finding.level == "block"]
    names = list(dict.fromkeys(f"{item.check} of {item.column}" if item.column else item.check for item in blocking))
    return f"Its checks found: {', '.join(names)}." if names else ""
