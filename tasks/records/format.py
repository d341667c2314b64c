"""Reads the records of a small job from the object that its application has written, as if they were Parquet."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator

import pyarrow as pa

from scoreline.storage.errors import ObjectNotFound, PreconditionFailed, UnreadableInput, one_line
from scoreline.storage.objects.base import ObjectInfo, StoredObject
from scoreline.storage.objects.caching import CachingStore
from scoreline.storage.tables import parquet
from scoreline.storage.tables.base import Pinned, Rows, Span, Survey
from scoreline.storage.tables.parquet import ParquetFormat
from scoreline.storage.tables.ranged import changed
from scoreline.storage.typed_json import MALFORMED_GZIP
from scoreline.tasks.job.part_sizes import PART_ROWS
from scoreline.tasks.records.arrow import records_to_arrow
from scoreline.tasks.records.table import decode, unpack


class RecordsFormat:
    """Reads records that `pack` has written (see `TableFormat`).

    The records are converted to Parquet in memory. Columns, types and values are therefore the same as those of records
    that are stored as Parquet.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: tuple[tuple[str, str], Pinned] | None = None
        """The URI and the ETag of the object that was read last, and its records as Parquet."""

    def survey(self, source: Pinned, features: Collection[str] = ()) -> Survey:
        """Find the columns and spans of an object (see `TableFormat.survey`)."""
        return ParquetFormat().survey(self._converted(source), features)

    def read(self, source: Pinned, span: Span, schema: pa.Schema, batch_rows: int) -> Iterator[Rows]:
        """Yield the rows of a span (see `TableFormat.read`)."""
        return ParquetFormat().read(self._converted(source), span, schema, batch_rows)

    def _converted(self, source: Pinned) -> Pinned:
        identity = (source.uri, source.etag)
        with self._lock:
            if self._last is None or self._last[0] != identity:
                self._last = identity, _convert(source)
            return self._last[1]


def _convert(source: Pinned) -> Pinned:
    """Return the records of an object as Parquet in memory, under the key and the ETag of the object."""
    try:
        data = source.store.get(source.key, if_match=source.etag).data
    except (PreconditionFailed, ObjectNotFound) as error:
        raise changed(source.uri) from error
    try:
        table = records_to_arrow(decode(unpack(data)))
    except (pa.ArrowException, *MALFORMED_GZIP) as error:
        raise UnreadableInput(f"{source.uri} does not contain records: {one_line(error)}") from error
    body = parquet.write(table, {}, group_rows=PART_ROWS)
    store = CachingStore(source.store, (source.key,))
    store.remember(StoredObject(info=ObjectInfo(key=source.key, size=len(body), etag=source.etag), data=body))
    return Pinned(store=store, key=source.key, size=len(body), etag=source.etag)
