"""The types in which a whole job scores its columns. The type of a value never depends on its part or batch.

The plan stores these types in the schema of the columns to read. The metadata of a feature states whether any row of
the input lacks a value. pandas reads integers with missing values as floats. Likewise, if any row of the job lacks a
value, every part scores these integers as floats, even a part whose own rows lack none. Plans of older releases lack
this metadata, so that the types in their jobs depend on the batch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

import pyarrow as pa

from scoreline.storage.tables.type_inference import CARRIED

FEATURE = b"feature"
"""Key in the metadata of a column that is scored."""
MISSING = b"missing"
"""Key in the metadata of a feature: ``1`` if some row of the input has no value, ``0`` if every row has a value."""
SCORED_AS = b"scored_as"
"""Key in the metadata of a feature of a batch: the type in which the job scores the feature."""


def settled_feature(name: str, kind: pa.DataType, *, missing: bool) -> pa.Field:
    """Return the field that describes a feature in the plan."""
    return pa.field(name, kind, metadata={FEATURE: b"1", MISSING: b"1" if missing else b"0"})


def kept_column(name: str, kind: pa.DataType, carried: bytes) -> pa.Field:
    """Return the field that describes a kept column in the plan."""
    return pa.field(name, kind, metadata={CARRIED: carried} if carried else None)


def common_type(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """Return the common type in which values of two types are scored, as in pandas; None if there is no such type.

    >>> common_type(pa.int32(), pa.float64()), common_type(pa.null(), pa.string()), common_type(pa.bool_(), pa.string())
    (DataType(double), DataType(string), None)
    """
    if one == other:
        return one
    if pa.types.is_null(one) or pa.types.is_null(other):
        return other if pa.types.is_null(one) else one
    plain, other_plain = _plain(one), _plain(other)
    if plain == other_plain:
        return one if pa.types.is_dictionary(one) and pa.types.is_dictionary(other) else plain
    if _is_number(plain) and _is_number(other_plain):
        integers = pa.types.is_integer(plain) and pa.types.is_integer(other_plain)
        return _wider_integer(plain, other_plain) if integers else pa.float64()
    if pa.types.is_timestamp(plain) and pa.types.is_timestamp(other_plain) and plain.tz == other_plain.tz:
        return max(plain, other_plain, key=lambda kind: ("s", "ms", "us", "ns").index(kind.unit))
    if pa.types.is_date(plain) and pa.types.is_date(other_plain):
        return pa.date64()
    return None


def settle(batch: pa.RecordBatch, reads: pa.Schema) -> pa.RecordBatch:
    """Convert the features of a batch to the types of the whole job.

    Parameters
    ----------
    batch : pyarrow.RecordBatch
        The columns in `reads`, with the types that they have in the object.
    reads : pyarrow.Schema
        The columns and their types in the plan.

    Returns
    -------
    pyarrow.RecordBatch
        The same rows. Numbers that the job scores as floats keep their type here, because a float may not represent
        them exactly. `scoreline.tasks.scoring.features` converts them later, and rejects rows that it cannot convert.
        Values without a common type, such as texts among numbers, keep their type too.
    """
    if batch.schema.equals(reads):  # a fast path for most objects, because a table may have thousands of columns
        # batches that share a schema, rather than equal schemas, are compared at once
        plain = reads if reads.metadata is None else reads.remove_metadata()
        if batch.schema.equals(plain, check_metadata=True):  # usual for wide tables
            return batch
        return pa.RecordBatch.from_arrays(batch.columns, schema=plain)
    columns, fields = [], []
    for field, column in zip(reads, batch.columns, strict=True):
        metadata = dict(field.metadata or {})
        if pa.types.is_null(column.type) and not pa.types.is_null(field.type):
            column = pa.nulls(len(column), field.type)
        elif MISSING in metadata and column.type != field.type:
            plain = column if pa.types.is_dictionary(field.type) else _decoded(column)
            if pa.types.is_floating(field.type) and _is_number(plain.type):
                column, metadata[SCORED_AS] = plain, str(field.type).encode()
            elif common_type(column.type, field.type) == field.type and not pa.types.is_dictionary(field.type):
                with contextlib.suppress(pa.ArrowInvalid):  # the finer unit cannot represent some time
                    column = plain.cast(field.type)
        columns.append(column)
        fields.append(pa.field(field.name, column.type, metadata=metadata or None))
    return pa.RecordBatch.from_arrays(columns, schema=pa.schema(fields)) if columns else batch


def missing_anywhere(field: pa.Field) -> bool | None:
    """Return whether a feature lacks a value in some row of the job; None if the plan does not state it."""
    said = (field.metadata or {}).get(MISSING)
    return None if said is None else said == b"1"


def scored_as_float(field: pa.Field) -> bool:
    """Return whether the job scores a feature as floats, regardless of its type in the current object."""
    return pa.types.is_floating(field.type) or SCORED_AS in (field.metadata or {})


def describe_types(reads: pa.Schema, features: Iterable[str]) -> dict[str, str]:
    """Return a readable name for the type in which each feature is scored."""
    fields = {field.name: field for field in reads}  # `Schema.names` makes a list of all names at each access
    return {name: _described(fields[name]) for name in features if name in fields}


def _described(field: pa.Field) -> str:
    kind = _plain(field.type)
    if missing_anywhere(field) and (pa.types.is_integer(kind) or pa.types.is_boolean(kind)):
        return f"float64 ({kind} with missing values)"
    return {pa.float64(): "float64", pa.float32(): "float32"}.get(kind, str(field.type))


def _plain(kind: pa.DataType) -> pa.DataType:
    """Return the value type of a dictionary, ``string`` for other string types, and any other type unchanged."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.string() if pa.types.is_large_string(kind) or pa.types.is_string_view(kind) else kind


def _decoded(column: pa.Array) -> pa.Array:
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _is_number(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind) or types.is_boolean(kind))


def _wider_integer(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    """Return the integer type that can hold the values of both types; float64 if there is none."""
    signed = [pa.types.is_signed_integer(kind) for kind in (one, other)]
    if signed[0] == signed[1]:
        return max(one, other, key=lambda kind: int(kind.bit_width))
    unsigned = other if signed[0] else one
    if unsigned.bit_width < 64:
        widths = {16: pa.int16(), 32: pa.int32(), 64: pa.int64()}
        return widths[max(2 * unsigned.bit_width, one.bit_width if signed[0] else other.bit_width)]
    return pa.float64()
