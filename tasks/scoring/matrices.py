"""Fills matrices of features with columns.

A matrix whose rows are contiguous is filled many columns at a time. If it were filled column by column, each cache line
would be written again for each of its columns, after it has left the cache: a matrix of 65,536 rows and 20 columns
would take six times as long.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable
from typing import Any

try:
    from scoreline.tasks.scoring import matrix_rows as matrix_rows  # tests use it, too
except ImportError:  # the extension was not built
    matrix_rows = None  # type: ignore[assignment]

_COLUMNS_BYTES = 256
"""Number of bytes of a row that are written at a time: four cache lines. More columns at a time would gain little."""
_TILE_ROWS = 2_048
"""Number of rows that NumPy fills at a time. Fewer rows would need more calls, and more rows would leave the cache."""


def fill_matrix(x: Any, columns: Iterable[Any]) -> None:
    """Copy columns into a matrix, and convert them to its type as NumPy does.

    Parameters
    ----------
    x : ndarray, shape (n_rows, n_columns)
        The matrix, in any memory order.
    columns : iterable of ndarray, shape (n_rows,)
        The columns. Only some of them are taken at a time, so that an iterator can make each when it is needed.
    """
    if x.flags.f_contiguous:
        for number, column in enumerate(columns):
            x[:, number] = column
        return
    width = max(1, _COLUMNS_BYTES // x.itemsize)
    for number, some in enumerate(itertools.batched(columns, width)):
        part = x[:, number * width : number * width + len(some)]
        is_number = x.dtype.kind in "biuf"  # a matrix of dates has no buffer
        if matrix_rows is None or not is_number or not matrix_rows.fill(part, some):
            _fill_tiles(part, some)


def _fill_tiles(x: Any, columns: Collection[Any]) -> None:
    """Do what `matrix_rows.fill` does, for matrices and columns of any type."""
    if any(len(column) != len(x) for column in columns):  # a tile would not have the rows that are too many
        raise ValueError("a column has not as many rows as the matrix")
    for start in range(0, len(x), _TILE_ROWS):
        tile = x[start : start + _TILE_ROWS]
        for number, column in enumerate(columns):
            tile[:, number] = column[start : start + _TILE_ROWS]
