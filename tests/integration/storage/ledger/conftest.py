"""Every ledger, for the contract tests."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable

import pytest

from scoreline.storage.ledger.base import Ledger
from scoreline.storage.ledger.memory_ledger import MemoryLedger
from scoreline.storage.ledger.redis_ledger import RedisLedger
from scoreline.worker.dev.stack import Stack
from tests.support.ledgers import PATIENCE_S, Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["redis", "memory"])
def open_ledger(request: pytest.FixtureRequest, clock: Clock) -> Callable[[], Ledger]:
    """Return a function that opens the ledger again, as a second process would. In memory, it is the same one."""
    if request.param == "memory":
        ledger = MemoryLedger(patience_s=PATIENCE_S, clock=clock)
        return lambda: ledger
    stack: Stack = request.getfixturevalue("stack")
    url, bucket = stack.environ["REDIS_URL"], f"bucket-{secrets.token_hex(4)}"
    return lambda: RedisLedger(url, namespace=bucket, patience_s=PATIENCE_S, clock=clock)


@pytest.fixture
def ledger(open_ledger: Callable[[], Ledger]) -> Ledger:
    return open_ledger()


@pytest.fixture
def job() -> str:
    return f"job-{secrets.token_hex(4)}"


@pytest.fixture
def elapse(ledger: Ledger, clock: Clock) -> Callable[[float], None]:
    """Return a function that lets time pass until keys expire; Redis expires them by its own clock."""

    def pass_time(seconds: float) -> None:
        clock.advance(seconds)
        if isinstance(ledger, RedisLedger):
            time.sleep(seconds)

    return pass_time
