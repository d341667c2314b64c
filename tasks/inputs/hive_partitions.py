"""Reads columns from folder names in the style of Hive: ``year=2026/region=eu/part-0.parquet``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from urllib.parse import unquote

import pyarrow as pa

from scoreline.storage.keys import NO_VALUE

_FOLDER = re.compile(r"(?P<name>[^=/]+)=(?P<value>[^/]*)")
_INTEGER = re.compile(r"0|-?[1-9]\d{0,17}")


def folder_values(key: str) -> dict[str, str | None]:
    """Return the columns and values in the folder names of a key. Escapes such as ``%2F`` are decoded.

    >>> folder_values("in/year=2026/region=a%2Fb/kind=__HIVE_DEFAULT_PARTITION__/x=1.parquet")
    {'year': '2026', 'region': 'a/b', 'kind': None}
    """
    if "=" not in key:
        return {}
    matches = (_FOLDER.fullmatch(folder) for folder in key.split("/")[:-1])
    return {unquote(m["name"]): None if m["value"] == NO_VALUE else unquote(m["value"]) for m in matches if m}


def folder_types(keys: Iterable[str]) -> Mapping[str, pa.DataType]:
    """Return the type of each column in the folder names of many keys: int64 if all values are integers, else string.

    >>> folder_types(["year=2026/code=07/a", "year=2025/code=11/b"])
    {'year': DataType(int64), 'code': DataType(string)}
    """
    types: dict[str, pa.DataType] = {}
    for key in keys:
        for name, value in folder_values(key).items():
            integer = value is None or _INTEGER.fullmatch(value) is not None
            types[name] = pa.int64() if integer and types.get(name, pa.int64()) == pa.int64() else pa.string()
    return types


def add_columns(batch: pa.RecordBatch, key: str, names: Iterable[str], schema: pa.Schema) -> pa.RecordBatch:
    """Return the batch with the columns of `schema`. The columns in `names` come from the folder names in the key."""
    values = folder_values(key)
    columns = []
    for field in schema:
        if field.name in names:
            value = values.get(field.name)
            typed = int(value) if value is not None and field.type == pa.int64() else value
            columns.append(pa.repeat(pa.scalar(typed, field.type), batch.num_rows))
        else:
            columns.append(batch.column(field.name))
    return pa.RecordBatch.from_arrays(columns, names=schema.names)
