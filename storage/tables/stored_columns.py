"""Computes which fraction of the stored bytes of a Parquet object belongs to some of its columns."""

from __future__ import annotations

from collections.abc import Collection

import pyarrow as pa
import pyarrow.parquet as pq

from scoreline.storage.tables.base import Pinned
from scoreline.storage.tables.contents import explain_parquet
from scoreline.storage.tables.ranged import RangedFile


def stored_share(source: Pinned, columns: Collection[str]) -> float:
    """Return the fraction of the first row group's stored bytes that these columns take; 1 if there is no row group.

    Raises
    ------
    UnreadableInput
        The object is not Parquet.
    """
    try:
        metadata = pq.read_metadata(RangedFile(source.store, source.key, source.size, source.etag))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise explain_parquet(source, error) from error
    if not metadata.num_row_groups:
        return 1.0
    group = metadata.row_group(0)
    every = [group.column(number) for number in range(metadata.num_columns)]
    needed = sum(
        column.total_compressed_size
        for column in every
        if any(column.path_in_schema == name or column.path_in_schema.startswith(f"{name}.") for name in columns)
    )
    whole = sum(column.total_compressed_size for column in every)
    return needed / whole if whole else 1.0
