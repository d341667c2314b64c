"""A lost ledger is rebuilt with a bounded number of requests, and the finalizer still counts every row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from scoreline.storage.errors import LedgerLost
from scoreline.tasks.dispatch import reconcile as reconciling
from scoreline.tasks.dispatch.reconcile import reconcile_job, recover
from tests.support.one_job import OneJob


def test_few_receipts_are_read_to_rebuild_a_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = OneJob(tmp_path, rows=6, part_rows=1, refused=(0.0, 1.0, 3.0, 4.0))
    job.run(7)
    heads: list[str] = []
    head = job.store.head

    def counted(key: str) -> Any:
        heads.append(key)
        return head(key)

    monkeypatch.setattr(job.store, "head", counted)
    monkeypatch.setattr(reconciling, "MAX_RECEIPTS", 3)
    recovered = recover(job.engine, job.documents)
    assert heads == [job.layout.part(number) for number in (0, 1, 3)]
    assert (recovered.done, recovered.rows, recovered.rejected) == (frozenset(range(6)), 3, 3)
    job.ledger.forget("j")
    reconciling.reconcile_job(job.engine, "j")
    job.run()
    job.verify([0, 1, 3, 4])


def test_parts_without_rejected_rows_cost_no_receipt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = OneJob(tmp_path, rows=4, part_rows=1)
    job.run(4)
    monkeypatch.setattr(job.store, "head", None)
    recovered = recover(job.engine, job.documents, broken={1})
    assert (recovered.done, recovered.rows, recovered.rejected) == (frozenset({0, 2}), 2, 0)


@pytest.mark.parametrize("times", [1, 2, 1_000])
def test_a_ledger_may_be_lost_again_while_it_is_rebuilt(
    times: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a job whose ledger was lost, and Redis, which is emptied between the opening of the ledger and its first use
    job = OneJob(tmp_path, rows=4, part_rows=1)
    job.run(2)
    job.ledger.forget("j")
    begin, emptied = job.ledger.begin, list[str]()

    def begin_and_lose(job_id: str, *arguments: Any, **options: Any) -> bool:
        opened = begin(job_id, *arguments, **options)
        if len(emptied) < times:
            emptied.append(job_id)
            job.ledger.forget(job_id)
        return opened

    monkeypatch.setattr(job.ledger, "begin", begin_and_lose)
    # When the job is reconciled, then it continues, or the caller tries again
    if times > 2:
        with pytest.raises(LedgerLost, match="lost again and again") as raised:
            reconcile_job(job.engine, "j")
        assert raised.value.transient
        monkeypatch.undo()
    reconcile_job(job.engine, "j")
    job.run()
    job.verify([])
