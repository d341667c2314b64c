"""Builds Parquet files in memory, and compresses their rows as they are added."""

from __future__ import annotations

import io
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.parquet as pq

from scoreline.storage.tables import parquet
from scoreline.storage.tables.packing import copied

GROUP_BYTES = 32 << 20
"""Number of uncompressed bytes at which a row group is closed, even if it has fewer than `parquet.GROUP_ROWS` rows.
This prevents wide rows from taking too much memory."""
WAITING_BYTES = 64 << 20
"""Number of uncompressed bytes at which the row group of a single growing file is closed."""


class _GrowingFile:
    """A Parquet file in memory, to which row groups are added."""

    def __init__(self, schema: pa.Schema, metadata: Mapping[str, str]) -> None:
        # Set the metadata first: pyarrow returns it with the schema only if it is set before any rows are written.
        self._schema = schema.with_metadata(dict(metadata))
        self._sink = io.BytesIO()  # this sink returns its bytes without a copy
        self._out: pq.ParquetWriter | None = None

    def _write_group(self, rows: pa.Table) -> None:
        rows = rows.replace_schema_metadata(self._schema.metadata)
        if self._out is None:
            self._out = parquet.open_writer(self._sink, self._schema, rows)
        self._out.write_table(rows, row_group_size=max(1, rows.num_rows))

    def _end(self, more: Mapping[str, str] | None = None) -> bytes:
        """Write the footer, and return the complete file. A file without rows has one empty row group."""
        if self._out is None:
            self._write_group(self._schema.empty_table())
        assert self._out is not None
        if more:
            self._out.add_key_value_metadata(dict(more))
        self._out.close()
        return self._sink.getvalue()


class ResultsBuffer(_GrowingFile):
    """The results of a part. Rows are encoded while they are added, one row group at a time.

    The file has the same bytes as if `parquet.write` had written all rows at once, unless a row group exceeds
    `WAITING_BYTES`.

    Parameters
    ----------
    schema : pyarrow.Schema
        Schema of the rows.
    metadata : mapping of str to str
        Key-value metadata of the footer.
    """

    def __init__(self, schema: pa.Schema, metadata: Mapping[str, str]) -> None:
        super().__init__(schema, metadata)
        self._waiting: list[pa.Table] = []
        self._waiting_rows = self._waiting_bytes = 0
        self.rows = 0
        """Number of rows so far."""

    def add(self, table: pa.Table) -> None:
        """Append rows."""
        self.rows += table.num_rows
        while self._waiting_rows + table.num_rows > parquet.GROUP_ROWS:
            fits = parquet.GROUP_ROWS - self._waiting_rows
            self._wait(table.slice(0, fits))
            self._close_group()
            table = table.slice(fits)
        self._wait(table)
        if self._waiting_bytes >= WAITING_BYTES:
            self._close_group()

    def finish(self, more: Mapping[str, str] | None = None) -> bytes:
        """Return the complete file. No rows can be added after this call.

        Parameters
        ----------
        more : mapping of str to str, optional
            Metadata of the footer that is known only now. It is not part of the schema.
        """
        if self._waiting:
            self._close_group()
        return self._end(more)

    def _wait(self, table: pa.Table) -> None:
        if table.num_rows:
            self._waiting.append(_own_copy(table))
            self._waiting_rows += table.num_rows
            self._waiting_bytes += table.nbytes

    def _close_group(self) -> None:
        self._write_group(pa.concat_tables(self._waiting))
        self._waiting, self._waiting_rows, self._waiting_bytes = [], 0, 0


def _own_copy(table: pa.Table) -> pa.Table:
    """Return the rows with a copy of all numbers and times.

    Kept columns may share a memory buffer with the features of their batch. Without the copy, the features would stay
    in memory too.
    """
    columns = [
        copied(column.chunks)
        if column.num_chunks and (pa.types.is_primitive(column.type) or pa.types.is_decimal(column.type))
        else column
        for column in table.columns
    ]
    return pa.Table.from_arrays(columns, schema=table.schema)


class ParquetBuffer(_GrowingFile):
    """One of many Parquet files that grow in memory at the same time.

    Rows are kept in compressed form until they fill a row group, so that a thousand files can grow at once.

    Parameters
    ----------
    schema : pyarrow.Schema
        Schema of the rows.
    metadata : mapping of str to str
        Key-value metadata of the footer.
    """

    def __init__(self, schema: pa.Schema, metadata: Mapping[str, str]) -> None:
        super().__init__(schema, metadata)
        self._waiting: list[pa.Buffer] = []
        self._rows = 0
        self._bytes = 0

    def add(self, table: pa.Table) -> None:
        """Append rows."""
        while self._rows + table.num_rows >= parquet.GROUP_ROWS:
            fits = parquet.GROUP_ROWS - self._rows
            self._close_group(table.slice(0, fits))
            table = table.slice(fits)
        if self._bytes + table.nbytes >= GROUP_BYTES:
            self._close_group(table)
        elif table.num_rows:
            self._waiting.append(_pack(table))
            self._rows += table.num_rows
            self._bytes += table.nbytes

    def finish(self, more: Mapping[str, str] | None = None) -> bytes:
        """Return the complete file (see `ResultsBuffer.finish`)."""
        if self._waiting:
            self._close_group(self._schema.empty_table())
        return self._end(more)

    def _close_group(self, last: pa.Table) -> None:
        """Write the waiting rows, and then `last`, as one row group."""
        rows = pa.concat_tables([*map(_unpack, self._waiting), last]).unify_dictionaries().combine_chunks()
        self._waiting, self._rows, self._bytes = [], 0, 0
        self._write_group(rows)


def _pack(table: pa.Table) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with pa.ipc.new_stream(sink, table.schema, options=options) as out:
        out.write_table(table)
    return sink.getvalue()


def _unpack(packed: pa.Buffer) -> pa.Table:
    with pa.ipc.open_stream(packed) as stream:
        return stream.read_all()
