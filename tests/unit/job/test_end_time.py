from __future__ import annotations

import pytest

from scoreline.storage.tables.base import ALIGNED_ROWS
from scoreline.tasks.job.end_time import Costs, Processes, Run, forecast, share

COSTS = Costs(read_s=1.0, score_s=3.0, part_s=0.0)


def test_a_process_that_reads_on_does_not_read_again() -> None:
    # Given three parts of a row group
    parts = [[Run(0, 0, start, 10)] for start in (0, 10, 20)]
    # Then a single process reads each row once, and each of two processes also reads the rows before its own
    assert forecast(parts, 1, COSTS).rows_read == 30
    assert forecast(parts, 2, COSTS).rows_read == 30 + 20
    # And a process reads a row group from its first row if its reader is in another row group or at a later row
    between = [[Run(0, 0, 0, 10)], [Run(0, 1, 0, 10)], [Run(0, 0, 10, 10)], [Run(0, 0, 10, 10)]]
    assert forecast(between, 1, COSTS).rows_read == 10 + 10 + 20 + 20


def test_each_process_takes_the_next_part_as_soon_as_it_is_free() -> None:
    parts = [[Run(0, number, 0, rows)] for number, rows in enumerate((10, 2, 3, 4))]
    assert forecast(parts, 2, COSTS).seconds == 40.0
    assert forecast(parts, 1, COSTS).seconds == 4 * 19.0
    assert forecast([], 2, COSTS).seconds == 0.0


@pytest.mark.parametrize("processes", [1, 2, 3, 7])
def test_processes_that_share_a_row_group_end_together(processes: int) -> None:
    shares = share([Run(0, 0, 0, 100_000)], processes * [0.0], COSTS)
    assert len(shares) == processes
    ends = [forecast([runs], 1, COSTS).seconds for runs in shares]
    assert min(ends) == pytest.approx(max(ends), rel=0.02)
    # And all processes end as early as possible, although each has to decode the rows before its own
    fading = COSTS.score_s / COSTS.row_s
    assert max(ends) == pytest.approx(100_000 * COSTS.read_s / (1 - fading**processes), rel=0.01)


def test_a_row_group_is_shared_where_batches_are_divided() -> None:
    shares = share([Run(0, 0, 0, 100_001)], 3 * [0.0], COSTS)
    assert len(shares) == 3
    assert [run.start % ALIGNED_ROWS for runs in shares for run in runs] == [0, 0, 0]
    assert sum(run.rows for runs in shares for run in runs) == 100_001


def test_a_process_that_is_free_later_gets_fewer_rows() -> None:
    (first,), (second,) = share([Run(0, 0, 0, 100_000)], [0.0, 150_000.0], COSTS)
    assert first.stop == second.start
    assert second.rows < first.rows
    assert 150_000.0 + second.stop + 3 * second.rows == pytest.approx(4 * first.rows, rel=0.01)
    assert len(share([Run(0, 0, 0, 100_000)], [0.0, 400_000.0], COSTS)) == 1


def test_a_share_continues_in_the_next_row_group() -> None:
    # Given two row groups for three processes
    shares = share([Run(0, 0, 0, 960), Run(0, 1, 0, 960)], [0.0, 0.0, 0.0], Costs(read_s=1e-6, score_s=3.0))
    # Then the second process has the end of the first row group, and the beginning of the second row group
    assert [[(run.span, run.start) for run in runs] for runs in shares] == [[(0, 0)], [(0, 640), (1, 0)], [(1, 320)]]


def test_a_forecast_continues_after_the_first_parts() -> None:
    costs = Costs(read_s=1e-3, score_s=2e-3)
    parts = [[Run(0, 0, 0, 50)], [Run(0, 0, 50, 70)], [Run(1, 0, 0, 10), Run(2, 0, 0, 5)], [Run(2, 0, 5, 30)]]
    pool = Processes(2, costs)
    for number, part in enumerate(parts):
        for _ in range(2):  # the processes stay as they are
            assert forecast(parts[number:], 2, costs, after=pool) == forecast(parts, 2, costs)
        pool.take(part)
