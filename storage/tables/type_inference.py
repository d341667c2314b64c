"""Infers the types of the columns of a text from all of its values.

The type of a column must not depend on how the text is divided. Therefore, a survey passes all blocks of a text to the
same `DelimitedColumn` or `JsonColumn` for each column. A column has two types. A column is scored in the type that
``pandas.read_csv`` would infer. It is copied to the results in a type that preserves every value. The two types differ
if the first type would lose leading zeros, digits beyond int64 or float64, or the difference between the number 1 and
the text "1".
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from scoreline.storage.tables.convert import to_int64

ARROW_TYPES = {
    "string": pa.string(),
    "int64": pa.int64(),
    "float64": pa.float64(),
    "bool": pa.bool_(),
    "timestamp": pa.timestamp("us"),
    "timestamp_utc": pa.timestamp("us", "UTC"),
    "date": pa.date32(),
}
"""Arrow types by the names that users can set for a column."""

CARRIED = b"carried"
"""Metadata key of a field whose values would change if they were copied to the results in the field's type. The value
of the key says what is copied instead: ``text`` for the text of CSV, ``json`` for the text of JSON."""
NUMBERS = b"numbers"
"""Metadata key of a string field that contains both words and numbers. The value of the key is the type of the numbers:
``int64`` or ``double``."""
LARGE = b"large"
"""Metadata key of a field with integers that are too large for float64 to represent all of them exactly."""
PADDED = b"padded"
"""Metadata key of a field of numbers, some of which have leading zeros."""

_BOOLEANS = pa.array(["true", "True", "TRUE", "false", "False", "FALSE"])
_DIGITS = r"^[-+]?[0-9]+$"
_INTEGER = re.compile(r"\s*[-+]?[0-9]+\s*")
_ZERO_PADDED = r"^[-+]?0[0-9]"
_NUMBER = r"^(?i:[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[-+]?[0-9]+)?|[-+]?inf(inity)?|nan)$"
_MORE_THAN_17_DIGITS = r"^[-+]?[0.]*[1-9](\.?[0-9]){17}"
_MAX_DEPTH = 100
"""Maximum nesting depth at which objects and arrays have a type. Deeper objects and arrays are carried over as JSON."""
_SHORT = 15
"""Maximum number of characters with which float64 distinguishes all numbers."""
_MAX_EXACT_INTEGER = 1 << 53
_INT64_MIN, _INT64_MAX = -(1 << 63), (1 << 63) - 1


@dataclass(kw_only=True)
class _Column:
    """The type of a column, inferred from the values added so far."""

    kind: pa.DataType = field(default_factory=pa.null)
    """The type in which the values are scored."""
    missing: bool = False
    """Whether some row has no value."""
    carried: bytes = b""
    """How the values are carried over, if not in the type `kind` (see `CARRIED`)."""
    numbers: bool = False
    """Whether some values are numbers."""
    words: bool = False
    """Whether some values are not numbers."""
    fractions: bool = False
    """Whether some of the numbers are not integers of 64 bits."""
    large: bool = False
    """Whether float64 might not represent some of the integers exactly."""
    padded: bool = False
    """Whether some of the numbers have leading zeros."""

    def _note_large(self, integers: pa.Array | pa.ChunkedArray) -> None:
        """Record whether some of the integers are too large for float64 to represent them exactly."""
        bounds = pc.min_max(integers)
        if bounds["min"].is_valid:
            self.large = self.large or max(-bounds["min"].as_py(), bounds["max"].as_py()) > _MAX_EXACT_INTEGER

    def field(self, name: str, types: Mapping[str, str]) -> pa.Field:
        """Return the column as a field, which is nullable if some row has no value.

        Parameters
        ----------
        name : str
            Name of the column.
        types : mapping of str to str
            The types that the user has set, by column. These types take precedence over the inferred type.
        """
        if name in types:
            return pa.field(name, ARROW_TYPES[types[name]], nullable=self.missing)
        metadata: dict[bytes | str, bytes | str] = {}
        if self.carried:
            metadata[CARRIED] = self.carried
        if pa.types.is_string(self.kind) and self.numbers and self.words:
            metadata[NUMBERS] = b"double" if self.fractions else b"int64"
        if self.padded:
            metadata[PADDED] = b"1"
        if self.large:
            metadata[LARGE] = b"1"
        nullable = self.missing or pa.types.is_null(self.kind)
        return pa.field(name, self.kind, nullable=nullable, metadata=metadata or None)


@dataclass(kw_only=True)
class DelimitedColumn(_Column):
    """The type of a column of CSV."""

    scored: bool = False
    """Whether the column is known to be a feature, so that it is not carried over."""

    @property
    def is_settled(self) -> bool:
        """Whether no other value can change the type.

        For a text feature, it must also be known whether some values are numbers.
        """
        return pa.types.is_string(self.kind) and (not self.scored or (self.numbers and self.fractions))

    def add(self, values: pa.StringArray, nulls: Collection[str]) -> None:
        """Add the values of some rows.

        Parameters
        ----------
        values : pyarrow.StringArray
            The fields. A null is an empty field.
        nulls : collection of str
            Fields that stand for a missing value.

        Examples
        --------
        >>> column = DelimitedColumn()
        >>> column.add(pa.array(["1", "n/a"]), ["n/a"]), column.field("x", {})
        (None, pyarrow.Field<x: int64>)
        >>> column.add(pa.array(["2.5"]), []), column.field("x", {})
        (None, pyarrow.Field<x: double>)
        """
        if self.is_settled or self._add_as_before(values, nulls):
            return
        present = pc.utf8_trim_whitespace(values.drop_null())
        present = present.filter(pc.invert(pc.is_in(present, pa.array(["", *nulls], pa.string()))))
        self.missing = self.missing or len(present) < len(values)
        if not len(present):
            return
        numeric = pa.types.is_null(self.kind) or self.kind in (pa.int64(), pa.float64())
        if numeric and self.kind != pa.float64() and self._add_integers(present):
            return
        if numeric and _all(present, _NUMBER):
            self._add_floats(present)
        elif self.kind in (pa.null(), pa.bool_()) and pc.all(pc.is_in(present, _BOOLEANS)).as_py():
            self.kind, self.words = pa.bool_(), True
        else:
            self._add_words(present)

    def _add_as_before(self, values: pa.StringArray, nulls: Collection[str]) -> bool:
        """Add values if they have the type inferred so far, and return whether they do.

        Inferring would take ten times as long.
        """
        try:
            if self.kind == pa.float64() and (self.scored or self.carried):
                values.cast(pa.float64())
                if not self.padded and _any(values, _ZERO_PADDED):
                    return False
            elif self.kind == pa.int64() and not self.padded and not any(map(_INTEGER.fullmatch, nulls)):
                integers = values.cast(pa.int64())
                if pc.all(pc.equal(integers.cast(pa.string()), values)).as_py() is False:
                    return False
                self._note_large(integers)
            else:
                return False
        except pa.ArrowException:
            return False
        self.missing = self.missing or values.null_count > 0
        return True

    def _add_integers(self, present: pa.StringArray) -> bool:
        """Add the values if all of them are 64-bit integers. Return whether they were added."""
        integers = to_int64(present)
        canonical = integers is not None
        if integers is None:
            integers = to_int64(present, strict=False)
        if integers is None:
            return False
        if not canonical:
            self.padded = self.padded or _any(present, _ZERO_PADDED)
            self.carried = b"text"
        self._note_large(integers)
        self.kind, self.numbers = pa.int64(), True
        return True

    def _add_floats(self, present: pa.StringArray) -> None:
        """Change the type of the column to float64, and add numbers."""
        self.kind, self.numbers, self.fractions = pa.float64(), True, True
        self.padded = self.padded or _any(present, _ZERO_PADDED)
        if self.padded or self.large or not (self.scored or self.carried or _are_float64(present)):
            self.carried = b"text"

    def _add_words(self, present: pa.StringArray) -> None:
        """Change the type of the column to text, and add the values."""
        numbers = present.filter(pc.match_substring_regex(present, _NUMBER))
        self.numbers = self.numbers or len(numbers) > 0
        self.words = self.words or len(numbers) < len(present)
        self.fractions = self.fractions or to_int64(numbers, strict=False) is None
        self.padded = self.padded or _any(numbers, _ZERO_PADDED)
        self.kind = pa.string()


@dataclass(kw_only=True)
class JsonColumn(_Column):
    """The type of a key of JSON Lines."""

    def add_array(self, values: pa.ChunkedArray) -> bool:
        """Add the values of some rows, in the type that Arrow has inferred.

        Returns
        -------
        bool
            Whether the values were added. A column that Arrow reads as float64 may have integers that float64 cannot
            represent. If there are such integers, nothing is added, and the caller must pass each value to
            `add_values`.
        """
        if pa.types.is_floating(values.type):
            large = pc.greater_equal(pc.abs(values), float(_MAX_EXACT_INTEGER))
            if pc.any(large).as_py():
                return False
        if pa.types.is_integer(values.type):
            self._note_large(values)
        self.missing = self.missing or values.null_count > 0
        self._merge(_without_times(values.type, _MAX_DEPTH))
        return True

    def add_values(self, values: Sequence[Any]) -> None:
        """Add the values of some rows, as Python has parsed them. A None is a missing value.

        Examples
        --------
        >>> column = JsonColumn()
        >>> column.add_values([1, None]), column.field("x", {})
        (None, pyarrow.Field<x: int64>)
        >>> column.add_values(["n/a"]), column.field("x", {}).metadata
        (None, {b'carried': b'json', b'numbers': b'int64'})
        """
        present = [value for value in values if value is not None]
        self.missing = self.missing or len(present) < len(values)
        by_kind: dict[type, list[Any]] = {}
        for value in present:
            by_kind.setdefault(float if type(value) is int else type(value), []).append(value)
        for kind, members in by_kind.items():
            if kind is float:
                self._add_numbers(members)
            elif kind in (dict, list):
                self._merge(_nested_type(members))
            else:
                self._merge(pa.bool_() if kind is bool else pa.string())

    def _add_numbers(self, values: Sequence[int | float]) -> None:
        integers = [value for value in values if type(value) is int]
        if any(abs(value) > _MAX_EXACT_INTEGER for value in integers):
            self.large = True
        if len(integers) == len(values) and all(_INT64_MIN <= value <= _INT64_MAX for value in integers):
            self._merge(pa.int64())
        else:
            self._merge(pa.float64())

    def _merge(self, kind: pa.DataType | None) -> None:
        """Widen the type so that it also fits `kind`. `kind` is None for nested values that have no common type."""
        if kind is not None and pa.types.is_null(kind):
            return
        number = kind in (pa.int64(), pa.float64())
        self.numbers = self.numbers or number
        self.words = self.words or not number
        self.fractions = self.fractions or kind == pa.float64()
        if pa.types.is_null(self.kind) and kind is not None:
            self.kind = kind
        elif kind != self.kind:
            self._widen(kind)
        if self.kind == pa.float64() and self.large:
            self.carried = b"json"

    def _widen(self, kind: pa.DataType | None) -> None:
        if kind is not None and {self.kind, kind} == {pa.int64(), pa.float64()}:
            self.kind = pa.float64()
            return
        if kind is not None and pa.types.is_nested(kind) and pa.types.is_nested(self.kind):
            common = common_nested_type([self.kind, kind])
            if common is None:
                self.carried = b"json"
            else:
                self.kind = common
            return
        self.carried = b"json"
        if pa.types.is_null(self.kind):
            self.kind = pa.list_(pa.null())
        elif not pa.types.is_nested(self.kind) and not (kind is None or pa.types.is_nested(kind)):
            self.kind = pa.string()


def common_nested_type(kinds: Iterable[pa.DataType]) -> pa.DataType | None:
    """Return the nested type that fits values of all these types; None if there is no such type."""
    try:
        return pa.unify_schemas([pa.schema([("x", kind)]) for kind in kinds], promote_options="permissive")[0].type
    except pa.ArrowException:
        return None


def _nested_type(values: Sequence[Any]) -> pa.DataType | None:
    """Return the type of JSON objects or arrays; None if no Arrow type fits all of them."""
    try:
        return _without_times(pa.array(values).type, _MAX_DEPTH)
    except (pa.ArrowException, OverflowError, RecursionError):
        return None


def _without_times(kind: pa.DataType, depth: int) -> pa.DataType | None:
    """Replace timestamps by texts in a type, because Arrow infers them from texts.

    Return None if the type is nested deeper than `depth`.
    """
    if pa.types.is_timestamp(kind):
        return pa.string()
    if not pa.types.is_nested(kind):
        return kind
    if not depth:
        return None
    if pa.types.is_list(kind):
        inner = _without_times(kind.value_type, depth - 1)
        return None if inner is None else pa.list_(inner)
    fields = [(item, _without_times(item.type, depth - 1)) for item in kind.fields]
    known = [item.with_type(inner) for item, inner in fields if inner is not None]
    return pa.struct(known) if len(known) == len(fields) else None


def _all(values: pa.StringArray, pattern: str) -> bool:
    return bool(pc.all(pc.match_substring_regex(values, pattern)).as_py() in (True, None))


def _any(values: pa.StringArray, pattern: str) -> bool:
    return bool(pc.any(pc.match_substring_regex(values, pattern)).as_py())


def _are_float64(numbers: pa.StringArray) -> bool:
    """Return whether float64 represents all numbers without loss of digits."""
    long = numbers.filter(pc.greater(pc.binary_length(numbers), _SHORT))
    if not len(long):
        return True
    if _any(long, _MORE_THAN_17_DIGITS):
        return False
    integers = long.filter(pc.match_substring_regex(long, _DIGITS)).to_pylist()
    return all(int(float(text)) == int(text) for text in integers)
