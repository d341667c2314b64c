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
from scoreline.tasks.quality.key_texts import key_hashes

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
        self._seeds = int(seed[:16], 16), int(seed[16:32], 16)

    def check(self, schema: pa.Schema) -> None:
        """Raise `NoHash` if the values of a column have no hash."""
        self.hashes(pa.RecordBatch.from_pylist([], schema=schema))

    def hashes(self, batch: pa.RecordBatch) -> tuple[Any, Any]:
        """Return the two hashes of each row: two ndarrays of uint64. A null is a value of its own."""
        found = [np.full(batch.num_rows, seed, np.uint64) for seed in self._seeds]
        for name in self._columns:
            _add(found, batch.column(name))
        return found[0], found[1]


def _add(found: list[Any], column: pa.Array) -> None:
    """Take the values of a column into both streams."""
    if pa.types.is_dictionary(column.type):  # a model may depend on the categories, even if no row has them
        categories = column.dictionary
        text = sha256_hex(repr(categories.cast(pa.large_string()).to_pylist()).encode())
        for stream, hashes in enumerate(found):
            _mix(hashes, np.uint64(int(text[:16], 16)), stream)
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
    if pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        raise NoHash(str(kind))
    try:
        texts = pc.fill_null(column.cast(pa.large_string()), "")
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise NoHash(str(kind)) from None
    return key_hashes(texts)


def _bits(column: pa.Array, width: int) -> Any:
    """Return the bits of numbers or times, without a conversion: ndarray of uint64."""
    values = column.buffers()[1]
    if values is None:
        return np.zeros(len(column), np.uint64)
    kind = np.dtype(f"u{width // 8}")
    found = np.frombuffer(values, kind, count=len(column), offset=column.offset * kind.itemsize)
    return found.astype(np.uint64, copy=False)
