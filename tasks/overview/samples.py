"""Shows a few rows of a job: the first of its results. Needs pyarrow."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from scoreline.storage.errors import ResultsDamaged
from scoreline.storage.objects.base import ObjectInfo, ObjectStore
from scoreline.tasks.rejects.json_values import to_json_value

ROWS = 10
MOST_COLUMNS = 40
_PIECE_BYTES = 256 << 10
"""Least number of bytes of a request."""


@dataclass(frozen=True, kw_only=True)
class FirstRows:
    """The first rows of a file of results."""

    name: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    more_columns: int = 0
    """Number of columns that are left out."""


class _RangedFile(io.RawIOBase):
    """An object as a file that is read in ranges of one version."""

    def __init__(self, store: ObjectStore, info: ObjectInfo) -> None:
        self._store, self._info, self._at = store, info, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._info.size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        stop = min(self._info.size, self._at + len(buffer))
        if stop <= self._at:
            return 0
        data = self._store.get(self._info.key, byte_range=(self._at, stop), if_match=self._info.etag).data
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def first_rows(store: ObjectStore, info: ObjectInfo, name: str) -> FirstRows:
    """Return the first rows of a Parquet file, with a few requests for its beginning and its footer.

    Raises
    ------
    ResultsDamaged
        The object is not a Parquet file.
    """
    try:
        with pq.ParquetFile(
            io.BufferedReader(_RangedFile(store, info), _PIECE_BYTES), buffer_size=_PIECE_BYTES
        ) as file:
            names = file.schema_arrow.names
            shown = names[:MOST_COLUMNS]
            batch = next(file.iter_batches(batch_size=ROWS, columns=shown, use_threads=False), None)
    except (pa.ArrowException, OSError) as error:  # what pyarrow raises depends on what is damaged
        raise ResultsDamaged(f"{store.uri(info.key)} is not a Parquet file: {error}") from error
    rows: list[Mapping[str, Any]] = [] if batch is None else batch.slice(0, ROWS).to_pylist()
    return FirstRows(
        name=name,
        columns=tuple(shown),
        rows=tuple(tuple(to_json_value(row.get(column)) for column in shown) for row in rows),
        more_columns=len(names) - len(shown),
    )
