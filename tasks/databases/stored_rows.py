"""Asks a table which rows of a batch it has already, so that only rows that are new or differ are sent.

The server sends the values that it has for the keys of the batch, each column as one array: this takes a third of the
time that copying all rows and joining them with the table takes. A row is left out only if each value is written with
the same bytes; what is equal in any other way, such as 0.0 and -0.0, the server finds when it inserts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from psycopg import sql
from psycopg.abc import Buffer
from psycopg.adapt import Dumper
from psycopg.pq import Format

from scoreline.storage.databases.connection import Connection
from scoreline.tasks.databases import binary
from scoreline.tasks.databases.tables import Mapped, Table, identifiers

_MOST_COLUMNS = 60
"""Maximum number of columns besides the key, because the missing values of a row are the bits of a whole number."""
_TEXT_BYTES = 64 << 20
"""Maximum size of the texts of one column that the server sends for a batch."""
_LARGE = {"text": pa.large_string(), "varchar": pa.large_string(), "bytea": pa.large_binary()}
_CASTS = {"varchar": "text"}


@dataclass(frozen=True)
class _Array:
    """An array as the server reads it."""

    data: bytes


class _ArrayDumper(Dumper):
    format = Format.BINARY

    def dump(self, obj: _Array) -> Buffer:
        return obj.data


@dataclass(frozen=True, kw_only=True)
class StoredRows:
    """The rows of a table, looked up by the keys of results."""

    table: Table
    columns: Mapped
    utf8: bool
    """Whether the server stores texts as it sends them."""

    @classmethod
    def of(cls, connection: Connection, table: Table, columns: Mapped) -> StoredRows:
        """Return the rows of a table, as a connection sees them."""
        encoding = connection.info.parameter_status("server_encoding")
        return cls(table=table, columns=columns, utf8=encoding == "UTF8")

    @property
    def _kinds(self) -> dict[str, str]:
        return {target: self.table.types[target] for target in self.columns.targets}

    def can_compare(self, schema: pa.Schema) -> bool:
        """Return whether rows can be looked up and compared without a conversion."""
        return (
            self.has_plain_key(schema)
            and 0 < len(self.columns.others) <= _MOST_COLUMNS
            and all(binary.is_same(schema.field(source).type, self._kinds[name]) for name, source in self.columns.pairs)
            and (self.utf8 or all(map(binary.is_fixed, self._kinds.values())))
        )

    def has_plain_key(self, schema: pa.Schema) -> bool:
        """Return whether the key is one column, of which equal values are written in the same way."""
        if len(self.columns.key) != 1:
            return False
        (key,) = self.columns.key
        kind, source = self.table.types[key], dict(self.columns.pairs)[key]
        return kind in binary.KEYS and key not in self.table.vague and binary.is_same(schema.field(source).type, kind)

    def differing(self, connection: Connection, batch: pa.RecordBatch) -> NDArray[np.bool_]:
        """Return for each row whether the table lacks it, or has other values.

        Parameters
        ----------
        batch : pyarrow.RecordBatch
            The columns are those of the table. No key is missing or there twice.
        """
        own = {name: _values(batch.column(name), kind) for name, kind in self._kinds.items()}
        longest = {
            name: int(binary.lengths(column).max(initial=0))
            for name, column in own.items()
            if not binary.is_fixed(self._kinds[name])
        }
        if any(most * batch.num_rows > _TEXT_BYTES for most in longest.values()):
            return np.ones(batch.num_rows, np.bool_)
        stored, missing = self._look_up(connection, batch, longest)
        (key,) = self.columns.key
        if stored[key].equals(own[key]):  # the usual case: the index returns all keys, in their order
            return ~self._alike(batch, own, stored, missing)
        places = pc.index_in(own[key], value_set=stored[key])
        same: NDArray[np.bool_] = places.is_valid().to_numpy(zero_copy_only=False).copy()
        found, at = pa.array(same), places.filter(places.is_valid())
        same[same] = self._alike(
            batch.filter(found),
            {name: column.filter(found) for name, column in own.items()},
            {name: column.take(at) for name, column in stored.items()},
            missing[at.to_numpy()],
        )
        return ~same

    def _alike(
        self,
        batch: pa.RecordBatch,
        own: Mapping[str, pa.Array],
        stored: Mapping[str, pa.Array],
        missing: NDArray[np.int64],
    ) -> NDArray[np.bool_]:
        """Return for each row whether it has the same values as the stored row at the same place."""
        alike: NDArray[np.bool_] = missing == _missing(batch, self.columns.others)
        for name in self.columns.others:
            alike &= pc.equal(own[name], stored[name]).to_numpy(zero_copy_only=False)
        return alike

    def _look_up(
        self, connection: Connection, batch: pa.RecordBatch, longest: Mapping[str, int]
    ) -> tuple[dict[str, pa.Array], NDArray[np.int64]]:
        """Return the stored rows with the keys of a batch, and which of their values are missing, as bits.

        The planner does not see the keys: it would take long to estimate how many rows each of them has.
        """
        (key,), kinds = self.columns.key, self._kinds
        limits = [
            sql.SQL(" AND coalesce(octet_length({}) <= {}, true)").format(sql.Identifier(name), sql.Literal(most))
            for name, most in longest.items()
        ]
        query = sql.SQL(
            "SELECT {wanted} FROM {table} WHERE {key} = ANY ((SELECT %b::{kind}[])::{kind}[]){limits}"
        ).format(
            wanted=sql.SQL(", ").join(self._wanted()),
            table=self.table.sql,
            key=sql.Identifier(key),
            kind=sql.SQL(_CASTS.get(kinds[key], kinds[key])),
            limits=sql.SQL("").join(limits),
        )
        keys = _Array(binary.array(batch.column(key), kinds[key]))
        connection.adapters.register_dumper(_Array, _ArrayDumper)
        connection.execute("SET LOCAL enable_seqscan = off")  # without the index, each key is compared with each row
        cursor = connection.execute(query, (keys,), binary=True)
        connection.execute("SET LOCAL enable_seqscan TO DEFAULT")
        assert cursor.pgresult is not None
        got = iter([cursor.pgresult.get_value(0, n) for n in range(cursor.pgresult.nfields)])
        stored = {}
        for name, kind in kinds.items():
            if binary.is_fixed(kind):
                stored[name] = pa.array(_bits(binary.read_array(next(got), kind)))
            else:
                stored[name] = _texts(binary.read_array(next(got), "int4"), next(got), kind)
        return stored, binary.read_array(next(got), "int8").astype(np.int64)

    def _wanted(self) -> Iterator[sql.Composable]:
        """Yield what the server returns: the values of each column, and last which values of each row are missing."""
        for name, kind in self._kinds.items():
            cast = sql.SQL(_CASTS.get(kind, kind))
            column = sql.SQL("{}::{}").format(sql.Identifier(name), cast)
            if binary.is_fixed(kind):
                yield sql.SQL("array_agg(coalesce({}, '0'::{}))").format(column, cast)
            else:
                yield sql.SQL("array_agg(octet_length(coalesce({}, '')))").format(column)
                yield sql.SQL("string_agg(coalesce({}, ''), '')").format(column)
        others = self.columns.others
        bits = sql.SQL(" + ").join(
            sql.SQL("(({} IS NULL)::int::bigint << {})").format(sql.Identifier(name), sql.Literal(n))
            for n, name in enumerate(others)
        )
        yield sql.SQL("array_agg(CASE WHEN num_nulls({}) = 0 THEN 0 ELSE {} END)").format(identifiers(others), bits)


def _values(column: pa.Array, kind: str) -> pa.Array:
    """Return a column in the form in which values are compared: numbers as their bits, and missing ones as empty."""
    if binary.is_fixed(kind):
        return pa.array(_bits(binary.numbers(column, kind)))
    column = column.cast(_LARGE[kind])
    return column.fill_null(b"" if kind == "bytea" else "") if column.null_count else column


def _bits(numbers: NDArray[np.generic]) -> NDArray[np.generic]:
    return numbers.view(f"i{numbers.dtype.itemsize}")


def _texts(lengths: NDArray[np.generic], data: bytes | None, kind: str) -> pa.Array:
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return pa.Array.from_buffers(_LARGE[kind], len(lengths), [None, pa.py_buffer(offsets), pa.py_buffer(data or b"")])


def _missing(batch: pa.RecordBatch, names: list[str]) -> NDArray[np.int64]:
    """Return which values of each row are missing: bit n for the n-th name."""
    bits = np.zeros(batch.num_rows, np.int64)
    for n, name in enumerate(names):
        if batch.column(name).null_count:
            bits |= batch.column(name).is_null().to_numpy(zero_copy_only=False).astype(np.int64) << n
    return bits
