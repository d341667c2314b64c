"""The options of jobs that read rows from a database, and their checks. Only a worker knows queries and databases."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import timedelta
from typing import Any

from scoreline.storage import keys
from scoreline.storage.errors import InvalidRequest
from scoreline.storage.keys import check_name
from scoreline.storage.tables.options import ReadOptions
from scoreline.tasks.job.durations import parse_duration

SOURCE_OPTIONS = ("query", "params", "table", "where_recent")
"""Options of a job that reads rows from a database."""
MAX_PARAMS = 50
MAX_PARAM_CHARS = 1_000
_PART = re.compile(r'[^".\x00-\x1f]{1,63}')
_PARAM = re.compile(r"[A-Za-z_]\w{0,62}", re.ASCII)


def check_source(*, query: str | None, params: Any, table: str | None, where_recent: Any) -> None:
    """Raise `InvalidRequest` if the options of a source are malformed, or do not fit each other."""
    if query is not None and table is not None:
        raise InvalidRequest("query and table are both given: a job reads one of them")
    if query is not None:
        check_name("query", query)
    elif params is not None:
        raise InvalidRequest("params without query: name the query with --query")
    _check_params(params)
    if table is not None:
        parts = table.split(".")
        if len(parts) != 2 or not all(map(_PART.fullmatch, parts)):
            raise InvalidRequest(f"table {table!r} is not of the form schema.name")
    if where_recent is not None:
        _check_recent(table, where_recent)


def check_no_objects(inputs: Sequence[str], job_id: str, read: ReadOptions, *, only_new: bool) -> None:
    """Raise `InvalidRequest` if a job that reads a database has an input, or options of objects, too."""
    if len(inputs) != 1 or not inputs[0].endswith(f"/{keys.staged_folder(job_id)}"):
        raise InvalidRequest("an input and a query or a table are both given: a job reads one of them")
    if only_new:
        raise InvalidRequest("only_new is for objects: choose new rows in the query, or with where_recent")
    plain = ReadOptions()
    for name in (field.name for field in fields(ReadOptions)):
        if getattr(read, name) != getattr(plain, name):
            raise InvalidRequest(f"{name} is for objects: the columns of a query or a table have types of their own")


def staged_input(bucket: str, job_id: str) -> str:
    """Return the input of a job that reads rows from a database: the folder where a worker stages them."""
    return f"s3://{bucket}/{keys.staged_folder(job_id)}"


def _check_params(params: Any) -> None:
    if params is None:
        return
    if not isinstance(params, Mapping) or len(params) > MAX_PARAMS:
        raise InvalidRequest(f"params are not up to {MAX_PARAMS} names with values, such as {{'day': '2026-11-29'}}")
    for name, value in params.items():
        if not isinstance(name, str) or not _PARAM.fullmatch(name):
            raise InvalidRequest(f"params: {name!r} is not the name of a parameter: use letters, digits and '_'")
        if not isinstance(value, str) or len(value) > MAX_PARAM_CHARS or "\0" in value:
            raise InvalidRequest(f"params: the value of {name!r} is not a text of up to {MAX_PARAM_CHARS} characters")


def _check_recent(table: str | None, given: Any) -> None:
    if table is None:
        raise InvalidRequest("where_recent without table: name the table with --table")
    if len(given) != 2 or not all(isinstance(item, str) and item for item in given):
        raise InvalidRequest(f"where_recent {list(given)!r} is not a column and a duration, such as updated_at 1d")
    duration(given[1])


def duration(text: str) -> timedelta:
    """Return the duration of ``where_recent``; raises `InvalidRequest`."""
    try:
        return parse_duration(text)
    except InvalidRequest as error:
        raise InvalidRequest(f"where_recent: {error}") from None
