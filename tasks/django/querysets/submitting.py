"""Stages the rows of a queryset as JSON Lines, and submits a job that scores them. Works without pyarrow.

The queryset runs in the application's own connection, whatever database it is, and is read by blocks. The files are in
a folder that only this attempt has, and the job names them: if the process dies before, there is no job.
"""

from __future__ import annotations

import gzip
import io
import json
import math
import secrets
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from django.core.exceptions import FieldError
from django.db import models, router, transaction

from scoreline.storage import keys
from scoreline.storage.errors import (
    InvalidRequest,
    JobConflict,
    JobNotFound,
    JobRemoved,
    ScorelineError,
    StoreUnavailable,
)
from scoreline.storage.objects.base import ObjectStore
from scoreline.tasks.client import Client
from scoreline.tasks.django.querysets.target import target_of
from scoreline.tasks.job.documents import read_job
from scoreline.tasks.records.table import Table, table_of

BLOCK_ROWS = 2_000
FILE_BYTES = 8 << 20
"""Number of compressed bytes at which a file ends."""
_TYPES = {"double": "float64", "date32": "date"}
_WIDER = frozenset({"int64", "double"})
_NOT_FOR_ROWS = ("query", "params", "table", "where_recent", "types", "format")


def submit_queryset(
    client: Client,
    model: str,
    queryset: models.QuerySet,
    *,
    key: str = "pk",
    features: Mapping[str, Any] | Sequence[str],
    into: type[models.Model] | None = None,
    into_key: str | None = None,
    fields: Mapping[str, str] | None = None,
    **options: Any,
) -> str:
    """Score the rows of a queryset once the present transaction is committed. Return the id of the job.

    Outside of a transaction, the job is submitted at once. Submitting again with the same `job_id` and the same
    arguments creates no second job, and reads no rows again.

    Parameters
    ----------
    model : str
        ``name``, ``name@alias`` or ``name@version``.
    queryset : QuerySet
        The rows. They are read from the database of the queryset, by a router or by ``using()``.
    key : str
        The field that identifies a row. The results have it as a column of this name; ``pk`` stands for the name of
        the primary key.
    features : mapping of str to field or expression, or sequence of str
        What each feature of the model is: a field, a path such as ``account__balance``, or an expression such as
        ``Count("orders")``.
    into : type, optional
        A model into which the results are written: by workers if it is in PostgreSQL, or else by `load_results`.
    into_key : str, optional
        The unique field of `into` that identifies a row; by default, its only unique relation to the model of the
        queryset.
    fields : mapping of str to str, optional
        The column of the results for each field of `into`; by default, ``prediction``.
    **options
        The options of the job (see `SubmitOptions`), except those of objects and of other sources.

    Raises
    ------
    InvalidRequest
        An argument cannot be used. Nothing was submitted. What only the rows show, such as a value of a type that
        cannot be scored, is raised after the commit.
    QueueUnavailable, LedgerUnavailable, StoreUnavailable
        Transient, and raised after the commit: call again with the same `job_id`, which then reads the rows of that
        time unless the job exists.
    """
    if wrong := [name for name in _NOT_FOR_ROWS if options.get(name) is not None]:
        raise InvalidRequest(f"{wrong[0]} is not an option of a queryset, whose rows have types of their own")
    rows = queryset.model
    key_column = rows._meta.pk.name if key == "pk" else key
    chosen = dict(features) if isinstance(features, Mapping) else {name: name for name in features}
    if not chosen or key_column in chosen:
        raise InvalidRequest(f"features {list(chosen)}: name at least one, and none as the key, {key_column!r}")
    if into is not None:
        target = target_of(into, rows, into_key=into_key, key_column=key_column, fields=fields)
        if target.is_loaded_by_workers:
            database = options.pop("database", None)
            options = {**options, **target.load_options(database)}
    job_id = options["job_id"] = options.get("job_id") or client.new_job_id()
    columns: dict[str, Any] = {key_column: key, **chosen}
    try:
        _annotated(queryset, columns)
    except FieldError as error:
        raise InvalidRequest(f"features {list(chosen)} and key {key!r} of {rows.__name__}: {error}") from None

    def submit() -> None:
        main, staged = client.buckets.main, list[str]()
        try:  # a repeated call reads no rows again
            spec = read_job(main, job_id).spec
            inputs, types = list(spec.inputs), dict(spec.read.types or {})
            if types.keys() != columns.keys():
                raise JobConflict(f"job {job_id!r} is another job, with the columns {', '.join(types) or 'of objects'}")
        except JobRemoved:  # its id stays taken
            raise
        except JobNotFound:
            client.submission.queue.ping()  # before rows are read in vain
            staged, types = stage(main, job_id, queryset, columns)
            inputs = staged
        try:
            client.submit(model, inputs, **{**options, "types": types, "format": "jsonl"})
        except StoreUnavailable:  # the job may exist
            raise
        except ScorelineError as error:
            if staged and not _has_inputs(main, job_id, staged):
                main.delete_many([uri.removeprefix(main.uri("")) for uri in staged])
                if isinstance(error, JobConflict):  # another process was faster
                    return submit()
            raise

    using = queryset._db or router.db_for_write(rows, **queryset._hints)  # a replica has no transaction to wait for
    transaction.on_commit(submit, using=using)
    return job_id


