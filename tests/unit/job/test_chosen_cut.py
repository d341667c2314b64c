from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scoreline.storage.tables.base import Span
from scoreline.tasks.job import chosen_cut
from scoreline.tasks.job.chosen_cut import RESULT_BYTES, ChosenCut, Work, choose_cut
from scoreline.tasks.job.end_time import Processes, Run, forecast
from scoreline.tasks.job.part_sizes import PART_SECONDS, divide
from scoreline.tasks.job.plan import InputFile

GROUP = 1_048_576
"""Rows of a row group as pandas and pyarrow write it."""
FAST = Work(rows_per_s=1e6, scored_per_s=2e6, processes=2, row_bytes=144, result_bytes=32)
FOREST = replace(FAST, rows_per_s=1e5, scored_per_s=1e5)


def file(*rows: int, key: str = "a", by_rows: bool = True) -> InputFile:
    spans, first = [], 0
    for count in rows:
        span = Span(start=first, stop=first + count, first_row=first, rows=count, size=144 * count, by_rows=by_rows)
        spans.append(span)
        first += count
    return InputFile(bucket="b", key=key, size=1, etag="e", spans=tuple(spans))


def rows(chosen: ChosenCut) -> list[int]:
    return [part.rows for part in chosen.parts]


def test_the_rows_of_a_process_are_cut_into_parts_up_to_the_limit() -> None:
    shares = [[Run(number, 0, 0, 10) for number in range(7)], [Run(9, 0, 5, 70)]]
    cut = list(chosen_cut._limited(shares, 30))
    assert [[run.rows for run in part] for part in cut] == [[10] * 3, [10] * 3, [10], [23], [23], [24]]
    assert [run.start for part in cut[3:] for run in part] == [5, 28, 51]


def test_each_row_group_is_a_part_if_that_keeps_the_processes_busy() -> None:
    for work in (FAST, FOREST):
        chosen = choose_cut([file(GROUP, GROUP, 102_848)], work)
        assert rows(chosen) == [GROUP, GROUP, 102_848]
        assert (chosen.readings, chosen.reason) == (1.0, "3 row groups: each is a part")


def test_processes_share_a_single_row_group_and_the_second_begins_far_away() -> None:
    chosen = choose_cut([file(2_000_000)], FAST)
    first, second = rows(chosen)
    # the second process gets fewer rows, because it also decodes those of the first process
    assert first > second > 500_000
    assert chosen.readings == pytest.approx((first + 2_000_000) / 2_000_000)
    assert chosen.reason == "1 row group: 2 processes can share it, and each reads it once"


