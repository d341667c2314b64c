"""Describe, for the compiled scanner, the rows that tell nothing new about their columns (see `row_patterns`).

A survey without the scanner gives the same result. The scanner may recognize fewer rows than a regular expression does,
but takes a fifth of its time.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

import pyarrow as pa

from scoreline.storage.tables.boundaries import row_scanner
from scoreline.storage.tables.row_patterns import NUMBER_WORDS, PLAIN_KEY
from scoreline.storage.tables.type_inference import DelimitedColumn, JsonColumn

_TEXT, _INTEGER, _FLOAT, _SHORT_FLOAT, _BOOLEAN, _WORD, _NOTHING = range(7)
"""The kinds of values. The scanner has the same numbers."""
_PADDED, _LARGE, _MISSING, _NUMBERS = 0x08, 0x10, 0x20, 0x40
"""Whether numbers may have leading zeros, integers may have 18 digits, values may be missing, and words may be numbers.
The scanner has the same numbers."""

PARTS_OF_NUMBERS = frozenset("0123456789+-.eE")
"""Characters that the scanner reads as parts of numbers. They can be neither delimiters nor quotation marks."""


def delimited_scanner(
    columns: Sequence[DelimitedColumn], delimiter: str, quote: str, decimal: str, nulls: Collection[str]
) -> row_scanner.DelimitedScanner | None:
    """Return a scanner that recognizes rows that would not change the columns; None if there is none.

    The parameters are those of `row_patterns.delimited_row`.
    """
    characters = [delimiter, quote, decimal, *nulls]
    if row_scanner is None or not columns or decimal == delimiter or not all(text.isascii() for text in characters):
        return None
    if delimiter in PARTS_OF_NUMBERS or quote in PARTS_OF_NUMBERS:
        return None
    kinds = [_delimited_kind(column) for column in columns]
    if None in kinds:
        return None
    special = {delimiter, quote, "\n", "\r", "\0"}
    return row_scanner.DelimitedScanner(
        ord(delimiter),
        ord(quote) if quote else -1,
        ord(decimal),
        bytes(kind for kind in kinds if kind is not None),
        [text.encode() for text in nulls if text and not special & set(text)],
        [text.lower().encode() for text in {*nulls, *NUMBER_WORDS} if text],
    )


def _delimited_kind(column: DelimitedColumn) -> int | None:
    """Return the kind of values that tell nothing new about a column; None if there are no such values."""
    missing = _MISSING * column.missing
    padded = _PADDED * column.padded
    if column.is_settled:
        return _TEXT
    if pa.types.is_null(column.kind):
        return _NOTHING | missing if missing else None
    if pa.types.is_int64(column.kind):
        return _INTEGER | missing | padded | _LARGE * column.large
    if pa.types.is_float64(column.kind):
        return missing | (_FLOAT | padded if column.scored or column.carried else _SHORT_FLOAT)
    if pa.types.is_boolean(column.kind):
        return _BOOLEAN | missing
    if pa.types.is_string(column.kind) and column.words:
        return _WORD | missing | _NUMBERS * column.numbers
    return None


def json_scanner(columns: Mapping[str, JsonColumn]) -> row_scanner.JsonScanner | None:
    """Return a scanner that recognizes lines that would not change the columns; None if there is none."""
    kinds = [_json_kind(column) for column in columns.values()]
    if row_scanner is None or not kinds or None in kinds or not all(re.fullmatch(PLAIN_KEY, name) for name in columns):
        return None
    return row_scanner.JsonScanner(
        [f'"{name}"'.encode() for name in columns],
        bytes(kind for kind in kinds if kind is not None),
        bytes(column.missing and number > 0 for number, column in enumerate(columns.values())),
    )


def _json_kind(column: JsonColumn) -> int | None:
    kinds = {pa.int64(): _INTEGER, pa.float64(): _FLOAT, pa.string(): _TEXT, pa.bool_(): _BOOLEAN}
    if column.carried or column.kind not in kinds:
        return None
    return kinds[column.kind] | _MISSING * column.missing
