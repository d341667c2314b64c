"""Read the header of a delimited text: the names of its columns, and the position of its first row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from scoreline.storage.errors import UnreadableInput
from scoreline.storage.tables.base import Pinned
from scoreline.storage.tables.boundaries import RecordFinder
from scoreline.storage.tables.contents import check_text
from scoreline.storage.tables.csv_parser import Dialect, parse
from scoreline.storage.tables.text import BOM, read_head

MAX_HEADER_BYTES = 4 << 20
"""Maximum size of the first record. The names of 10,000 columns take about 100 kB."""
_FIRST_READ_BYTES = 64 << 10


@dataclass(frozen=True)
class Header:
    """The columns of a delimited text."""

    names: tuple[str, ...]
    """Names in the header. A column without a name is ``column_N``."""
    pandas_names: tuple[str, ...]
    """Names that ``pandas.read_csv`` gives to the columns: ``Unnamed: N``, and ``x.1`` for a second ``x``."""
    end: int
    """Position of the first row in the text, in bytes."""


def read_header(source: Pinned, compression: str | None, dialect: Dialect, columns: tuple[str, ...] | None) -> Header:
    """Read the header of an object.

    Parameters
    ----------
    columns : tuple of str, optional
        Names of the columns if the object has no header.

    Raises
    ------
    UnreadableInput
        The first record is incomplete or too long, or the number of its fields differs from the length of `columns`.
    """
    size = _FIRST_READ_BYTES
    while True:
        data = read_head(source, compression, size)
        check_text(source, data, compression)
        start = len(BOM) if data.startswith(BOM) else 0
        records = RecordFinder(dialect.delimiter, dialect.quote, dialect.escape).find(
            data[start:], last=len(data) < size
        )
        if len(records):
            break
        if len(data) < size:
            if data[start:].strip():
                raise UnreadableInput(f"{source.uri}: row 0 has a quotation mark that is not closed")
            return Header(names=columns or (), pandas_names=columns or (), end=start)
        if size >= MAX_HEADER_BYTES:
            raise UnreadableInput(
                f"{source.uri}: its first record is longer than {MAX_HEADER_BYTES >> 20} MiB: check that it is CSV and "
                "that the delimiter is right"
            )
        size *= 8
    fields = _fields(source, dialect, data[start:][records.starts[0] : records.ends[0]])
    if columns is not None:
        if len(fields) != len(columns):
            raise UnreadableInput(
                f"{source.uri}: its first row has {len(fields)} fields, but {len(columns)} columns are named"
            )
        return Header(names=columns, pandas_names=columns, end=start)
    names = tuple(name or f"column_{number}" for number, name in enumerate(fields))
    return Header(names=names, pandas_names=_as_in_pandas(fields), end=start + int(records.ends[0]))


def _as_in_pandas(fields: Sequence[str]) -> tuple[str, ...]:
    names: list[str] = []
    times: Counter[str] = Counter()
    taken = set(fields)
    for number, field in enumerate(fields):
        name = unique = field or f"Unnamed: {number}"
        while times[name] and (unique in taken or unique in names):
            unique = f"{name}.{times[name]}"
            times[name] += 1
        times[name] = max(times[name], 1)
        names.append(unique)
    return tuple(names)


def _fields(source: Pinned, dialect: Dialect, record: bytes) -> list[str]:
    count = record.count(dialect.delimiter.encode()) + 1  # an upper bound for the number of fields
    types = {f"f{number}": pa.binary() for number in range(count)}
    try:
        table = parse(dialect.to_utf8(record, source.uri, 0), None, dialect, types, [])
        return [str(column[0].as_py() or b"", "utf-8") for column in table.columns]
    except (UnicodeDecodeError, pa.ArrowException) as error:
        raise UnreadableInput(f"{source.uri}: its header cannot be read: {error}") from error
