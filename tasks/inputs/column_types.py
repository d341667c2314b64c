"""The type of one column in all objects of an input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from scoreline.storage.errors import (
    UnreadableInput,
)
from scoreline.storage.tables.type_inference import CARRIED, LARGE, NUMBERS, PADDED, common_nested_type
from scoreline.tasks.inputs.listing import SurveyedObject
from scoreline.tasks.scoring.settled_types import common_type

_TEXT_TYPES = (pa.string(), pa.int64(), pa.float64(), pa.bool_())
"""Types that text can be read as."""


_NUMBERS = (pa.int64(), pa.float64())


@dataclass(kw_only=True)
class ColumnTypes:
    """Collects the types that one column has in all objects."""

    name: str
    kept: bool
    """Whether the column is only copied into the results, not scored."""
    typed: pa.DataType | None = None
    """Type that fits all objects whose format stores types, such as Parquet."""
    typed_in: str = ""
    """URI of the first object whose format stores types."""
    inferred: dict[pa.DataType, str] = field(default_factory=dict)
    """Types inferred from text. Each type has the URI of the first object in which it was inferred."""
    missing: bool = False
    """Whether some row has no value."""
    altered: bool = False
    """Whether some values of text would change in the inferred type (see `type_inference.CARRIED`)."""
    large: bool = False
    """Whether float64 might not represent some integers in text exactly."""
    json_types: set[pa.DataType] = field(default_factory=set)
    """Types inferred from JSON Lines."""
    number_types: set[pa.DataType] = field(default_factory=set)
    """Types of the numbers that stand among words."""
    zero_padded: bool = False

    @property
    def is_found(self) -> bool:
        """Whether some object has the column."""
        return self.typed is not None or bool(self.inferred)

    @property
    def is_mixed(self) -> bool:
        """Whether the column occurs only in CSV or JSON Lines, and only some of its values are numbers."""
        numbers = [kind in _NUMBERS for kind in self.inferred if not pa.types.is_null(kind)]
        return self.typed is None and bool(self.number_types or (any(numbers) and not all(numbers)))

    @property
    def number_type(self) -> pa.DataType:
        """The type that fits all numbers of this column in CSV and JSON Lines."""
        types = {*self.number_types, *(kind for kind in self.inferred if kind in _NUMBERS)}
        return pa.int64() if types == {pa.int64()} else pa.float64()

    def add(self, item: SurveyedObject, column: pa.Field) -> None:
        """Add the column of one object."""
        self.missing = self.missing or (column.nullable and bool(item.file.spans))
        if item.text:
            metadata = column.metadata or {}
            self.altered = self.altered or CARRIED in metadata
            self.large = self.large or LARGE in metadata
            if item.has_optional_columns and not pa.types.is_null(column.type):
                self.json_types.add(column.type)
            if NUMBERS in metadata:
                self.number_types.add(pa.int64() if metadata[NUMBERS] == b"int64" else pa.float64())
            self.zero_padded = self.zero_padded or (PADDED in metadata and not self.kept)
            self.inferred.setdefault(column.type, item.uri)
        elif self.typed is None:
            self.typed, self.typed_in = column.type, item.uri
        else:
            common = _keep_type(self.typed, column.type) if self.kept else common_type(self.typed, column.type)
            if common is None and self.kept:
                raise UnreadableInput(
                    f"{item.uri} has {self.name!r} as {column.type}, but {self.typed_in} has it as {self.typed}: give "
                    "it one type, or leave it out with --keep"
                )
            self.typed = common or self.typed  # if no common type exists, the model accepts or rejects the other rows

    def resolve(self, *, is_text: bool) -> pa.DataType:
        """Return the type in which to read the column.

        Objects in a typed format such as Parquet determine the type. Without such objects, the type fits all values in
        text objects.

        Parameters
        ----------
        is_text : bool
            Whether the model was fitted on texts in this column.
        """
        if self.typed is None:
            common = _text_type(list(self.inferred), kept=self.kept)
            is_changed = self.altered or (self.large and common == pa.float64())
            if (self.kept and is_changed) or (is_text and self.json_types <= {pa.string()}):
                return pa.string()
            return common
        if self.inferred and _value_type(self.typed) not in _TEXT_TYPES:
            raise UnreadableInput(
                f"{next(iter(self.inferred.values()))} has {self.name!r} as text, but {self.typed_in} has it as "
                f"{self.typed}, which text cannot be read as: give it one type, or submit the objects as two jobs"
            )
        if self.inferred and not self.kept and {self.typed, *self.inferred} == {*_NUMBERS}:
            return pa.float64()
        if self.kept and self.large and self.typed == pa.float64():
            raise UnreadableInput(
                f"{next(iter(self.inferred.values()))} has integers in {self.name!r} that float64 cannot hold, and "
                f"{self.typed_in} has it as {self.typed}: give it one type, or leave it out with --keep"
            )
        return _value_type(self.typed) if self.inferred else self.typed

    def carried(self, kind: pa.DataType) -> bytes:
        """Return how to read a kept column of type `kind` from JSON Lines: as raw JSON or not (see `CARRIED`)."""
        as_json = pa.types.is_string(kind) and (self.altered or not self.json_types <= {pa.string()})
        return b"json" if self.json_types and as_json else b""


def _value_type(kind: pa.DataType) -> pa.DataType:
    """Return ``string`` for each of Arrow's string types, and any other type unchanged."""
    return pa.string() if pa.types.is_large_string(kind) or pa.types.is_string_view(kind) else kind


def _keep_type(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """Return a type that can hold the values of two types unchanged; None if there is no such type."""
    if pa.types.is_null(one) or pa.types.is_null(other):
        return other if pa.types.is_null(one) else one
    return one if one == other or _value_type(one) == _value_type(other) else None


def _text_type(inferred: Sequence[pa.DataType], *, kept: bool) -> pa.DataType:
    """Return the type that fits all types that were inferred from CSV and JSON Lines."""
    types = {kind for kind in inferred if not pa.types.is_null(kind)}
    if not types:
        return pa.string() if kept else pa.float64()
    if types == {*_NUMBERS}:
        return pa.float64()
    if len(types) == 1:
        return types.pop()
    common = common_nested_type(types) if all(map(pa.types.is_nested, types)) else None
    return common or pa.string()
