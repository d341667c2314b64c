"""Every ledger knows the trace of a part, whichever message a process uses for the part."""

from __future__ import annotations

from scoreline.storage.ledger.base import Ledger, PartLease
from tests.support.ledgers import LEASE_S

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def lease(job_id: str, holder: str = "h", part: int = 0) -> PartLease:
    return PartLease(job_id=job_id, plan_sha256="p", part=part, holder=holder, lease_s=LEASE_S)


def test_a_part_has_the_trace_of_its_job_whatever_message_it_is_scored_with(ledger: Ledger) -> None:
    ledger.begin("traced", "p", 2, budget=0, trace=TRACE)
    ledger.begin("other", "p", 1, budget=0)
    for job_id in ("traced", "other"):
        ledger.dispatch(job_id, "p", 2)
    found = {}
    for number in range(3):
        due, started = ledger.start_due(lease("other", f"h{number}"), {})
        found[due.job_id, due.part] = started.trace
    assert found == {("traced", 0): TRACE, ("traced", 1): TRACE, ("other", 0): ""}


def test_a_part_that_its_message_names_has_the_trace_of_its_job(ledger: Ledger) -> None:
    ledger.begin("traced", "p", 2, budget=0, trace=TRACE)
    ledger.dispatch("traced", "p", 2)
    assert ledger.start(lease("traced")).trace == TRACE
    taken = ledger.start_any("another", LEASE_S, {})
    assert taken is not None
    assert taken[1].trace == TRACE
    assert ledger.start_any("a third", LEASE_S, {}) is None
