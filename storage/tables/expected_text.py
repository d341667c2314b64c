"""Predicts the requests with which one process reads parts of a text."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from scoreline.storage.tables.base import SeekPoint, Span
from scoreline.storage.tables.compressed import BUFFER_BYTES, begins_at_point
from scoreline.storage.tables.read_ahead import divide


def expect_plain(spans: Sequence[Span]) -> list[int]:
    """Return the sizes of the requests for spans of a text that is not compressed.

    Of a span with rows that are not needed, it is assumed that all rows have the same size.
    """
    found = []
    for span in spans:
        until = _end_of_wanted(span)
        found += [stop - start for start, stop in divide(span.start, span.stop) if start < until]
    return found


def expect_compressed(size: int, spans: Sequence[Span], known: Sequence[Span]) -> list[int]:
    """Return the approximate sizes of the requests for spans of a compressed text.

    Parameters
    ----------
    size : int
        Size of the object.
    spans : sequence of Span
        What one process reads, in this order. It continues where it has stopped, or begins at a seek point.
    known : sequence of Span
        All spans of the object. Between two seek points, the compression is taken to be even.
    """
    points = {span.point.position: span.point for span in known if span.point is not None}
    places = [0, *sorted(points), known[-1].stop]
    offsets = [0, *(points[place].offset for place in places[1:-1]), size]

    def offset_of(position: int) -> int:
        number = min(bisect_right(places, position), len(places) - 1)
        low, high = places[number - 1], places[number]
        share = (position - low) / (high - low) if high > low else 1.0
        return int(offsets[number - 1] + share * (offsets[number] - offsets[number - 1]))

    found: list[int] = []
    position: int | None = None
    fetched = 0
    for span in spans:
        if position is None or begins_at_point(position, span.start, span.point):
            fetched = _offset(span.point)
        position = _end_of_wanted(span)
        needed = offset_of(position)
        if fetched < needed:
            pieces = divide(fetched, needed)
            if len(pieces) == 1:
                pieces = [(fetched, min(fetched + BUFFER_BYTES, size))]
            found += [stop - start for start, stop in pieces]
            fetched = pieces[-1][1]
    return found


def _end_of_wanted(span: Span) -> int:
    """Return the position after the last needed row of a span, if all rows have the same size."""
    if span.wanted is None or not span.rows:
        return span.stop
    return span.start + (span.stop - span.start) * (span.wanted.stop - span.first_row) // span.rows


def _offset(point: SeekPoint | None) -> int:
    return 0 if point is None else point.offset
