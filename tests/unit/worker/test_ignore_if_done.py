"""The message of a request is dropped if another process has answered the request between two batches."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from celery.exceptions import Ignore

from scoreline.storage.ledger.memory_ledger import MemoryLedger
from scoreline.storage.ledger.waiting import WaitingStep
from scoreline.worker import lifecycle
from scoreline.worker.retries import ignore_if_done

STEP = WaitingStep(task="scoreline.status", job_id="r")


class Fake:
    """The task of a message that has come back after another process had taken its request."""

    name = STEP.task
    app = None

    def __init__(self, state: str) -> None:
        self.request: Any = SimpleNamespace(id="r", retries=1, get=lambda name: None)
        self.backend = SimpleNamespace(get_state=lambda request_id: state)


@pytest.fixture
def ledger(monkeypatch: pytest.MonkeyPatch) -> MemoryLedger:
    made = MemoryLedger()
    monkeypatch.setattr(lifecycle, "engine", lambda app: SimpleNamespace(ledger=made))
    return made


@pytest.mark.parametrize("state", ["SUCCESS", "FAILURE", "PENDING"])
def test_a_request_that_is_answered_is_not_done_again(ledger: MemoryLedger, state: str) -> None:
    ledger.waiting.end(STEP, done=True)
    with pytest.raises(Ignore):
        ignore_if_done(Fake(state))  # type: ignore[arg-type]


def test_a_request_whose_failure_was_overwritten_is_answered_again(ledger: MemoryLedger) -> None:
    """Celery stores that a message is retried, also over a failure that the other process has stored meanwhile."""
    ledger.waiting.end(STEP, done=True)
    ignore_if_done(Fake("RETRY"))  # type: ignore[arg-type]


def test_a_request_that_no_process_has_done_is_done(ledger: MemoryLedger) -> None:
    ignore_if_done(Fake("RETRY"))  # type: ignore[arg-type]
