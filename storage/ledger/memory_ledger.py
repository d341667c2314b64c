"""A ledger in the memory of one process, for testing Scoreline and applications that use it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace

from scoreline.storage.errors import LedgerFenced, LedgerLost
from scoreline.storage.ledger.base import (
    LIFE_AFTER_OUTCOME_S,
    LIFE_S,
    LONGEST_PATIENCE_S,
    TICK_KNOWN_S,
    Completed,
    Due,
    PartLease,
    Progress,
    Recovered,
    Started,
)
from scoreline.storage.ledger.memory_answers import MemoryAnswers
from scoreline.storage.ledger.memory_counters import MemoryCounters
from scoreline.storage.ledger.memory_state import Expiring, Flight, Job, Steps, reason_to_stop
from scoreline.storage.ledger.memory_waiting import MemoryWaitingSteps
from scoreline.storage.ledger.memory_watchlist import MemoryWatchlist


class MemoryLedger:
    """Ledger for all jobs of one bucket, used by a single process (see `Ledger`).

    Parameters
    ----------
    patience_s : float
        Seconds after which the message of a part or step that no process began is sent again. The delay doubles each
        time.
    clock : callable
        Returns the time in seconds since 1970. Like a server, the ledger takes all times from its own clock.
    """

    def __init__(self, *, patience_s: float = 120, clock: Callable[[], float] = time.time) -> None:
        self._patience_s = patience_s
        self._clock = clock
        self._lock = threading.Lock()
        self._jobs: Expiring[Job] = Expiring(clock)
        self._steps = Steps(clock)
        self._notes: Expiring[float] = Expiring(clock)
        self.counters = MemoryCounters()
        self.watchlist = MemoryWatchlist(self._lock, clock, self._jobs, self._steps)
        self.waiting = MemoryWaitingSteps(self._lock, clock)
        self.answers = MemoryAnswers(clock)

    def ping(self) -> None:
        """Do nothing, because this ledger always answers (see `Ledger.ping`)."""

    def begin(
        self, job_id: str, plan_sha256: str, parts: int, *, budget: int, recovered: Recovered | None = None
    ) -> bool:
        """Open the ledger of a job (see `Ledger.begin`)."""
        with self._lock:
            if self._jobs.get(job_id) is not None:
                self._of_plan(job_id, plan_sha256)
                self._jobs.keep(job_id, LIFE_S)
                return False
            known = recovered or Recovered(done=frozenset(), rows=0, rejected=0)
            job = Job(
                plan_sha256=plan_sha256,
                parts=parts,
                budget=budget,
                rebuilt=recovered is not None,
                done=set(known.done),
                rows=known.rows,
                rejected=known.rejected,
                uncounted=known.uncounted,
                stopped="budget" if known.rejected > budget else "",
            )
            self._jobs.put(job_id, job, LIFE_S)
            return True

    def dispatch(self, job_id: str, plan_sha256: str, window: int) -> Due:
        """Claim the parts to put into the queue now (see `Ledger.dispatch`)."""
        with self._lock:
            job = self._of_plan(job_id, plan_sha256)
            self._jobs.keep(job_id, LIFE_S)
            claimed = [] if job.stopped else self._claim(job, window)
            return Due(parts=tuple(claimed), all_done=job.all_done, stopped=job.stopped)

    def _claim(self, job: Job, window: int) -> list[int]:
        now = self._clock()
        lost = [part for part, flight in job.flights.items() if flight.until_s <= now]
        for part in lost:
            flight = job.flights[part]
            # The wait doubles with each unanswered message, because the queue may simply be long.
            flight.until_s = now + min(LONGEST_PATIENCE_S, self._patience_s * 2**flight.sent)
            flight.sent += 1
            flight.holder = None
        new = []
        while len(job.flights) < window and (following := job.next_part()) is not None:
            job.flights[following] = Flight(until_s=now + min(LONGEST_PATIENCE_S, self._patience_s))
            new.append(following)
        return lost + new

    def start(self, lease: PartLease, *, is_retry: bool = False) -> Started:
        """Take the lease of a part (see `Ledger.start`)."""
        with self._lock:
            job = self._of_plan(lease.job_id, lease.plan_sha256)
            refused = Started(to_do="busy", attempt=0, all_done=job.all_done, result_may_exist=False, budget=0)
            if job.stopped:
                return replace(refused, to_do="stopped")
            flight = job.flights.get(lease.part)
            if flight is None:
                return replace(refused, to_do="done" if lease.part in job.done else "unknown")
            now = self._clock()
            if flight.holder not in (None, lease.holder) and flight.until_s > now:
                return replace(refused, attempt=flight.attempts)
            if not (is_retry and flight.holder == lease.holder):
                flight.attempts += 1
            flight.holder = lease.holder
            flight.rejected = flight.scored = 0
            flight.until_s = now + lease.lease_s
            return Started(
                to_do="run",
                attempt=flight.attempts,
                all_done=job.all_done,
                result_may_exist=job.rebuilt or flight.attempts > 1,
                budget=job.budget,
            )

    def renew(self, lease: PartLease) -> bool:
        """Extend a lease (see `Ledger.renew`)."""
        with self._lock:
            flight = self._held(lease)
            if flight is not None:
                flight.until_s = self._clock() + lease.lease_s
            return flight is not None

    def release(self, lease: PartLease) -> None:
        """Release a lease after a transient error (see `Ledger.release`)."""
        with self._lock:
            flight = self._held(lease)
            if flight is not None:
                flight.until_s = self._clock() + self._patience_s
                flight.attempts -= 1
                flight.holder = None

    def note_rejects(self, lease: PartLease, rejected: int) -> int:
        """Record the rejected rows of a part under way (see `Ledger.note_rejects`)."""
        with self._lock:
            job = self._jobs.get(lease.job_id)
            if job is None or job.plan_sha256 != lease.plan_sha256:
                return rejected
            if lease.part in job.flights:
                job.flights[lease.part].rejected = rejected
            return job.rejected + sum(flight.rejected for flight in job.flights.values())

    def note_scored(self, lease: PartLease, rows: int) -> None:
        """Record the scored rows of a part under way (see `Ledger.note_scored`)."""
        with self._lock:
            job = self._jobs.get(lease.job_id)
            if job is not None and job.plan_sha256 == lease.plan_sha256 and lease.part in job.flights:
                job.flights[lease.part].scored = rows

    def complete(
        self, job_id: str, plan_sha256: str, part: int, *, rows: int, rejected: int, failure: str = ""
    ) -> Completed:
        """Count a part exactly once (see `Ledger.complete`)."""
        with self._lock:
            job = self._of_plan(job_id, plan_sha256)
            not_counted = Completed(next_part=None, all_done=job.all_done, stopped=job.stopped, counted=False)
            if job.stopped == "closed":
                return not_counted
            in_turn = job.flights.pop(part, None) is not None
            if part in job.done:
                return not_counted
            job.done.add(part)
            job.rebuilt = job.rebuilt or not in_turn
            job.rows += rows
            job.rejected += rejected
            if failure:
                job.failures[part] = failure
            if not job.stopped and not job.all_done:
                job.stopped = reason_to_stop(job)
            next_part = None if job.stopped else job.next_part()
            if next_part is not None:
                job.flights[next_part] = Flight(until_s=self._clock() + self._patience_s)
            return Completed(next_part=next_part, all_done=job.all_done, stopped=job.stopped, counted=True)

    def stopped(self, job_id: str) -> bool:
        """Return whether scoring should stop (see `Ledger.stopped`)."""
        with self._lock:
            job = self._jobs.get(job_id)
            return job is not None and job.stopped != ""

    def close(self, job_id: str) -> None:
        """Record that the outcome is written (see `Ledger.close`)."""
        with self._lock:
            job = self._jobs.get(job_id)
            if job is not None:
                job.stopped = "closed"
                self._jobs.keep(job_id, LIFE_AFTER_OUTCOME_S)

    def forget(self, job_id: str) -> None:
        """Delete the ledger of a job (see `Ledger.forget`)."""
        with self._lock:
            self._jobs.remove(job_id)
            self._steps.remove(job_id)

    def progress(self, job_id: str) -> Progress | None:
        """Return the progress of a job (see `Ledger.progress`)."""
        with self._lock:
            job = self._jobs.get(job_id)
            if job is None:
                return None
            return Progress(
                parts=job.parts,
                parts_done=len(job.done),
                rows=job.rows,
                rejected=job.rejected,
                failures=dict(job.failures),
                in_flight=len(job.flights),
                rows_under_way=sum(flight.scored for flight in job.flights.values()),
                stopped=job.stopped,
                uncounted=job.uncounted,
            )

    def claim_step(self, job_id: str, step: str) -> bool:
        """Return whether the caller must send the message of a step (see `Ledger.claim_step`)."""
        with self._lock:
            known, now = self._steps.get(job_id, step), self._clock()
            if known.until_s > now:
                return False
            known.until_s = now + min(LONGEST_PATIENCE_S, self._patience_s * 2**known.sent)
            known.sent += 1
            return True

    def begin_step(self, job_id: str, step: str, seconds: float) -> int:
        """Record that the caller works on a step (see `Ledger.begin_step`)."""
        with self._lock:
            known = self._steps.get(job_id, step)
            known.until_s = self._clock() + seconds
            known.attempts += 1
            return known.attempts

    def renew_step(self, job_id: str, step: str, seconds: float) -> None:
        """Record that the caller still works on a step (see `Ledger.renew_step`)."""
        with self._lock:
            if self._steps.find(job_id, step) is not None:
                self._steps.get(job_id, step).until_s = self._clock() + seconds

    def end_step(self, job_id: str, step: str, *, will_retry: bool = False) -> None:
        """Record that a step is done or will be retried (see `Ledger.end_step`)."""
        with self._lock:
            if will_retry:
                known = self._steps.get(job_id, step)
                known.attempts = max(0, known.attempts - 1)
            else:
                self._steps.end(job_id, step)

    def once_in(self, what: str, seconds: float) -> bool:
        """Return whether this is the first call for `what` in the given time (see `Ledger.once_in`)."""
        with self._lock:
            first = self._notes.get(f"once {what}") is None
            if first:
                self._notes.put(f"once {what}", 1, seconds)
            return first

    def note_processes(self, count: int, seconds: float) -> None:
        """Remember how many processes can score parts (see `Ledger.note_processes`)."""
        with self._lock:
            self._notes.put("processes", count, seconds)

    def processes(self) -> int:
        """Return the number of processes noted last (see `Ledger.processes`)."""
        with self._lock:
            return int(self._notes.get("processes") or 0)

    def note_tick(self) -> None:
        """Record that `scoreline.tick` runs now (see `Ledger.note_tick`)."""
        with self._lock:
            self._notes.put("tick", self._clock(), TICK_KNOWN_S)

    def seconds_since_tick(self) -> float | None:
        """Return how long ago `scoreline.tick` last ran (see `Ledger.seconds_since_tick`)."""
        with self._lock:
            ticked = self._notes.get("tick")
            return None if ticked is None else self._clock() - ticked

    def __repr__(self) -> str:
        return f"MemoryLedger(jobs={len(self._jobs)})"

    def _of_plan(self, job_id: str, plan_sha256: str) -> Job:
        job = self._jobs.get(job_id)
        if job is None:
            raise LedgerLost(f"job {job_id!r} has no ledger: it is rebuilt from the bucket")
        if job.plan_sha256 != plan_sha256:
            raise LedgerFenced(f"the ledger of job {job_id!r} belongs to another plan than the one in the bucket")
        return job

    def _held(self, lease: PartLease) -> Flight | None:
        """Return the part in flight if the holder of `lease` still has that lease; otherwise return None."""
        job = self._jobs.get(lease.job_id)
        if job is None or job.plan_sha256 != lease.plan_sha256:
            return None
        flight = job.flights.get(lease.part)
        return flight if flight is not None and flight.holder == lease.holder else None
