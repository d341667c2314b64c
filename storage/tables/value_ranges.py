"""Finds out from the footer of a Parquet object which values its columns have, and how many bytes its first rows take.

With these values, planning can make up rows instead of reading them (see `scoreline.tasks.steps.made_up`).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq

from scoreline.storage.tables.parquet_chunks import Leaves, find_chunks
from scoreline.storage.tables.row_groups import RowGroup


@dataclass(frozen=True, kw_only=True)
class ValueRanges:
    """The range of the values of some columns in a row group, as its footer states it."""

    ranges: Mapping[str, tuple[float, float]]
    """The smallest and the largest value of each column of numbers. Columns without these statistics are left out."""
    stored_bytes: int
    """Estimated number of bytes to fetch for the first rows of these columns."""


def find_ranges(metadata: pq.FileMetaData, number: int, rows: int, columns: Collection[str], size: int) -> ValueRanges:
    """Return what the footer says about the values of some columns, and about the first rows of a row group.

    Parameters
    ----------
    number : int
        Number of the row group.
    rows : int
        How many rows at the beginning of the row group would have to be read.
    size : int
        Size of the object.
    """
    leaves, row_group = Leaves(metadata).of(columns), metadata.row_group(number)
    chunks = find_chunks(metadata, number, leaves, size)
    group = RowGroup(number=number, first_row=0, rows=row_group.num_rows, chunks=chunks)
    share = min(rows / max(group.rows, 1), 1.0)
    stored = group.size if group.is_wide else sum(chunk.position_after(share) for chunk in chunks)
    ranges: dict[str, tuple[float, float]] = {}
    for leaf, name in leaves.items():
        found = _range(row_group.column(leaf).statistics)
        if found is not None and metadata.schema.column(leaf).path == name:
            ranges[name] = found
    return ValueRanges(ranges=ranges, stored_bytes=stored)


def _range(statistics: Any) -> tuple[float, float] | None:
    """Return the smallest and the largest value; None if they are unknown, not finite, or not numbers."""
    if statistics is None or not statistics.has_min_max:
        return None
    low, high = statistics.min, statistics.max
    if type(low) not in (int, float) or type(high) not in (int, float):
        return None
    return (low, high) if math.isfinite(low) and math.isfinite(high) and low <= high else None
