from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest

from scoreline.storage.tables.base import SMALL_BYTES, Span
from scoreline.tasks.job.part_sizes import PART_ROWS, PART_SLICES, SMALL_SLICES, CutParts, pack, target_part_rows
from scoreline.tasks.job.plan import InputFile, Part


def file(key: str, *rows: int, by_rows: bool = False, size: int = SMALL_BYTES + 1) -> InputFile:
    firsts = [sum(rows[:number]) for number in range(len(rows))]
    spans = tuple(
        Span(start=first, stop=first + count, first_row=first, rows=count, size=8 * count, by_rows=by_rows)
        for first, count in zip(firsts, rows, strict=True)
    )
    return InputFile(bucket="b", key=key, size=size, etag="e", spans=spans)


def cut(files: list[InputFile], part_rows: int = PART_ROWS, **limits: Any) -> Sequence[Part]:
    return CutParts(files, pack(files, part_rows, **limits))


def test_a_large_file_is_cut_at_row_groups() -> None:
    parts = cut([file("a", 60, 60, 60)], part_rows=100)
    assert [(p.slices[0].start, p.slices[0].stop, p.slices[0].first_row, p.rows) for p in parts] == [
        (0, 60, 0, 60),
        (60, 120, 60, 60),
        (120, 180, 120, 60),
    ]


def test_a_part_holds_exactly_as_many_rows_as_it_may() -> None:
    assert [part.rows for part in cut([file("a", 50, 50, 1)], part_rows=100)] == [100, 1]


def test_small_files_share_a_part_in_input_order() -> None:
    (part,) = cut([file("a", 10), file("b", 10, 10)], part_rows=100)
    assert [(s.key, s.start, s.stop, s.rows) for s in part.slices] == [("a", 0, 10, 10), ("b", 0, 20, 20)]


def test_empty_files_and_row_groups_are_in_no_part() -> None:
    parts = cut([file("a"), file("b", 0, 5, 0)], part_rows=100)
    assert [(s.key, s.start, s.stop, s.first_row) for p in parts for s in p.slices] == [("b", 0, 5, 0)]


def test_a_part_is_also_limited_in_bytes() -> None:
    assert len(cut([file("a", 10, 10)], part_rows=100, part_bytes=100)) == 2
    # And the limit in bytes applies to each part separately
    assert [part.rows for part in cut([file("a", *6 * [10])], part_rows=100, part_bytes=160)] == [20, 20, 20]


def test_many_tiny_files_make_several_parts() -> None:
    parts = cut([file(str(n), 1) for n in range(2 * PART_SLICES + 1)])
    assert [len(part.slices) for part in parts] == [PART_SLICES, PART_SLICES, 1]
    # And a full part also takes the spans next to its last slice, because they need no further request
    parts = cut([*(file(str(n), 1) for n in range(PART_SLICES - 1)), file("last", 1, 1, 1)])
    assert [(len(part.slices), part.rows) for part in parts] == [(PART_SLICES, PART_SLICES + 2)]


def test_a_part_has_more_slices_if_all_objects_are_small() -> None:
    files = [file(str(n), 1, size=SMALL_BYTES) for n in range(SMALL_SLICES + 2)]
    assert [len(part.slices) for part in cut(files[:SMALL_SLICES])] == [SMALL_SLICES]
    # With more objects, each of two processes has half of them
    assert [len(part.slices) for part in cut([*files, file("empty", size=0)])] == [SMALL_SLICES // 2 + 1] * 2
    # But the runs of one object stay together
    assert len(cut([file("a", 30, by_rows=True, size=SMALL_BYTES)], 30, most_rows=10, run_rows=10)) == 1
    # And one large object is enough for parts of fewer slices
    assert len(cut([*files, file("large", 1)])[0].slices) == PART_SLICES


def test_every_row_is_in_exactly_one_part_whatever_the_files() -> None:
    chance = random.Random(1)
    for most_rows in 100 * [None, 30]:
        files = [
            file(str(n), *(chance.choice([0, 1, 7, 50, 200]) for _ in range(chance.randrange(6)))) for n in range(5)
        ]
        rows = [
            (piece.key, row)
            for part in cut(files, part_rows=100, most_rows=most_rows)
            for piece in part.slices
            for row in piece.only or range(piece.first_row, piece.first_row + piece.rows)
        ]
        assert rows == [(item.key, row) for item in files for row in range(sum(span.rows for span in item.spans))]


def test_a_span_of_far_more_rows_than_fit_is_divided_evenly() -> None:
    parts = cut([file("a", 50, 250, 16), file("b", 30)], part_rows=100, most_rows=200)
    assert [[(s.key, s.start, s.stop, s.scope, s.count) for s in part.slices] for part in parts] == [
        [("a", 0, 50, (0, 50), 50)],
        [("a", 50, 300, (50, 83), 83)],
        [("a", 50, 300, (133, 83), 83)],
        [("a", 50, 300, (216, 84), 84), ("a", 300, 316, (300, 16), 16)],
        [("b", 0, 30, (0, 30), 30)],
    ]
    assert len(cut([file("a", 200)], part_rows=100, most_rows=200)) == 1
    assert len(cut([file("a", 250)], part_rows=100)) == 1


def test_rows_of_a_row_group_are_named_by_their_numbers_alone() -> None:
    # The numbers let a worker continue after the rows that it read last. A worker of the previous release understands
    # the numbers, too, and reads no other rows.
    parts = cut([file("a", 50, 250, by_rows=True)], part_rows=125, most_rows=200)
    assert [[(s.start, s.stop, s.first_row, s.rows, s.only) for s in part.slices] for part in parts] == [
        [(0, 50, 0, 50, None)],
        [(50, 175, 50, 125, None)],
        [(175, 300, 175, 125, None)],
    ]


@pytest.mark.parametrize(
    ("rows", "rows_per_s", "processes", "expected"),
    [
        (10**8, None, 4, 131_072),  # the pace is unknown
        (10**8, 1_000.0, 4, 20_000),
        (10**8, 50.0, 4, 1_000),
        (10**8, 0.5, 4, 10),
        (10**8, 1e-9, 4, 1),
        (2_000, 10.0, 4, 39),  # each process gets parts
        (10**4, 2_000.0, 4, 1_024),
        (10**8, 5e5, 4, 524_288),
        (10**9, 5e5, 4, 524_288),  # parts of a huge job are no larger, so memory hardly grows with the size of a job
        (10**6, 5e5, 4, 78_125),  # larger parts would leave some processes idle
        (8 * 10**6, 5e5, 4, 312_500),
        (10**4, 5e5, 4, 50_000),  # smaller parts would be mostly overhead
        (10**8, 5e5, 0, 524_288),
        (10**6, 5e4, 0, 31_250),  # 0 means that the number of processes is unknown; eight are assumed
    ],
)
def test_parts_aim_at_twenty_seconds(rows: int, rows_per_s: float | None, processes: int, expected: int) -> None:
    assert target_part_rows(rows, rows_per_s, processes) == expected
