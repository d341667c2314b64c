"""A process caches documents, limits the parts of a job in the queue, and sends each step once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from scoreline.storage import keys
from scoreline.storage.errors import QueueUnavailable
from scoreline.storage.ledger.memory_ledger import MemoryLedger
from scoreline.tasks.dispatch.dispatcher import MAX_WINDOW, MIN_WINDOW, PARTS_PER_PROCESS, Dispatcher, send_step
from tests.support.line_jobs import desk


def test_a_step_whose_message_could_not_be_sent_is_sent_by_the_next_caller() -> None:
    sent: list[str] = []
    outages = [QueueUnavailable("no broker")]

    def send(name: str, **kwargs: Any) -> None:
        if outages:
            raise outages.pop()
        sent.append(name)

    buckets: Any = None
    dispatcher = Dispatcher(buckets=buckets, ledger=MemoryLedger(), send=send)
    with pytest.raises(QueueUnavailable):
        send_step(dispatcher, "plan", "j")
    assert send_step(dispatcher, "plan", "j")
    assert not send_step(dispatcher, "plan", "j")
    assert sent == ["scoreline.plan"]


@pytest.mark.parametrize(
    ("processes", "window"),
    [(0, MIN_WINDOW), (1, MIN_WINDOW), (10, 10 * PARTS_PER_PROCESS), (100_000, MAX_WINDOW)],
)
def test_the_window_grows_with_the_processes_within_limits(processes: int, window: int) -> None:
    ledger = MemoryLedger()
    ledger.note_processes(processes, 60)
    buckets: Any = None
    assert Dispatcher(buckets=buckets, ledger=ledger, send=lambda name, **_: None).window() == window


def test_documents_are_read_again_if_others_may_have_replaced_the_job(tmp_path: Path) -> None:
    with desk(tmp_path) as at:
        job_id = at.plan(rows=40, job_id="same")
        assert at.engine.documents(job_id).plan.parts == 4
        # When the job is deleted by hand, and another job uses the same id
        for key in (keys.job(job_id), keys.plan(job_id)):
            at.client.buckets.main.delete(key)
        at.engine.ledger.forget(job_id)
        at.plan(rows=80, job_id="same")
        # Then the documents are those of the new job
        assert at.engine.documents(job_id, fresh=True).plan.parts == 8
