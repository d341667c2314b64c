"""Reads the rows of an accepted run in order of the input, with one file and one batch in memory.

A file is checked against the digest that the run recorded, before any of its rows is handed out. Large files wait on
the local disk meanwhile.
"""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from scoreline.storage import keys
from scoreline.storage.errors import InvalidRequest, ObjectNotFound, PreconditionFailed, ResultsDamaged
from scoreline.storage.objects.base import ObjectStore
from scoreline.storage.objects.buckets import Buckets
from scoreline.tasks.job.documents import read_job
from scoreline.tasks.job.ended import check_has_results, ended_outcome
from scoreline.tasks.job.object_lines import lines_of
from scoreline.tasks.job.uris import parse_uri
from scoreline.tasks.quality.gate.latest import Published, ResultFile
from scoreline.tasks.quality.gate.pointer import Pointer
from scoreline.tasks.quality.gate.published import RunGone, published, stream_files

_BATCH_ROWS = 16_384
_PIECE_BYTES = 8 << 20
_HELD_BYTES = 32 << 20
"""Files of at most this size are checked in memory."""
_JOB_FOLDER = "job_id="


@dataclass(frozen=True, kw_only=True)
class Results:
    """The rows of one accepted run. Iterate over it to get them as record batches, as often as you like."""

    job_id: str
    uri: str
    """The folder with the results; ends in ``/``."""
    rows: int
    """Number of rows."""
    _store: ObjectStore = field(repr=False)
    _files: Callable[[], Iterator[ResultFile]] = field(repr=False)
    _partition_by: str | None = field(default=None, repr=False)

    @property
    def schema(self) -> pa.Schema:
        """The columns of every batch. Raises `InvalidRequest` if the run has no rows and no files."""
        for file in self._files():
            with self._open(file) as opened:
                return self._whole_schema(opened.schema_arrow)
        if not self.rows:
            raise InvalidRequest(
                f"job {self.job_id} has no rows with a result, and so no files that have columns: there is nothing to "
                "read"
            )
        raise ResultsDamaged(f"{self.uri} has no files")

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        """Yield the rows in order of the input, in batches (see `batches`)."""
        return self.batches()

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Yield the rows in order of the input, in batches.

        The rows of a job with `partition_by` are in order of the folders, and in order of the input within a folder.

        Parameters
        ----------
        columns : sequence of str, optional
            Names of the columns to read; by default, all.

        Raises
        ------
        ResultsDamaged
            A file differs from the one that the run wrote, or is gone.
        """
        schema: pa.Schema | None = None
        for file in self._files():
            with self.opened(file, columns) as batches:
                for batch in batches():
                    schema = schema or batch.schema
                    yield batch if batch.schema == schema else pa.RecordBatch.from_arrays(batch.columns, schema=schema)

    @property
    def place(self) -> tuple[ObjectStore, str]:
        """The bucket of the results, and the folder there."""
        return self._store, parse_uri(self.uri)[1]

    @property
    def files(self) -> list[ResultFile]:
        """The files of the run, in order of the input."""
        return list(self._files())

    @contextlib.contextmanager
    def opened(
        self, file: ResultFile, columns: Sequence[str] | None = None
    ) -> Iterator[Callable[..., Iterator[pa.RecordBatch]]]:
        """Fetch and check one file, and provide a function that yields its rows in batches, as often as it is called.

        Parameters
        ----------
        columns : sequence of str, optional
            Names of the columns to read; by default, all. The function may be called with others.

        Raises
        ------
        ResultsDamaged
            The file differs from the one that the run wrote, or is gone.
        """
        with self._open(file) as opened:
            schema = self._whole_schema(opened.schema_arrow)

            def batches(columns: Sequence[str] | None = columns) -> Iterator[pa.RecordBatch]:
                inside = None if columns is None else [name for name in columns if name != self._partition_by]
                rows = 0
                for batch in opened.iter_batches(batch_size=_BATCH_ROWS, columns=inside, use_threads=False):
                    rows += batch.num_rows
                    whole = self._whole(batch, schema, file, inside)
                    yield whole if columns is None else whole.select(columns)
                if rows != file.rows:
                    raise ResultsDamaged(f"{file.uri} has {rows:,} rows, and its run recorded {file.rows:,}")

            yield batches

    def _whole_schema(self, schema: pa.Schema) -> pa.Schema:
        schema = schema.remove_metadata()
        return schema if self._partition_by is None else schema.append(pa.field(self._partition_by, pa.string()))

    def _whole(
        self, batch: pa.RecordBatch, schema: pa.Schema, file: ResultFile, inside: Sequence[str] | None
    ) -> pa.RecordBatch:
        """Return a batch with the partition column, which only the name of its folder contains."""
        if inside is not None:
            names = [*batch.schema.names, *(() if self._partition_by is None else (self._partition_by,))]
            schema = pa.schema([schema.field(name) for name in names])
        columns = list(batch.columns)
        if self._partition_by is not None:
            columns.append(pa.array([file.value] * batch.num_rows, pa.string()))
        return pa.RecordBatch.from_arrays(columns, schema=schema)

    @contextlib.contextmanager
    def _open(self, file: ResultFile) -> Iterator[pq.ParquetFile]:
        """Open a file whose digest is checked."""
        if not file.uri.startswith(self.uri):
            raise ResultsDamaged(f"{file.uri} is not in the folder of its run, {self.uri}")
        with tempfile.SpooledTemporaryFile(max_size=_HELD_BYTES) as copy:
            self._fetch(file, copy)
            copy.seek(0)
            try:
                opened = pq.ParquetFile(pa.PythonFile(copy, mode="r"))
            except pa.ArrowException as error:
                raise ResultsDamaged(f"{file.uri} is not a Parquet file: {error}") from error
            yield opened

    def _fetch(self, file: ResultFile, copy: IO[bytes]) -> None:
        digest, etag, key = hashlib.sha256(), None, parse_uri(file.uri)[1]
        try:
            for start in range(0, file.bytes, _PIECE_BYTES):
                piece = (start, min(start + _PIECE_BYTES, file.bytes))
                got = self._store.get(key, byte_range=piece, if_match=etag)
                etag = got.info.etag
                if got.info.size != file.bytes:
                    break
                digest.update(got.data)
                copy.write(got.data)
        except (ObjectNotFound, PreconditionFailed) as error:
            raise ResultsDamaged(
                f"{file.uri} was removed or replaced while the results were read: read them again"
            ) from error
        if digest.hexdigest() != file.sha256:
            raise ResultsDamaged(f"{file.uri} is not the file that its run wrote: its digest differs")


def open_results(buckets: Buckets, job_or_output: str) -> Results:
    """Return the rows that readers of an output take, or the rows of a job, if they are accepted.

    Parameters
    ----------
    job_or_output : str
        The id of a job, or the URI of an output, or of the folder of a job.

    Raises
    ------
    InvalidRequest
        There is no such job, or no run of the output is accepted.
    """
    if "://" not in job_or_output:
        return _of_job(buckets, job_or_output)
    output = job_or_output if job_or_output.endswith("/") else f"{job_or_output}/"
    above, _, last = output[:-1].rpartition("/")
    if last.startswith(_JOB_FOLDER):
        return _of_job(buckets, last.removeprefix(_JOB_FOLDER), f"{above}/")
    pointer = Pointer.of(buckets, output)
    document, _ = pointer.read()
    run = None if document is None else document.run
    if document is None or run is None or document.published is None:
        raise InvalidRequest(f"no run of {output} is accepted: `scoreline results {output}` lists its runs")
    folder = keys.output_folder(pointer.prefix, run.job_id)
    if document.published.results != pointer.store.uri(folder):
        raise ResultsDamaged(f"{pointer.uri} names {document.published.results}, which is not the folder of its run")
    return results_of(pointer.store, folder, run.job_id, run.rows, document.published)


def _of_job(buckets: Buckets, job_id: str, output: str | None = None) -> Results:
    job = read_job(buckets.main, job_id)
    if output is not None and job.spec.output != output:
        raise InvalidRequest(f"job {job_id} is no run of {output}: its output is {job.spec.output}")
    outcome = ended_outcome(buckets.main, job_id)
    bucket, prefix = parse_uri(job.spec.output)
    folder = keys.output_folder(prefix, job_id)
    if outcome.state == "blocked":
        raise InvalidRequest(
            f"the results of job {job_id} are not accepted: `scoreline status {job_id}` says why. They can be read as "
            f"{buckets[bucket].uri(folder)}, and accepted with `scoreline accept {job_id} --reason TEXT`"
        )
    check_has_results(job_id, outcome)
    return results_of(buckets[bucket], folder, job_id, outcome.rows, published(buckets[bucket], folder))


def results_of(store: ObjectStore, folder: str, job_id: str, rows: int, found: Published) -> Results:
    """Return the rows of a run in a folder, from what is published of the run."""
    files = found.files
    if files is None:
        _check_manifest(store, folder, found.manifest_sha256)

    def listed() -> Iterator[ResultFile]:
        return stream_files(store, folder) if files is None else iter(files)

    return Results(
        job_id=job_id,
        uri=store.uri(folder),
        rows=rows,
        _store=store,
        _files=listed,
        _partition_by=found.partition_by,
    )


def _check_manifest(store: ObjectStore, folder: str, sha256: str) -> None:
    """Check the digest of a manifest that is too long to be listed in ``latest.json``."""
    digest, key = hashlib.sha256(), keys.results_manifest(folder)
    try:
        for _ in lines_of(store, store.head(key), digest.update):
            pass
    except ObjectNotFound as error:
        raise RunGone(f"{store.uri(folder)} has no complete results: {error}") from None
    if digest.hexdigest() != sha256:
        raise ResultsDamaged(f"{store.uri(key)} is not the manifest of its run: its digest differs")
