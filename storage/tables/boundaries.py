r"""Where the records of a text end, exactly as the parsers of Arrow see it.

A quotation mark opens a field only at its beginning, and is written twice within one; line ends within such a field
belong to it. Outside, ``\n``, ``\r\n`` and a lone ``\r`` end a record. An empty line is none.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

_LF, _CR = 10, 13
JSON_SPACE = b" \t\r\n"
"""What JSON allows between values: less than what Python takes for white space."""


@dataclass(frozen=True)
class Records:
    """Places in a text."""

    starts: Any
    """ndarray of int64: first byte of each record that is not empty."""
    ends: Any
    """ndarray of int64: the byte after its line end."""
    rest: int
    """First byte of what is not ended yet."""

    def __len__(self) -> int:
        return len(self.starts)


class Boundaries:
    r"""Finds the records of a text, a block at a time: each begins where a record does.

    Parameters
    ----------
    delimiter : str
        Between fields.
    quote : str
        Around fields; empty where there are none.
    json : bool
        Lines of JSON: ``\n`` alone ends one, and one of white space alone is empty.
    """

    def __init__(self, delimiter: str = ",", quote: str = '"', *, json: bool = False) -> None:
        self._json = json
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

    def find(self, data: bytes, *, last: bool) -> Records:
        """Find the records of a block; where it is the `last`, the end of the text ends one too."""
        ends = self._ends(data, last)
        rest = int(ends[-1]) if len(ends) else 0
        if last and rest < len(data) and self._is_whole(data, rest):
            ends = np.append(ends, len(data))
            rest = len(data)
        starts = np.concatenate([[0], ends[:-1]]).astype(np.int64) if len(ends) else ends
        full = self._filled(data, starts, ends)
        return Records(starts=starts[full], ends=ends[full], rest=rest)

    def _ends(self, data: bytes, last: bool) -> Any:
        array = np.frombuffer(data, dtype=np.uint8)
        ends = _line_ends(data, array, lone=not self._json, last=last)
        if not self._quote or data.find(self._quote) < 0:
            return ends
        quotes = np.flatnonzero(array == self._quote[0])
        opening = quotes[0::2]
        before = self._before[array[opening - 1]] | (opening == 0)
        before[1:] |= opening[1:] - 1 == quotes[1::2][: len(opening) - 1]  # written twice, within a field
        good = len(data) if before.all() else int(opening[np.argmin(before)])
        inside = np.searchsorted(quotes, ends - 1) & 1
        ends = ends[(inside == 0) & (ends <= good)]
        return ends if good == len(data) else self._walk(data, ends, last)

    def _walk(self, data: bytes, ends: Any, last: bool) -> Any:
        """Go on record by record: there is a quotation mark that quotes nothing."""
        found = []
        place = int(ends[-1]) if len(ends) else 0
        while match := self._ended.match(data, place):
            if match.end() == len(data) and data.endswith(b"\r") and not last:
                break
            place = match.end()
            found.append(place)
        return np.concatenate([ends, np.array(found, dtype=np.int64)])

    def _is_whole(self, data: bytes, start: int) -> bool:
        """Whether what no line end follows is a record: no quotation mark is open."""
        if not self._quote:
            return True
        match = self._whole.match(data, start)
        return match is not None and match.end() == len(data)

    def _filled(self, data: bytes, starts: Any, ends: Any) -> Any:
        """Tell the records from the empty lines."""
        array = np.frombuffer(data, dtype=np.uint8)
        first = array[starts] if len(starts) else array[:0]
        if self._json:
            full = first == ord("{")
            others = np.flatnonzero(~full)
            full[others] = [
                bool(data[a:b].strip(JSON_SPACE)) for a, b in zip(starts[others], ends[others], strict=True)
            ]
            return full
        return (first != _LF) & (first != _CR)


def _line_ends(data: bytes, array: Any, *, lone: bool, last: bool) -> Any:
    """Return the places after line ends, whatever is quoted."""
    ends = np.flatnonzero(array == _LF) + 1
    if not lone or data.find(b"\r") < 0:
        return ends
    returns = np.flatnonzero(array == _CR)
    at_end = len(returns) > 0 and returns[-1] == len(data) - 1
    if at_end and not last:  # what follows may be its \n
        returns = returns[:-1]
    following = array[np.minimum(returns + 1, len(data) - 1)]
    alone = returns[(following != _LF) | (returns == len(data) - 1)] + 1
    return np.sort(np.concatenate([ends, alone]))
