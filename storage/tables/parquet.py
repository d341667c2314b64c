"""Parquet in and out."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from storage.errors import UnreadableInput
from storage.objects.base import ObjectStore
from storage.tables.ranged import RangedFile

COMPRESSION = "zstd"


@dataclass(frozen=True, kw_only=True)
class Footer:
    """What the end of a Parquet file says of the rest."""

    schema: pa.Schema
    group_rows: tuple[int, ...]
    """Rows of each row group."""
    group_bytes: tuple[int, ...]
    """Uncompressed bytes of each row group."""


class ParquetReader:
    """Reads Parquet objects by ranges; the footer of an object is asked for once, however many parts read it.

    Thread-safe, but for what it hands out.

    Parameters
    ----------
    footer_bytes : int
        Encoded size of the footers to remember; decoded they take some ten times that.
    """

    def __init__(self, footer_bytes: int = 4 << 20) -> None:
        self._room = footer_bytes
        self._footers: OrderedDict[tuple[str, str], pq.FileMetaData] = OrderedDict()
        self._lock = threading.Lock()

    def footer(self, store: ObjectStore, key: str, size: int, etag: str) -> Footer:
        """Read the footer alone.

        Raises
        ------
        UnreadableInput
            The object is no Parquet file.
        """
        metadata = self._open(store, key, size, etag).metadata
        groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
        return Footer(
            schema=metadata.schema.to_arrow_schema(),
            group_rows=tuple(group.num_rows for group in groups),
            group_bytes=tuple(group.total_byte_size for group in groups),
        )

    def read_batches(
        self,
        store: ObjectStore,
        key: str,
        size: int,
        etag: str,
        *,
        row_groups: Sequence[int],
        columns: Sequence[str],
        batch_rows: int,
    ) -> Iterator[pa.RecordBatch]:
        """Yield the rows of some row groups in order, in batches of up to `batch_rows` rows.

        Raises
        ------
        UnreadableInput
            The bytes cannot be decoded.
        InputChanged
            The object is not the one with `etag` any more.
        """
        file = self._open(store, key, size, etag)
        try:
            yield from file.iter_batches(
                batch_size=batch_rows, row_groups=list(row_groups), columns=list(columns), use_threads=False
            )
        except (pa.ArrowException, OSError) as error:
            raise UnreadableInput(f"{store.uri(key)} cannot be decoded: {_one_line(error)}") from error

    def _open(self, store: ObjectStore, key: str, size: int, etag: str) -> pq.ParquetFile:
        name = (store.uri(key), etag)
        with self._lock:
            known = self._footers.get(name)
        try:
            file = pq.ParquetFile(RangedFile(store, key, size, etag), metadata=known, pre_buffer=True)
        except (pa.ArrowException, OSError) as error:
            raise UnreadableInput(f"{store.uri(key)} is not a Parquet file: {_one_line(error)}") from error
        if known is None:
            with self._lock:
                self._footers[name] = file.metadata
                while sum(footer.serialized_size for footer in self._footers.values()) > self._room:
                    self._footers.popitem(last=False)
        return file


def write(table: pa.Table, metadata: Mapping[str, str], *, group_rows: int | None = None) -> bytes:
    """Encode a table; the same table and metadata give the same bytes.

    Parameters
    ----------
    table : pyarrow.Table
        What to write, without metadata of its own.
    metadata : mapping of str to str
        Goes into the footer.
    group_rows : int, optional
        Rows of a row group; pyarrow's own choice by default.
    """
    sink = pa.BufferOutputStream()
    described = table.replace_schema_metadata(dict(metadata))
    pq.write_table(described, sink, compression=COMPRESSION, row_group_size=group_rows)
    return bytes(sink.getvalue())


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
