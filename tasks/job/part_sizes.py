"""Chooses the target size of parts, and cuts an input into parts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

from scoreline.storage.tables.base import Span
from scoreline.tasks.job.plan import InputFile, Part, Slice

PART_ROWS = 131_072
"""Rows of a part if nothing is known about the model version yet: two batches of the size at which forests are fastest.
A lost part then costs a second, and overhead stays below 5%."""
PART_SECONDS = 20
"""Target seconds of work per part, if an earlier job has shown how fast the model version scores rows. A restart loses
no more work than that, and the overhead of a part is a thousandth of it."""
LEAST_PART_ROWS = 1_024
"""Minimum target for the rows of a part, or a second's work if that is fewer rows."""
MOST_PART_ROWS = 262_144
"""Maximum target for the rows of a part. Its results stay in memory until they are written, and memory must not grow
with the size of a job. At three million rows a second, this many rows take 85 ms; the overhead is about 9 ms a part."""
SHARES = (4, 16)
"""The minimum and the maximum number of parts for each process, in a job that has less than `PART_SECONDS` of work for
each part: enough that no process waits long for the last parts of others, and few enough to keep overhead small."""
SHARE_SECONDS = 0.5
"""Target seconds per part while each process gets between the minimum and the maximum number of parts."""
LEAST_SECONDS = 0.1
"""Minimum seconds of work in a part: ten times its overhead."""
SUPPOSED_PROCESSES = 8
"""Number of processes to assume if the workers' processes have not been counted recently."""
SLOW_ROWS_PER_S = 1_000
"""Below this pace, a part of `PART_ROWS` would take a quarter of its time limit or more."""
_HEADROOM = 1.25
"""Factor by which the target is raised. Parts consist of whole row groups, and a slightly higher target lets one more
row group fit."""
PART_BYTES = 128 << 20
"""Maximum number of uncompressed bytes in a part. It limits a worker's memory when rows are wide."""
PART_SLICES = 256
"""Maximum number of slices in a part. Each slice costs a few requests, one after the other."""


def target_part_rows(rows: int, rows_per_s: float | None, processes: int) -> int:
    """Return the target number of rows per part.

    Parameters
    ----------
    rows : int
        Number of rows in the job.
    rows_per_s : float, optional
        Rows that one process scored per second in an earlier job of the model version; None if there was no such job.
    processes : int
        Number of processes that score parts; 0 if they have not been counted recently.

    >>> target_part_rows(10**8, None, 4), target_part_rows(10**8, 1000.0, 4), target_part_rows(10**8, 5e5, 4)
    (131072, 20000, 262144)
    """
    if not rows_per_s:
        return PART_ROWS
    processes = processes or SUPPOSED_PROCESSES
    least, most = SHARES
    shares = min(most, max(least, rows / rows_per_s / processes / SHARE_SECONDS))
    aimed = max(_HEADROOM * rows / (processes * shares), LEAST_SECONDS * rows_per_s)
    return max(1, int(max(min(LEAST_PART_ROWS, rows_per_s), min(aimed, PART_SECONDS * rows_per_s, MOST_PART_ROWS))))


def cut(
    files: Sequence[InputFile], part_rows: int = PART_ROWS, part_bytes: int = PART_BYTES, most_rows: int | None = None
) -> tuple[Part, ...]:
    """Cut files into parts of whole spans, in input order.

    A part is closed before it would exceed `part_rows` rows, `part_bytes` uncompressed bytes or `PART_SLICES` slices; a
    single span that exceeds a limit becomes a part by itself. Small files share a part. Files and spans without rows
    are left out.

    Parameters
    ----------
    most_rows : int, optional
        A span with more rows than this is divided into runs of at most `part_rows` rows. Each run has to read the span
        up to its own end. That only pays off for slow models, for which reading takes little time in comparison.
    """
    parts: list[Part] = []
    current: list[Slice] = []
    rows = size = 0
    for piece, weight in _pieces(files, part_rows, most_rows):
        adjoins = bool(current) and _adjoin(current[-1], piece)
        full = rows + piece.count > part_rows or size + weight > part_bytes
        if current and (full or (len(current) == PART_SLICES and not adjoins)):
            parts.append(Part(slices=tuple(current)))
            current, rows, size = [], 0, 0
        if adjoins and current:
            last = current.pop()
            current.append(replace(last, stop=piece.stop, rows=last.rows + piece.rows))
        else:
            current.append(piece)
        rows += piece.count
        size += weight
    if current:
        parts.append(Part(slices=tuple(current)))
    return tuple(parts)


def _pieces(files: Iterable[InputFile], part_rows: int, most_rows: int | None) -> Iterator[tuple[Slice, int]]:
    for file in files:
        for span in file.spans:
            if span.rows:
                piece = Slice(
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
                count = 1 if most_rows is None or span.rows <= most_rows else -(-span.rows // part_rows)
                for only in _runs(span, count) if count > 1 else (None,):
                    yield replace(piece, only=only), span.size // count


def _runs(span: Span, count: int) -> Iterator[range]:
    """Divide the rows of a span evenly, by their row numbers."""
    bounds = [span.first_row + span.rows * number // count for number in range(count + 1)]
    yield from (range(start, stop) for start, stop in pairwise(bounds))


def _adjoin(left: Slice, right: Slice) -> bool:
    return left.only is right.only is None and (left.bucket, left.key, left.stop) == (
        right.bucket,
        right.key,
        right.start,
    )
