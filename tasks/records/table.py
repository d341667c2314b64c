"""Represents records as typed columns, and encodes them as JSON. Needs neither pandas nor pyarrow.

The JSON form consists of lines. The first line is a header with the name and type of each column. The other lines
contain blocks of rows, column by column. The writer has all rows and determines the types, so readers do not have to
guess. Infinite numbers are written as strings, because JSON has no infinite numbers.
"""

from __future__ import annotations

import gzip
import io
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from scoreline.storage.errors import InvalidRequest

MAX_BYTES = 8 << 20
"""Maximum size of records as JSON, in bytes. Python needs about ten times as much memory to decode JSON. Larger records
are stored as Parquet."""
MAX_RESULTS_BYTES = 4 * MAX_BYTES
"""Maximum size of results as JSON, in bytes. Results may be larger than records, because scores have 17 digits and a
model may have many classes."""
_BLOCK_ROWS = 1_000
_FORMAT = 1
_MISSING = frozenset({"NAType", "NaTType"})  # pandas' missing values, recognised without importing pandas
_LEAST, _MOST = -(1 << 63), (1 << 63) - 1

_TYPES: Mapping[frozenset[str], str] = {
    frozenset(): "double",  # a column of nulls counts as missing numbers
    frozenset({"true or false"}): "bool",
    frozenset({"whole number"}): "int64",
    frozenset({"number"}): "double",
    frozenset({"whole number", "number"}): "double",
    frozenset({"text"}): "string",
    frozenset({"date"}): "date32",
    frozenset({"time"}): "timestamp",
    frozenset({"time with a zone"}): "timestamp_utc",
}
_INFINITE = {"Infinity": math.inf, "-Infinity": -math.inf}
_ENCODE: Mapping[str, Callable[[Any], Any]] = {
    "double": lambda value: value if math.isfinite(value) else "Infinity" if value > 0 else "-Infinity",
    "date32": lambda value: value.isoformat(),
    "timestamp": lambda value: value.isoformat(timespec="microseconds"),
    "timestamp_utc": lambda value: value.astimezone(UTC).isoformat(timespec="microseconds"),
}
_DECODE: Mapping[str, Callable[[Any], Any]] = {
    "double": lambda value: _INFINITE[value] if isinstance(value, str) else float(value),
    "date32": date.fromisoformat,
    "timestamp": datetime.fromisoformat,
    "timestamp_utc": datetime.fromisoformat,
}

