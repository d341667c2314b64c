"""Decodes untrusted JSON documents, and checks the type of every value.

Anyone with access to the bucket can write a document, and other releases of Scoreline write documents, too. A wrong
value that is noticed only when it is used could stop unrelated work.
"""

from __future__ import annotations

import functools
import gzip
import json
import math
import types
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from datetime import datetime
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

MALFORMED = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)
"""The errors that decoding a malformed document raises."""
MALFORMED_GZIP = (*MALFORMED, EOFError, gzip.BadGzipFile, zlib.error)
"""The errors that decompressing or decoding a malformed document raises."""
_YEARS = range(1970, 9999)
"""Years that a time may have. Times in other years cannot be converted to every time zone."""


def decode_object(data: bytes, instead: Callable[[dict[str, Any]], Any] | None = None) -> dict[str, Any]:
    """Decode a JSON object; raises `ValueError` or `TypeError`.

    Parameters
    ----------
    instead : callable, optional
        Returns what takes the place of each object, as soon as the object is decoded.

    >>> decode_object(b'{"rows": 5}'), decode_object(b"{}")
    ({'rows': 5}, {})
    """
    raw = json.loads(data, object_hook=instead)
    if not isinstance(raw, dict):
        raise TypeError(f"it is {_kind_of(raw)}, not an object")
    return raw


def build[T](kind: type[T], raw: Any, where: str = "") -> T:
    """Build a dataclass from a decoded JSON object, and check every value against the type of its field.

    Arrays become tuples. Unknown fields are ignored, because a later release may write additional fields.

    Parameters
    ----------
    kind : type
        A dataclass whose fields have types that `convert` supports.
    where : str
        The position of the object in its document, for error messages.

    Raises
    ------
    TypeError, ValueError
        The message names the field and the type that was found, but never the value, which may be confidential.
    """
    if not isinstance(raw, dict):
        raise TypeError(f"{where or 'it'} is {_kind_of(raw)}, not an object")
    hints: Mapping[str, Any] = _hints_of(kind)  # type: ignore[arg-type]  # a class is hashable
    given = {}
    for item in fields(kind):  # type: ignore[arg-type]  # every caller passes a dataclass
        name = f"{where}.{item.name}" if where else item.name
        if item.name in raw:
            given[item.name] = convert(raw[item.name], hints[item.name], name)
        elif item.default is MISSING and item.default_factory is MISSING:
            raise ValueError(f"{name} is missing")
    return kind(**given)


def convert(value: Any, hint: Any, where: str) -> Any:
    """Convert a decoded value to the type in a hint; raises `TypeError` or `ValueError`, with `where` in the message.

    A hint may be str, int, float, bool, None, a literal, a union, a tuple or sequence of one type, a mapping with texts
    as keys, a dataclass, or `Any`.

    >>> convert([1, 2], tuple[int, ...], "parts"), convert(1, float, "seconds"), convert(None, str | None, "error")
    ((1, 2), 1.0, None)
    >>> convert(5, str, "submitted")
    Traceback (most recent call last):
    ...
    TypeError: submitted is a number, not a text
    """
    origin, options = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin is Literal:
        if not (isinstance(value, str) and value in options):
            raise ValueError(f"{where} is none of {', '.join(map(repr, options))}")
        return value
    if origin in (Union, types.UnionType):
        return _convert_union(value, options, where)
    if origin in (tuple, Sequence):
        return tuple(convert(item, options[0], f"{where}[{number}]") for number, item in enumerate(_list(value, where)))
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, dict):
            raise TypeError(f"{where} is {_kind_of(value)}, not an object")
        return {name: convert(item, options[1], f"an entry of {where}") for name, item in value.items()}
    if is_dataclass(hint):
        return build(hint, value, where)  # type: ignore[arg-type]  # the hint is a class
    if hint is float and type(value) is int and abs(value) < 2**53:
        return float(value)
    if hint is float and type(value) is float and not math.isfinite(value):
        raise ValueError(f"{where} is not a finite number")
    if type(value) is not hint:
        raise TypeError(f"{where} is {_kind_of(value)}, not {_NAMES[hint]}")
    return value


def moment(text: Any, where: str) -> datetime:
    """Parse a time in ISO 8601 with a time zone; raises `TypeError` or `ValueError`.

    >>> moment("2026-11-25T02:00:00+00:00", "submitted").hour
    2
    """
    value = convert(text, str, where)
    try:
        found = datetime.fromisoformat(value)
    except ValueError:
        raise ValueError(f"{where} is not a time in ISO 8601") from None
    if found.tzinfo is None or found.year not in _YEARS:
        raise ValueError(f"{where} is not a time with a zone, after 1970")
    return found


@functools.cache
def _hints_of(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _convert_union(value: Any, options: Sequence[Any], where: str) -> Any:
    if value is None and type(None) in options:
        return None
    rest = [option for option in options if option is not type(None)]
    for option in rest[:-1]:
        try:
            return convert(value, option, where)
        except (TypeError, ValueError):
            continue
    return convert(value, rest[-1], where)


def _list(value: Any, where: str) -> Sequence[Any]:
    if not isinstance(value, (list, tuple)):
        raise TypeError(f"{where} is {_kind_of(value)}, not an array")
    return value


_NAMES: Mapping[type, str] = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "an array",
    dict: "an object",
    type(None): "null",
}


def _kind_of(value: Any) -> str:
    """Return the type of a decoded value in words, such as ``a number``, for messages that must not quote the value."""
    return "a number" if type(value) in (int, float) else _NAMES[type(value)]
