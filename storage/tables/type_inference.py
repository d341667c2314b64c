"""Which types the columns of a text have, by a sample of it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

SAMPLE_BYTES = 1 << 20
SAMPLE_ROWS = 2_000

_WHOLE = re.compile(r"0|-?[1-9]\d{0,18}")
_NUMBER = re.compile(r"[-+]?(?:(?:0|[1-9]\d*)(?:\.\d*)?|\.\d+)(?:e[-+]?\d+)?|[-+]?inf(?:inity)?|nan", re.IGNORECASE)
ARROW_TYPES = {"string": pa.string(), "int64": pa.int64(), "float64": pa.float64(), "bool": pa.bool_()}
"""What a user may say that a column is."""
_PADDED = re.compile(r"[-+]?0\d+(?:\.\d*)?")
_FLAGS = frozenset({"true", "True", "TRUE", "false", "False", "FALSE"})
_LEAST, _MOST = -(1 << 63), (1 << 63) - 1


def guess_texts(values: Sequence[str | None]) -> tuple[pa.DataType, float]:
    """Return the type of a column of CSV, and which share of its values are numbers.

    Where some are written as ``007``, all of them may be numbers, and yet the column is text: the zeros would be lost.

    >>> guess_texts(["1", None, "-20"]), guess_texts(["1", "2.5", "n/a?"])[0], guess_texts(["007", "1"])
    ((DataType(int64), 1.0), DataType(string), (DataType(string), 1.0))
    >>> guess_texts(["True", "false"])[0]
    DataType(bool)
    """
    there = [value.strip() for value in values if value is not None]
    if not there:
        return pa.null(), 0.0
    if all(_WHOLE.fullmatch(value) and _LEAST <= int(value) <= _MOST for value in there):
        return pa.int64(), 1.0
    if _FLAGS.issuperset(there):
        return pa.bool_(), 0.0
    numbers = sum(_NUMBER.fullmatch(value) is not None for value in there)
    padded = sum(_PADDED.fullmatch(value) is not None for value in there)
    return (pa.float64() if numbers == len(there) else pa.string()), (numbers + padded) / len(there)


def guess_values(values: Sequence[Any]) -> tuple[pa.DataType, float]:
    """Return the type of a field of JSON, and which share of its values are numbers.

    >>> guess_values([1, None, 2.5]), guess_values([True])[0], guess_values([1, "n/a"])
    ((DataType(double), 1.0), DataType(bool), (DataType(string), 0.5))
    """
    there = [value for value in values if value is not None]
    kinds = {type(value) for value in there}
    numbers = sum(type(value) in (int, float) for value in there) / max(len(there), 1)
    if not there:
        return pa.null(), 0.0
    if kinds == {int} and all(_LEAST <= value <= _MOST for value in there):
        return pa.int64(), 1.0
    if kinds <= {int, float}:
        return pa.float64(), 1.0
    if kinds == {bool}:
        return pa.bool_(), 0.0
    if kinds <= {dict, list}:
        try:
            return pa.array(there).type, 0.0
        except pa.ArrowException:
            return pa.list_(pa.null()), 0.0
    return pa.string(), numbers


def field(name: str, guessed: tuple[pa.DataType, float], told: Mapping[str, str]) -> pa.Field:
    """Describe a column; one that is mixed of numbers and texts says in its metadata how many are ``numbers``."""
    kind, numbers = guessed
    if name in told:
        return pa.field(
            name, {"string": pa.string(), "int64": pa.int64(), "float64": pa.float64(), "bool": pa.bool_()}[told[name]]
        )
    mixed = pa.types.is_string(kind) and numbers
    return pa.field(name, kind, metadata={"numbers": f"{numbers:.3f}"} if mixed else None)
