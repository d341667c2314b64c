"""A part that takes long reports its progress."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from scoreline.storage.errors import LedgerUnavailable
from scoreline.tasks.steps import scored_notes
from scoreline.tasks.steps.parquet_buffer import ResultsBuffer
from scoreline.tasks.steps.score_part import score_part
from scoreline.tasks.steps.scored_notes import NOTE_S, ScoredNotes
from tests.support.line_jobs import desk


def test_a_part_notes_its_rows_every_few_seconds() -> None:
    seconds, noted = [0.0], list[int]()
    notes = ScoredNotes(note=noted.append, clock=lambda: seconds[0])
    for rows in range(1, 7):
        seconds[0] = rows * NOTE_S / 2
        notes(rows)
    assert noted == [2, 4, 6]


def test_a_part_goes_on_while_the_ledger_cannot_be_reached() -> None:
    def fail(rows: int) -> None:
        raise LedgerUnavailable(f"no ledger for {rows} rows")

    seconds = [0.0]
    notes = ScoredNotes(note=fail, clock=lambda: seconds[0])
    seconds[0] = NOTE_S
    notes(10)
    ScoredNotes(note=None)(10)


def test_the_status_of_a_job_counts_the_rows_of_a_part_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a job of one part, which notes its scored rows in the ledger before it writes the result
    monkeypatch.setattr(scored_notes, "NOTE_S", 0.0)
    with desk(tmp_path) as at:
        job_id = at.plan()
        seen: list[tuple[int, int]] = []
        finish = ResultsBuffer.finish

        def look(self: ResultsBuffer, *more: Any) -> bytes:
            now = at.client.status(job_id)
            seen.append((now.rows, now.parts_done))
            return finish(self, *more)

        monkeypatch.setattr(ResultsBuffer, "finish", look)
        score_part(at.engine, job_id, 0, "holder")
        done = at.client.status(job_id)
    # Then the status counts these rows before the part is committed, and does not count them twice afterwards
    assert seen == [(10, 0)]
    assert (done.rows, done.parts_done) == (10, 1)
