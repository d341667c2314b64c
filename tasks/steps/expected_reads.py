"""Estimates how many bytes the parts of a job read, and with how many requests."""

from __future__ import annotations

import math
from dataclasses import dataclass

from scoreline.storage.objects.buckets import Buckets
from scoreline.storage.tables.base import Pinned
from scoreline.storage.tables.stored_columns import stored_share
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


def expect_reads(buckets: Buckets, made: Draft) -> ExpectedReads:
    """Estimate the bytes that the parts of a job read, and the number of requests.

    The fraction of the bytes that belongs to the needed columns is measured on the first object only. Bytes that
    planning reads are not included.

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
    requests = 0
    for part in made.parts:
        for piece in part.slices:
            size = share * piece.size * piece.count / rows[piece.bucket, piece.key]
            requests += 1 + math.ceil(readings * size / REQUEST_BYTES)
    return ExpectedReads(needed_bytes=needed, bytes=int(readings * needed), requests=requests)
