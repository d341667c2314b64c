"""Chooses the target size of parts, and cuts an input into parts of that size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import overload

from scoreline.storage.tables.base import SMALL_BYTES, Span
from scoreline.tasks.job.end_time import LEAST_SECONDS, Cut, Run
from scoreline.tasks.job.packed_cut import PackedCut
from scoreline.tasks.job.plan import InputFile, Part, Slice

PART_ROWS = 131_072
"""Number of rows in a part if nothing is known about the model version yet. It is two batches of the size at which
forests are fastest. The loss of a part then costs a second, and overhead stays below 5%."""
PART_SECONDS = 20
"""Target seconds of work per part, if an earlier job has shown how fast the model version scores rows. A restart loses
at most this much work, and the overhead of a part takes a thousandth of this time."""
LEAST_PART_ROWS = 1_024
"""Minimum target for the number of rows in a part. If this many rows take more than a second, the minimum is the number
of rows that take a second."""
MOST_PART_ROWS = 524_288
"""Maximum target for the number of rows in a part of several row groups. The limit ensures that memory hardly grows
with the size of a job. At three million rows a second, this many rows take 175 ms, and the overhead of a part is about
9 ms. Half as many rows take 10% less memory, but 6% more CPU time, and twice as many waits for the store."""
SHARES = (4, 16)
"""The minimum and the maximum number of parts for each process, if parts would otherwise have less than `PART_SECONDS`
of work. The minimum ensures that no process waits long for the last parts of others, and the maximum keeps overhead
small."""
SHARE_SECONDS = 0.5
"""Target seconds per part while each process gets between the minimum and the maximum number of parts."""
SUPPOSED_PROCESSES = 8
"""Number of processes to assume if the workers' processes have not been counted recently."""
SLOW_ROWS_PER_S = 1_000
"""Below this pace, a part of `PART_ROWS` would take a quarter of its time limit or more."""
_HEADROOM = 1.25
"""Factor by which the target is raised. Parts consist of whole row groups, and a slightly higher target lets one more
row group fit."""
PART_BYTES = 512 << 20
"""Maximum number of uncompressed bytes in a part of several row groups. Decoding this many bytes takes a second or
two."""
PART_SLICES = 256
"""Maximum number of slices in a part. Each slice takes a few consecutive requests."""
SMALL_SLICES = 512
"""The same if all objects are small. Each then takes one request, many of them at a time, or none at all if the worker
has read it to plan the job. Writing the results of a part takes as long as fetching a hundred of its objects."""


def target_part_rows(rows: int, rows_per_s: float | None, processes: int) -> int:
    """Return the target number of rows per part.

    Parameters
    ----------
    rows : int
        Number of rows in the job.
    rows_per_s : float, optional
        Rows per second that one process scored in an earlier job with the same model version; None if there was no such
        job.
    processes : int
        Number of processes that score parts; 0 if they have not been counted recently.

    >>> target_part_rows(10**8, None, 4), target_part_rows(10**8, 1000.0, 4), target_part_rows(10**8, 5e5, 4)
    (131072, 20000, 524288)
    """
    if not rows_per_s:
        return PART_ROWS
    processes = processes or SUPPOSED_PROCESSES
    least, most = SHARES
    shares = min(most, max(least, rows / rows_per_s / processes / SHARE_SECONDS))
    aimed = max(_HEADROOM * rows / (processes * shares), LEAST_SECONDS * rows_per_s)
    return max(1, int(max(min(LEAST_PART_ROWS, rows_per_s), min(aimed, PART_SECONDS * rows_per_s, MOST_PART_ROWS))))


def pack(
    files: Sequence[InputFile],
    part_rows: int,
    part_bytes: int = PART_BYTES,
    most_rows: int | None = None,
    run_rows: int | None = None,
) -> PackedCut:
    """Combine whole spans into parts, in input order, and return the runs of each part.

    No part exceeds `part_rows` rows, `part_bytes` uncompressed bytes or `PART_SLICES` slices (`SMALL_SLICES` if all
    objects are small), unless a single span exceeds a limit; such a span becomes a part of its own. Small files share a
    part, and the parts have about as many of them. Files and spans without rows are left out.

    Parameters
    ----------
    most_rows : int, optional
        A span with more rows than this is divided into runs. A process that reads a run must also decode all earlier
        rows of the span, unless it has just read the previous run.
    run_rows : int, optional
        Maximum number of rows in each of these runs; by default, `part_rows`.
    """
    parts = PackedCut()
    most_slices = _most_slices(files)
    current: list[Run] = []
    rows = size = slices = 0
    after: tuple[int, int] | None = None
    """File and position at which the last run ends, if it is a whole span."""
    for run, weight, whole in _runs(files, run_rows or part_rows, most_rows):
        # two whole spans can be read as one slice if one begins where the other ends
        adjoins = bool(current) and whole is not None and after == (run.file, whole.start)
        full = rows + run.rows > part_rows or size + weight > part_bytes
        if current and (full or (slices == most_slices and not adjoins)):
            parts.append(current)
            current, rows, size, slices = [], 0, 0, 0
        slices += not (adjoins and current)
        current.append(run)
        rows += run.rows
        size += weight
        after = None if whole is None else (run.file, whole.stop)
    if current:
        parts.append(current)
    return parts


