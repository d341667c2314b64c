"""How many rows a part aims at, and how an input is cut into parts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

from scoreline.storage.tables.base import Span
from scoreline.tasks.job.plan import InputFile, Part, Slice

PART_ROWS = 131_072
"""For a version of which nothing is known yet. Two batches of the size that forests are fastest with: a lost part costs
a second, and overhead stays below 5%."""
PART_SECONDS = 20
"""Of work that a part aims at, where an earlier job of the model version says how long its rows take: a restart loses
no more, and what a part costs besides is a thousandth."""
LEAST_PART_ROWS = 1_024
"""Or a second's work, where that is fewer."""
MOST_PART_ROWS = 262_144
"""Results of a part are in memory until it is written, and memory must not grow with a job. Of three million rows
a second this is 85 ms of work, and a part costs some 9 ms besides."""
SHARES = (4, 16)
"""Parts for each process, at least and at most, of a job that has fewer than `PART_SECONDS` of work for each part:
enough of them that no process waits long for the others' last, and not so many that their overhead counts."""
SHARE_SECONDS = 0.5
"""Of work that a part has where a process gets more than the least of shares and fewer than the most."""
LEAST_SECONDS = 0.1
"""Of work: ten times what a part costs besides."""
SUPPOSED_PROCESSES = 8
"""Where nobody has counted those of the workers lately."""
SLOW_ROWS_PER_S = 1_000
"""Of a model that scores fewer, a part of `PART_ROWS` takes a quarter of its time limit and more."""
_HEADROOM = 1.25
"""Parts are whole row groups: aiming a little higher, one more fits in rather than one less."""
PART_BYTES = 128 << 20
"""Uncompressed. Bounds a worker's memory for wide rows."""
PART_SLICES = 256
"""Objects that a part may read: each costs some requests, one after the other."""


def target_part_rows(rows: int, rows_per_s: float | None, processes: int) -> int:
    """Rows that parts aim at, by what one process scored in a second in an earlier job of the model version.

    Where nobody knows how many processes there are, `processes` is 0.

    >>> fitting_rows(10**8, None, 4), fitting_rows(10**8, 1000.0, 4), fitting_rows(10**8, 5e5, 4)
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
    single span that exceeds them is a part alone. Small files share a part; files and spans without rows are in none.

    Parameters
    ----------
    most_rows : int, optional
        A span of more is divided into runs of at most `part_rows`, though each has to read the span up to its end:
        for models so slow that this is little.
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
                )
                count = 1 if most_rows is None or span.rows <= most_rows else -(-span.rows // part_rows)
                for only in _runs(span, count) if count > 1 else (None,):
                    yield replace(piece, only=only), span.size // count


def _runs(span: Span, count: int) -> Iterator[range]:
    """Divide the rows of a span evenly, by their numbers."""
    bounds = [span.first_row + span.rows * number // count for number in range(count + 1)]
    yield from (range(start, stop) for start, stop in pairwise(bounds))


def _adjoin(left: Slice, right: Slice) -> bool:
    return left.only is right.only is None and (left.bucket, left.key, left.stop) == (
        right.bucket,
        right.key,
        right.start,
    )
