"""Hands out the rows of one file in the order and in the form in which they are copied into a table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from psycopg import sql

from scoreline.storage.databases.connection import Connection
from scoreline.tasks.databases import binary
from scoreline.tasks.databases.encoding import encode
from scoreline.tasks.databases.tables import Mapped, Table

CHUNK_ROWS = 262_144
"""Rows that are put in the order of their keys together: the index is read and written in order, too.

The more rows, the fewer entries of the index are read between two of their keys.
"""
_CHUNK_BYTES = 16 << 20
_PACKED = (pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32())
_PACKED_BITS = 64
"""A key and its place in one number are sorted in half of the time, if both fit: the place in the last bits."""

type Piece = tuple[pa.RecordBatch, NDArray[np.int64]]
"""Rows whose columns have the names of the table, and the number of each row within its file."""


class Batches(Protocol):
    """Reads a file from its beginning, as often as it is called."""

    def __call__(self, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Yield batches with some of the columns; by default, with all."""


@dataclass(frozen=True, kw_only=True)
class PartRows:
    """The rows of one file of results."""

    batches: Batches
    schema: pa.Schema
    columns: Mapped
    table: Table

    @property
    def _is_binary(self) -> bool:
        """Whether the server has the types of all columns."""
        return all(
            binary.is_same(self.schema.field(source).type, self.table.types[target])
            for target, source in self.columns.pairs
        )

    def in_order(self) -> Iterator[Piece]:
        """Yield the rows in the order of the file."""
        first = 0
        for batch in self.batches(self.columns.sources):
            columns = [c.dictionary_decode() if pa.types.is_dictionary(c.type) else c for c in batch.columns]
            yield (
                pa.RecordBatch.from_arrays(columns, self.columns.targets),
                np.arange(first, first + batch.num_rows),
            )
            first += batch.num_rows

    def by_key(self, most: int | None = None) -> Iterator[Piece]:
        """Yield chunks of the file, each in the order of its keys.

        Parameters
        ----------
        most : int, optional
            Maximum number of rows of a piece, so that a chunk is handed out in several ones.
        """
        for batch, numbers in _chunks(self.in_order()):
            keys = [name for name in self.columns.key if _is_sortable(batch.schema.field(name).type)]
            if keys:
                places = _order(batch.select(keys))
                batch, numbers = batch.take(pa.array(places)), numbers[places]
            step = most or max(1, batch.num_rows)
            for start in range(0, batch.num_rows, step):
                yield batch.slice(start, step), numbers[start : start + step]

    def copy(self, connection: Connection, pieces: Iterable[Piece], into: sql.Composable, row: str | None) -> None:
        """Copy rows into a table.

        Parameters
        ----------
        row : str, optional
            The column that gets the number of the row. By default, the table has none.
        """
        names = ([] if row is None else [row]) + self.columns.targets
        whole = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT {})").format(
            into, sql.SQL(", ").join(map(sql.Identifier, names)), sql.SQL("binary" if self._is_binary else "csv")
        )
        with connection.cursor() as cursor, cursor.copy(whole) as copy:
            if not self._is_binary:
                for batch, numbers in pieces:
                    copy.write(encode(batch, None if row is None else numbers))
                return
            kinds = ([] if row is None else ["int8"]) + [self.table.types[name] for name in self.columns.targets]
            copy.write(binary.HEAD)
            for batch, numbers in pieces:
                columns = ([] if row is None else [pa.array(numbers)]) + batch.columns
                for data in binary.rows(columns, kinds):
                    copy.write(data)
            copy.write(binary.TAIL)


def _chunks(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """Put small batches together."""
    held: list[Piece] = []
    rows = size = 0
    for piece in pieces:
        held.append(piece)
        rows, size = rows + piece[0].num_rows, size + piece[0].nbytes
        if rows >= CHUNK_ROWS or size >= _CHUNK_BYTES:
            yield _joined(held)
            held, rows, size = [], 0, 0
    if held:
        yield _joined(held)


def _joined(pieces: list[Piece]) -> Piece:
    if len(pieces) == 1:
        return pieces[0]
    return pa.concat_batches([batch for batch, _ in pieces]), np.concatenate([numbers for _, numbers in pieces])


def _order(keys: pa.RecordBatch) -> NDArray[np.int64]:
    """Return the places of the rows in ascending order of their keys."""
    first = keys.column(0)
    if keys.num_columns == 1 and first.type in _PACKED and not first.null_count:
        numbers = first.to_numpy().astype(np.int64)
        least, bits = int(numbers.min(initial=0)), len(numbers).bit_length()
        if (int(numbers.max(initial=0)) - least).bit_length() + bits < _PACKED_BITS:
            packed: NDArray[np.int64] = ((numbers - least) << bits) | np.arange(len(numbers))
            packed.sort()
            return packed & ((1 << bits) - 1)
    found: NDArray[np.int64] = pc.sort_indices(keys, [(name, "ascending") for name in keys.schema.names]).to_numpy()
    return found


def _is_sortable(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind))
