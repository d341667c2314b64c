"""Asks a table which rows of a batch it has already, so that only rows that are new or differ are sent.

The server gets each column as one array, compares it with the values that it has for the keys of the batch, and returns
its own only if they differ: to compare values takes less CPU time than to return them. In a column that is returned,
values are the same only if they are written with the same bytes; what is equal in any other way, such as 0.0 and -0.0,
the server finds when it inserts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from psycopg import sql

from scoreline.storage.databases.connection import Connection
from scoreline.tasks.databases import binary
from scoreline.tasks.databases.stored_column import Sent, SentDumper, StoredColumn, Values, quoted
from scoreline.tasks.databases.tables import Mapped, Table

COMPARED_ROWS = 65_536
"""Rows that are compared at once: fewer take longer, and more only take more memory."""
_MOST_COLUMNS = 500
"""Maximum number of columns besides the key. A statement returns at most 1,664 columns, three of which a text takes."""
_TEXT_BYTES = 64 << 20
"""Maximum size of the texts that the server sends for a batch."""


@dataclass(kw_only=True)
class StoredRows:
    """The rows of a table, looked up by the keys of results."""

    table: Table
    columns: Mapped
    utf8: bool
    """Whether the server stores texts as it sends them."""
    in_step: bool = True
    """Whether the table had each key of the last batch, and returned them in the same order.

    Otherwise, the values of the next batch are not sent: where a row is missing, all columns differ. The order is
    another one if the index has texts in the order of a language, or if the server reads the rows in the order in which
    the table stores them.
    """

    @classmethod
    def of(cls, connection: Connection, table: Table, columns: Mapped) -> StoredRows:
        """Return the rows of a table, as a connection sees them."""
        encoding = connection.info.parameter_status("server_encoding")
        return cls(table=table, columns=columns, utf8=encoding == "UTF8")

    @cached_property
    def _columns(self) -> dict[str, StoredColumn]:
        return {
            name: StoredColumn(number=n, name=name, kind=self.table.types[name])
            for n, name in enumerate(self.columns.targets)
        }

    @property
    def _texts(self) -> list[str]:
        """The columns whose values differ in size."""
        return [name for name, column in self._columns.items() if not binary.is_fixed(column.kind)]

    def can_compare(self, schema: pa.Schema) -> bool:
        """Return whether rows can be looked up and compared without a conversion."""
        kinds = {name: column.kind for name, column in self._columns.items()}
        return (
            self.has_plain_key(schema)
            and 0 < len(self.columns.others) <= _MOST_COLUMNS
            and all(binary.is_same(schema.field(source).type, kinds[name]) for name, source in self.columns.pairs)
            and (self.utf8 or all(map(binary.is_fixed, kinds.values())))
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
            The columns are those of the table. No key is missing; only texts may be there twice.
        """
        sizes = [binary.lengths(batch.column(name)) for name in self._texts]
        longest = int(sum(sizes, np.zeros(batch.num_rows, np.int64)).max(initial=0))
        if longest * batch.num_rows > _TEXT_BYTES:
            return np.ones(batch.num_rows, np.bool_)
        stored = self._look_up(connection, batch, longest)
        (key,) = self.columns.key
        own = self._columns[key].values(batch.column(key)).values
        self.in_step = key not in stored or stored[key].values.equals(own)
        if self.in_step:  # the usual case: the index returns all keys, in their order
            same = np.ones(batch.num_rows, np.bool_)
            for name, values in stored.items():
                same &= self._columns[name].values(batch.column(name)).same(values)
            return ~same
        places = pc.index_in(own, value_set=stored[key].values)
        same = np.array(places.is_valid().to_numpy(zero_copy_only=False))
        here, there = np.flatnonzero(same), places.drop_null().to_numpy()
        for name in self.columns.others:
            mine = self._columns[name].values(batch.column(name))
            same[here] &= mine.take(here).same(stored.get(name, mine).take(there))
        return ~same

    def _look_up(self, connection: Connection, batch: pa.RecordBatch, longest: int) -> Mapping[str, Values]:
        """Return the columns that differ of the stored rows with the keys of a batch.

        Rows with more text than any of the batch are left out. The planner does not see the keys: it would take long to
        estimate how many rows each of them has.
        """
        (key,), columns = self.columns.key, self._columns
        sent = set(columns) if self.in_step else {key}
        sizes = [sql.SQL("coalesce(octet_length({}), 0)").format(quoted(name)) for name in self._texts]
        query = sql.SQL(
            "SELECT {wanted} FROM (SELECT {compared} FROM {table} WHERE {key} = ANY ((SELECT {keys}::{kind}[])"
            "::{kind}[]) AND {size} <= {longest}) AS stored"
        ).format(
            wanted=sql.SQL(", ").join(column.wanted() for column in columns.values()),
            compared=sql.SQL(", ").join(column.compared(with_sent=name in sent) for name, column in columns.items()),
            table=quoted(self.table.schema, self.table.name),
            key=quoted(key),
            keys=columns[key].keys,
            kind=columns[key].cast,
            size=sql.SQL(" + ").join([sql.SQL("0::bigint"), *sizes]),
            longest=sql.Literal(longest),
        )
        values = dict[str, Sent]()
        for name in sent:
            values |= columns[name].sent(batch.column(name), is_key=name == key)
        connection.adapters.register_dumper(Sent, SentDumper)
        connection.execute("SET LOCAL enable_seqscan = off")  # without the index, each key is compared with each row
        cursor = connection.execute(query, values, binary=True)
        connection.execute("SET LOCAL enable_seqscan TO DEFAULT")
        assert cursor.pgresult is not None
        fields = iter([cursor.pgresult.get_value(0, n) for n in range(cursor.pgresult.nfields)])
        received = {name: column.received(fields) for name, column in columns.items()}
        return {name: found for name, found in received.items() if found is not None}
