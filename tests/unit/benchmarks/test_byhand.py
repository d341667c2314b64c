"""The benchmark's hand-written loop scores each row once, however its processes divide the work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks import byhand
from benchmarks.byhand import Order, own_lines, score, ways
from benchmarks.shapes import Shape, fitted, write
from benchmarks.work import PROCESSES
from scoreline.storage.objects.directory import DirectoryStore

ROWS = 5_001


def scored(tmp_path: Path, way: str, **options: Any) -> pa.Table:
    """Score a small input with one way to divide the work, and return all results by id."""
    shape = Shape(rows=ROWS, features=3, limits={}, **options)
    (tmp_path / "in").mkdir()
    write(shape, tmp_path / "in")
    store = DirectoryStore(tmp_path, "in")
    keys = sorted(file.name for file in (tmp_path / "in").iterdir())
    model = fitted(shape, "linear")
    for share in range(1 if way == "alone" else PROCESSES):
        out = f"byhand/{share}.parquet"
        score(
            store,
            Order(
                keys=keys,
                kind=shape.kind,
                features=shape.names,
                dtype=shape.dtype,
                model=model,
                way=way,
                share=share,
                out=out,
                connections=2,
            ),
        )
    return pq.read_table(tmp_path / "in" / "byhand").sort_by("id")


@pytest.mark.parametrize(
    ("options", "way"),
    [
        ({"group_rows": 1_000}, "units"),
        ({"group_rows": 1_000}, "whole"),
        ({}, "whole"),
        ({"file_rows": 300}, "units"),
        ({}, "twice"),
        ({}, "alone"),
        ({"kind": "arrow"}, "twice"),
        ({"kind": "csv"}, "halves"),
        ({"kind": "csv"}, "alone"),
        ({"kind": "csv.gz"}, "halves"),
        ({"kind": "jsonl"}, "halves"),
        ({"kind": "jsonl"}, "twice"),
    ],
    ids=str,
)
def test_each_row_is_scored_once(tmp_path: Path, options: dict[str, Any], way: str) -> None:
    assert scored(tmp_path, way, **options)["id"].to_pylist() == list(range(ROWS))


def test_a_process_fetches_only_the_row_groups_that_it_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(byhand, "_FOOTER_BYTES", 100)
    monkeypatch.setattr(byhand, "_RANGE_BYTES", 5_000)
    fetched: list[tuple[int, int] | None] = []
    get = DirectoryStore.get

    def watched(self: DirectoryStore, key: str, **how: Any) -> Any:
        fetched.append(how.get("byte_range"))
        return get(self, key, **how)

    monkeypatch.setattr(DirectoryStore, "get", watched)
    assert scored(tmp_path, "units", group_rows=1_000)["id"].to_pylist() == list(range(ROWS))
    # Then the processes together fetch the object once, and the footer twice
    (path,) = (tmp_path / "in").glob("*.parquet")
    groups = pq.read_metadata(path)
    assert None not in fetched
    taken = sum(stop - start for start, stop in filter(None, fetched))
    assert taken - PROCESSES * (groups.serialized_size + 8) <= path.stat().st_size
    # When the processes read whole objects, each process fetches the object once
    fetched.clear()
    (tmp_path / "again").mkdir()
    scored(tmp_path / "again", "whole", group_rows=1_000)
    assert fetched == [None] * PROCESSES


def test_lines_are_divided_evenly_and_completely() -> None:
    text = b"".join(b"%d\n" % number for number in range(1_000))
    parts = [own_lines(text, share, 3).to_pybytes() for share in range(3)]
    assert b"".join(parts) == text
    assert all(part.endswith(b"\n") for part in parts)
    assert max(map(len, parts)) - min(map(len, parts)) < 10


def test_an_input_is_divided_only_if_that_saves_work() -> None:
    assert ways("parquet", objects=1, groups=3) == ("units", "whole")
    assert ways("parquet", objects=9, groups=1) == ("units",)
    assert ways("parquet", objects=1, groups=1) == ways("arrow", objects=1, groups=0) == ("twice", "alone")
    assert ways("jsonl", objects=1, groups=0) == ("halves", "alone")
