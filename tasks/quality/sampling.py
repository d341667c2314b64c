"""Chooses the rows of a large job that are counted. The choice depends on the object and the row number alone."""

from __future__ import annotations

from typing import Any

import numpy as np

from scoreline.tasks.quality.stable_hash import hash_bytes
from scoreline.tasks.quality.text_counts import mixed_hashes

MAX_ROWS = 250_000
"""Number of rows up to which all rows of a job are counted. With more rows, about as many are counted: a logistic
regression scores so fast that counting each row of 20 columns would take a fifth of its time."""
_BLOCK = 8_192
"""Number of rows that are hashed at a time. Larger arrays would take new pages of memory for each operation."""


def sampling_rate(rows: int) -> int:
    """Return `one_in` for a job with so many rows: about one in so many rows is counted.

    >>> sampling_rate(0), sampling_rate(250_000), sampling_rate(250_001), sampling_rate(10_000_000)
    (1, 1, 2, 40)
    """
    return max(1, -(-rows // MAX_ROWS))


def sampled_rows(uri: str, numbers: Any, one_in: int) -> Any:
    """Return which rows of an object are counted: ndarray of bool.

    A row is counted if the hash of the object and the row number is in the first of `one_in` equal ranges. Every n-th
    row would miss what recurs, such as each hour of a day.

    Parameters
    ----------
    uri : str
        The object.
    numbers : ndarray of int64, shape (n,)
        Numbers of rows within the object.
    """
    seed = np.uint64(hash_bytes(uri.encode("utf-8", "surrogatepass")))
    chosen = np.empty(len(numbers), bool)
    for start in range(0, len(numbers), _BLOCK):
        block = numbers[start : start + _BLOCK]
        hashes = mixed_hashes(block.astype(np.uint64) + seed)
        chosen[start : start + _BLOCK] = (hashes >> np.uint64(32)) * np.uint64(one_in) >> np.uint64(32) == 0
    return chosen