def _has_inputs(main: ObjectStore, job_id: str, uris: Sequence[str]) -> bool:
    """Return whether a job exists and reads these objects."""
    try:
        return read_job(main, job_id).spec.inputs == tuple(uris)
    except JobNotFound:
        return False


def stage(
    main: ObjectStore, job_id: str, queryset: models.QuerySet, columns: Mapping[str, Any]
) -> tuple[list[str], dict[str, str]]:
    """Write the rows of a queryset as files of a job. Return their URIs, and the type of each column.

    Memory does not grow with the number of rows.

    Raises
    ------
    InvalidRequest
        There are no rows, or a column has values that cannot be scored, or of several types.
    """
    attempt, types = secrets.token_hex(8), dict[str, str]()
    uris: list[str] = []
    waiting = _File()

    def close() -> None:
        key = keys.staged_part(job_id, attempt, len(uris)).removesuffix(".parquet") + ".jsonl.gz"
        main.put(key, waiting.finish())  # only this attempt knows the key
        uris.append(main.uri(key))

    try:
        for table in _blocks(queryset, columns):
            _widen(types, table)
            if waiting.size >= FILE_BYTES:
                close()
                waiting = _File()
            waiting.write(_lines(table))
        if not types:
            raise InvalidRequest("the queryset has no rows: there is nothing to score")
        close()
    except BaseException:
        main.delete_many([info.key for info in main.list(f"{keys.staged_folder(job_id)}{attempt}/")])
        raise
    return uris, {name: _TYPES.get(kind or "double", kind) for name, kind in types.items()}


class _File:
    """Lines that are compressed in memory."""

    def __init__(self) -> None:
        self._sink = io.BytesIO()
        self._packed = gzip.GzipFile(fileobj=self._sink, mode="wb", compresslevel=5, mtime=0)

    @property
    def size(self) -> int:
        """The number of compressed bytes so far, without those that wait in the compressor; 0 without lines."""
        return self._sink.tell() if self._packed.tell() else 0

    def write(self, lines: bytes) -> None:
        """Add lines."""
        self._packed.write(lines)

    def finish(self) -> bytes:
        """Return the file."""
        self._packed.close()
        return self._sink.getvalue()


def _annotated(queryset: models.QuerySet, columns: Mapping[str, Any]) -> Any:
    """Return a queryset of tuples with the values of columns; raises `FieldError`. The database is not asked."""
    expressions = [models.F(item) if isinstance(item, str) else item for item in columns.values()]
    names = [f"scoreline_{number}" for number in range(len(expressions))]  # names of columns need not be Python names
    return queryset.annotate(**dict(zip(names, expressions, strict=True))).values_list(*names)


def _blocks(queryset: models.QuerySet, columns: Mapping[str, Any]) -> Iterator[Table]:
    rows = iter(_annotated(queryset, columns).iterator(chunk_size=BLOCK_ROWS))
    first = 0
    while block := list(islice(rows, BLOCK_ROWS)):
        try:
            yield table_of({name: list(values) for name, values in zip(columns, zip(*block, strict=True), strict=True)})
        except InvalidRequest as error:
            raise InvalidRequest(f"rows {first:,} to {first + len(block) - 1:,} of the queryset: {error}") from None
        first += len(block)


def _widen(types: dict[str, str], table: Table) -> None:
    """Add the types of a block to those of the blocks before it. A column without values says nothing."""
    for name, kind in table.types.items():
        known = types.setdefault(name, "")
        if all(value is None for value in table.columns[name]) or kind == known:
            continue
        if known and {known, kind} != _WIDER:
            raise InvalidRequest(f"column {name!r} of the queryset mixes types: {known} and {kind}")
        types[name] = "double" if known else kind


def _lines(table: Table) -> bytes:
    for name, kind in table.types.items():
        if kind == "double" and any(value is not None and math.isinf(value) for value in table.columns[name]):
            raise InvalidRequest(f"column {name!r} of the queryset has an infinite number, which JSON cannot hold")
    return "".join(
        json.dumps(row, ensure_ascii=False, allow_nan=False, default=lambda value: value.isoformat()) + "\n"
        for row in table.records()
    ).encode()
