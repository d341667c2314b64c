"""A ledger in the memory of one process, for testing Scoreline and applications that use it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from scoreline.storage.errors import LedgerFenced, LedgerLost
from scoreline.storage.ledger.base import (
    LIFE_AFTER_OUTCOME_S,
    LIFE_S,
    LONGEST_PATIENCE_IN_QUEUE_S,
    LONGEST_PATIENCE_S,
    Completed,
    Due,
    PartLease,
    Progress,
    Recovered,
    Started,
    Stopped,
    ToDo,
)
from scoreline.storage.ledger.memory_answers import MemoryAnswers
from scoreline.storage.ledger.memory_counters import MemoryCounters
from scoreline.storage.ledger.memory_shares import MemoryShares
from scoreline.storage.ledger.memory_state import Expiring, Flight, Job, Used, reason_to_stop
from scoreline.storage.ledger.memory_steps import MemorySteps
from scoreline.storage.ledger.memory_waiting import MemoryWaitingSteps
from scoreline.storage.ledger.memory_watchlist import MemoryWatchlist
from scoreline.storage.ledger.shares import NO_TERMS, Terms


class MemoryLedger(MemorySteps):
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
        super().__init__(patience_s, clock)
        self._jobs: Expiring[Job] = Expiring(clock)
        self._shares = MemoryShares()
        self.counters = MemoryCounters()
        self.watchlist = MemoryWatchlist(self._lock, clock, self._jobs, self._steps)
        self.waiting = MemoryWaitingSteps(self._lock, clock)
        self.answers = MemoryAnswers(clock)

    def ping(self) -> None:
        """Do nothing, because this ledger always answers (see `Ledger.ping`)."""

    def begin(
        self,
        job_id: str,
        plan_sha256: str,
        parts: int,
        *,
        budget: int,
        recovered: Recovered | None = None,
        work: str = "",
        terms: Terms = NO_TERMS,
        trace: str = "",
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
                work=work,
                terms=terms,
                trace=trace,
            )
            self._jobs.put(job_id, job, LIFE_S)
            return True

    def dispatch(self, job_id: str, plan_sha256: str, window: int, *, queue_is_long: bool = False) -> Due:
        """Claim the parts to put into the queue now (see `Ledger.dispatch`)."""
        with self._lock:
            job = self._of_plan(job_id, plan_sha256)
            self._jobs.keep(job_id, LIFE_S)
            job.stop_if_late(self._clock())
            claimed = []
            if not job.stopped:
                lost = self._claim_lost(job, LONGEST_PATIENCE_IN_QUEUE_S if queue_is_long else LONGEST_PATIENCE_S)
                new = self._claim_new(job, min(window, job.terms.max_parts or window))
                claimed = [part for part, was_begun in lost if was_begun or not queue_is_long] + new
                if lost or new:
                    self._shares.list_job(job_id, job.terms)
            return Due(parts=tuple(claimed), all_done=job.all_done, stopped=job.stopped)

    def _claim_lost(self, job: Job, longest_s: float) -> list[tuple[int, bool]]:
        """Return the parts that seem to have lost their message or process, and whether a process had begun them."""
        now = self._clock()
        lost = []
        for part, flight in job.flights.items():
            if flight.until_s > now:
                continue
            lost.append((part, flight.holder is not None))
            # The wait doubles with each unanswered message, because the queue may simply be long.
            flight.until_s = now + min(longest_s, self._patience_s * 2**flight.sent)
            flight.sent += 1
            self._forget_message(flight)
            flight.holder = flight.charge = None
            flight.waits_for_retry = False
        return lost

    def _claim_new(self, job: Job, window: int) -> list[int]:
        new = []
        while len(job.flights) < window and (following := job.next_part()) is not None:
            job.flights[following] = Flight(until_s=self._clock() + min(LONGEST_PATIENCE_S, self._patience_s))
            new.append(following)
        return new

    def start(self, lease: PartLease, *, is_retry: bool = False) -> Started:
        """Take the lease of a part (see `Ledger.start`)."""
        with self._lock:
            job = self._of_plan(lease.job_id, lease.plan_sha256)
            job.stop_if_late(self._clock())
            return self._start(job, lease, is_retry=is_retry)

    def start_due(
        self, lease: PartLease, weights: Mapping[str, int], *, is_retry: bool = False
    ) -> tuple[PartLease, Started]:
        """Take the lease of the part that is due (see `Ledger.start_due`)."""
        with self._lock:
            own, now = self._of_plan(lease.job_id, lease.plan_sha256), self._clock()
            own.stop_if_late(now)
            flight = own.flights.get(lease.part)
            if is_retry or (flight is not None and flight.holder == lease.holder):
                return lease, self._start(own, lease, is_retry=is_retry)
            if (earlier := self._earlier(own, lease)) is not None:
                return earlier, self._start(self._of_plan(earlier.job_id, earlier.plan_sha256), earlier)
            if (taken := self._start_chosen(lease, weights)) is None:
                if flight is not None and flight.waits_for_retry and not own.stopped:
                    return lease, self._refused(own, "busy")
                return lease, self._start(own, lease)
            due = taken[0]
            if due != lease:
                own.messages[lease.part] = Used(holder=lease.holder, job_id=due.job_id, part=due.part)
                self._of_plan(due.job_id, due.plan_sha256).flights[due.part].message = lease.job_id, lease.part
            return taken

    def start_any(self, holder: str, lease_s: float, weights: Mapping[str, int]) -> tuple[PartLease, Started] | None:
        """Take the lease of the part that is due, for a message whose job has no ledger (see `Ledger.start_any`)."""
        with self._lock:
            nobody = PartLease(job_id="", plan_sha256="", part=0, holder=holder, lease_s=lease_s)
            return self._start_chosen(nobody, weights)

    def _start_chosen(self, lease: PartLease, weights: Mapping[str, int]) -> tuple[PartLease, Started] | None:
        """Take the lease of the part that is due; None if no part waits."""
        chosen = self._shares.choose(lambda job_id: self._waiting_part(job_id, lease))
        if chosen is None:
            return None
        job = self._jobs.get(chosen.job_id)
        assert job is not None
        due = replace(lease, job_id=chosen.job_id, part=chosen.part, plan_sha256=job.plan_sha256)
        job.flights[chosen.part].charge = self._shares.charge(job, chosen, weights, self._clock())
        return due, self._start(job, due)

    def _waiting_part(self, job_id: str, lease: PartLease) -> int | None:
        """Return the part of a job that waits. A message prefers the part that it names."""
        job = self._jobs.get(job_id)
        if job is None:
            return None
        job.stop_if_late(self._clock())
        if job.stopped:
            return None
        own = job.flights.get(lease.part) if job_id == lease.job_id else None
        return lease.part if own and own.holder is None and not own.waits_for_retry else job.waiting_part()

    def _earlier(self, own: Job, lease: PartLease) -> PartLease | None:
        """Return the lease that the holder has of another part, if its message is delivered again."""
        used = own.messages.get(lease.part)
        job = self._jobs.get(used.job_id) if used is not None and used.holder == lease.holder else None
        if used is None or job is None or job.stopped:
            return None
        flight = job.flights.get(used.part)
        if flight is None or flight.holder != lease.holder:
            return None
        return replace(lease, job_id=used.job_id, part=used.part, plan_sha256=job.plan_sha256)

    @staticmethod
    def _refused(job: Job, to_do: ToDo, attempt: int = 0) -> Started:
        return Started(to_do=to_do, attempt=attempt, all_done=job.all_done, result_may_exist=False, budget=0)

    def _start(self, job: Job, lease: PartLease, *, is_retry: bool = False) -> Started:
        if job.stopped:
            return self._refused(job, "late" if job.stopped == "deadline" else "stopped")
        flight = job.flights.get(lease.part)
        if flight is None:
            return self._refused(job, "done" if lease.part in job.done else "unknown")
        now = self._clock()
        if flight.holder not in (None, lease.holder) and flight.until_s > now:
            return self._refused(job, "busy", flight.attempts)
        if not (is_retry and flight.holder == lease.holder):
            flight.attempts += 1
        flight.holder = lease.holder
        flight.rejected = flight.scored = 0
        flight.waits_for_retry = False
        flight.until_s = now + lease.lease_s
        return Started(
            to_do="run",
            attempt=flight.attempts,
            all_done=job.all_done,
            result_may_exist=job.rebuilt or flight.attempts > 1,
            budget=job.budget,
            trace=job.trace,
        )

    def renew(self, lease: PartLease) -> bool:
        """Extend a lease (see `Ledger.renew`)."""
        with self._lock:
            flight = self._held(lease)
            if flight is not None:
                flight.until_s = self._clock() + lease.lease_s
            return flight is not None

    def release(self, lease: PartLease, *, retried: bool = False) -> None:
        """Release a lease (see `Ledger.release`)."""
        with self._lock:
            flight = self._held(lease)
            if flight is None:
                return
            self._shares.settle(flight.charge, self._clock())
            self._forget_message(flight)
            flight.until_s = self._clock() + self._patience_s
            flight.attempts -= 1
            flight.holder = flight.charge = None
            flight.waits_for_retry = retried
            job = self._jobs.get(lease.job_id)
            if job is not None and not retried and not job.stopped:
                self._shares.list_job(lease.job_id, job.terms)

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
        self,
        job_id: str,
        plan_sha256: str,
        part: int,
        *,
        rows: int,
        rejected: int,
        failure: str = "",
        seconds: float | None = None,
    ) -> Completed:
        """Count a part exactly once (see `Ledger.complete`)."""
        with self._lock:
            job = self._of_plan(job_id, plan_sha256)
            not_counted = Completed(next_part=None, all_done=job.all_done, stopped=job.stopped, counted=False)
            if job.stopped == "closed":
                if (ended := job.flights.pop(part, None)) is not None:
                    self._end(job, ended)
                return not_counted
            flight = job.flights.pop(part, None)
            if part in job.done:
                return not_counted
            job.done.add(part)
            job.rebuilt = job.rebuilt or flight is None
            if flight is not None:
                self._end(job, flight)
            job.rows += rows
            job.rejected += rejected
            if failure:
                job.failures[part] = failure
            if not job.stopped and not job.all_done:
                job.stopped = reason_to_stop(job)
            next_part = None if job.stopped else job.next_part()
            if next_part is not None:
                job.flights[next_part] = Flight(until_s=self._clock() + self._patience_s)
                self._shares.list_job(job_id, job.terms)
            self.counters.count_part(rows=rows, rejected=rejected, failed=bool(failure), seconds=seconds)
            return Completed(next_part=next_part, all_done=job.all_done, stopped=job.stopped, counted=True)

    def _end(self, job: Job, flight: Flight) -> None:
        """Charge the group of a part that has ended."""
        took = self._shares.settle(flight.charge, self._clock())
        if took is not None:
            job.cost_s = took if job.cost_s is None else (job.cost_s + took) / 2
        self._forget_message(flight)

    def _forget_message(self, flight: Flight) -> None:
        """Forget for which part the message of a part was used."""
        if flight.message is not None and (other := self._jobs.get(flight.message[0])) is not None:
            other.messages.pop(flight.message[1], None)
        flight.message = None

    def stopped(self, job_id: str) -> Stopped:
        """Return why scoring should stop (see `Ledger.stopped`)."""
        with self._lock:
            job = self._jobs.get(job_id)
            if job is None:
                return ""
            job.stop_if_late(self._clock())
            return job.stopped

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
                work=job.work,
            )

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
