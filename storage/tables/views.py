"""Replace Arrow's view types by types that all functions of Arrow support. Polars, for example, writes texts as views.

Arrow cannot select single rows of a view column. Arrow can neither cast a dictionary of views nor write it to Parquet.
A few other types have similar limits, and are replaced, too: run-end encoded values, dictionaries of lists or structs,
and dictionaries with a null value.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def schema_without_views(schema: pa.Schema) -> pa.Schema:
    """Return a schema in which no column consists of views."""
    return pa.schema([field.with_type(_type_without_views(field.type)) for field in schema], schema.metadata)


def has_plain_types(schema: pa.Schema) -> bool:
    """Return whether `without_views` leaves data of this schema unchanged, whatever the values."""
    return not any(pa.types.is_dictionary(kind) for kind in schema.types) and schema_without_views(schema) == schema


def without_views[T: (pa.RecordBatch, pa.Table)](data: T) -> T:
    """Return the same values in columns that do not consist of views."""
    schema = schema_without_views(data.schema)
    if schema == data.schema and not any(_has_null_category(column) for column in data.columns):
        return data
    columns = [_column_without_views(column) for column in data.columns]
    return type(data).from_arrays(columns, schema=schema)


def _type_without_views(kind: Any) -> pa.DataType:
    types = pa.types
    if types.is_string_view(kind):
        return pa.large_string()  # large, because a batch of views may contain more than 2 GiB of text
    if types.is_binary_view(kind):
        return pa.large_binary()
    if types.is_run_end_encoded(kind):
        return _type_without_views(kind.value_type)
    if types.is_dictionary(kind):
        values = _type_without_views(kind.value_type)
        if types.is_nested(values):
            return values
        return kind if values == kind.value_type else pa.dictionary(kind.index_type, values, kind.ordered)
    if types.is_struct(kind):
        return pa.struct([field.with_type(_type_without_views(field.type)) for field in kind])
    if types.is_list_view(kind) or types.is_large_list_view(kind) or types.is_large_list(kind):
        item = kind.value_field.with_type(_type_without_views(kind.value_type))
        return pa.large_list(item) if not types.is_list_view(kind) else pa.list_(item)
    if types.is_fixed_size_list(kind):
        return pa.list_(kind.value_field.with_type(_type_without_views(kind.value_type)), kind.list_size)
    if types.is_list(kind):
        return pa.list_(kind.value_field.with_type(_type_without_views(kind.value_type)))
    if types.is_map(kind):
        return pa.map_(_type_without_views(kind.key_type), _type_without_views(kind.item_type), kind.keys_sorted)
    return kind


def _column_without_views(column: Any) -> Any:
    kind = _type_without_views(column.type)
    if isinstance(column, pa.ChunkedArray):
        return pa.chunked_array([_column_without_views(chunk) for chunk in column.chunks], kind)
    if _has_null_category(column):
        column = column.dictionary_decode().dictionary_encode().cast(column.type)
    if kind == column.type:
        return column
    if isinstance(column, pa.RunEndEncodedArray):
        return _column_without_views(pc.run_end_decode(column))
    if isinstance(column, pa.ListViewArray | pa.LargeListViewArray):
        return _column_without_views(_from_list_view(column))
    if isinstance(column, pa.DictionaryArray) and pa.types.is_nested(kind):
        return pa.array(column.to_pylist(), kind)
    if isinstance(column, pa.DictionaryArray):
        values = _column_without_views(column.dictionary)
        return pa.DictionaryArray.from_arrays(column.indices, values, ordered=column.type.ordered, safe=False)
    try:
        return column.cast(kind)
    except pa.ArrowNotImplementedError:  # a dictionary of views within a list
        return pa.array(column.to_pylist(), kind)


def _from_list_view(column: Any) -> Any:
    """Convert a column of list views to lists. Arrow's own cast gives invalid arrays."""
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    large = isinstance(column, pa.LargeListViewArray)
    array, integer = (pa.LargeListArray, np.int64) if large else (pa.ListArray, np.int32)
    return array.from_arrays(pa.array(offsets.astype(integer)), column.flatten(), mask=column.is_null())


def _has_null_category(column: Any) -> bool:
    """Return whether a dictionary has a null value. Arrow can neither write nor combine such dictionaries."""
    if isinstance(column, pa.ChunkedArray):
        return any(_has_null_category(chunk) for chunk in column.chunks)
    return isinstance(column, pa.DictionaryArray) and column.dictionary.null_count > 0
