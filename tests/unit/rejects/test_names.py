"""Files of rejected rows are found under the names of this release, and under those of earlier releases."""

from __future__ import annotations

import fnmatch
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from scoreline.storage.errors import ObjectNotFound
from scoreline.storage.hashing import sha256_hex
from scoreline.storage.objects.base import ObjectInfo
from scoreline.tasks.dispatch.reconcile import recover
from scoreline.tasks.job import object_lines
from scoreline.tasks.rejects.report import committed_rejects, keys_in_manifest, reasons_by_row
from scoreline.tasks.rejects.rescore import parts_to_rescore
from scoreline.tasks.steps.results_manifest import check_parts
from tests.support.one_job import FOLDER, PART, OneJob

REJECTS = f"{FOLDER}_rejected/"
FORMER, FIRST = f"{REJECTS}rejected-00000.parquet", f"{REJECTS}part-00000.parquet"


@pytest.fixture
def committed(tmp_path: Path) -> OneJob:
    """Return a job whose only part is committed: of its four rows, the second was rejected."""
    job = OneJob(tmp_path, refused=(1.0,))
    job.run(2)
    return job


def found(job: OneJob) -> list[str]:
    return [info.key for info in committed_rejects(job.layout, job.documents.plan.sha256)]


def test_the_name_of_rejected_rows_has_their_digest_and_matches_no_glob_of_parts(committed: OneJob) -> None:
    (key,) = committed.listed(REJECTS)
    digest = sha256_hex(committed.store.get(key).data)
    assert key == f"{REJECTS}rejected-00000-{digest[:16]}.parquet"
    assert committed.store.head(PART).metadata["rejects"] == digest
    assert not fnmatch.fnmatch(key, "*/part-*.parquet")


@pytest.mark.parametrize("present", [{"now"}, {FORMER}, {FIRST}, {FORMER, FIRST}, {"now", FORMER, FIRST}])
def test_rejected_rows_are_found_once_under_each_name(committed: OneJob, present: set[str]) -> None:
    (now,) = committed.listed(REJECTS)
    for key in present - {"now"}:
        committed.copy(now, key)
    if "now" not in present:  # receipts of earlier releases contain no digest of the rejected rows
        committed.store.delete(now)
        committed.copy(PART, PART, rejects=None)
    (key,) = found(committed)
    assert key == (now if "now" in present else min(present, key=[FORMER, FIRST].index))
    reasons = reasons_by_row(committed.layout, committed.store.head(PART), committed.documents.plan.columns)
    assert list(reasons) == [1]
    recovered = recover(committed.engine, committed.documents)
    assert (recovered.rows, recovered.rejected) == (3, 1)
    (part,) = parts_to_rescore(committed.engine, "j")
    assert [piece.only for piece in part.slices] == [(1,)]
    (entry,) = check_parts(committed.layout, committed.documents, {})
    assert (entry.failure, entry.rejected) == ("", 1)
    assert committed.listed(REJECTS) == [key]  # the check removes rejected rows under other names
    assert f'"rejected_key": "{key}"' in entry.text


def test_another_file_among_the_rejected_rows_is_ignored_and_kept(committed: OneJob) -> None:
    (now,) = committed.listed(REJECTS)
    others = [f"{REJECTS}{name}" for name in ("notes.txt", "rejected-1.parquet", "rejected-00000-x.parquet")]
    for key in others:
        committed.store.put(key, b"")
    assert found(committed) == [now]
    (entry,) = check_parts(committed.layout, committed.documents, {})
    assert entry.failure == ""
    assert committed.listed(REJECTS) == sorted([now, *others])


def test_finding_the_rejected_rows_of_many_parts_takes_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    count = 20_000

    class Store:
        def list(self, prefix: str) -> Iterator[ObjectInfo]:
            return (ObjectInfo(key=prefix + name(part), size=1, etag=f"{part:032x}") for part in range(count))

        def head(self, key: str) -> ObjectInfo:
            raise ObjectNotFound(key)

    def name(part: int) -> str:
        return f"rejected-{part:05}-{part:016x}.parquet"

    layout: Any = SimpleNamespace(
        store=Store(), folder=FOLDER, rejected_folder=REJECTS, keeps_parts=True, part=str, rejected_part=None
    )
    tracemalloc.start()
    try:
        assert list(committed_rejects(layout, "a plan")) == []
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 150 * count


def test_the_manifest_is_searched_in_pieces(committed: OneJob, monkeypatch: pytest.MonkeyPatch) -> None:
    committed.run()
    (key,) = committed.listed(REJECTS)
    monkeypatch.setattr(object_lines, "PART_BYTES", 7)
    assert keys_in_manifest(committed.layout) == {key}
    committed.store.delete(committed.layout.manifest)
    assert keys_in_manifest(committed.layout) == set()
