"""Ends a part once the rejected rows of its job, in counted parts and parts under way, exceed the budget of the job."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from scoreline.storage.errors import LedgerUnavailable

REJECTED_SHOWN = 1_000
"""Up to this number of rejected rows, parts are written even if the job allows fewer, so that users can read the
reasons."""
NOTE_S = 0.5
"""Seconds between two notes in the ledger. Most parts take less time, and write no note."""
PATIENCE_S = 2.0
"""If the job is over its budget, but has at most `REJECTED_SHOWN` rejected rows, the part continues for this many
seconds to find more of them. With a slow model, finding all rejected rows would take long, and the job fails anyway."""


@dataclass(kw_only=True)
class RejectWatch:
    """Callable that receives the number of rows that a part has rejected so far, each time this number grows.

    Parameters
    ----------
    budget : int
        Number of rows that the job may reject.
    note : callable or None
        Records the number of rejected rows of the part, and returns the number of the whole job (see
        `Ledger.note_rejects`). If `note` is None, this class never ends the part.
    check_stopped : callable
        Raises an error if the job has ended meanwhile.
    clock : callable
        Returns the time in seconds, from any origin.
    """

    budget: int
    note: Callable[[int], int] | None
    check_stopped: Callable[[], None]
    clock: Callable[[], float] = time.monotonic
    over: int | None = None
    """Number of rejected rows of the job, if this number exceeds the budget."""
    _noted_s: float = field(init=False)
    _over_since_s: float | None = None

    def __post_init__(self) -> None:
        self._noted_s = self.clock()

    def __call__(self, rejected: int) -> bool:
        """Record the rejected rows, at most every `NOTE_S` seconds. Return whether the part must end."""
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
