"""The interface of the watchlist. `tests/integration/storage/ledger/test_watchlists.py` tests every implementation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

THOROUGH_S = 3600.0
"""Seconds after which a job is due even if its ledger says otherwise, because only the bucket is authoritative."""


class Watchlist(Protocol):
    """The jobs under way, as far as the ledger knows them, for the reconciler to look at in turn.

    Unlike a listing of the bucket, it costs nothing to read. It may lack jobs or contain ended ones: the bucket is
    authoritative. Each call is atomic, and times come from the ledger's own clock.

    Every method raises `LedgerUnavailable` (transient) if the ledger cannot be reached.
    """

    def lock(self, what: str, holder: str, seconds: float) -> bool:
        """Acquire a lock for `seconds`, or renew it. Return False if another holder has it."""
        ...

    def unlock(self, what: str, holder: str) -> None:
        """Release a lock, if `holder` still has it."""
        ...

    def add(self, job_ids: Iterable[str]) -> None:
        """Add jobs, to be looked at now. Jobs that are on the list stay where they are."""
        ...

    def remove(self, job_id: str) -> None:
        """Remove a job that has ended."""
        ...

    def take(self, limit: int, again_s: float) -> Sequence[str]:
        """Return up to `limit` jobs to look at, those first that have waited longest.

        No other call returns them within `again_s` seconds.
        """
        ...

    def put_off(self, job_id: str, seconds: float) -> None:
        """Look at a job again only after `seconds`."""
        ...

    def due(self, job_ids: Sequence[str], window: int) -> Sequence[str]:
        """Return those of `job_ids` to reconcile.

        A job is due if it has no ledger, if parts of it are lost, if it has fewer than `window` parts in flight
        although some are left, or if it has ended. It is not due while the message of its next step is under way. After
        `THOROUGH_S`, each job is due until it is `looked_at`.
        """
        ...

    def looked_at(self, job_id: str) -> None:
        """Record that a job was compared with the bucket, which is due once in `THOROUGH_S`."""
        ...
