"""What the contract tests of ledgers share: a clock that tests advance, and leases."""

from __future__ import annotations

from scoreline.storage.ledger.base import PartLease

LEASE_S = 60.0
PATIENCE_S = 120.0


class Clock:
    """A clock that stands still until a test advances it."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


def lease(job: str, part: int, holder: str = "m", lease_s: float = LEASE_S, plan: str = "p") -> PartLease:
    return PartLease(job_id=job, plan_sha256=plan, part=part, holder=holder, lease_s=lease_s)
