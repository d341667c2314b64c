"""The notation of numbers in CSV: the decimal separator and the thousands separator."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

_PLAIN = r"^\s*[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?\s*$"
NO_NUMBER = "\0"
"""Prefix of a text that is a number in Python's notation, but not in the notation of the object."""


@dataclass(frozen=True)
class Notation:
    r"""The notation of numbers.

    Examples
    --------
    >>> Notation(",", ".").to_plain(pa.array(["1.234,5", "-7", "1.5", "n/a"])).to_pylist()
    ['1234.5', '-7', '\x001.5', 'n/a']
    """

    decimal: str = "."
    thousands: str = ""

    @property
    def is_plain(self) -> bool:
        """Whether this is Python's notation. If so, `to_plain` changes nothing."""
        return self.decimal == "." and not self.thousands

    def to_plain(self, column: pa.StringArray) -> pa.StringArray:
        """Rewrite numbers in Python's notation.

        Other texts stay unchanged, or get the prefix `NO_NUMBER` if Python would read a number.
        """
        if self.is_plain:
            return column
        decimal, thousands = re.escape(self.decimal), re.escape(self.thousands)
        digits = r"[0-9]{1,3}(" + thousands + r"[0-9]{3})+|[0-9]+" if self.thousands else "[0-9]+"
        number = rf"^\s*[-+]?(({digits})({decimal}[0-9]*)?|{decimal}[0-9]+)([eE][-+]?[0-9]+)?\s*$"
        plain = pc.replace_substring(column, self.thousands, "") if self.thousands else column
        plain = pc.replace_substring(plain, self.decimal, ".")
        marked = pc.binary_join_element_wise(NO_NUMBER, column, "")
        other = pc.if_else(pc.match_substring_regex(column, _PLAIN), marked, column)
        return pc.if_else(pc.match_substring_regex(column, number), plain, other)
