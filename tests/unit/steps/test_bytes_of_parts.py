"""A part has the same bytes whether its process has just scored the parts before it, or scores nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from scoreline.storage.ledger.memory_ledger import MemoryLedger
from scoreline.storage.tables.formats import Tables
from scoreline.tasks.records.format import RecordsFormat
from scoreline.tasks.steps.commit_part import commit_part
from scoreline.tasks.steps.engine import Engine
from tests.support.one_model import Models
from tests.support.small_shapes import ROWS, SHAPES, ShapedJob, rows_of


def stored(job: ShapedJob) -> dict[str, bytes]:
    """Return the results and the rejected rows of each part, by key."""
    folders = (f"{job.layout.parts_folder}part-", job.layout.rejected_folder)
    return {info.key: job.store.get(info.key).data for folder in folders for info in job.store.list(folder)}


@pytest.mark.parametrize("name", SHAPES)
def test_a_part_that_is_scored_alone_has_the_bytes_that_it_has_among_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    # Given a job whose processes have scored its parts one after another
    shape, environ = SHAPES[name], {"ENVIRONMENT": "development", "R2_BUCKET": "data", "STORE_DIR": str(tmp_path)}
    shape.lower_limits(monkeypatch)
    with ShapedJob(shape, environ, "j") as job:
        assert job.score(shape.objects(rows_of(missing=(5, ROWS // 2, ROWS - 1)))).state == "partial"
        expected = stored(job)
        parts = sum("/part-" in key for key in expected)
        assert 1 < parts < len(expected)
        # When all results are lost, and a new process scores each part alone, the last one first
        for info in list(job.store.list(job.layout.folder)):
            job.store.delete(info.key)
        assert not stored(job)
        for part in reversed(range(parts)):
            engine = Engine(
                buckets=job.buckets,
                ledger=MemoryLedger(),
                send=lambda *_, **__: None,
                models=Models(),
                tables=Tables(RecordsFormat()),
            )
            commit_part(engine, engine.documents("j"), part, ROWS)
        # Then all results are there again, with the same bytes
        assert stored(job) == expected