@pytest.mark.parametrize("row_bytes", [6_408, 40_008])
def test_processes_share_a_wide_row_group_equally(row_bytes: int) -> None:
    # Given a wide row group, which each process has to fetch as a whole
    wide = replace(FAST, rows_per_s=4e4, scored_per_s=1e5, row_bytes=row_bytes, columns=row_bytes // 8)
    chosen = choose_cut([file(60_000)], wide)
    assert rows(chosen) == [30_000, 30_000]
    assert rows(choose_cut([file(60_000)], replace(wide, processes=3))) == [20_000, 20_000, 20_000]
    # But processes do not share a row group of small rows equally
    assert rows(choose_cut([file(60_000)], replace(wide, row_bytes=2_000))) != [30_000, 30_000]
    # And they do not share equally a row group with few columns of long texts, which are decoded page by page
    assert rows(choose_cut([file(60_000)], replace(wide, columns=2))) != [30_000, 30_000]


@pytest.mark.parametrize(("groups", "processes"), [(3, 2), (9, 8), (5, 3), (5, 8)])
def test_row_groups_that_are_left_over_are_shared(groups: int, processes: int) -> None:
    # Given a number of row groups that cannot be divided equally among the processes
    chosen = choose_cut([file(*groups * [GROUP])], replace(FOREST, processes=processes))
    # Then all processes are busy to the end, and few rows are read by more than one process
    whole = GROUP * groups / processes
    assert max(rows(chosen)) <= 1.2 * max(GROUP, whole)
    assert len(chosen.parts) >= processes
    assert 1.0 < chosen.readings < 2.0
    assert f"{processes} processes can share " in chosen.reason


def test_no_row_group_is_divided_if_there_are_many() -> None:
    chosen = choose_cut([file(*1_001 * [GROUP])], FOREST)
    assert chosen.readings == 1.0
    assert {count % GROUP for count in rows(chosen)} == {0}


def test_small_row_groups_are_cut_only_by_the_target_size() -> None:
    files = [file(65_536, 65_536, 65_536, 53_392, key=str(number)) for number in range(8)]
    assert rows(choose_cut(files, FAST)) == 8 * [250_000]
    unknown = choose_cut(files, replace(FAST, rows_per_s=None, scored_per_s=None))
    assert rows(unknown) == 8 * [131_072, 118_928]
    assert unknown.reason == "32 row groups: 16 parts of up to 2 of them"


def test_a_slow_model_loses_no_more_than_twenty_seconds_of_work() -> None:
    chosen = choose_cut([file(GROUP)], replace(FOREST, rows_per_s=2e3, scored_per_s=2e3))
    assert max(rows(chosen)) <= PART_SECONDS * 2e3
    assert chosen.reason.endswith("because the model takes about 525 s for the largest")


def test_results_of_a_part_fit_into_memory() -> None:
    chosen = choose_cut([file(4 * GROUP)], replace(FAST, processes=1, result_bytes=200))
    assert max(rows(chosen)) <= RESULT_BYTES // 200
    assert chosen.readings == 1.0  # a single process keeps its reader from part to part, so it reads each row once
    assert chosen.reason.endswith("because its results take more than 64 MiB of memory")


def test_a_job_may_choose_the_size_of_its_parts() -> None:
    chosen = choose_cut([file(GROUP, GROUP)], FOREST, part_rows=262_144)
    assert rows(chosen) == 8 * [262_144]
    assert chosen.reason == "--part-rows asks for about 262,144 rows in a part"


def test_if_processes_have_not_been_counted_no_more_than_two_share_a_row_group() -> None:
    assert len(choose_cut([file(GROUP)], replace(FOREST, processes=0)).parts) == 2


def test_the_reason_says_how_small_objects_are_put_together() -> None:
    files = [file(200, key=f"{number:04}") for number in range(5_000)]
    assert choose_cut(files, Work()).reason == "5,000 objects: 10 parts of up to 500 objects"
    assert (
        choose_cut(files[:1], Work()).reason == "1 row group: one part, because the pace of the model is not known yet"
    )
    assert choose_cut(files[:1], FAST).reason == "1 row group: one part, because the work takes about 0.0 s"
    assert choose_cut([], FAST).parts == ()


def test_planning_a_job_of_very_many_parts_forecasts_only_some(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chosen_cut, "_FORECAST_PARTS", 10)
    chosen = choose_cut([file(*30 * [GROUP])], FOREST, part_rows=GROUP // 4)
    assert (len(chosen.parts), chosen.readings) == (120, 1.7)


works = st.builds(
    Work,
    rows_per_s=st.none() | st.floats(1e2, 5e6),
    scored_per_s=st.none() | st.floats(1e2, 5e6),
    processes=st.integers(0, 9),
    row_bytes=st.integers(0, 20_000),
    result_bytes=st.integers(0, 20_000),
)
groups = st.lists(st.sampled_from([0, 1, 200, 65_536, 300_000, GROUP, 5_000_000]), max_size=12)


@settings(max_examples=settings().max_examples * 2 // 5)  # each example cuts up to 48 row groups
@given(files=st.lists(st.tuples(groups, st.booleans()), max_size=4), work=works)
def test_each_row_is_in_one_part_and_no_cut_ends_much_earlier(files: list[tuple[list[int], bool]], work: Work) -> None:
    inputs = [file(*counts, key=str(number), by_rows=by) for number, (counts, by) in enumerate(files)]
    chosen = choose_cut(inputs, work)
    # Then each row is in exactly one part, in the order of the input
    position: dict[str, int] = {}
    for part in chosen.parts:
        assert part.rows > 0
        for piece in part.slices:
            first, count = piece.scope
            assert first == position.get(piece.key, 0)
            assert piece.rows >= count
            position[piece.key] = first + count
    assert position == {item.key: total for item in inputs if (total := sum(span.rows for span in item.spans))}
    # And no part exceeds the limits, if the time for a row is known
    row_s = work.costs.row_s
    for part in chosen.parts:
        if part.rows > 1 and work.rows_per_s:
            assert part.rows <= work.most_rows
            assert part.rows * row_s <= 2 * PART_SECONDS + row_s or part.rows <= 1_024
    if not work.rows_per_s or not chosen.parts:
        return
    # And neither of two simpler plans would end the job much earlier: one part per row group, or equal runs of rows
    processes = work.processes or 2
    place = {item.key: number for number, item in enumerate(inputs)}
    runs = [[_run(inputs, place[p.key], *p.scope) for p in part.slices] for part in chosen.parts]
    limit = max(1, min(work.most_rows, int(2 * PART_SECONDS / row_s)))
    spans = [Run(f, s, 0, span.rows) for f, item in enumerate(inputs) for s, span in enumerate(item.spans) if span.rows]
    costs = work.costs
    end = forecast([[run for one in part for run in one] for part in runs], processes, costs).seconds
    if len(spans) <= 32 * processes:
        whole = [[run] for one in spans for run in divide(one, -(-one.rows // limit))]
        assert end <= 1.08 * forecast(whole, processes, costs).seconds + 0.2


def _run(inputs: list[InputFile], number: int, first: int, count: int) -> list[Run]:
    """Return the runs of spans that cover a range of rows of a file."""
    found = []
    for place, span in enumerate(inputs[number].spans):
        low, high = max(first, span.first_row), min(first + count, span.first_row + span.rows)
        if low < high:
            found.append(Run(number, place, low - span.first_row, high - low))
    return found


def test_only_the_parts_that_differ_between_cuts_are_forecast(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a job of many small files, and two processes that may share those of the last parts
    files = [file(1_000, key=str(number)) for number in range(600)]
    forecast_parts: list[int] = []
    take = Processes.take

    def counted(self: Processes, part: Sequence[Run]) -> None:
        forecast_parts.append(len(part))
        take(self, part)

    monkeypatch.setattr(Processes, "take", counted)
    # When the cut is chosen
    chosen = choose_cut(files, Work(rows_per_s=100_000.0, processes=2))
    # Then the parts that all cuts begin with are not forecast again for each cut
    assert sum(len(part.slices) for part in chosen.parts) == 600
    assert sum(forecast_parts) <= 5 * 600
