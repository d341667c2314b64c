"""Records in the ledger how many rows a part has scored so far, to show progress in jobs with few parts."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from scoreline.storage.errors import LedgerError

NOTE_S = 2.0
"""Seconds between two notes in the ledger. A part that takes less time writes no note."""


@dataclass(kw_only=True)
class ScoredNotes:
    """Callable that receives the number of rows that a part has scored so far.

    Parameters
    ----------
    note : callable or None
        Records the number in the ledger (see `Ledger.note_scored`).
    clock : callable
        Returns the time in seconds, from any origin.
    """

    note: Callable[[int], None] | None
    clock: Callable[[], float] = time.monotonic
    _noted_s: float = field(init=False)

    def __post_init__(self) -> None:
        self._noted_s = self.clock()

    def __call__(self, rows: int) -> None:
        """Record the number of rows, at most every `NOTE_S` seconds."""
        now = self.clock()
        if self.note is None or now - self._noted_s < NOTE_S:
            return
        self._noted_s = now
        with contextlib.suppress(LedgerError):
            self.note(rows)
