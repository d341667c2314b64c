"""Looks at the backlog again and again, and sets the number of dynos."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from scoreline.storage import keys
from scoreline.storage.errors import ScorelineError, describe
from scoreline.storage.ledger.base import Ledger
from scoreline.storage.objects.base import ObjectStore
from scoreline.storage.wording import plural
from scoreline.tasks.backlog.dynos import Decision, Policy, decide
from scoreline.tasks.backlog.reader import Backlog, BacklogReader

log = logging.getLogger(__name__)

LIST_EVERY = 10
"""Number of looks without work between two listings of the jobs under way in the bucket, because Redis may have been
emptied. The jobs are also listed before each removal of dynos."""


class Dynos(Protocol):
    """What runs the workers: the formation of a Heroku app, or something that only counts workers."""

    @property
    def wait_s(self) -> float:
        """Seconds for which no request is wanted."""
        ...

    def quantity(self) -> int:
        """Return the number of dynos."""
        ...

    def scale(self, quantity: int) -> int:
        """Set the number of dynos, and return it."""
        ...


@dataclass(frozen=True, kw_only=True)
class Look:
    """What a look at the backlog has found."""

    dynos: int
    """Number of dynos before the look."""
    decision: Decision
    backlog: Backlog

    @property
    def changes(self) -> bool:
        """Whether the number of dynos has to change."""
        return self.decision.dynos != self.dynos


@dataclass(kw_only=True)
class Scaler:
    """Sets the number of dynos so that the backlog ends in time."""

    dynos: Dynos
    main: ObjectStore
    ledger: Ledger
    waiting: Callable[[], int]
    """Returns the number of messages that wait for a worker."""
    policy: Policy
    apply: bool
    """Whether the number of dynos is set, and not only computed."""
    worker_size: int = 0
    """Number of processes of a dyno; 0 for the number that workers have reported."""
    tick: Callable[[], object] | None = None
    """Submits the jobs of due schedules. It is called while no worker runs that could submit them."""
    now: Callable[[], float] = time.time

    def __post_init__(self) -> None:
        self._reader = BacklogReader(self.main, self.ledger)
        self._looks_without_work = 0

    def look(self) -> Look:
        """Decide how many dynos there should be, and set this number if `apply` is true.

        Raises
        ------
        PlatformUnavailable, LedgerUnavailable, QueueUnavailable, StoreUnavailable
            Transient: the number of dynos is as before, or as decided.
        PlatformRefused
            The platform refuses the request.
        """
        dynos = self.dynos.quantity()
        if dynos == 0 and self.apply:
            self._tick()
        backlog = self._reader.read()
        decision = self._decide(backlog, dynos)
        if self._must_list(decision, dynos) and self._find_unknown(backlog):
            backlog = self._reader.read()
            decision = self._decide(backlog, dynos)
            if decision.dynos < dynos:  # the jobs have ended meanwhile; the next look decides
                decision = Decision(dynos=dynos, reason="Redis had lost jobs that are under way in the bucket")
        look = Look(dynos=dynos, decision=decision, backlog=backlog)
        if look.changes and self.apply:
            self.dynos.scale(decision.dynos)
            log.info("dynos.scaled", extra={"before": dynos, "after": decision.dynos, "why": decision.reason})
        return look

    def run(
        self, every_s: float, say: Callable[[Look | ScorelineError], object], wait: Callable[[float], bool]
    ) -> None:
        """Look every `every_s` seconds. After a transient error, try again at the next look.

        Parameters
        ----------
        say : callable
            Receives each look and each transient error.
        wait : callable
            Waits for some seconds, and returns whether to stop.
        """
        while True:
            try:
                say(self.look())
            except ScorelineError as error:
                if not error.transient:
                    raise
                log.warning("scale.unavailable", extra={"error": describe(error)})
                say(error)
            if wait(max(every_s, self.dynos.wait_s)):
                return

    def _tick(self) -> None:
        if self.tick is None:
            return
        try:
            self.tick()
        except ScorelineError as error:  # a fault of a schedule must not keep other work waiting
            log.warning("scale.tick_failed", extra={"error": describe(error)})

    def _decide(self, backlog: Backlog, dynos: int) -> Decision:
        waiting = self.waiting()
        if backlog.under_way or waiting:
            self._looks_without_work = 0
            self.ledger.note_busy()
            idle_s = 0.0
        else:
            self._looks_without_work += 1
            idle_s = self.ledger.note_idle()
        return decide(
            backlog,
            self.policy,
            now=self.now(),
            dynos=dynos,
            waiting=waiting,
            worker_size=self.worker_size or backlog.worker_size or 1,
            idle_s=idle_s,
        )

    def _must_list(self, decision: Decision, dynos: int) -> bool:
        due = self._looks_without_work % LIST_EVERY == 1 and self._looks_without_work > 0
        return decision.dynos < dynos or due

    def _find_unknown(self, backlog: Backlog) -> bool:
        """Put jobs that only the bucket knows on the watchlist. Return whether there are any."""
        listed = {info.key.removeprefix(keys.JOBS_ACTIVE) for info in self.main.list(keys.JOBS_ACTIVE)}
        unknown = listed - {job.job_id for job in backlog.jobs} - backlog.unreadable
        if unknown:
            self.ledger.watchlist.add(unknown)
            log.warning("scale.jobs_found", extra={"jobs": len(unknown)})
        return bool(unknown)


def in_words(look: Look, kind: str, *, applied: bool) -> str:
    """Return what a look has decided, as a line for people.

    >>> from scoreline.tasks.backlog.reader import Backlog
    >>> look = Look(dynos=1, decision=Decision(dynos=3, reason="why"), backlog=Backlog(jobs=()))
    >>> in_words(look, "worker", applied=True), in_words(look, "worker", applied=False)
    ('worker: 1 dyno, now 3: why', 'worker: 1 dyno, should be 3: why')
    """
    before = f"{kind}: {plural(look.dynos, 'dyno')}"
    if not look.changes:
        return f"{before}: {look.decision.reason}"
    return f"{before}, {'now' if applied else 'should be'} {look.decision.dynos}: {look.decision.reason}"


class CountedWorkers:
    """Counts the running workers as dynos, where no platform can be asked.

    Parameters
    ----------
    count : callable
        Returns the number of workers.
    """

    wait_s = 0.0

    def __init__(self, count: Callable[[], int]) -> None:
        self._count = count

    def quantity(self) -> int:
        """Return the number of workers that answer."""
        return self._count()

    def scale(self, quantity: int) -> int:
        """Refuse, because nothing can be set."""
        raise NotImplementedError(f"nothing can start or stop {quantity} workers")
