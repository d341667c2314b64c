"""Chooses jobs by state, model, group, labels and time of submission."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import get_args

from scoreline.storage import keys
from scoreline.storage.errors import InvalidRequest
from scoreline.tasks.job.documents import COMPLETE, State, Status
from scoreline.tasks.job.index_entry import ListedEntry


@dataclass(frozen=True, kw_only=True)
class JobFilter:
    """The jobs that a reader looks for. By default, every job."""

    states: Sequence[State] = ()
    """States, any of which matches."""
    model: str = ""
    """``name``, or ``name@version``."""
    group: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Labels, all of which a job must have."""
    since: datetime | None = None
    """The earliest time of submission, with a time zone."""
    until: datetime | None = None
    """The latest time of submission, with a time zone."""
    schedule: str = ""
    """Name of a schedule, whose jobs have ids that begin with the name and a slot."""

    def check(self) -> JobFilter:
        """Return the filter unchanged if it is well-formed; otherwise raise `InvalidRequest`."""
        known = get_args(State)
        if unknown := [state for state in self.states if state not in known]:
            raise InvalidRequest(f"state {unknown[0]!r} is unknown: choose from {', '.join(known)}")
        for name, at in (("since", self.since), ("until", self.until)):
            if at is not None and at.tzinfo is None:
                raise InvalidRequest(f"{name} {at.isoformat()} has no time zone: give it one, such as datetime.UTC")
        return self

    def may_match(self, listed: ListedEntry, active: Collection[str] | None = None) -> bool:
        """Return whether a job may match, judging by the listing of its entry.

        An entry whose state is not final may be out of date, so it matches every state, or, if the job has no marker,
        every state of a complete job (see `scoreline.tasks.job.index_entry`).

        Parameters
        ----------
        active : collection of str, optional
            Ids of the jobs that had a marker before the entry was listed.
        """
        states: Collection[State] = () if listed.state is None else (listed.state,)
        if listed.is_under_way:
            states = () if active is None or listed.job_id in active else COMPLETE
        return (
            (not states or not self.states or not set(states).isdisjoint(self.states))
            and self.model.partition("@")[0] in ("", listed.model)
            and self._in_period(listed.submitted)
            and self._is_of_schedule(listed.job_id)
        )

    def matches(self, status: Status, group: str) -> bool:
        """Return whether a job matches."""
        return (
            (not self.states or status.state in self.states)
            and self.model in ("", status.model, status.model.partition("@")[0])
            and self.group in ("", group)
            and self.labels.items() <= status.labels.items()
            and self._is_of_schedule(status.job_id)
            and (
                self._in_period(datetime.fromisoformat(status.submitted)) if status.submitted else not self._is_timed()
            )
        )

    def _is_of_schedule(self, job_id: str) -> bool:
        return self.schedule in ("", keys.schedule_of(job_id))

    def _is_timed(self) -> bool:
        return self.since is not None or self.until is not None

    def _in_period(self, at: datetime) -> bool:
        return (self.since is None or at >= self.since) and (self.until is None or at <= self.until)
