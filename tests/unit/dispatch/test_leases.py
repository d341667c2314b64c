"""A process renews its leases while it works, and the attempts of a step are limited."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from scoreline.storage.errors import LedgerUnavailable, ProcessDied
from scoreline.storage.ledger.memory_ledger import MemoryLedger
from scoreline.tasks.dispatch.dispatcher import Dispatcher
from scoreline.tasks.dispatch.leases import STEP_ATTEMPTS, hold_step, keep_renewed
from tests.support.waiting import wait_until


def renewing() -> bool:
    return any(thread.name == "renew" for thread in threading.enumerate())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_lease_is_renewed_again_and_again_even_if_it_fails_once() -> None:
    times: list[float] = []

    def renew() -> None:
        times.append(time.monotonic())
        if len(times) == 1:
            raise LedgerUnavailable("no Redis")

    with keep_renewed(renew, 0.001):
        wait_until(lambda: len(times) >= 3 or not renewing(), "three renewals")
    assert len(times) >= 3
    assert not renewing()


def dispatcher() -> Dispatcher:
    buckets: Any = None
    return Dispatcher(buckets=buckets, ledger=MemoryLedger(), send=lambda name, **_: None)


def test_a_step_in_which_the_process_died_too_often_is_not_tried_again() -> None:
    at = dispatcher()
    for _ in range(STEP_ATTEMPTS):  # the process dies in each attempt
        at.ledger.begin_step("j", "plan", 60)
    with pytest.raises(ProcessDied, match="died 3 times at the step 'plan'"), hold_step(at, "j", "plan"):
        pytest.fail("the step was tried")


def test_a_step_that_failed_belongs_to_its_retry_and_not_to_the_reconciler() -> None:
    at = dispatcher()
    with pytest.raises(LedgerUnavailable), hold_step(at, "j", "plan"):
        raise LedgerUnavailable("no Redis")
    assert not at.ledger.claim_step("j", "plan")
    assert at.ledger.begin_step("j", "plan", 60) == 1
    with hold_step(at, "k", "plan"):
        assert not at.ledger.claim_step("k", "plan")
    assert at.ledger.claim_step("k", "plan")
