"""The time that groups have used, and their jobs with parts that wait, in the memory of one process (see `shares`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from scoreline.storage.ledger.memory_state import Charge, Job
from scoreline.storage.ledger.shares import EXPECTED_S, LONGEST_S, Terms


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """The part that is due."""

    job_id: str
    part: int
    group: str
    alone: bool
    """Whether no other group is known, so that the group need not be charged."""


class MemoryShares:
    """The shares of one ledger. The caller holds the lock of the ledger."""

    def __init__(self) -> None:
        self._used: dict[str, float] = {}
        """Time of each group with parts that wait, divided by its weight."""
        self._idle: dict[str, float] = {}
        """Time of each group without parts that wait, divided by its weight. A group that has used less time than every
        group with parts that wait is forgotten."""
        self._ready: dict[str, dict[str, float]] = {}

    def list_job(self, job_id: str, terms: Terms) -> None:
        """Record that parts of a job wait."""
        self._ready.setdefault(terms.group, {})[job_id] = terms.rank
        if terms.group not in self._used:
            least = self._least() - 0.001  # the group comes before the groups that wait already
            self._used[terms.group] = max(least, self._idle.pop(terms.group, 0.0))

    def choose(self, find: Callable[[str], int | None]) -> Chosen | None:
        """Return the part that is due; None if no part waits.

        Parameters
        ----------
        find : callable
            Returns the part of a job that waits, or None if there is none.
        """
        while self._used:
            group = min(self._used, key=lambda name: (self._used[name], name))
            used = self._used[group]
            self._idle = {name: time for name, time in self._idle.items() if time >= used}
            jobs = self._ready.get(group)
            if not jobs:
                self._idle[group] = self._used.pop(group)
                continue
            job_id = min(jobs, key=lambda name: (jobs[name], name))
            part = find(job_id)
            if part is not None:
                return Chosen(job_id=job_id, part=part, group=group, alone=len(self._used) + len(self._idle) == 1)
            del jobs[job_id]
        return None

    def charge(self, job: Job, chosen: Chosen, weights: Mapping[str, int], now: float) -> Charge:
        """Charge a group with the seconds that a part is expected to take."""
        weight = weights.get(chosen.group, 1)
        expected = None
        if not chosen.alone:
            expected = EXPECTED_S if job.cost_s is None else job.cost_s
            self._add(chosen.group, expected / weight)
        return Charge(seconds=expected, begun_s=now, weight=weight, group=chosen.group)

    def settle(self, charge: Charge | None, now: float) -> float | None:
        """Charge a group with the difference between the seconds that a part took and those that were expected.

        Return the seconds that the part took, or None if it was not chosen.
        """
        if charge is None:
            return None
        took = min(LONGEST_S, max(0.0, now - charge.begun_s))
        if charge.seconds is not None:
            self._add(charge.group, (took - charge.seconds) / charge.weight)
        return took

    def _add(self, group: str, seconds: float) -> None:
        for times in (self._used, self._idle):
            if group in times:
                times[group] += seconds
                return
        if seconds > 0 and (self._used or self._idle):
            self._idle[group] = self._least() + seconds

    def _least(self) -> float:
        return min((*self._used.values(), *self._idle.values()), default=0.0)
