"""Infer the types of text columns from a sample of their values."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

SAMPLE_BYTES = 1 << 20
SAMPLE_ROWS = 2_000

ARROW_TYPES = {"string": pa.string(), "int64": pa.int64(), "float64": pa.float64(), "bool": pa.bool_()}
"""Arrow types by the names that users can set for a column."""

_INTEGER = re.compile(r"0|-?[1-9]\d{0,18}")
_NUMBER = re.compile(r"[-+]?(?:(?:0|[1-9]\d*)(?:\.\d*)?|\.\d+)(?:e[-+]?\d+)?|[-+]?inf(?:inity)?|nan", re.IGNORECASE)
_ZERO_PADDED = re.compile(r"[-+]?0\d+(?:\.\d*)?")
_BOOLEANS = frozenset({"true", "True", "TRUE", "false", "False", "FALSE"})
_INT64_MIN, _INT64_MAX = -(1 << 63), (1 << 63) - 1


def infer_from_strings(values: Sequence[str | None]) -> tuple[pa.DataType, float]:
    """Return the type of a CSV column, and the fraction of its values that are numbers.

    If a column contains values such as ``007``, its type is string even if all its values are numbers. Otherwise the
    leading zeros would be lost.

    >>> infer_from_strings(["1", None, "-20"]), infer_from_strings(["007", "1"])
    ((DataType(int64), 1.0), (DataType(string), 1.0))
    >>> infer_from_strings(["1", "2.5", "n/a?"])[0], infer_from_strings(["True", "false"])[0]
    (DataType(string), DataType(bool))
    """
    present = [value.strip() for value in values if value is not None]
    if not present:
        return pa.null(), 0.0
    if all(_INTEGER.fullmatch(value) and _INT64_MIN <= int(value) <= _INT64_MAX for value in present):
        return pa.int64(), 1.0
    if _BOOLEANS.issuperset(present):
        return pa.bool_(), 0.0
    numbers = sum(_NUMBER.fullmatch(value) is not None for value in present)
    padded = sum(_ZERO_PADDED.fullmatch(value) is not None for value in present)
    return (pa.float64() if numbers == len(present) else pa.string()), (numbers + padded) / len(present)


def infer_from_json(values: Sequence[Any]) -> tuple[pa.DataType, float]:
    """Return the type of a JSON field, and the fraction of its values that are numbers.

    >>> infer_from_json([1, None, 2.5]), infer_from_json([True])[0], infer_from_json([1, "n/a"])
    ((DataType(double), 1.0), DataType(bool), (DataType(string), 0.5))
    """
    present = [value for value in values if value is not None]
    kinds = {type(value) for value in present}
    numbers = sum(type(value) in (int, float) for value in present) / max(len(present), 1)
    if not present:
        return pa.null(), 0.0
    if kinds == {int} and all(_INT64_MIN <= value <= _INT64_MAX for value in present):
        return pa.int64(), 1.0
    if kinds <= {int, float}:
        return pa.float64(), 1.0
    if kinds == {bool}:
        return pa.bool_(), 0.0
    if kinds <= {dict, list}:
        try:
            return pa.array(present).type, 0.0
        except pa.ArrowException:
            return pa.list_(pa.null()), 0.0
    return pa.string(), numbers


def typed_field(name: str, inferred: tuple[pa.DataType, float], types: Mapping[str, str]) -> pa.Field:
    """Return the Arrow field for a column.

    Parameters
    ----------
    name : str
        Name of the column.
    inferred : tuple of pyarrow.DataType and float
        The result of `infer_from_strings` or `infer_from_json`. If a string column also contains numbers, their
        fraction is stored in the metadata of the field as ``numbers``.
    types : mapping of str to str
        The types that the user has set, by column. They take precedence over inferred types.
    """
    kind, numbers = inferred
    if name in types:
        return pa.field(name, ARROW_TYPES[types[name]])
    mixed = pa.types.is_string(kind) and numbers
    return pa.field(name, kind, metadata={"numbers": f"{numbers:.3f}"} if mixed else None)
