"""Shows a few rows of a job: the first of its results. Needs pyarrow."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from scoreline.storage.errors import InputChanged, ResultsDamaged
from scoreline.storage.objects.base import ObjectInfo, ObjectStore
from scoreline.storage.tables.ranged import RangedFile
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


def first_rows(store: ObjectStore, info: ObjectInfo, name: str) -> FirstRows:
    """Return the first rows of a Parquet file, with a few requests for its beginning and its footer.

    Raises
    ------
    ResultsDamaged
        The object is not a Parquet file, or it was replaced or deleted while it was read.
    """
    source = io.BufferedReader(RangedFile(store, info.key, info.size, info.etag), _PIECE_BYTES)
    try:
        with pq.ParquetFile(source, buffer_size=_PIECE_BYTES) as file:
            names = file.schema_arrow.names
            shown = names[:MOST_COLUMNS]
            batch = next(file.iter_batches(batch_size=ROWS, columns=shown, use_threads=False), None)
    except InputChanged:
        raise ResultsDamaged(f"{store.uri(info.key)} was replaced or deleted while it was read") from None
    except (pa.ArrowException, OSError) as error:  # what pyarrow raises depends on what is damaged
        raise ResultsDamaged(f"{store.uri(info.key)} is not a Parquet file: {error}") from error
    rows: list[Mapping[str, Any]] = [] if batch is None else batch.slice(0, ROWS).to_pylist()
    return FirstRows(
        name=name,
        columns=tuple(shown),
        rows=tuple(tuple(to_json_value(row.get(column)) for column in shown) for row in rows),
        more_columns=len(names) - len(shown),
    )
