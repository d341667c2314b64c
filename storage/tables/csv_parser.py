"""Parse the text of delimited records with Arrow."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv

from scoreline.storage.errors import UnreadableInput, one_line
from scoreline.storage.tables.boundaries import rewrite_escapes
from scoreline.storage.tables.text import BOM

_MAX_SHOWN = 200
"""Maximum number of characters of an Arrow error that a message shows."""


@dataclass(frozen=True)
class Dialect:
    """The CSV dialect of an object."""

    delimiter: str
    quote: str
    """Quotation mark around fields, or an empty string if fields are not quoted."""
    encoding: str
    escape: str = ""
    """Character that escapes a quotation mark within a quoted field, or an empty string if there is none."""

    @property
    def is_utf8(self) -> bool:
        """Whether the encoding is UTF-8. If it is, the text need not be converted."""
        return self.encoding.lower().replace("_", "-") in ("utf-8", "utf8", "utf-8-sig")

    def to_utf8(self, data: bytes, uri: str, start: int) -> bytes:
        """Convert a text to UTF-8, and replace escaped quotation marks by doubled quotation marks.

        A text in UTF-8 is not validated.

        Parameters
        ----------
        data : bytes
            The text.
        uri : str
            URI of the object that contains the text, for error messages.
        start : int
            Position of the text in the object, in bytes.

        Raises
        ------
        UnreadableInput
            The text is not valid in the declared encoding.
        """
        if self.is_utf8:
            return self._unescape(data)
        try:
            return self._unescape(data.decode(self.encoding).encode())
        except UnicodeDecodeError as error:
            raise UnreadableInput(
                f"{uri} is not {self.encoding}: {error.reason} at byte {start + error.start:,}: correct --encoding"
            ) from error

    def _unescape(self, data: bytes) -> bytes:
        if not self.escape or not self.quote or data.find(self.escape.encode()) < 0:
            return data
        delimiter, quote, escape = (text.encode() for text in (self.delimiter, self.quote, self.escape))
        return rewrite_escapes(data, delimiter, quote, escape, escaped_escape=escape)


def parse(
    data: bytes,
    names: Sequence[str] | None,
    dialect: Dialect,
    types: Mapping[str, pa.DataType],
    ragged: list[Any],
    nulls: Sequence[str] = ("",),
) -> pa.Table:
    """Parse records and return the columns in `types`. An empty field without quotation marks becomes null.

    Parameters
    ----------
    data : bytes
        Complete records in UTF-8.
    names : sequence of str, optional
        Names of all columns; by default ``f0``, ``f1`` and so on, one for each field of the first record.
    dialect : Dialect
        Delimiter and quotation mark.
    types : mapping of str to pyarrow.DataType
        Types of the columns to return.
    ragged : list
        List to which Arrow's description of each ragged record is added. A record is ragged if it has too many or too
        few fields. Ragged records are skipped.
    nulls : sequence of str
        Unquoted fields that become null.

    Raises
    ------
    pyarrow.ArrowException
        A value cannot be converted, or the text cannot be parsed.
    """
    if not data.strip(b"\r\n"):
        return pa.table({name: pa.array([], kind) for name, kind in types.items()})

    if not data.endswith((b"\n", b"\r")):  # Arrow ignores a single record without a line end
        data += b"\n"
    if data.startswith(BOM):  # Arrow removes a BOM at the start of the data, so add a second BOM
        data = BOM + data

    def keep(row: Any) -> str:
        ragged.append(row)
        return "skip"

    named: dict[str, Any] = {"autogenerate_column_names": True} if names is None else {"column_names": list(names)}
    return pacsv.read_csv(
        pa.py_buffer(data),
        read_options=pacsv.ReadOptions(use_threads=False, block_size=len(data) + 1, **named),
        parse_options=pacsv.ParseOptions(
            delimiter=dialect.delimiter,
            quote_char=dialect.quote or False,
            newlines_in_values=True,
            invalid_row_handler=keep,
        ),
        convert_options=pacsv.ConvertOptions(
            column_types=types,
            include_columns=None if names is None else list(types),
            null_values=list(nulls),
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
            true_values=["true", "True", "TRUE"],
            false_values=["false", "False", "FALSE"],
        ),
    )


def parse_as_bytes(
    data: bytes, names: Sequence[str], dialect: Dialect, columns: Sequence[str], ragged: list[Any]
) -> pa.Table:
    """Parse records into binary columns, even if the text is not valid UTF-8 (see `parse`)."""
    valid = is_utf8(data)
    if not valid:
        # Arrow cannot describe a ragged record that is not UTF-8, so each byte is parsed as one character.
        data = data.decode("latin-1").encode()
    types = {name: pa.binary() for name in columns or names[:1]}  # Arrow counts rows only if it parses a column
    table = parse(data, names, dialect, types, ragged).select(list(columns))
    if valid:
        return table
    return pa.table({name: _to_original_bytes(table.column(name)) for name in columns})


def _to_original_bytes(column: pa.ChunkedArray) -> pa.Array:
    values = (value.as_py() for value in column)
    return pa.array([None if value is None else value.decode().encode("latin-1") for value in values], pa.binary())


def is_utf8(data: bytes) -> bool:
    """Return whether a text is valid UTF-8."""
    if data.isascii():
        return True
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def is_number(text: str) -> bool:
    """Return whether a text is a number other than NaN.

    >>> is_number("-999"), is_number("nan"), is_number("n/a")
    (True, False, False)
    """
    try:
        return not math.isnan(float(text))
    except ValueError:
        return False


def printable(error: Exception) -> str:
    """Return the message of an Arrow error on one line.

    The message is escaped and shortened, because it may quote the input.
    """
    text = ascii(one_line(error))[1:-1]
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"
