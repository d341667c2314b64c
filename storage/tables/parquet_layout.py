"""Recognizes Parquet files that were joined into one object.

A Parquet file ends with a footer. The footer contains the positions of the columns, counted from the beginning of the
file. If two files are joined, Arrow finds the footer of the second file. Arrow would then read the columns of the first
file if these have the same lengths as those of the second file.
"""

from __future__ import annotations

import io

import pyarrow.parquet as pq

_MAGIC = b"PAR1"
_CHUNK_BYTES = 1 << 20


def may_be_joined(data: bytes) -> bool:
    """Return whether a whole file may contain the end of another file. If not, `is_joined` is not needed."""
    return 2 * _MAGIC in data


def is_joined(file: io.RawIOBase | io.BufferedIOBase, size: int, metadata: pq.FileMetaData) -> bool:
    """Return whether a file contains the end of another file. There, the magic bytes of both files are adjacent.

    The function searches two places. The first place is between the last column and the footer, where only indexes and
    filters are allowed. The second place is the beginning of the last file, which is computed as if that file had no
    indexes or filters.
    """
    footer = size - len(_MAGIC) - 4 - metadata.serialized_size
    if _ends_with_last_column(metadata, footer):
        return False
    end = _end_of_columns(metadata)
    between = footer - end
    if between <= 0:
        return False
    tail = b""
    for start in range(end, footer, _CHUNK_BYTES):
        file.seek(start)
        data = tail + file.read(min(_CHUNK_BYTES, footer - start))
        if 2 * _MAGIC in data:
            return True
        tail = data[1 - 2 * len(_MAGIC) :]
    file.seek(max(0, between - len(_MAGIC)))
    return file.read(2 * len(_MAGIC)) == 2 * _MAGIC


def _ends_with_last_column(metadata: pq.FileMetaData, footer: int) -> bool:
    """Return whether the last column of the last row group ends at the footer, as in files of most writers."""
    if not metadata.num_row_groups or not metadata.num_columns:
        return False
    return _end(metadata.row_group(metadata.num_row_groups - 1).column(metadata.num_columns - 1)) >= footer


def _end_of_columns(metadata: pq.FileMetaData) -> int:
    end = len(_MAGIC)
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        end = max(end, *(_end(group.column(position)) for position in range(group.num_columns)), 0)
    return end


def _end(column: pq.ColumnChunkMetaData) -> int:
    """Return the end of a column; 0 if the metadata has no position for the column."""
    start = min(filter(None, (column.dictionary_page_offset, column.data_page_offset)), default=None)
    return 0 if start is None else int(start + column.total_compressed_size)
