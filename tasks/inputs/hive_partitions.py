"""Columns in the names of folders, as Hive writes them: ``year=2026/region=eu/part-0.parquet``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from urllib.parse import unquote

import pyarrow as pa

from scoreline.storage.keys import NO_VALUE

_STEP = re.compile(r"(?P<name>[^=/]+)=(?P<value>[^/]*)")
_WHOLE = re.compile(r"0|-?[1-9]\d{0,17}")


def values_of(key: str) -> dict[str, str | None]:
    """Return the columns that the folders of a key name; what is written as ``%2F`` is a slash again.

    >>> values_of("in/year=2026/region=a%2Fb/kind=__HIVE_DEFAULT_PARTITION__/x=1.parquet")
    {'year': '2026', 'region': 'a/b', 'kind': None}
    """
    found = (_STEP.fullmatch(step) for step in key.split("/")[:-1])
    return {unquote(m["name"]): None if m["value"] == NO_VALUE else unquote(m["value"]) for m in found if m}


def types_of(keys: Iterable[str]) -> Mapping[str, pa.DataType]:
    """Return the type of each such column over many keys: int64 where every value is one, else string.

    >>> types_of(["year=2026/code=07/a", "year=2025/code=11/b"])
    {'year': DataType(int64), 'code': DataType(string)}
    """
    types: dict[str, pa.DataType] = {}
    for key in keys:
        for name, value in values_of(key).items():
            whole = value is None or _WHOLE.fullmatch(value) is not None
            types[name] = pa.int64() if whole and types.get(name, pa.int64()) == pa.int64() else pa.string()
    return types


def add_columns(batch: pa.RecordBatch, key: str, names: Iterable[str], schema: pa.Schema) -> pa.RecordBatch:
    """Return a batch with the columns of `schema`, those of `names` taken from the folders of its key."""
    values = values_of(key)
    columns = []
    for field in schema:
        if field.name in names:
            value = values.get(field.name)
            plain = int(value) if value is not None and field.type == pa.int64() else value
            columns.append(pa.repeat(pa.scalar(plain, field.type), batch.num_rows))
        else:
            columns.append(batch.column(field.name))
    return pa.RecordBatch.from_arrays(columns, names=schema.names)
