"""The watchlist in the memory of one process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence

from scoreline.storage.ledger.memory_state import Expiring, Job, Steps
from scoreline.storage.ledger.watchlist import THOROUGH_S, JobState


class MemoryWatchlist:
    """The jobs under way in one process (see `Watchlist`).

    Parameters
    ----------
    lock : Lock
        The lock of the ledger, which guards the other parameters.
    clock : callable
        Returns the time in seconds.
    jobs : Expiring of Job
        The ledgers, by job id.
    steps : Steps
        The steps of all jobs.
    """

    def __init__(self, lock: threading.Lock, clock: Callable[[], float], jobs: Expiring[Job], steps: Steps) -> None:
        self._guard = lock
        self._clock = clock
        self._jobs = jobs
        self._steps = steps
        self._locks: Expiring[str] = Expiring(clock)
        self._next_s: dict[str, float] = {}

    def lock(self, what: str, holder: str, seconds: float) -> bool:
        """Acquire or renew a lock (see `Watchlist.lock`)."""
        with self._guard:
            if self._locks.get(what) not in (None, holder):
                return False
            self._locks.put(what, holder, seconds)
            return True

    def unlock(self, what: str, holder: str) -> None:
        """Release a lock (see `Watchlist.unlock`)."""
        with self._guard:
            if self._locks.get(what) == holder:
                self._locks.remove(what)

    def add(self, job_ids: Iterable[str]) -> None:
        """Add jobs (see `Watchlist.add`)."""
        with self._guard:
            for job_id in job_ids:
                self._next_s.setdefault(job_id, 0.0)

    def remove(self, job_id: str) -> None:
        """Remove a job (see `Watchlist.remove`)."""
        with self._guard:
            self._next_s.pop(job_id, None)

    def holds(self, job_ids: Sequence[str]) -> Sequence[str]:
        """Return the jobs on the list (see `Watchlist.holds`)."""
        with self._guard:
            return [job_id for job_id in job_ids if job_id in self._next_s]

    def take(self, limit: int, again_s: float) -> Sequence[str]:
        """Return jobs to check (see `Watchlist.take`)."""
        with self._guard:
            now = self._clock()
            waiting = sorted((next_s, job_id) for job_id, next_s in self._next_s.items() if next_s <= now)
            taken = [job_id for _, job_id in waiting[:limit]]
            self._next_s |= dict.fromkeys(taken, now + again_s)
            return taken

    def put_off(self, job_id: str, seconds: float) -> None:
        """Postpone the next check of a job (see `Watchlist.put_off`)."""
        with self._guard:
            if job_id in self._next_s:
                self._next_s[job_id] = self._clock() + seconds

    def states(self) -> Sequence[JobState]:
        """Return the state of every job (see `Watchlist.states`)."""
        with self._guard:
            return [self._state(job_id) for job_id in self._next_s]

    def _state(self, job_id: str) -> JobState:
        job = self._jobs.get(job_id)
        if job is None:
            return JobState(job_id=job_id, planned=False)
        return JobState(
            job_id=job_id,
            planned=True,
            work=job.work,
            parts=job.parts,
            parts_done=len(job.done),
            rows=job.rows + job.rejected + sum(flight.scored for flight in job.flights.values()),
            in_flight=len(job.flights),
            stopped=job.stopped,
        )

    def due(self, job_ids: Sequence[str], window: int) -> Sequence[str]:
        """Return the jobs to reconcile (see `Watchlist.due`)."""
        with self._guard:
            return [job_id for job_id in job_ids if self._is_due(job_id, window)]

    def looked_at(self, job_id: str) -> None:
        """Record that a job was compared with the bucket (see `Watchlist.looked_at`)."""
        with self._guard:
            if (look := self._steps.find(job_id, "look")) is not None:
                look.until_s = self._clock() + THOROUGH_S

    def _is_due(self, job_id: str, window: int) -> bool:
        asks = self._asks(job_id, window)
        if self._steps.find(job_id, "look") is None:
            self._steps.get(job_id, "look").until_s = self._clock() + THOROUGH_S
            return asks
        return asks or not self._is_pending(job_id, "look")

    def _asks(self, job_id: str, window: int) -> bool:
        job = self._jobs.get(job_id)
        if job is None:
            return not self._is_pending(job_id, "plan")
        if job.stopped == "closed":
            return not self._is_pending(job_id, "events")
        if job.stopped or job.all_done:
            return not self._is_pending(job_id, "finalize")
        lost = any(flight.until_s <= self._clock() for flight in job.flights.values())
        if job.terms.deadline_s is not None and job.terms.deadline_s <= self._clock():
            return True
        return lost or (len(job.flights) < min(window, job.terms.max_parts or window) and job.cursor < job.parts)

    def _is_pending(self, job_id: str, step: str) -> bool:
        known = self._steps.find(job_id, step)
        return known is not None and known.until_s > self._clock()
