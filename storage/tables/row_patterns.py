r"""Recognize rows that cannot change the inferred types of their columns, without converting their values.

A survey of a text infers the type of each column from all values. After a few blocks, nearly every row has values of
the types that are already known. One regular expression describes all such rows of an object. Arrow matches rows
several times as fast as it parses and converts them. The expression is strict: a row that matches it cannot change a
type. All rows that do not match are parsed.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from scoreline.storage.tables.text import Block, pick_records
from scoreline.storage.tables.type_inference import DelimitedColumn, JsonColumn

MAX_COLUMNS = 500
"""Maximum number of columns that a pattern describes. With many more columns, the engine for regular expressions would
run out of memory."""

_CANONICAL = "(?:0|-?[1-9][0-9]{0,14})"
"""Pattern of an integer with so few digits that float64 represents it exactly."""
_EXPONENT = "(?:[eE][-+]?[0-9]{1,2})?"
NUMBER_WORDS = ("inf", "infinity", "nan")
"""Words that are read as numbers."""
_UTF8 = (
    r"[\xc2-\xdf][\x80-\xbf]|\xe0[\xa0-\xbf][\x80-\xbf]|[\xe1-\xec\xee\xef][\x80-\xbf]{2}|\xed[\x80-\x9f][\x80-\xbf]|"
    r"\xf0[\x90-\xbf][\x80-\xbf]{2}|[\xf1-\xf3][\x80-\xbf]{3}|\xf4[\x80-\x8f][\x80-\xbf]{2}"
)
"""Pattern of a character outside ASCII, in bytes of UTF-8, because patterns match bytes."""
_JSON_TEXT = r'"(?:[ !#-\[\]-~]|' + _UTF8 + ')*"'
_JSON_NUMBER = r"-?(?:0|[1-9][0-9]{0,14})(?:\.[0-9]+)?" + _EXPONENT
JSON_SCALAR = rf"(?:{_JSON_TEXT}|{_JSON_NUMBER}|true|false|null)"
"""Pattern of a plainly written JSON value that is not nested."""


_FEW = 0.25
"""If the scanner leaves more than this fraction of the records unrecognized, all records are matched at once."""
PLAIN_KEY = r"[ !#-\[\]-~]*"
"""Pattern of keys that JSON Lines write as they are."""


class RowPattern:
    """A regular expression for rows that need not be parsed. The expression is not set at first."""

    def __init__(self) -> None:
        self._pattern: str | None = None

    def expect(self, row: str | None) -> None:
        """Set the regular expression of a row without its line end; None if all rows must be parsed."""
        self._pattern = None if row is None else rf"^(?:{row})(?:\r\n|\n|\r)?$"

    def others(self, block: Block) -> Any:
        """Return the numbers of the records that must be parsed, as an ndarray; None if the block cannot be matched.

        If a scanner has recognized most of the records (see `known_rows`), only the other records are matched.
        """
        scanned = block.records.others
        if scanned is None or len(scanned) > _FEW * len(block.records):
            found = self._unmatched(block)
            return scanned if found is None else found
        if not len(scanned):
            return scanned
        found = self._unmatched(pick_records(block, scanned))
        return scanned if found is None else scanned[found]

    def _unmatched(self, block: Block) -> Any:
        """Return the numbers of the records that do not match, as an ndarray; None if the block cannot be matched."""
        pattern, records = self._pattern, block.records
        if pattern is None or not len(records) or len(block.data) != int((records.ends - records.starts).sum()):
            return None  # the block has empty lines, which belong to no record
        places = np.append(records.starts, records.ends[-1]).astype(np.int32)
        buffers = [None, pa.py_buffer(places), pa.py_buffer(block.data)]
        rows = pa.BinaryArray.from_buffers(pa.binary(), len(records), buffers)
        try:
            known = pc.match_substring_regex(rows, pattern)
        except pa.ArrowException:  # the pattern is too large for the engine
            self._pattern = None
            return None
        return np.flatnonzero(~known.to_numpy(zero_copy_only=False))


def delimited_row(
    columns: Sequence[DelimitedColumn], delimiter: str, quote: str, decimal: str, nulls: Collection[str]
) -> str | None:
    """Return the regular expression of rows that cannot change the type of a column; None if it cannot be built.

    Parameters
    ----------
    columns : sequence of DelimitedColumn
        All columns of the text, with the types inferred so far.
    delimiter, quote, decimal : str
        The dialect of the text. An empty `quote` means that fields are not quoted.
    nulls : collection of str
        Fields that stand for a missing value. These fields must not be numbers or booleans.
    """
    if not 1 <= len(columns) <= MAX_COLUMNS or decimal == delimiter:
        return None
    fields = []
    for column in columns:
        field = _field(column, delimiter, quote, re.escape(decimal), nulls)
        if field is None:
            return None
        fields.append(field)
    return re.escape(delimiter).join(fields)


def _field(column: DelimitedColumn, delimiter: str, quote: str, decimal: str, nulls: Collection[str]) -> str | None:
    special, mark = {delimiter, quote, "\n", "\r", "\0"}, re.escape(quote)
    plain = _none_of(special)
    if column.is_settled:
        quoted = _none_of({quote, "\\", "\n", "\r", "\0"})  # a backslash may escape the quotation mark
        return f"(?:{mark}{quoted}*{mark}|{plain}*)" if quote else f"{plain}*"
    value = _value(column, decimal, special, nulls)
    if value is None:
        return None
    if quote:
        value = f"(?:{value}|{mark}{value}{mark})"
    if not column.missing:
        return value
    empty = "|".join(re.escape(text) for text in nulls if text and text.isascii() and not special & set(text))
    return f"(?:{value}|{empty})?" if empty else f"(?:{value})?"


def _value(column: DelimitedColumn, decimal: str, special: Collection[str], nulls: Collection[str]) -> str | None:
    """Return the pattern of CSV values that cannot change the type of a column; None if it cannot be built."""
    kind = column.kind
    if pa.types.is_null(kind):
        return "" if column.missing else None
    if pa.types.is_int64(kind):
        more = 17 if column.large else 14
        return f"-?[0-9]{{1,{more + 1}}}" if column.padded else f"(?:0|-?[1-9][0-9]{{0,{more}}})"
    if pa.types.is_float64(kind):
        if column.scored or column.carried:
            whole = "[0-9]+" if column.padded else "(?:0|[1-9][0-9]*)"
            number = f"-?(?:{whole}(?:{decimal}[0-9]*)?|{decimal}[0-9]+)"
        else:
            number = f"-?(?:0|[1-9][0-9]{{0,14}}|{_exact(decimal)})"
        return number + _EXPONENT
    if pa.types.is_boolean(kind):
        return "(?:true|True|TRUE|false|False|FALSE)"
    if pa.types.is_string(kind) and column.words:
        number = f"|{_CANONICAL}" if column.numbers else ""
        return f"(?:{_words(special, [*nulls, *NUMBER_WORDS])}{number})"
    return None


def _exact(decimal: str) -> str:
    """Return the pattern of decimal numbers that are short enough for float64 to represent them distinctly."""
    return "|".join(
        f"{whole}{decimal}[0-9]{{1,{rest}}}"
        for whole, rest in (("0", 17), ("[1-9]", 16), ("[1-9][0-9]", 15), ("[1-9][0-9]{2,5}", 11))
    )


def _words(special: Collection[str], others: Iterable[str]) -> str:
    """Return the pattern of words that begin with a letter and are not in `others`."""
    known: dict[str, Any] = {}
    for word in others:
        node = known
        for character in word.lower():
            node = node.setdefault(character, {})
        node[""] = {}
    rest = _none_of({*special, "\\"})
    return _unlike(known, rest, special, "a-zA-Z_")


def _unlike(node: Mapping[str, Any], rest: str, special: Collection[str], first: str) -> str:
    """Return the pattern of the rest of a word that is not in a tree of letters.

    If the word begins with a whole word of the tree, a letter or a digit must follow, because trailing white space is
    ignored.
    """
    ways = []
    followers = {character for character in node if character}
    for character in sorted(followers):
        if character in special or not character.isascii():
            continue
        begins = f"[{re.escape(character)}{re.escape(character.upper())}]"
        if first and not re.fullmatch(f"[{first}]", character):
            continue
        ways.append(begins + _unlike(node[character], rest, special, ""))
    excluded = "".join(re.escape(c) + (re.escape(c.upper()) if c.upper() != c else "") for c in sorted(followers))
    if first:
        ways.append(f"{_letters(followers)}{rest}*")
    elif "" in node:
        ways.append(f"{_letters(followers, more='0-9')}{rest}*")
    else:
        ways += ["", f"{_none_of(special, extra=excluded + chr(92) * 2)}{rest}*"]
    return f"(?:{'|'.join(ways)})"


def _letters(without: Collection[str], more: str = "") -> str:
    letters = "".join(c + c.upper() for c in "abcdefghijklmnopqrstuvwxyz" if c not in without)
    digits = "".join(c for c in "0123456789" if c not in without) if more else ""
    return f"[{letters}{digits}{'' if '_' in without else '_'}]"


def _none_of(characters: Collection[str], extra: str = "") -> str:
    escaped = {"\n": r"\n", "\r": r"\r", "\0": r"\x00"}
    inside = "".join(escaped.get(c) or re.escape(c) for c in sorted(characters) if c)
    return f"[^{inside}{extra}]"


def json_value(column: JsonColumn) -> str | None:
    """Return the pattern of JSON values that cannot change the type of a column; None if it cannot be built."""
    kind = column.kind
    if column.carried or pa.types.is_nested(kind):
        return None
    value = {pa.int64(): _CANONICAL, pa.float64(): _JSON_NUMBER, pa.string(): _JSON_TEXT, pa.bool_(): "true|false"}
    if kind not in value:
        return None
    return f"(?:{value[kind]}|null)" if column.missing else f"(?:{value[kind]})"


def json_field(kind: pa.DataType) -> str | None:
    """Return the pattern of JSON values that can be read as a type; None if it cannot be built."""
    value = {pa.int64(): _CANONICAL, pa.float64(): _JSON_NUMBER, pa.string(): _JSON_TEXT, pa.bool_(): "true|false"}
    return f"(?:{value[kind]}|null)" if kind in value else None


def json_row(values: Mapping[str, str | None], optional: Collection[str] = ()) -> str | None:
    """Return the pattern of lines whose object has these keys in this order; None if it cannot be built.

    Parameters
    ----------
    values : mapping of str to str
        The pattern of the value of each key.
    optional : collection of str
        Keys that may be missing. The first key must always be present.
    """
    if not 1 <= len(values) <= MAX_COLUMNS:
        return None
    members = []
    for number, (name, value) in enumerate(values.items()):
        if value is None or not re.fullmatch(PLAIN_KEY, name):
            return None
        member = f'"{re.escape(name)}" ?: ?{value}'
        if number:
            member = f"(?:, ?{member})?" if name in optional else f", ?{member}"
        members.append(member)
    return r"\{ ?" + "".join(members) + r" ?\}"