def _most_slices(files: Sequence[InputFile]) -> int:
    """Return the maximum number of slices in a part, so that no process is left with a few small objects."""
    if any(file.size > SMALL_BYTES for file in files):
        return PART_SLICES
    objects = sum(any(file.row_counts) for file in files)
    return SMALL_SLICES if objects <= SMALL_SLICES else -(-objects // -(-objects // SMALL_SLICES))


class CutParts(Sequence[Part]):
    """The parts that consist of given runs, like a tuple of `Part`. Adjoining spans become one slice.

    A part is made when it is needed, because the parts of a large job would take more memory than its runs.
    """

    def __init__(self, files: Sequence[InputFile], cut: Cut) -> None:
        self._files, self._cut = files, cut

    def __len__(self) -> int:
        return len(self._cut)

    @overload
    def __getitem__(self, number: int) -> Part: ...
    @overload
    def __getitem__(self, number: slice) -> tuple[Part, ...]: ...
    def __getitem__(self, number: int | slice) -> Part | tuple[Part, ...]:
        if isinstance(number, slice):
            return tuple(self._part(runs) for runs in self._cut[number])
        return self._part(self._cut[number])

    def __iter__(self) -> Iterator[Part]:
        return map(self._part, self._cut)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and tuple(self) == tuple(other)

    __hash__ = None  # type: ignore[assignment]

    def _part(self, runs: Iterable[Run]) -> Part:
        return Part(slices=tuple(_slices(self._files, runs)))


def divide(run: Run, count: int) -> list[Run]:
    """Divide a run evenly.

    >>> [(run.start, run.rows) for run in divide(Run(0, 0, 10, 5), 2)]
    [(10, 2), (12, 3)]
    """
    if count == 1 and run.rows:  # as for most small files, of which a job may have very many
        return [run]
    bounds = [run.rows * number // count for number in range(count + 1)]
    return [run._replace(start=run.start + low, rows=high - low) for low, high in pairwise(bounds) if low < high]


def _runs(files: Sequence[InputFile], run_rows: int, most_rows: int | None) -> Iterator[tuple[Run, int, Span | None]]:
    """Yield each run, its size in bytes, and its span if it is a whole span."""
    for number, file in enumerate(files):
        for place, span in enumerate(file.spans):
            if span.rows:
                whole = Run(number, place, 0, span.rows)
                count = 1 if most_rows is None or span.rows <= most_rows else -(-span.rows // run_rows)
                if count == 1:
                    yield whole, span.size, span
                    continue
                for run in divide(whole, count):
                    yield run, span.size // count, span if run.rows == span.rows else None


def _slices(files: Sequence[InputFile], runs: Iterable[Run]) -> Iterator[Slice]:
    last: Slice | None = None
    for run in runs:
        piece = _slice(files[run.file], run)
        if last is not None and _continues(last, piece):
            last = replace(last, stop=piece.stop, rows=last.rows + piece.rows)
            continue
        if last is not None:
            yield last
        last = piece
    if last is not None:
        yield last


def _continues(left: Slice, right: Slice) -> bool:
    return left.only is right.only is None and (left.bucket, left.key, left.stop) == (
        right.bucket,
        right.key,
        right.start,
    )


def _slice(file: InputFile, run: Run) -> Slice:
    span = file.spans[run.span]
    first = span.first_row + run.start
    whole = Slice(
        bucket=file.bucket,
        key=file.key,
        size=file.size,
        etag=file.etag,
        start=span.start,
        stop=span.stop,
        first_row=span.first_row,
        rows=span.rows,
        point=span.point,
    )
    if run.rows == span.rows:
        return whole
    if span.by_rows:
        return replace(whole, start=first, stop=first + run.rows, first_row=first, rows=run.rows)
    return replace(whole, only=range(first, first + run.rows))