_BASES: Sequence[tuple[type, Callable[[Any], Any]]] = (
    (str, str),
    (int, int),
    (float, float),
    (Decimal, float),
    (UUID, str),
)


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of rows, stored by column."""

    columns: Mapping[str, Sequence[Any]]
    """Plain Python values in the order of the rows, with None for missing values."""
    types: Mapping[str, str]
    """The type of each column: ``bool``, ``int64``, ``double``, ``string``, ``date32``, ``timestamp`` or
    ``timestamp_utc``."""
    rows: int
    rejected: Mapping[int, str] = field(default_factory=dict)
    """In a table of results, the reasons for rejected records, by record number."""

    def records(self) -> list[dict[str, Any]]:
        """Return the rows as dicts."""
        return [dict(zip(self.columns, row, strict=True)) for row in zip(*self.columns.values(), strict=True)]


def table_of(records: Any) -> Table:
    """Make a table of the records that an application passes.

    Missing values (None, NaN, NA and NaT) become nulls. If a column contains a float, the whole column becomes
    ``double``.

    Parameters
    ----------
    records : list of dict, dict of str to column, or DataFrame
        Values are numbers, strings, booleans, dates, times and None. NumPy's numbers and `Decimal` become numbers, and
        a `UUID` becomes a string. The index of a DataFrame is dropped.

    Raises
    ------
    InvalidRequest
        A value has an unsupported form; the message names the record and the column.

    Examples
    --------
    >>> table_of([{"id": 1, "x": 0.5}, {"id": 2, "x": None}]).types
    {'id': 'int64', 'x': 'double'}
    """
    columns = _columns(records)
    rows = len(next(iter(columns.values()), ()))
    if not rows:
        raise InvalidRequest("there are no records: give at least one, with at least one column")
    typed = {name: _typed(name, values) for name, values in columns.items()}
    return Table(
        columns={name: values for name, (values, _) in typed.items()},
        types={name: kind for name, (_, kind) in typed.items()},
        rows=rows,
    )


class TooManyRecords(InvalidRequest):
    """The records are too large for the JSON form."""


def is_frame(records: Any) -> bool:
    """Return whether the records are a pandas DataFrame."""
    return all(hasattr(records, name) for name in ("columns", "index", "to_dict", "iloc"))


def encode(table: Table, max_bytes: int = MAX_BYTES) -> bytes:
    """Return the JSON form of a table. Equal tables give equal bytes on every machine.

    Raises
    ------
    TooManyRecords
        The JSON takes more than `max_bytes`.
    InvalidRequest
        A string is not valid Unicode.
    """
    lines, size = [], 0
    for line in _lines(table):
        try:
            lines.append(json.dumps(line, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode() + b"\n")
        except UnicodeEncodeError as error:
            raise InvalidRequest(f"the records hold a text that is not Unicode: {error.reason}") from None
        if (size := size + len(lines[-1])) > max_bytes:
            raise TooManyRecords(
                f"the {table.rows:,} records take more than {max_bytes >> 20} MiB as JSON: write them as Parquet to "
                "the bucket, and submit that"
            )
    return b"".join(lines)


def decode(text: bytes) -> Table:
    """Read the JSON form; raises `ValueError`, `KeyError` or `TypeError` if the text is malformed."""
    lines = iter(text.splitlines())
    header = json.loads(next(lines, b""))
    if header["format"] != _FORMAT:
        raise ValueError(f"format {header['format']!r}")
    types = {str(name): str(kind) for name, kind in header["columns"]}
    columns: dict[str, list[Any]] = {name: [] for name in types}
    for line in lines:
        for (name, kind), values in zip(types.items(), json.loads(line), strict=True):
            change = _DECODE.get(kind)
            columns[name] += [change(v) if v is not None else None for v in values] if change else values
    if any(len(values) != header["rows"] for values in columns.values()):
        raise ValueError(f"not {header['rows']} rows")
    rejected = {int(row): str(reason) for row, reason in header["rejected"]}
    return Table(columns=columns, types=types, rows=int(header["rows"]), rejected=rejected)


def pack(text: bytes) -> bytes:
    """Compress the JSON form."""
    return gzip.compress(text, compresslevel=5, mtime=0)


def unpack(data: bytes) -> bytes:
    """Decompress the JSON form; raises `ValueError` if the text is larger than `MAX_RESULTS_BYTES`."""
    with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
        try:
            text = file.read(MAX_RESULTS_BYTES + 1)
        except (OSError, EOFError) as error:
            raise ValueError(str(error)) from None
    if len(text) > MAX_RESULTS_BYTES:
        raise ValueError(f"it is larger than {MAX_RESULTS_BYTES} bytes")
    return text


def _lines(table: Table) -> Iterator[Any]:
    yield {
        "format": _FORMAT,
        "columns": list(table.types.items()),
        "rows": table.rows,
        "rejected": list(table.rejected.items()),
    }
    for first in range(0, table.rows, _BLOCK_ROWS):
        block = []
        for name, kind in table.types.items():
            values, change = table.columns[name][first : first + _BLOCK_ROWS], _ENCODE.get(kind)
            block.append([change(v) if v is not None else None for v in values] if change else values)
        yield block


def _columns(records: Any) -> dict[str, list[Any]]:
    """Return the columns, all with the same length."""
    if is_frame(records):
        names = list(records.columns)
        if twice := sorted({repr(name) for name in names if names.count(name) > 1}):
            raise InvalidRequest(f"the records have the column {', '.join(twice)} twice")
        return {_checked(name): list(records[name]) for name in names}
    if isinstance(records, Mapping):
        return _of_columns(records)
    if isinstance(records, Iterable) and not isinstance(records, (str, bytes)):
        return _of_rows(list(records))
    raise InvalidRequest(
        f"records are a list of dicts, a dict of columns or a DataFrame, not a value of type {type(records).__name__}"
    )


def _of_columns(given: Mapping[Any, Any]) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {}
    for name, values in given.items():
        if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Iterable):
            raise InvalidRequest(f"column {_checked(name)!r} is a {type(values).__name__}, not a list of values")
        columns[_checked(name)] = list(values)
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        said = ", ".join(f"{name!r} has {length}" for name, length in list(lengths.items())[:20])
        raise InvalidRequest(f"the columns are not equally long: {said}")
    return columns


def _of_rows(rows: list[Any]) -> dict[str, list[Any]]:
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise InvalidRequest(f"record {number} is a {type(row).__name__}, not a dict")
    names = [_checked(name) for name in rows[0]] if rows else []
    for number, row in enumerate(rows):
        if lacking := [name for name in names if name not in row]:
            raise InvalidRequest(
                f"record {number} lacks {', '.join(map(repr, lacking))}, which record 0 has: write None where there "
                "is no value"
            )
        if len(row) > len(names):
            more = ", ".join(repr(name) for name in row if name not in names)
            raise InvalidRequest(f"record {number} has {more}, which record 0 has not: write None where there is none")
    return {name: [row[name] for row in rows] for name in names}


def _checked(name: Any) -> str:
    if not isinstance(name, str):
        raise InvalidRequest(f"column {name!r} has a name that is not a text")
    return str(name)


def _typed(name: str, given: Sequence[Any]) -> tuple[list[Any], str]:
    """Return a column's plain Python values and their type."""
    values: list[Any] = []
    seen: dict[str, int] = {}
    for row, value in enumerate(given):
        try:
            values.append(_to_python_scalar(value))
        except (TypeError, ValueError, OverflowError) as error:
            raise InvalidRequest(
                f"record {row} has {name!r} of type {type(value).__name__}: values are numbers, texts, true or false, "
                f"dates, times and None{f' ({error})' if str(error) else ''}"
            ) from None
        if values[-1] is not None:
            seen.setdefault(_kind(values[-1]), row)
    kind = _TYPES.get(frozenset(seen))
    if kind is None:
        said = ", ".join(f"a {what} in record {row}" for what, row in seen.items())
        raise InvalidRequest(f"column {name!r} mixes types: {said}")
    if kind == "double":
        values = [None if value is None else float(value) for value in values]
    return values, kind


def _kind(value: Any) -> str:
    match value:
        case bool():
            return "true or false"
        case int():
            return "whole number"
        case float():
            return "number"
        case str():
            return "text"
        case datetime():
            return "time" if value.tzinfo is None else "time with a zone"
        case _:
            return "date"


def _to_python_scalar(value: Any) -> Any:
    """Convert a value to one of the plain Python types; raises `TypeError` if none can represent it."""
    kind = type(value)
    if value is None or kind is str or kind is bool:
        return value
    if kind is float:
        return None if math.isnan(value) else value
    if kind is int:
        if not _LEAST <= value <= _MOST:
            raise ValueError("a whole number has 64 bits")
        return value
    if kind.__name__ in _MISSING:
        return None
    if isinstance(value, date):  # `datetime` is a subclass of `date`
        return value
    if kind.__name__ == "datetime64":
        return value.astype("datetime64[us]").item()
    if getattr(value, "shape", None) == () and kind.__name__ != "timedelta64":  # a NumPy scalar
        return _to_python_scalar(value.item())
    for base, change in _BASES:
        if isinstance(value, base):
            return _to_python_scalar(change(value))
    raise TypeError
