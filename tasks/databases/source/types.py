"""Says how each type of PostgreSQL is read: losslessly, or not at all. ``docs/how-to/postgres.md`` has the table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from scoreline.storage.databases.connection import Connection
from scoreline.storage.errors import InvalidRequest
from scoreline.tasks.databases.source.statement import Described

MOST_DIGITS = 38
_MODIFIER_HEADER = 4
"""The server adds this to the precision and scale of a numeric."""
_KINDS: Mapping[str, pa.DataType] = {
    "bool": pa.bool_(),
    "int2": pa.int16(),
    "int4": pa.int32(),
    "int8": pa.int64(),
    "oid": pa.int64(),
    "float4": pa.float32(),
    "float8": pa.float64(),
    "date": pa.date32(),
    "time": pa.time64("us"),
    "timestamp": pa.timestamp("us"),
    "timestamptz": pa.timestamp("us", "UTC"),
    "bytea": pa.binary(),
}
_BINARY: Mapping[str, str] = {
    "bool": "b",
    "int2": "h",
    "int4": "i",
    "int8": "q",
    "oid": "o",
    "float4": "i",  # bits are kept as they are
    "float8": "q",
    "date": "D",
    "time": "t",
    "timestamp": "T",
    "timestamptz": "T",
    "numeric": "n",
    "bytea": "y",
    "jsonb": "j",
    "uuid": "u",
    **dict.fromkeys(("text", "varchar", "bpchar", "name", "json"), "s"),
}
"""What `binary_rows` calls types that it decodes. It decodes no others, such as arrays."""
_TEXTS = frozenset(
    {"text", "varchar", "bpchar", "char", "name", "citext", "uuid", "json", "jsonb", "interval"}
    | {"inet", "cidr", "macaddr", "macaddr8", "timetz", "bit", "varbit"}
)
"""Types whose text says everything. A text is written back into a column of the same type as it was read."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of a query."""

    name: str
    source: str
    """The type in the database."""
    kind: pa.DataType
    binary: str = ""
    """The kind of the column for `binary_rows`; empty if it can only be read as text."""


@dataclass(frozen=True, kw_only=True)
class _Type:
    name: str
    kind: str
    """``b`` for a base type, ``e`` for an enum, ``c`` for a row, and so on, as in ``pg_type.typtype``."""
    category: str
    text: str
    element: str


def columns_of(connection: Connection, described: Sequence[Described], what: str) -> tuple[Column, ...]:
    """Return the columns of a query with their types in Arrow.

    Raises
    ------
    InvalidRequest
        The query has no columns, two columns have the same name, or a column has a type that cannot be read without
        loss. The message names the column.
    """
    if not described:
        raise InvalidRequest(f"{what} returns no rows: write a SELECT")
    if twice := [name for name, count in Counter(column.name for column in described).items() if count > 1]:
        raise InvalidRequest(f"{what} has the column {twice[0]!r} twice: name each with AS")
    rows = connection.execute(
        "SELECT t.oid::bigint, t.typname::text, t.typtype::text, t.typcategory::text, format_type(t.oid, NULL), "
        "coalesce(e.typname, '')::text FROM pg_type t LEFT JOIN pg_type e ON e.oid = t.typelem WHERE t.oid = ANY(%s)",
        ([column.type_oid for column in described],),
    ).fetchall()
    types = {row[0]: _Type(name=row[1], kind=row[2], category=row[3], text=row[4], element=row[5]) for row in rows}
    return tuple(_column(column, types[column.type_oid], what) for column in described)


def _column(column: Described, found: _Type, what: str) -> Column:
    source = found.text
    if found.name == "numeric":
        kind, source = _decimal(column, what)
    elif found.name in _KINDS:
        kind = _KINDS[found.name]
    elif found.name in _TEXTS or found.kind == "e" or (found.category == "A" and found.element not in ("record", "")):
        kind = pa.string()
    else:
        raise InvalidRequest(
            f"{what}: column {column.name!r} is {found.text}, which cannot be read without loss: leave it out, or cast "
            f"it, such as {column.name}::text"
        )
    binary = "s" if found.kind == "e" else _BINARY.get(found.name, "")
    return Column(name=column.name, source=source, kind=kind, binary=binary)


def _decimal(column: Described, what: str) -> tuple[pa.DataType, str]:
    packed = column.modifier - _MODIFIER_HEADER
    if packed < 0:
        raise InvalidRequest(
            f"{what}: column {column.name!r} is numeric without a number of digits, so that no type holds all its "
            f"values: cast it, such as {column.name}::numeric(18,4) or {column.name}::float8"
        )
    precision, scale = packed >> 16, ((packed & 0x7FF) ^ 1024) - 1024
    source = f"numeric({precision},{scale})"
    if precision > MOST_DIGITS or not 0 <= scale <= precision:
        raise InvalidRequest(
            f"{what}: column {column.name!r} is {source}, and decimals have up to {MOST_DIGITS} digits, of which the "
            f"scale is a part: cast it, such as {column.name}::float8"
        )
    return pa.decimal128(precision, scale), source
