"""Counts texts with Arrow: their values and their lengths."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from scoreline.tasks.quality.profiles.histograms import MAX_BUCKETS
from scoreline.tasks.quality.profiles.number_counts import NumberCounts
from scoreline.tasks.quality.profiles.stable_hash import FINAL, FINAL_SHIFT, WORD_FACTOR, WORD_SHIFT
from scoreline.tasks.quality.profiles.values import MAX_BYTES, MAX_CHARACTERS, MAX_LEVEL, MAX_VALUES, ValueSum, key_of


class TextCounts:
    """Counts of texts and of their lengths, which are added array by array.

    Parameters
    ----------
    limit, limit_bytes : int
        Maximum number of values that are held, and of their bytes.
    buckets : int
        Maximum number of buckets of the histogram of lengths.
    """

    def __init__(self, limit: int = MAX_VALUES, limit_bytes: int = MAX_BYTES, buckets: int = MAX_BUCKETS) -> None:
        self.values = ValueSum(limit, limit_bytes)
        self.lengths = NumberCounts(buckets)

    def add(self, texts: pa.Array) -> None:
        """Count an array of texts, or of a dictionary of texts, without nulls."""
        if not len(texts):
            return
        level = self.values.level
        if level:  # most values are not held
            texts = pc.cast(_decoded(texts), pa.large_string())
            self.lengths.add(pc.utf8_length(texts).to_numpy())
            held = (hashes_of(texts) & np.uint64((1 << level) - 1)) == 0
            values, counts = _counts_of(texts.filter(pa.array(held)))
        else:
            values, counts = _counts_of(texts)
            self.lengths.add(np.repeat(pc.utf8_length(values).to_numpy(), counts))
            level, held = self._least_level(values)
            if level:
                values, counts = values.filter(pa.array(held)), counts[held]
        by_key: dict[str, int] = {}
        for key, count in zip(map(key_of, values.to_pylist()), counts.tolist(), strict=True):
            by_key[key] = by_key.get(key, 0) + count  # a dictionary may contain a value twice
        self.values.add(by_key, len(texts), level)

    def _least_level(self, values: pa.LargeStringArray) -> tuple[int, Any]:
        """Return a level not above the one at which these values fit into the limits, and a mask of those held there.

        Python hashes each text that it holds, at each level anew, so those that are not held are left out before.
        """
        level, held = 0, np.full(len(values), True)
        if len(values) <= self.values.limit and values.nbytes <= self.values.limit_bytes:
            return level, held
        hashes = hashes_of(values)
        sizes = np.minimum(pc.binary_length(values).to_numpy(), MAX_CHARACTERS)  # long values are cut
        different = np.zeros(len(values), bool)  # a dictionary may contain a value twice
        different[np.unique(hashes, return_index=True)[1]] = True
        while level < MAX_LEVEL:
            counted = held & different
            if counted.sum() <= self.values.limit and sizes[counted].sum() <= self.values.limit_bytes:
                break
            level += 1
            held = (hashes & np.uint64((1 << level) - 1)) == 0
        return level, held


def _counts_of(texts: pa.Array) -> tuple[pa.Array, Any]:
    """Return the different values as large_string, and how often each occurs."""
    found = pc.value_counts(texts)
    return pc.cast(_decoded(found.field("values")), pa.large_string()), found.field("counts").to_numpy()


def _decoded(texts: pa.Array) -> pa.Array:
    return texts.dictionary_decode() if pa.types.is_dictionary(texts.type) else texts


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
