"""Compares the keys of rows across files, in which the same key may have different types.

A key is compared as text: the integer 7, the float 7.0 and the text ``7`` are one key, but the text ``007`` is another.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from scoreline.storage.errors import InvalidRequest
from scoreline.tasks.quality.profiles.text_counts import hashes_of

_EXACT = float(1 << 53)
"""Integers below this number are exact as float64."""


def key_texts(column: pa.Array | pa.ChunkedArray, name: str) -> pa.LargeStringArray:
    """Return each key as text. A null stays null, and so does NaN.

    Raises
    ------
    InvalidRequest
        The column has a type whose values are no keys, such as lists.

    Examples
    --------
    >>> key_texts(pa.array([7.0, 0.5, None]), "id").to_pylist(), key_texts(pa.array(["007"]), "id").to_pylist()
    (['7', '0.5', None], ['007'])
    """
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if pa.types.is_dictionary(column.type):
        texts = key_texts(column.dictionary, name)
        return texts.take(column.indices)
    kind = column.type
    if pa.types.is_floating(kind):
        return _of_floats(column.cast(pa.float64()))
    if pa.types.is_timestamp(kind):
        column = column.cast(pa.timestamp("us", kind.tz), safe=False)
        if kind.tz is not None:
            column = column.cast(pa.timestamp("us", "UTC"))
    if pa.types.is_decimal(kind):
        texts = column.cast(pa.string())
        texts = pc.replace_substring_regex(texts, r"(\.[0-9]*?)0+$", r"\1")
        return pc.replace_substring_regex(texts, r"\.$", "").cast(pa.large_string())
    if pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        raise InvalidRequest(f"the key {name!r} is {kind}: name a column of texts, numbers, times or booleans")
    try:
        return column.cast(pa.large_string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise InvalidRequest(
            f"the key {name!r} is {kind}: name a column of texts, numbers, times or booleans"
        ) from None


def key_codes(column: pa.Array, name: str) -> tuple[list[str], Any]:
    """Return the different keys as text, and the place of each row's key among them: ndarray of int64; -1 for a null.

    The parameters and errors are those of `key_texts`.
    """
    encoded = key_texts(column, name).dictionary_encode()
    codes = pc.fill_null(encoded.indices.cast(pa.int64()), -1).to_numpy(zero_copy_only=False)
    return encoded.dictionary.to_pylist(), codes


def joined_keys(columns: Sequence[pa.LargeStringArray]) -> pa.LargeStringArray:
    """Return one text for the keys of several columns, or null if one of them is null. Different keys give other texts.

    >>> joined_keys([pa.array(["a"], pa.large_string()), pa.array(["bc"], pa.large_string())]).to_pylist()
    ['1:a2:bc']
    """
    if len(columns) == 1:
        return columns[0]
    pieces = [_joined([pc.utf8_length(texts).cast(pa.large_string()), texts], ":") for texts in columns]
    return _joined(pieces, "")


def _joined(columns: Sequence[Any], between: str) -> pa.LargeStringArray:
    return pc.binary_join_element_wise(*columns, pa.scalar(between, pa.large_string()))


def key_hashes(texts: pa.LargeStringArray) -> tuple[Any, Any]:
    """Return two hashes of each key, which together distinguish all keys: two ndarrays of uint64.

    Two of ten million keys have the same 128 bits with a probability of 1 in 10^24. The texts must have no nulls.
    """
    return hashes_of(texts), hashes_of(_joined([pa.scalar("key", pa.large_string()), texts], ""))


def _of_floats(column: pa.DoubleArray) -> pa.LargeStringArray:
    values = column.to_numpy(zero_copy_only=False)
    with np.errstate(invalid="ignore"):
        whole = (np.abs(values) < _EXACT) & (np.floor(values) == values)
    integers = pa.array(np.where(whole, values, 0.0).astype(np.int64)).cast(pa.large_string())
    known = pa.array(~np.isnan(values))
    texts = pc.if_else(pa.array(whole), integers, column.cast(pa.large_string()))
    return pc.if_else(known, texts, pa.scalar(None, pa.large_string()))
