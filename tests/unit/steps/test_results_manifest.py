"""The manifest is written piece by piece, once, and never changes after ``_SUCCESS``."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from scoreline.storage.errors import PreconditionFailed, StoreUnavailable
from scoreline.storage.hashing import sha256_hex
from scoreline.storage.objects import writer
from scoreline.storage.objects.directory import DirectoryStore
from scoreline.tasks.job.layout import ResultsLayout
from scoreline.tasks.steps import results_manifest
from scoreline.tasks.steps.result_files import File
from scoreline.tasks.steps.results_manifest import create_manifest, manifest_lines

SMALL, LARGE = 4, 3_000
"""Numbers of parts: the manifest of the larger job is uploaded in parts."""


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (writer, results_manifest):
        monkeypatch.setattr(module, "PART_BYTES", 1 << 14)


@pytest.fixture
def layout(tmp_path: Path) -> ResultsLayout:
    store = DirectoryStore(tmp_path, "main")
    return ResultsLayout(store=store, folder="out/job_id=j/", parts_folder="out/job_id=j/")


def lines(parts: int, seconds: float = 1.0, rows: int = 1) -> Callable[[], Iterator[str]]:
    head = {"job_id": "j", "rows": parts * rows, "seconds": {"predict": seconds}}
    return lambda: manifest_lines(head, (json.dumps({"part": n, "rows": rows}) for n in range(parts)), None)


def stored(layout: ResultsLayout) -> Any:
    return json.loads(layout.store.get(layout.manifest).data)


def digest(layout: ResultsLayout) -> str:
    return sha256_hex(layout.store.get(layout.manifest).data)


@pytest.mark.parametrize("files", [None, (), (File(key="é", rows=1, bytes=2, sha256="s", value=None),) * 2])
@pytest.mark.parametrize("parts", [0, 1, 2])
def test_a_manifest_is_one_document_with_a_line_for_each_part(parts: int, files: tuple[File, ...] | None) -> None:
    head, entries = {"job_id": "j"}, [json.dumps({"part": number}) for number in range(parts)]
    text = "".join(manifest_lines(head, entries, files))
    expected: dict[str, Any] = {"job_id": "j", "parts": [{"part": number} for number in range(parts)]}
    if files is not None:
        expected["files"] = [{"key": "é", "rows": 1, "bytes": 2, "sha256": "s", "value": None} for _ in files]
    assert json.loads(text) == expected
    assert all(line in text.splitlines() or f"{line}," in text.splitlines() for line in entries)
    assert text.endswith("\n]}\n")


@pytest.mark.parametrize("parts", [SMALL, LARGE])
def test_manifests_that_differ_only_in_their_times_are_the_same(layout: ResultsLayout, parts: int) -> None:
    first = create_manifest(layout, lines(parts))
    assert first == digest(layout)
    assert create_manifest(layout, lines(parts, seconds=7.0)) == first == digest(layout)
    # A manifest with different results is replaced only if the job is not complete
    for other in (lines(parts, rows=2), lines(parts + 1), lines(parts - 1)):
        assert create_manifest(layout, other) == digest(layout) == sha256_hex("".join(other()).encode())
    before = stored(layout)
    layout.store.put(layout.success, b"{}")
    for other in (lines(parts), lines(parts - 1, rows=2), lines(parts + 1)):
        with pytest.raises(PreconditionFailed):
            create_manifest(layout, other)
    assert stored(layout) == before


@pytest.mark.parametrize("body", [b"", b"{}", b"[]\n", b"\xff\n]}", b'{"job_id": "j", "parts": [\n'])
def test_an_object_that_is_no_manifest_is_replaced(layout: ResultsLayout, body: bytes) -> None:
    layout.store.put(layout.manifest, body)
    assert create_manifest(layout, lines(SMALL)) == digest(layout)
    assert len(stored(layout)["parts"]) == SMALL


@pytest.mark.parametrize("parts", [SMALL, LARGE])
def test_a_manifest_that_changes_meanwhile_is_not_replaced(layout: ResultsLayout, parts: int) -> None:
    create_manifest(layout, lines(parts))
    other, calls = lines(parts, rows=2), list[int]()

    def changing() -> Iterator[str]:
        calls.append(1)
        if len(calls) == 3:  # it is written first, then compared, then written again
            layout.store.put(layout.manifest, b"of another process")
        return other()

    with pytest.raises(StoreUnavailable, match="try again"):
        create_manifest(layout, changing)
    assert layout.store.get(layout.manifest).data == b"of another process"


def test_the_memory_for_a_manifest_does_not_grow_with_the_number_of_parts(layout: ResultsLayout) -> None:
    def long_lines() -> Iterator[str]:
        return manifest_lines({"job_id": "j"}, (f'{{"key": "{n:0500d}"}}' for n in range(10_000)), None)

    tracemalloc.start()
    try:
        for _ in range(2):  # the second call compares
            create_manifest(layout, long_lines)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert layout.store.head(layout.manifest).size > 5_000_000
    assert peak < 1_000_000
