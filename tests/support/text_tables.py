"""Reads whole tables, mostly of text, and counts the bytes that are read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest

from scoreline.storage.tables.base import Pinned, Rows, Survey
from scoreline.storage.tables.delimited import DelimitedFormat
from scoreline.storage.tables.jsonl import JsonLinesFormat
from scoreline.storage.tables.options import ReadOptions

Put = Callable[..., Pinned]


def look(source: Pinned, options: ReadOptions | None = None, block_bytes: int = 1 << 20) -> tuple[Any, Survey]:
    kind = JsonLinesFormat if ".jsonl" in source.key else DelimitedFormat
    table = kind(options or ReadOptions(), block_bytes)
    return table, table.survey(source)


def rows_of(source: Pinned, schema: pa.Schema, options: ReadOptions | None = None, **how: int) -> list[Rows]:
    table, survey = look(source, options, **how)
    return [rows for span in survey.spans for rows in table.read(source, span, schema, 65_536)]


def counted(source: Pinned, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list, to which the size of each further read from the object's store is added."""
    sizes: list[int] = []
    get = source.store.get

    def count(*arguments: Any, **options: Any) -> Any:
        got = get(*arguments, **options)
        sizes.append(len(got.data))
        return got

    monkeypatch.setattr(source.store, "get", count)
    return sizes


def values(found: list[Rows]) -> list[dict[str, Any]]:
    return [row for rows in found for row in rows.batch.to_pylist()]


def broken(found: list[Rows]) -> list[tuple[int, str | None, str]]:
    return [(item.row, item.column, item.message) for rows in found for item in rows.malformed]


def schema(**types: pa.DataType) -> pa.Schema:
    return pa.schema(list(types.items()))
