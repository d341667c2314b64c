"""Rows of a database are staged in bounded memory, whatever their number."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from scoreline.storage.objects.directory import DirectoryStore
from scoreline.tasks.databases.source import staging
from scoreline.tasks.databases.source.types import Column

MIB = 1 << 20
BLOCK_BYTES = 128 << 10


def test_memory_does_not_grow_with_the_number_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "GROUP_BYTES", MIB // 2)
    monkeypatch.setattr(staging, "FILE_BYTES", MIB)
    column = Column(name="a", source="bytea", kind=pa.binary())
    chance = random.Random(1)
    held: list[int] = []

    def rows() -> Generator[Any]:
        yield (column,), pa.table({"a": pa.array([], pa.binary())})
        for _ in range(40 * MIB // BLOCK_BYTES):
            held.append(pa.total_allocated_bytes())
            yield (column,), pa.table({"a": [chance.randbytes(BLOCK_BYTES)]})

    before = pa.total_allocated_bytes()
    tracemalloc.start()
    try:
        _, files = staging.write_files(DirectoryStore(tmp_path, "b"), "a", "0" * 16, rows())
        _, python_peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(files) == 40
    assert max(held) - before <= 4 * MIB
    assert python_peak <= 4 * MIB
