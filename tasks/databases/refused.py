"""Finds the rows that a table refuses, by loading halves of halves, and writes them to a file of their own."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq

from scoreline.storage import keys
from scoreline.storage.databases.connection import Connection, is_of_row
from scoreline.storage.errors import LoadBudgetExceeded, PreconditionFailed
from scoreline.storage.hashing import sha256_hex
from scoreline.storage.objects.base import CREATE, ObjectStore
from scoreline.storage.wording import plural

STAGE = "load"
_CHUNK_ROWS = 4_096
"""Number of rows that are tried together once a file has a row that the table refuses."""


@dataclass(kw_only=True)
class Refused:
    """The rows of one file that a table refuses, with reasons."""

    allowed: int
    """Maximum number of rows of this file."""
    whole: str
    """What the job allows, for the error message."""
    reasons: dict[int, str] = field(default_factory=dict)
    """By the number of the row within the file."""

    def add(self, row: int, reason: str) -> None:
        """Set a row aside; raises `LoadBudgetExceeded` if that is one too many."""
        self.reasons[row] = reason
        if len(self.reasons) > self.allowed:
            raise LoadBudgetExceeded(
                f"the table refused more rows than the job may reject ({self.whole}); the last reason: {reason}"
            )

    def search(self, connection: Connection, start: int, stop: int, load: Callable[[int, int], None]) -> None:
        """Load the rows of a range, except those that the table refuses.

        Parameters
        ----------
        load : callable
            Loads the rows from its first argument up to, but not including, its second.
        """
        ranges = [(low, min(low + _CHUNK_ROWS, stop)) for low in range(start, stop, _CHUNK_ROWS)][::-1]
        while ranges:
            low, high = ranges.pop()
            try:
                with connection.transaction():
                    load(low, high)
            except psycopg.Error as error:
                if not is_of_row(error):
                    raise
                if high - low == 1:
                    self.add(low, row_reason(error))
                else:
                    middle = (low + high) // 2
                    ranges += [(middle, high), (low, middle)]


def row_reason(error: psycopg.Error) -> str:
    """Return why a table refuses a row, in one line."""
    said = " ".join((error.diag.message_primary or type(error).__name__).split())
    name = error.diag.constraint_name
    return said if name is None or name in said else f"{said} ({name})"


def store_refused(
    store: ObjectStore, folder: str, load_id: str, part: int, refused: Refused, batches: Iterator[pa.RecordBatch]
) -> str:
    """Write the refused rows of a file of results beside the results. Return the URI of the object."""
    rows = np.array(sorted(refused.reasons))
    pieces: list[pa.RecordBatch] = []
    first = 0
    for batch in batches:
        here = rows[(rows >= first) & (rows < first + batch.num_rows)]
        if len(here):
            pieces.append(batch.take(pa.array(here - first)))
        first += batch.num_rows
    table = pa.Table.from_batches(pieces)
    for name, values in (
        ("scoreline_row", pa.array(rows, pa.int64())),
        ("scoreline_stage", pa.array([STAGE] * len(rows), pa.string())),
        ("scoreline_reason", pa.array([refused.reasons[int(row)] for row in rows], pa.string())),
    ):
        table = table.append_column(name, values)
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    data = sink.getvalue()
    key = keys.load_refused(folder, load_id, part, sha256_hex(data))
    with contextlib.suppress(PreconditionFailed):  # an earlier attempt has written the same rows
        store.put(key, data, mode=CREATE)
    return store.uri(key)


def budget_in_words(allowed: str, rows: int) -> str:
    """Return what a job allows.

    >>> budget_in_words("1%", 200)
    '1% of 200 rows'
    """
    return f"{allowed} of {plural(rows, 'row')}"
