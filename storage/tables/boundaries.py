r"""Find the boundaries of records in a text, exactly as Arrow's parsers do.

A field is quoted only if its first character is a quotation mark. Inside a quoted field, a quotation mark is written
twice, or after an escape character. Line ends inside a quoted field belong to the field. Outside of quoted fields,
``\n``, ``\r\n`` and a lone ``\r`` end a record. An empty line is not a record.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

try:
    from scoreline.storage.tables import row_scanner as row_scanner  # `known_rows` uses it, too
except ImportError:  # the scanner is not compiled
    row_scanner = None  # type: ignore[assignment]

_LF, _CR = 10, 13
JSON_SPACE = b" \t\r\n"
"""The white space that JSON allows between values. Python's ``strip()`` removes more characters than these."""


@dataclass(frozen=True)
class Records:
    """Positions of the records in a text, without empty lines."""

    starts: Any
    """Position of the first byte of each record, as an ndarray of int64."""
    ends: Any
    """Position after the line end of each record, as an ndarray of int64."""
    rest: int
    """Position after the last complete record. An incomplete record may begin there."""
    others: Any = None
    """Numbers of the records that may tell something new (see `RecordFinder.expect`), as an ndarray of int64. None if
    this was not checked."""

    def __len__(self) -> int:
        return len(self.starts)


class RecordFinder:
    r"""Finds the records of a text, one block at a time. Each block must begin at the start of a record.

    Parameters
    ----------
    delimiter : str
        Character between fields.
    quote : str
        Quotation mark around fields. If empty, fields are not quoted.
    escape : str
        Character that escapes a quotation mark inside a quoted field. If empty, quotation marks cannot be escaped.
    json : bool
        Whether the text is JSON Lines. In JSON Lines, only ``\n`` ends a record, and a line of white space counts as
        empty.
    """

    def __init__(self, delimiter: str = ",", quote: str = '"', escape: str = "", *, json: bool = False) -> None:
        self._json = json
        self._escape = b"" if json or not quote else escape.encode()
        self._delimiter = delimiter.encode()
        self._quote = b"" if json else quote.encode()
        before = [delimiter.encode()[0], _LF, _CR]
        self._before = np.zeros(256, dtype=bool)
        self._before[before] = True
        d, q = re.escape(delimiter.encode()), re.escape(self._quote)
        if self._quote:
            field = rb"(?:" + q + rb"(?:[^" + q + rb"]|" + q + q + rb")*+" + q + rb"[^" + d + rb"\r\n]*+"
            field += rb"|(?:[^" + q + d + rb"\r\n][^" + d + rb"\r\n]*+)?)"
            record = field + rb"(?:" + d + field + rb")*+"
            self._ended = re.compile(record + rb"(?:\r\n|\n|\r)")
            self._whole = re.compile(record)
        self._scanner = self._make_scanner()
        self._expects = False

    def expect(self, scanner: row_scanner.DelimitedScanner | row_scanner.JsonScanner | None) -> None:
        """Set a scanner that also recognizes records that tell nothing new (see `known_rows`).

        None removes this scanner.
        """
        self._scanner = scanner or self._make_scanner()
        self._expects = scanner is not None

    def _make_scanner(self) -> row_scanner.DelimitedScanner | row_scanner.JsonScanner | None:
        """Return a scanner that finds records but recognizes none; None if only this class can find the records."""
        if row_scanner is None or self._escape:
            return None
        if self._json:
            return row_scanner.JsonScanner()
        if not (self._delimiter + self._quote).isascii():
            return None
        return row_scanner.DelimitedScanner(self._delimiter[0], self._quote[0] if self._quote else -1)

    def find(self, data: bytes, *, last: bool) -> Records:
        """Find the records of a block. In the `last` block, the end of the text also ends a record."""
        expects, scanner = self._expects, self._scanner
        if scanner is not None:
            *places, rest, others = scanner.scan(data, last)
            return Records(
                starts=np.frombuffer(places[0], np.int64),
                ends=np.frombuffer(places[1], np.int64),
                rest=rest,
                others=np.frombuffer(others, np.int64) if expects else None,
            )
        data = self._without_escapes(data)
        ends = self._ends(data, last)
        rest = int(ends[-1]) if len(ends) else 0
        if last and rest < len(data) and self._is_whole(data, rest):
            ends = np.append(ends, len(data))
            rest = len(data)
        starts = np.concatenate([[0], ends[:-1]]).astype(np.int64) if len(ends) else ends
        filled = self._filled(data, starts, ends)
        return Records(starts=starts[filled], ends=ends[filled], rest=rest)

    def _without_escapes(self, data: bytes) -> bytes:
        """Replace escaped quotation marks by doubled ones. The length of the text stays the same."""
        if not self._escape or data.find(self._escape + self._quote) < 0:
            return data
        return rewrite_escapes(data, self._delimiter, self._quote, self._escape, escaped_escape=b"  ")

    def _ends(self, data: bytes, last: bool) -> Any:
        array = np.frombuffer(data, dtype=np.uint8)
        ends = _line_ends(data, array, lone=not self._json, last=last)
        if not self._quote or data.find(self._quote) < 0:
            return ends
        quotes = np.flatnonzero(array == self._quote[0])
        opening = quotes[0::2]
        before = self._before[array[opening - 1]] | (opening == 0)
        before[1:] |= opening[1:] - 1 == quotes[1::2][: len(opening) - 1]  # a doubled quotation mark inside a field
        well_formed_until = len(data) if before.all() else int(opening[np.argmin(before)])
        inside = np.searchsorted(quotes, ends - 1) & 1
        ends = ends[(inside == 0) & (ends <= well_formed_until)]
        return ends if well_formed_until == len(data) else self._walk(data, ends, last)

    def _walk(self, data: bytes, ends: Any, last: bool) -> Any:
        """Continue record by record.

        The search continues in this way after the first unquoted field that contains a quotation mark.
        """
        more = []
        position = int(ends[-1]) if len(ends) else 0
        while match := self._ended.match(data, position):
            if match.end() == len(data) and data.endswith(b"\r") and not last:
                break
            position = match.end()
            more.append(position)
        return np.concatenate([ends, np.array(more, dtype=np.int64)])

    def _is_whole(self, data: bytes, start: int) -> bool:
        """Return whether the text after the last line end is a complete record: every quotation mark is closed."""
        if not self._quote:
            return True
        match = self._whole.match(data, start)
        return match is not None and match.end() == len(data)

    def _filled(self, data: bytes, starts: Any, ends: Any) -> Any:
        """Return a boolean array that is True for each line that is not empty."""
        array = np.frombuffer(data, dtype=np.uint8)
        first = array[starts] if len(starts) else array[:0]
        if self._json:
            filled = first == ord("{")
            others = np.flatnonzero(~filled)
            filled[others] = [
                bool(data[a:b].strip(JSON_SPACE)) for a, b in zip(starts[others], ends[others], strict=True)
            ]
            return filled
        return (first != _LF) & (first != _CR)


