"""The steps and notes of a ledger in memory: what only one process at a time should do, or only once in a while."""

from __future__ import annotations

import threading
from collections.abc import Callable

from scoreline.storage.ledger.base import IDLE_KNOWN_S, LIFE_S, LONGEST_PATIENCE_S, TICK_KNOWN_S
from scoreline.storage.ledger.memory_state import Expiring, Steps


class MemorySteps:
    """The part of `MemoryLedger` that does not depend on the parts of jobs.

    Parameters
    ----------
    patience_s, clock
        As for `MemoryLedger`.
    """

    def __init__(self, patience_s: float, clock: Callable[[], float]) -> None:
        self._patience_s = patience_s
        self._clock = clock
        self._lock = threading.Lock()
        self._steps = Steps(clock)
        self._notes: Expiring[float] = Expiring(clock)

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

    def note_object(self, job_id: str, step: str, uri: str) -> None:
        """Record which object a step or a part is about to read (see `Ledger.note_object`)."""
        with self._lock:
            self._steps.get(job_id, step).reads = uri

    def noted_object(self, job_id: str, step: str) -> str:
        """Return the URI that was recorded last (see `Ledger.noted_object`)."""
        with self._lock:
            known = self._steps.find(job_id, step)
            return "" if known is None else known.reads

    def once_in(self, what: str, seconds: float) -> bool:
        """Return whether this is the first call for `what` in the given time (see `Ledger.once_in`)."""
        with self._lock:
            first = self._notes.get(f"once {what}") is None
            if first:
                self._notes.put(f"once {what}", 1, seconds)
            return first

    def set_flag(self, name: str, seconds: float) -> None:
        """Set a flag (see `Ledger.set_flag`)."""
        with self._lock:
            self._notes.put(f"flag {name}", 1, seconds)

    def take_flag(self, name: str) -> bool:
        """Take a flag that was set (see `Ledger.take_flag`)."""
        with self._lock:
            was_set = self._notes.get(f"flag {name}") is not None
            self._notes.remove(f"flag {name}")
            return was_set

    def note_processes(self, count: int, seconds: float) -> None:
        """Remember how many processes can score parts (see `Ledger.note_processes`)."""
        with self._lock:
            self._notes.put("processes", count, seconds)

    def processes(self) -> int:
        """Return the number of processes noted last (see `Ledger.processes`)."""
        with self._lock:
            return int(self._notes.get("processes") or 0)

    def note_worker_size(self, processes: int) -> None:
        """Remember how many processes a worker has (see `Ledger.note_worker_size`)."""
        with self._lock:
            self._notes.put("worker size", processes, LIFE_S)

    def worker_size(self) -> int:
        """Return how many processes a worker has (see `Ledger.worker_size`)."""
        with self._lock:
            return int(self._notes.get("worker size") or 0)

    def note_busy(self) -> None:
        """Record that there is work (see `Ledger.note_busy`)."""
        with self._lock:
            self._notes.remove("idle")

    def note_idle(self) -> float:
        """Record that there is no work (see `Ledger.note_idle`)."""
        with self._lock:
            if (since := self._notes.get("idle")) is None:
                self._notes.put("idle", since := self._clock(), IDLE_KNOWN_S)
            return self._clock() - since

    def note_tick(self) -> None:
        """Record that `scoreline.tick` runs now (see `Ledger.note_tick`)."""
        with self._lock:
            self._notes.put("tick", self._clock(), TICK_KNOWN_S)

    def seconds_since_tick(self) -> float | None:
        """Return how long ago `scoreline.tick` last ran (see `Ledger.seconds_since_tick`)."""
        with self._lock:
            ticked = self._notes.get("tick")
            return None if ticked is None else self._clock() - ticked
