"""Recognizes rows by 128 bits of hash of their values, which NumPy computes for a batch at once.

Two streams of 64 bits, with different factors and seeds, take in each value in turn; each step is a bijection of the
value, so rows that differ in a single number never have the same hash. For other rows, the hashes behave like random
numbers: among 100 million rows of the accepted run, one row that has changed is taken for one of them with a
probability of 10^8 / 2^128, so for 100 million changed rows, this happens once in 3 * 10^22 jobs. A hash of 64 bits
would confuse rows in one of 2,000 such jobs. The hashes protect nothing: a person who writes the input could construct
rows that collide, and would only give their own row the score of another one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from scoreline.storage.hashing import sha256_hex
from scoreline.tasks.quality.results.key_texts import key_hashes

_FACTORS = (
    (0xBF58476D1CE4E5B9, 0x94D049BB133111EB),  # SplitMix64
    (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53),  # MurmurHash3
)
_SHIFTS = ((31, 29), (33, 32))
_NULL = 0x9E3779B97F4A7C15


class NoHash(Exception):
    """Raised for a column whose values have no hash, such as lists. The job is then scored whole.

    Parameters
    ----------
    kind : str
        The type of the column.
    """

    def __init__(self, kind: str) -> None:
        super().__init__(f"values of the type {kind} have no hash")
        self.kind = kind


class RowHasher:
    """Computes the hashes of rows.

    Parameters
    ----------
    columns : sequence of str
        The columns whose values count.
    seed : str
        A digest in hexadecimal of at least 32 digits. Hashes with different seeds have nothing in common.
    """

    def __init__(self, columns: Sequence[str], seed: str) -> None:
        self._columns = tuple(columns)
        self._seeds = _words_in(seed)

    def check(self, schema: pa.Schema) -> None:
        """Raise `NoHash` if the values of a column have no hash."""
        self.hashes(pa.RecordBatch.from_pylist([], schema=schema))

    def hashes(self, batch: pa.RecordBatch) -> tuple[Any, Any]:
        """Return the two hashes of each row: two ndarrays of uint64. A null is a value of its own."""
        columns = [batch.column(name) for name in self._columns]
        # An object may have other types than those of the job, and equal bits then mean other values
        kinds = _words_of(repr([str(_value_type(column.type)) for column in columns]))
        found = [np.full(batch.num_rows, seed ^ kind, np.uint64) for seed, kind in zip(self._seeds, kinds, strict=True)]
        for column in columns:
            _add(found, column)
        return found[0], found[1]


def _words_in(digest: str) -> tuple[int, int]:
    return int(digest[:16], 16), int(digest[16:32], 16)


def _words_of(text: str) -> tuple[int, int]:
    return _words_in(sha256_hex(text.encode()))


def _value_type(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _add(found: list[Any], column: pa.Array) -> None:
    """Take the values of a column into both streams."""
    if pa.types.is_dictionary(column.type):  # a model may depend on the categories, even if no row has them
        categories = column.dictionary
        for stream, word in enumerate(_words_of(repr(categories.cast(pa.large_string()).to_pylist()))):
            _mix(found[stream], np.uint64(word), stream)
        column = column.dictionary_decode()
    missing = column.is_null().to_numpy(zero_copy_only=False) if column.null_count else None
    for stream, words in enumerate(_words(column)):
        hashes = found[stream]
        if missing is not None:
            words = np.where(missing, np.uint64(0), words)
        _mix(hashes, words, stream)
        if missing is not None:
            nulls = hashes[missing]
            _mix(nulls, np.uint64(_NULL), stream)
            hashes[missing] = nulls


def _mix(hashes: Any, words: Any, stream: int) -> None:
    """Take one word for each row into a stream, in place."""
    hashes ^= words
    for factor, shift in zip(_FACTORS[stream], _SHIFTS[stream], strict=True):
        hashes *= np.uint64(factor)
        hashes ^= hashes >> np.uint64(shift)


def _words(column: pa.Array) -> tuple[Any, Any]:
    """Return a word of 64 bits for each stream and row. The words of nulls are arbitrary."""
    kind = column.type
    if pa.types.is_null(kind):
        words = np.zeros(len(column), np.uint64)
        return words, words
    if pa.types.is_boolean(kind):
        column, kind = column.cast(pa.uint8()), pa.uint8()
    if pa.types.is_primitive(kind) and kind.bit_width in (8, 16, 32, 64):
        words = _bits(column, kind.bit_width)
        return words, words
    if not (_is_text(kind) or pa.types.is_decimal(kind)):  # bytes, for example, are not always UTF-8
        raise NoHash(str(kind))
    return key_hashes(pc.fill_null(column.cast(pa.large_string()), ""))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _bits(column: pa.Array, width: int) -> Any:
    """Return the bits of numbers or times, without a conversion: ndarray of uint64."""
    values = column.buffers()[1]
    if values is None:
        return np.zeros(len(column), np.uint64)
    kind = np.dtype(f"u{width // 8}")
    found = np.frombuffer(values, kind, count=len(column), offset=column.offset * kind.itemsize)
    return found.astype(np.uint64, copy=False)
