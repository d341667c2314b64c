"""Predicts from its parts when a job ends, and divides rows so that all processes end at the same time."""

from __future__ import annotations

import copy
import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from scoreline.storage.tables.base import align

READ_S_PER_BYTE = 2.5e-9
"""Seconds to fetch and decode one byte of the columns that are read, as decoded in memory. Decoding takes 0.4 ns
(numbers, Snappy), 1.1 ns (numbers, zstd) or 4.7 ns (texts). Fetching takes 5 ns at 200 MB/s."""
PART_S = 0.009
"""Seconds that a part takes besides reading and scoring: messages, leases, and the requests for its objects."""
LEAST_SECONDS = 0.1
"""Minimum seconds of work in a part: ten times its overhead."""


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Estimated seconds that one process takes for rows and parts."""

    read_s: float
    """Seconds to fetch and decode a row."""
    score_s: float
    """Seconds to score a row, and to encode its result."""
    part_s: float = PART_S
    """Seconds that a part takes regardless of its size."""
    skip_share: float = field(default=1.0, repr=False)
    """Cost of an earlier row of the span, as a share of `read_s`. Earlier rows are read but not scored."""

    @property
    def row_s(self) -> float:
        """Seconds to read and score a row."""
        return self.read_s + self.score_s


class Run(NamedTuple):
    """Consecutive rows of a span, which is a piece of an object that can be read without the rest.

    To read a run, a process must also decode all earlier rows of the span.
    """

    file: int
    """Number of the file."""
    span: int
    """Number of the span in the file."""
    start: int
    """Number of rows that precede the run in the span."""
    rows: int

    @property
    def stop(self) -> int:
        """Number of rows from the beginning of the span to the end of the run."""
        return self.start + self.rows


type Cut = Sequence[Sequence[Run]]
"""The runs of each part."""


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """How long a job is expected to take, and how many rows it is expected to read."""

    seconds: float
    """Seconds from the start of the first part to the end of the last part."""
    rows_read: int
    """Number of rows that are read and decoded. Rows that two processes read count twice."""


class Processes:
    """Simulates processes that take parts in order. Each process takes the next part as soon as it is free.

    A process keeps the reader of its last span open. It can therefore read a later run of the same span without
    decoding the earlier rows again.
    """

    def __init__(self, count: int, costs: Costs) -> None:
        self._costs = costs
        self._free: list[tuple[float, int]] = [(0.0, number) for number in range(count)]
        self._open: list[tuple[int, int, int]] = count * [(-1, -1, 0)]  # file, span and row of each open reader
        self.end = 0.0
        self.rows_read = 0

    def copy(self) -> Processes:
        """Return processes that have taken the same parts."""
        other = copy.copy(self)
        other._free, other._open = self._free.copy(), self._open.copy()
        return other

    @property
    def free(self) -> list[float]:
        """The times at which the processes become free, the earliest first."""
        return sorted(seconds for seconds, _ in self._free)

    def take(self, part: Sequence[Run]) -> None:
        """Assign a part to the process that becomes free first."""
        begun, number = self._free[0]
        skipped = rows = 0
        file, span, row = self._open[number]
        for to_file, to_span, start, count in part:
            skipped += start - (row if to_file == file and to_span == span and row <= start else 0)
            rows += count
            file, span, row = to_file, to_span, start + count
        self._open[number] = file, span, row
        self.rows_read += skipped + rows
        costs = self._costs
        ended = begun + costs.part_s + skipped * costs.skip_share * costs.read_s + rows * costs.row_s
        self.end = max(self.end, ended)
        heapq.heapreplace(self._free, (ended, number))


def forecast(parts: Cut, processes: int, costs: Costs, after: Processes | None = None) -> Forecast:
    """Return when a job is expected to end if processes take its parts in order.

    Parameters
    ----------
    after : Processes, optional
        The processes, after they have taken the first parts of the job. `parts` are then the others.

    >>> costs = Costs(read_s=1.0, score_s=1.0, part_s=0.0)
    >>> one = [[Run(0, 0, 0, 60)]]
    >>> shared = [[Run(0, 0, 0, 40)], [Run(0, 0, 40, 20)]]
    >>> forecast(one, 2, costs), forecast(shared, 2, costs)
    (Forecast(seconds=120.0, rows_read=60), Forecast(seconds=80.0, rows_read=100))
    """
    pool = Processes(processes, costs) if after is None else after.copy()
    for part in parts:
        pool.take(part)
    return Forecast(seconds=pool.end, rows_read=pool.rows_read)


def share(runs: Sequence[Run], free: Sequence[float], costs: Costs) -> list[list[Run]]:
    """Divide runs among processes so that the last process ends as early as possible.

    Each process gets consecutive rows. The first processes get more rows, because each later process must also decode
    the rows before its own. Runs are divided only if each piece is worth a part, and where batches are divided, too:
    otherwise, the first batches of the next process would be joined until they end at such a row (see `read_part`).

    Parameters
    ----------
    runs : sequence of Run
        Consecutive runs in different spans. Each run begins at the first row of its span.
    free : sequence of float
        The times at which the processes become free, the earliest first.

    Returns
    -------
    list of list of Run
        The runs of each process, without processes that get no rows.

    >>> costs = Costs(read_s=1.0, score_s=1.0, part_s=0.0)
    >>> share([Run(0, 0, 0, 60)], [0.0, 0.0], costs)
    [[Run(file=0, span=0, start=0, rows=40)], [Run(file=0, span=0, start=40, rows=20)]]
    >>> share([Run(0, 0, 0, 60)], [0.0, 90.0], costs)
    [[Run(file=0, span=0, start=0, rows=60)]]
    """
    late = free[0] + costs.part_s + sum(run.rows for run in runs) * costs.row_s
    low, high = free[0], late
    best = [list(runs)]
    while high - low > 1e-3 * (late - free[0]):
        middle = (low + high) / 2
        found = _share_until(middle, runs, free, costs)
        if found is None:
            low = middle
        else:
            high, best = middle, found
    return best


def _share_until(end: float, runs: Sequence[Run], free: Sequence[float], costs: Costs) -> list[list[Run]] | None:
    """Give each process as many rows as it can score until the time `end`; return None if rows are left over."""
    shares: list[list[Run]] = []
    left = list(reversed(runs))
    row_s, skip_share, read_s = costs.row_s, costs.skip_share, costs.read_s
    for begun in free:
        seconds = end - begun - costs.part_s
        share: list[Run] = []
        while left and seconds > 0:
            run = left[-1]
            seconds -= run.start * skip_share * read_s
            fitting = int(seconds / row_s + 1e-6)
            if fitting >= run.rows:
                share.append(left.pop())
                seconds -= run.rows * row_s
                continue
            least = LEAST_SECONDS / row_s
            fitting = min(fitting, int(run.rows - least))
            if fitting >= least:
                rows = align(fitting)
                share.append(run._replace(rows=rows))
                left[-1] = run._replace(start=run.start + rows, rows=run.rows - rows)
            break
        if share:
            shares.append(share)
    return None if left else shares