def rewrite_escapes(data: bytes, delimiter: bytes, quote: bytes, escape: bytes, *, escaped_escape: bytes) -> bytes:
    """Replace escaped quotation marks inside quoted fields by doubled ones. The last field may lack its closing mark.

    Parameters
    ----------
    data : bytes
        Text that begins at the start of a record.
    delimiter, quote, escape : bytes
        One character each.
    escaped_escape : bytes
        Replacement for an escape character that is itself escaped.
    """
    d, q, e = (re.escape(character) for character in (delimiter, quote, escape))
    inside = rb"(?:[^" + q + e + rb"]|" + e + rb".|" + q + q + rb")*+"
    field = rb"(?:\A|(?<=[" + d + rb"\r\n]))" + q + inside + rb"(?:" + q + rb"|" + e + rb"?\Z)"
    pair = re.compile(e + rb"([" + e + q + rb"])")

    def rewrite(found: re.Match[bytes]) -> bytes:
        return quote + quote if found[1] == quote else escaped_escape

    return re.sub(field, lambda found: pair.sub(rewrite, found[0]), data, flags=re.DOTALL)


def _line_ends(data: bytes, array: Any, *, lone: bool, last: bool) -> Any:
    """Return the positions after all line ends, including those inside quoted fields."""
    ends = np.flatnonzero(array == _LF) + 1
    if not lone or data.find(b"\r") < 0:
        return ends
    returns = np.flatnonzero(array == _CR)
    at_end = len(returns) > 0 and returns[-1] == len(data) - 1
    if at_end and not last:  # the next block may begin with the \n of this line end
        returns = returns[:-1]
    following = array[np.minimum(returns + 1, len(data) - 1)]
    alone = returns[(following != _LF) | (returns == len(data) - 1)] + 1
    return np.sort(np.concatenate([ends, alone]))
