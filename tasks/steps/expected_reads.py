"""Estimates how many bytes the parts of a job read, and with how many requests."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass

from scoreline.storage.objects.buckets import Buckets
from scoreline.storage.tables.base import Pinned
from scoreline.storage.tables.small_objects import SMALL_BYTES
from scoreline.storage.tables.stored_columns import stored_share
from scoreline.tasks.job.plan import Slice
from scoreline.tasks.steps.sampling import Draft

REQUEST_BYTES = 8 << 20
"""Typical size of a request for the rows of a large object."""


@dataclass(frozen=True, kw_only=True)
class ExpectedReads:
    """The bytes that the parts of a job are expected to read, and the number of requests."""

    needed_bytes: int
    """Stored bytes of the columns that are needed. Text is needed as a whole."""
    bytes: int
    """Bytes that are read. It is more than `needed_bytes` if processes share row groups."""
    requests: int
    """Number of requests for `bytes`."""


def expect_reads(buckets: Buckets, made: Draft, processes: int = 0) -> ExpectedReads:
    """Estimate the bytes that the parts of a job read, and the number of requests.

    The fraction of the bytes that belongs to the needed columns is measured on the first object only. Bytes that
    planning reads are not included.

    Parameters
    ----------
    processes : int
        Number of processes that score parts; 0 if it is unknown.

    Raises
    ------
    ScorelineError
        The first object cannot be read.
    """
    read = {(piece.bucket, piece.key) for part in made.parts for piece in part.slices}
    objects = [item.file for item in made.surveyed if (item.file.bucket, item.file.key) in read]
    if not objects:
        return ExpectedReads(needed_bytes=0, bytes=0, requests=0)
    share = 1.0
    if any(span.by_rows for span in objects[0].spans[:1]):
        share = stored_share(Pinned.of(buckets[objects[0].bucket], objects[0]), made.columns.names)
    rows = {(item.bucket, item.key): sum(item.row_counts) for item in objects}
    needed = int(share * sum(item.size for item in objects))
    readings = made.chosen.readings if made.chosen is not None else 1.0
    firsts = {(item.bucket, item.key): [span.first_row for span in item.spans] for item in objects}
    by_rows = {(item.bucket, item.key) for item in objects if any(span.by_rows for span in item.spans)}
    groups: dict[tuple[str, str, int], list[Slice]] = {}
    for part in made.parts:
        for piece in part.slices:
            place = bisect_right(firsts[piece.bucket, piece.key], piece.first_row)
            groups.setdefault((piece.bucket, piece.key, place), []).append(piece)
    requests = 0
    for (bucket, key, _), pieces in groups.items():
        # A process keeps the reader of a row group open for its next slice, but not that of a text
        readers = min(len(pieces), processes or 1) if (bucket, key) in by_rows else len(pieces)
        requests += readers  # for the whole object if it is small; otherwise, for the footer or the beginning
        if pieces[0].size > SMALL_BYTES:
            size = share * pieces[0].size * sum(piece.count for piece in pieces) / rows[bucket, key]
            requests += max(readers, math.ceil(readings * size / REQUEST_BYTES))
    return ExpectedReads(needed_bytes=needed, bytes=int(readings * needed), requests=requests)
