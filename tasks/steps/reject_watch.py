"""Ends a part once the rejected rows of all parts under way exceed the budget of their job."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from scoreline.storage.errors import LedgerUnavailable

REJECTED_SHOWN = 1_000
"""Number of rejected rows up to which parts are written even if the job allows fewer, so that users can read the
reasons."""
NOTE_S = 0.5
"""Seconds between two notes in the ledger. Most parts take less time, and leave no note."""
PATIENCE_S = 2.0
"""If the job is over its budget, but has at most `REJECTED_SHOWN` rejected rows, the part goes on for this many seconds
to find more of them. With a slow model, finding all of them would take long, and it cannot save the job."""


@dataclass(kw_only=True)
class RejectWatch:
    """Called with the number of rows that a part has rejected so far, whenever there are more.

    Parameters
    ----------
    budget : int
        Number of rows that the job may reject.
    note : callable or None
        Notes the rejected rows of the part, and returns those of the job (see `Ledger.note_rejects`). Without it, the
        part does not end.
    check_stopped : callable
        Raises an error if the job has ended meanwhile.
    clock : callable
        Returns seconds, from any beginning.
    """

    budget: int
    note: Callable[[int], int] | None
    check_stopped: Callable[[], None]
    clock: Callable[[], float] = time.monotonic
    over: int | None = None
    """Number of rejected rows of the job, if these are more than it may reject."""
    _noted_s: float = field(init=False)
    _over_since_s: float | None = None

    def __post_init__(self) -> None:
        self._noted_s = self.clock()

    def __call__(self, rejected: int) -> bool:
        """Note the rejected rows, if it is time. Return whether the part must end: the job is over its budget."""
        now = self.clock()
        if self.note is None or now - self._noted_s < NOTE_S:
            return False
        self._noted_s = now
        self.check_stopped()
        total = rejected
        with contextlib.suppress(LedgerUnavailable):
            total = self.note(rejected)
        if total <= self.budget:
            return False
        self._over_since_s = now if self._over_since_s is None else self._over_since_s
        if total > REJECTED_SHOWN or now - self._over_since_s > PATIENCE_S:
            self.over = total
        return self.over is not None
