"""Counts texts with Arrow: their values and their lengths."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from scoreline.tasks.quality.stable_hash import FINAL, FINAL_SHIFT, WORD_FACTOR, WORD_SHIFT
from scoreline.tasks.quality.values import MAX_BYTES, MAX_VALUES, Values, key_of


class TextCounts:
    """Counts of texts that are added array by array.

    Parameters
    ----------
    limit, limit_bytes : int
        Maximum number of values that are held, and of their bytes.
    """

    def __init__(self, limit: int = MAX_VALUES, limit_bytes: int = MAX_BYTES) -> None:
        self._values = Values(limit=limit, limit_bytes=limit_bytes)

    def add(self, texts: pa.Array) -> None:
        """Count the values of an array of type large_string without nulls."""
        if not len(texts):
            return
        found = pc.value_counts(texts)
        values, counts = found.field("values"), found.field("counts").to_numpy()
        if self._values.level:
            held = (hashes_of(values) & np.uint64((1 << self._values.level) - 1)) == 0
            values, counts = values.filter(pa.array(held)), counts[held]
        self.add_counts(dict(zip(map(key_of, values.to_pylist()), counts.tolist(), strict=True)), len(texts))

    def add_counts(self, counts: dict[str, int], total: int) -> None:
        """Count values that are already counted, all or those that are held."""
        held = self._values
        merged = dict(held.counts)
        for key, count in counts.items():
            merged[key] = merged.get(key, 0) + count
        self._values = Values.of_counts(merged, held.total + total, held.level, held.limit, held.limit_bytes)

    def values(self) -> Values:
        """Return the counts."""
        return self._values


def hashes_of(texts: pa.LargeStringArray) -> Any:
    """Return the hash of the UTF-8 bytes of each text (see `stable_hash.hash_bytes`): ndarray of uint64.

    The array must have no nulls.
    """
    _, offsets_buffer, data = texts.buffers()
    offsets = np.frombuffer(offsets_buffer, np.int64)[texts.offset : texts.offset + len(texts) + 1]
    padded = np.zeros((len(data) if data is not None else 0) + 8, np.uint8)
    if data is not None:
        padded[: len(data)] = np.frombuffer(data, np.uint8)
    words = np.ndarray(len(padded) - 7, "<u8", padded.data, strides=(1,))
    at, left = offsets[:-1].copy(), np.diff(offsets)
    mixed = left.astype(np.uint64)
    rows = np.flatnonzero(left > 0)
    while len(rows):
        rest = left[rows]
        word = words[at[rows]]
        word &= np.uint64(2**64 - 1) >> (8 * (8 - np.minimum(rest, 8))).astype(np.uint64)
        value = (mixed[rows] ^ word) * np.uint64(WORD_FACTOR)
        mixed[rows] = value ^ (value >> np.uint64(WORD_SHIFT))
        at[rows] += 8
        left[rows] -= 8
        rows = rows[rest > 8]
    return mixed_hashes(mixed)


def mixed_hashes(numbers: Any) -> Any:
    """Return the hash of each integer (see `stable_hash.mix`): ndarray of uint64."""
    for shift, factor in FINAL:
        numbers = (numbers ^ (numbers >> np.uint64(shift))) * np.uint64(factor)
    return numbers ^ (numbers >> np.uint64(FINAL_SHIFT))
