"""Opens result files in a bucket or on this computer, and finds rows in them. Rows are numbered from 0."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from scoreline.storage.errors import InvalidRequest, ObjectNotFound, ResultsDamaged
from scoreline.storage.objects.base import ObjectInfo
from scoreline.storage.objects.buckets import Buckets
from scoreline.storage.tables.ranged import RangedFile
from scoreline.storage.wording import listed, plural
from scoreline.tasks.job.uris import parse_uri
from scoreline.tasks.quality.results.key_texts import key_texts
from scoreline.tasks.rejects.json_values import to_json_value
from scoreline.tasks.rejects.table import REJECTION_FIELDS

_BATCH_ROWS = 65_536
_SHOWN = 10
"""Maximum number of columns that a message names."""


@dataclass(frozen=True, kw_only=True)
class ResultFooter:
    """What the footer of a result file says."""

    metadata: Mapping[str, str]

    @property
    def job_id(self) -> str:
        """The job that wrote the file."""
        return self.metadata["scoreline.job_id"]

    @property
    def part(self) -> int | None:
        """Number of the part; None if the file is arranged from parts."""
        text = self.metadata.get("scoreline.part", "")
        return int(text) if text.isdecimal() else None

    @property
    def first_part(self) -> int | None:
        """Number of the part of the first row of an arranged file."""
        text = self.metadata.get("scoreline.first_part", "")
        return int(text) if text.isdecimal() else None

    @property
    def source(self) -> Sequence[tuple[str, str, int, int]]:
        """The slices of a part: key and ETag of the object, number of the first row, and number of rows.

        The bucket is not known. The number of rows may be larger than the number of rows to score.
        """
        try:
            found = json.loads(self.metadata.get("scoreline.source") or "[]")
            return [(str(key), str(etag), int(first), int(rows)) for key, etag, first, rows in found]
        except (TypeError, ValueError):
            return []


@dataclass(frozen=True, kw_only=True)
class ResultFile:
    """A result file that is open."""

    name: str
    """The URI or the path of the file."""
    rows: int
    columns: Sequence[str]
    footer: ResultFooter
    rejects: bool
    """Whether the file has rejected rows."""
    info: ObjectInfo | None
    """The object in the bucket; None for a file on this computer."""
    _file: pq.ParquetFile = field(repr=False)

    def row(self, number: int) -> dict[str, Any]:
        """Return the values of a row, as JSON has them.

        Raises
        ------
        InvalidRequest
            The file has no such row.
        """
        if not 0 <= number < self.rows:
            last = f", so the last one is {self.rows - 1:,}" if self.rows else ""
            raise InvalidRequest(
                f"{self.name} has no row {number:,}: it has {plural(self.rows, 'row')}, numbered from 0{last}"
            )
        start = 0
        for group in range(self._file.num_row_groups):
            rows = self._file.metadata.row_group(group).num_rows
            if number < start + rows:
                for batch in self._file.iter_batches(_BATCH_ROWS, row_groups=[group], use_threads=False):
                    if number < start + batch.num_rows:
                        (found,) = batch.slice(number - start, 1).to_pylist()
                        return {name: to_json_value(value) for name, value in found.items()}
                    start += batch.num_rows
            start += rows
        raise ResultsDamaged(f"{self.name} does not have the rows that its footer counts")

    def find(self, key: Mapping[str, str]) -> Iterator[int]:
        """Yield the numbers of the rows with a key, in order, reading only the columns of the key.

        Parameters
        ----------
        key : mapping of str to str
            The values by column, as text (see `key_texts`). All of them must be equal.
        """
        for column in key:
            self.check_column(column)
        start = 0
        for batch in self._file.iter_batches(_BATCH_ROWS, columns=list(key), use_threads=False):
            same = pa.repeat(True, batch.num_rows)
            for column, value in key.items():
                texts = key_texts(batch.column(column), column)
                same = pc.and_(same, pc.fill_null(pc.equal(texts, pa.scalar(value, pa.large_string())), False))
            yield from (start + number for number in pc.indices_nonzero(same).to_pylist())
            start += batch.num_rows

    def check_column(self, column: str) -> None:
        """Raise `InvalidRequest` if the file has no such column."""
        if column not in self.columns:
            raise InvalidRequest(
                f"{self.name} has no column {column!r}: it has {listed(self.columns, _SHOWN)}. A key is a "
                "column that the job kept (`scoreline submit --keep`)"
            )


@contextlib.contextmanager
def open_result(buckets: Buckets, name: str) -> Iterator[ResultFile]:
    """Open a result file.

    Parameters
    ----------
    name : str
        A URI ``s3://bucket/key``, or the path of a file on this computer.

    Raises
    ------
    InvalidRequest
        There is no such file, or Scoreline did not write it.
    """
    info: ObjectInfo | None = None
    if "://" in name:
        bucket, key = parse_uri(name)
        try:
            info = buckets[bucket].head(key)
        except ObjectNotFound:
            raise InvalidRequest(f"there is no object {name}: `scoreline results OUTPUT` lists runs") from None
        source: Any = RangedFile(buckets[bucket], key, info.size, info.etag)
    else:
        if not Path(name).is_file():
            raise InvalidRequest(f"there is no file {name}: name a result file, as a path or as s3://bucket/key")
        source = name
    try:
        file = pq.ParquetFile(source)
    except (pa.ArrowException, OSError) as error:
        raise InvalidRequest(
            f"{name} is not a result file: it cannot be read as Parquet ({error}). Name a part-….parquet that a job "
            "wrote; files that `results --to` wrote do not say where their rows come from"
        ) from None
    with file:
        metadata = {
            key.decode(errors="replace"): value.decode(errors="replace")
            for key, value in (file.metadata.metadata or {}).items()
            if key.startswith(b"scoreline.")
        }
        if "scoreline.job_id" not in metadata:
            raise InvalidRequest(
                f"{name} has no footer of Scoreline, so it does not say where its rows come from: name a result file "
                "as the job wrote it (a copy that another program wrote loses the footer), or an output with --key"
            )
        columns = file.schema_arrow.names
        last = [column.lstrip("_") for column in columns[-len(REJECTION_FIELDS) :]]
        yield ResultFile(
            name=name,
            rows=file.metadata.num_rows,
            columns=tuple(columns),
            footer=ResultFooter(metadata=metadata),
            rejects=last == list(REJECTION_FIELDS),
            info=info,
            _file=file,
        )
