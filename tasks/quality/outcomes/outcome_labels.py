"""Reads a file with labels that arrived later: their keys, the target, and perhaps the time of each label.

The file is read as the input of a job is read, with the same options, and its key columns as columns that a job keeps.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from scoreline.storage.errors import InvalidRequest, MissingColumns
from scoreline.storage.objects.buckets import Buckets, WithLocalFile
from scoreline.storage.tables.base import Pinned, Span
from scoreline.storage.tables.formats import Tables
from scoreline.storage.tables.options import ReadOptions
from scoreline.tasks.inputs.columns import resolve_columns
from scoreline.tasks.inputs.hive_partitions import add_columns
from scoreline.tasks.inputs.listing import SurveyedObject, list_inputs, survey_inputs
from scoreline.tasks.quality.results.key_texts import joined_keys, key_texts

_LOCAL = "local-file"
"""Stands for the folder of a local file, where a job has the name of a bucket."""
_BATCH_ROWS = 65_536
_SHOWN = 10


@dataclass(frozen=True, kw_only=True)
class LabelBatch:
    """Some rows of the file."""

    first_row: int
    """Number of the first row within the file, or within all objects, from 0."""
    keys: pa.LargeStringArray
    """The key of each row as text; null if one of its columns is null."""
    target: pa.Array
    at: Any
    """Time of each label in microseconds since 1970, or 0 without a time: ndarray of int64."""


class LabelInput:
    """The labels of a local file or of objects. It can be read several times.

    Parameters
    ----------
    key : sequence of str
        The columns that identify a row.
    target : str
        The column of the labels.
    time : str, optional
        The column with the time of each label.

    Raises
    ------
    InvalidRequest
        There is no such file, a column is named twice, or the time is not a time.
    MissingColumns
        The file lacks a column.
    UnreadableInput
        The file cannot be read.
    """

    def __init__(
        self,
        buckets: Buckets,
        source: str | Path,
        key: Sequence[str],
        target: str,
        time: str | None = None,
        options: ReadOptions | None = None,
    ) -> None:
        self._key, self._target, self._time = tuple(key), target, time
        names = (*self._key, target, *(() if time is None else (time,)))
        if len(set(names)) < len(names) or not self._key:
            raise InvalidRequest(f"the columns {', '.join(names)} are not all different: name each of them once")
        self.name = str(source)
        self._options = (options or ReadOptions()).check()
        self._tables = Tables()
        self._buckets: Buckets
        self._buckets, uri = _opened(buckets, source)
        with self._named():
            objects = list_inputs(self._buckets, [uri])
            self._surveyed = survey_inputs(self._tables, objects, self._options)
            known = {name for item in self._surveyed for name in item.schema.names}
            if not known:
                raise InvalidRequest(f"{self.name} has no columns and no rows: nothing was added")
            if lost := [name for name in names if name not in known and f"{name}=" not in uri]:
                raise MissingColumns(
                    f"{self.name} has no column {', '.join(map(repr, lost))}: it has "
                    f"{', '.join(map(repr, sorted(known)[:_SHOWN]))}{' …' if len(known) > _SHOWN else ''}"
                )
            resolved = resolve_columns(self._surveyed, (), ",".join(names), self._options.types)
        self._reads, self._folders = resolved.reads, resolved.folders
        for name in self._key:
            key_texts(pa.nulls(0, self._reads.field(name).type), name)  # raises an error if values cannot be keys
        if time is not None and not _is_time(self._reads.field(time).type):
            raise InvalidRequest(
                f"the time {time!r} is {self._reads.field(time).type}: read it as a time with --types "
                f"{time}=timestamp, or timestamp_utc or date"
            )

    @property
    def target_type(self) -> pa.DataType:
        """Type of the target."""
        return self._reads.field(self._target).type

    def __iter__(self) -> Iterator[LabelBatch]:
        """Yield the rows in order. Raises `InvalidRequest` at a row that cannot be decoded."""
        first = 0
        with self._named():
            for item in self._surveyed:
                for batch in self._read(item):
                    yield self._labels(first, batch)
                    first += batch.num_rows

    def _read(self, item: SurveyedObject) -> Iterator[pa.RecordBatch]:
        source = Pinned.of(self._buckets[item.file.bucket], item.file)
        in_object = pa.schema([field for field in self._reads if field.name not in self._folders])
        for span in item.file.spans:
            assert isinstance(span, Span)
            for rows in self._tables.read(source, span, in_object, _BATCH_ROWS, self._options):
                if rows.malformed:
                    bad = rows.malformed[0]
                    raise InvalidRequest(
                        f"row {bad.row:,} of {self.name} cannot be read: {bad.message}. Nothing was added; correct it "
                        "first"
                    )
                yield add_columns(rows.batch, item.file.key, self._folders, self._reads)

    def _labels(self, first_row: int, batch: pa.RecordBatch) -> LabelBatch:
        keys = joined_keys([key_texts(batch.column(name), name) for name in self._key])
        at = np.zeros(batch.num_rows, np.int64)
        if self._time is not None:
            moments = batch.column(self._time).cast(pa.timestamp("us"), safe=False)
            at = pc.fill_null(moments.cast(pa.int64()), 0).to_numpy(zero_copy_only=False)
        return LabelBatch(first_row=first_row, keys=keys, target=batch.column(self._target), at=at)

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        """Let errors name a local file by its path."""
        try:
            yield
        except Exception as error:
            if error.args and isinstance(error.args[0], str) and f"s3://{_LOCAL}/" in error.args[0]:
                local = f"s3://{_LOCAL}/{Path(self.name).name}"
                error.args = (error.args[0].replace(local, self.name), *error.args[1:])
            raise


def _is_time(kind: pa.DataType) -> bool:
    return bool(pa.types.is_timestamp(kind) or pa.types.is_date(kind) or pa.types.is_null(kind))


def _opened(buckets: Buckets, source: str | Path) -> tuple[Buckets, str]:
    if isinstance(source, str) and "://" in source:
        return buckets, source
    path = Path(source).expanduser().resolve()
    if not path.is_file():
        what = "is a folder: name a file in it" if path.is_dir() else "does not exist"
        raise InvalidRequest(f"the file {source} {what}; objects in a bucket are given as s3://bucket/key")
    return WithLocalFile(buckets, path, _LOCAL), f"s3://{_LOCAL}/{path.name}"
