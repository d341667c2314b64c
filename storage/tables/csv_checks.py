"""Refuses CSV with ambiguous quotation marks, because a quoted field without its closing mark would swallow rows."""

from __future__ import annotations

import re

import numpy as np

from scoreline.storage.errors import UnreadableInput
from scoreline.storage.tables.csv_parser import Dialect
from scoreline.storage.tables.text import Block

_MIN_LINES = 10
"""A row that spans at least this many lines is suspected of having swallowed other rows."""
_LIKE_ROWS = 0.8
"""Minimum fraction of the lines of a suspected row that must look like rows to confirm the suspicion."""


def check_quotation_marks(uri: str, block: Block, dialect: Dialect, columns: int, escape: str | None) -> None:
    """Check a block of an object before its types are inferred.

    Parameters
    ----------
    uri : str
        URI of the object, for error messages.
    columns : int
        Number of columns in the header.
    escape : str, optional
        The option `escape` of the user; None if the user did not set it.

    Raises
    ------
    UnreadableInput
        A backslash might escape a quotation mark, or a row consists of many lines that look like rows.
    """
    if not dialect.quote:
        return
    if escape is None and (row := _row_with_escape(block, dialect)) is not None:
        raise UnreadableInput(
            f"{uri}: row {row} has a backslash before a quotation mark inside a quoted field: give --escape '\\' if it "
            "escapes the mark, as in files of Spark, Hive or MySQL, or --escape none if it is an ordinary character"
        )
    if columns > 1 and (found := _swallowing_row(block, dialect, columns)) is not None:
        row, lines = found
        raise UnreadableInput(
            f"{uri}: row {row} spans {lines:,} lines, most of which look like rows of their own: a quotation mark at "
            "its beginning is not closed. Correct the row, or give --quote none if fields are not quoted"
        )


def _row_with_escape(block: Block, dialect: Dialect) -> int | None:
    """Return the first row in which a backslash precedes a quotation mark in the middle of a quoted field."""
    quote, delimiter = dialect.quote.encode(), re.escape(dialect.delimiter.encode())
    if block.data.find(b"\\" + quote) < 0:
        return None
    q = re.escape(quote)
    pattern = (
        rb"(?:\A|(?<=[" + delimiter + rb"\r\n]))" + q + rb"[^" + q + rb"]*\\" + q + rb"(?![" + delimiter + rb"\r\n]|\Z)"
    )
    found = re.search(pattern, block.data)
    if found is None:
        return None
    return block.first_row + int(np.searchsorted(block.records.ends, found.start(), side="right"))


def _swallowing_row(block: Block, dialect: Dialect, columns: int) -> tuple[int, int] | None:
    """Find the first row that consists of many lines, most of which look like rows.

    Return its number and how many lines it consists of.
    """
    if block.data.count(b"\n") < len(block.records) + _MIN_LINES - 1:
        return None
    line_ends = np.flatnonzero(np.frombuffer(block.data, dtype=np.uint8) == ord("\n"))
    spans = np.searchsorted(line_ends, block.records.ends) - np.searchsorted(line_ends, block.records.starts)
    delimiter = dialect.delimiter.encode()
    for row in np.flatnonzero(spans >= _MIN_LINES):
        lines = block.data[block.records.starts[row] : block.records.ends[row]].splitlines()
        has_number = lines[0][:1].isdigit()
        if columns == 2 and not has_number:  # each line of a long text may have one comma, like a row
            continue
        alike = sum(line.count(delimiter) == columns - 1 and line[:1].isdigit() == has_number for line in lines[1:])
        if alike >= _LIKE_ROWS * (len(lines) - 1):
            return block.first_row + int(row), len(lines)
    return None
