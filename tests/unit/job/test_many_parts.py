"""The memory for the plan of a large job is a few bytes for each part."""

from __future__ import annotations

import random
import tracemalloc
from dataclasses import replace

import pytest

from scoreline.storage.tables.base import SeekPoint, Span
from scoreline.storage.tables.packed_spans import PackedSpans, pack_spans
from scoreline.tasks.job.chosen_cut import Work, choose_cut
from scoreline.tasks.job.end_time import Run
from scoreline.tasks.job.packed_cut import PackedCut
from scoreline.tasks.job.part_sizes import CutParts, pack
from scoreline.tasks.job.plan import Columns, InputFile
from scoreline.tasks.job.plan_file import encode

COLUMNS = Columns(features=("x",), keep=(), schema="s")


def spans_of(count: int, *, by_rows: bool = True) -> tuple[Span, ...]:
    rows = [1 + number % 3 for number in range(count)]
    firsts = [sum(rows[:number]) for number in range(count)] if count < 1_000 else range(count)
    return tuple(
        Span(start=first, stop=first + n, first_row=first, rows=n, size=8 * n, by_rows=by_rows)
        for first, n in zip(firsts, rows, strict=True)
    )


@pytest.mark.parametrize("by_rows", [True, False])
@pytest.mark.parametrize("count", [0, 1, 7, 8, 50])
def test_packed_spans_are_like_a_tuple(count: int, by_rows: bool) -> None:
    spans = spans_of(count, by_rows=by_rows)
    packed = pack_spans(spans)
    assert isinstance(packed, PackedSpans) == (count >= 8)
    assert packed == spans
    assert hash(packed) == hash(spans)
    assert (len(packed), list(packed), packed[2:5]) == (count, list(spans), spans[2:5])
    assert [packed[number] for number in range(-count, count)] == [*spans, *spans]
    file = InputFile(bucket="b", key="k", size=1, etag="e", spans=packed)
    assert list(file.row_counts) == [span.rows for span in spans]


@pytest.mark.parametrize(
    "change",
    [{"point": SeekPoint(position=0, offset=0, bits=0, window=b"")}, {"wanted": range(2)}, {"by_rows": False}],
    ids=["point", "wanted", "mixed"],
)
def test_spans_that_arrays_cannot_hold_stay_as_they_are(change: dict[str, object]) -> None:
    spans = spans_of(20)
    spans = (*spans[:-1], replace(spans[-1], **change))  # type: ignore[arg-type]
    assert pack_spans(spans) is spans


def test_a_packed_cut_is_like_a_list_of_lists() -> None:
    random_ = random.Random(1)
    parts = [
        [Run(*(random_.randrange(2**31) for _ in range(4))) for _ in range(random_.randrange(4))] for _ in range(30)
    ]
    cut = PackedCut()
    for part in parts:
        cut.append(part)
    assert (len(cut), list(cut), cut[3:9], cut[-1]) == (30, parts, parts[3:9], parts[-1])
    assert [cut[number] for number in range(30)] == parts
    with pytest.raises(IndexError):
        cut[30]


@pytest.mark.parametrize("part_rows", [1, 2, 5, 40])
def test_packed_spans_are_cut_and_stored_as_others_are(part_rows: int) -> None:
    spans = spans_of(60)
    files = [InputFile(bucket="b", key=key, size=1, etag="e", spans=spans) for key in ("a", "c")]
    packed = [replace(file, spans=pack_spans(spans)) for file in files]
    limits = {"most_rows": 2 * part_rows}
    parts = tuple(CutParts(files, list(pack(files, part_rows, **limits))))
    made = CutParts(packed, pack(packed, part_rows, **limits))
    assert made == parts
    assert (made[0], made[-1], made[1:3], len(made)) == (parts[0], parts[-1], parts[1:3], len(parts))
    assert encode(COLUMNS, made, identity={}) == encode(COLUMNS, parts, identity={})


def test_a_million_parts_would_take_less_memory_than_a_process_has() -> None:
    count = 25_000
    file = InputFile(bucket="b", key="k", size=1, etag="e", spans=pack_spans(spans_of(count)))
    tracemalloc.start()
    try:
        chosen = choose_cut([file], Work(), part_rows=1)
        size, _ = tracemalloc.get_traced_memory()
        body = encode(COLUMNS, chosen.parts, identity={})
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(chosen.parts) >= count
    assert len(body) < 40 * count
    assert size < 80 * count
    assert peak < 300 * count
