"""Files with rejected rows are found under their names of this release, and under those of the first one."""

from __future__ import annotations

import fnmatch
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scoreline.storage.ledger.memory_ledger import MemoryLedger
from scoreline.storage.models.manifest import PinnedModel
from scoreline.storage.objects.buckets import Buckets
from scoreline.tasks.dispatch.dispatcher import Documents
from scoreline.tasks.dispatch.reconcile import recover
from scoreline.tasks.job.documents import Job
from scoreline.tasks.job.layout import ResultsLayout
from scoreline.tasks.job.plan import Columns, Part
from scoreline.tasks.job.spec import JobSpec
from scoreline.tasks.rejects.report import committed_rejects, reasons_by_row
from scoreline.tasks.steps import planner
from scoreline.tasks.steps.commit_part import commit_part
from scoreline.tasks.steps.engine import Engine
from scoreline.tasks.steps.results_manifest import check_parts
from tests.support.one_model import Models

FOLDER = "out/job_id=j/"
NOW, BEFORE = (f"{FOLDER}_rejected/{name}-00000.parquet" for name in ("rejected", "part"))


@dataclass
class Plan:
    """A plan in memory."""

    columns: Columns
    all_parts: tuple[Part, ...]
    sha256: str = "p"

    @property
    def parts(self) -> int:
        return len(self.all_parts)

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.all_parts)

    def part(self, number: int) -> Part:
        return self.all_parts[number]

    def __iter__(self) -> Any:
        return iter(self.all_parts)


class Committed:
    """A job whose only part is committed: of its three rows, the second was rejected."""

    def __init__(self, folder: Path) -> None:
        environ = {"ENVIRONMENT": "development", "R2_BUCKET": "data", "STORE_DIR": str(folder)}
        buckets = Buckets.from_env(environ)
        self.engine = Engine(buckets=buckets, ledger=MemoryLedger(), send=lambda name, **_: None, models=Models())
        self.store = buckets.main
        sink = io.BytesIO()
        pq.write_table(pa.table({"id": [1, 2, 3], "x": [1.0, None, 3.0]}), sink)
        self.store.put("in/a.parquet", sink.getvalue())
        spec = JobSpec(job_id="j", model="m", inputs=("s3://data/in/",), output="s3://data/out/")
        job = Job(spec=spec, model=PinnedModel(name="m", version="1", manifest_sha256=""), submitted="2026-11-25")
        made = planner.draft(self.engine, job, planner.Pace(rows_per_s=1e6, processes=1))
        self.plan = Plan(made.columns, tuple(made.parts))
        self.documents = Documents(job=job, plan=cast(Any, self.plan))
        self.layout = ResultsLayout.of(buckets, job)
        commit_part(self.engine, self.documents, 0, 100)

    def copy(self, key: str, to: str) -> None:
        stored = self.store.get(key)
        self.store.put(to, stored.data, metadata=dict(stored.info.metadata))

    def keys(self) -> list[str]:
        return [info.key for info in self.store.list(f"{FOLDER}_rejected/")]


@pytest.fixture
def committed(tmp_path: Path) -> Committed:
    return Committed(tmp_path)


def test_no_glob_of_parts_matches_rejected_rows(committed: Committed) -> None:
    assert committed.keys() == [NOW]
    assert not fnmatch.fnmatch(NOW, "*/part-*.parquet")


@pytest.mark.parametrize("present", [{NOW}, {BEFORE}, {NOW, BEFORE}], ids=["current", "former", "both"])
def test_rejected_rows_are_found_once_under_either_name(committed: Committed, present: set[str]) -> None:
    committed.copy(NOW, BEFORE)
    for key in {NOW, BEFORE} - present:
        committed.store.delete(key)
    (found,) = committed_rejects(committed.layout)
    assert found.key in present
    reasons = reasons_by_row(committed.layout, 0, committed.plan.columns)
    assert list(reasons) == [1]
    recovered = recover(committed.engine, committed.documents)
    assert (recovered.rows, recovered.rejected) == (2, 1)
    (entry,) = check_parts(committed.layout, committed.documents, {})
    assert (entry.failure, entry.rejected) == ("", 1)
    (kept,) = committed.keys()  # of two equal files, one is removed
    assert f'"rejected_key": "{kept}"' in entry.text


@pytest.mark.parametrize("left", [NOW, BEFORE])
def test_rejected_rows_of_an_attempt_that_was_not_committed_are_removed(committed: Committed, left: str) -> None:
    receipt = dict(committed.store.head(f"{FOLDER}part-00000.parquet").metadata)
    committed.copy(NOW, left)
    committed.store.delete(({NOW, BEFORE} - {left}).pop())
    data = committed.store.get(f"{FOLDER}part-00000.parquet").data
    committed.store.put(f"{FOLDER}part-00000.parquet", data, metadata=receipt | {"rows": "3", "rejected": "0"})
    (entry,) = check_parts(committed.layout, committed.documents, {})
    assert (entry.failure, committed.keys()) == ("", [])


def test_another_file_among_the_rejected_rows_is_ignored(committed: Committed) -> None:
    for name in ("notes.txt", "rejected-1.parquet", "rejected-x.parquet"):
        committed.store.put(f"{FOLDER}_rejected/{name}", b"")
    assert [info.key for info in committed_rejects(committed.layout)] == [NOW]
