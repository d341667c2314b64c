"""Chooses the rows of a large job that are counted. The choice depends on the object and the row number alone."""

from __future__ import annotations

from typing import Any

import numpy as np

from scoreline.tasks.quality.profiles.stable_hash import hash_bytes
from scoreline.tasks.quality.profiles.text_counts import mixed_hashes

MAX_ROWS = 100_000
"""Number of rows up to which all rows of a job are counted. With more rows, about as many are counted: boosting with
compiled trees scores so fast that counting each row of 20 columns would take a twentieth of its time."""
RUN_ROWS = 16
"""Number of rows that follow each other and are counted or left out together: two cache lines of float64. A processor
reads whole lines from memory, so single rows would take a third more time."""
_BLOCK = 8_192
"""Number of hashes that are computed at a time. Larger arrays would take new pages of memory for each operation."""


def sampling_rate(rows: int) -> int:
    """Return `one_in` for a job with so many rows: one in so many rows is counted.

    >>> sampling_rate(0), sampling_rate(100_000), sampling_rate(100_001), sampling_rate(10_000_000)
    (1, 1, 2, 100)
    """
    return max(1, -(-rows // MAX_ROWS))


def sampled_rows(uri: str, numbers: Any, one_in: int) -> Any:
    """Return which rows of an object are counted: their positions in `numbers`, ndarray of int64.

    The rows of an object are divided into runs of `RUN_ROWS`, and of each `one_in` runs that follow each other, the one
    is counted that a hash of the object and of the number of these runs names. Every n-th run would miss what recurs,
    such as each hour of a day.

    Parameters
    ----------
    uri : str
        The object.
    numbers : ndarray of int64, shape (n,)
        Numbers of rows within the object, in ascending order.
    """
    if not len(numbers):
        return np.empty(0, np.int64)
    seed = np.uint64(hash_bytes(uri.encode("utf-8", "surrogatepass")))
    first = int(numbers[0])
    if int(numbers[-1]) - first == len(numbers) - 1:
        groups = np.arange(first // (one_in * RUN_ROWS), int(numbers[-1]) // (one_in * RUN_ROWS) + 1)
        starts = (groups * one_in + _places(groups, seed, one_in)) * RUN_ROWS - first
        positions = (starts[:, None] + np.arange(RUN_ROWS)).ravel()
        return positions[(positions >= 0) & (positions < len(numbers))]
    runs = numbers // RUN_ROWS
    groups = runs // one_in
    return np.flatnonzero(runs == groups * one_in + _places(groups, seed, one_in))


def _places(groups: Any, seed: Any, one_in: int) -> Any:
    """Return which run of each group is counted: ndarray of int64."""
    places = np.empty(len(groups), np.int64)
    for start in range(0, len(groups), _BLOCK):
        hashes = mixed_hashes(groups[start : start + _BLOCK].astype(np.uint64) + seed)
        places[start : start + _BLOCK] = (hashes >> np.uint64(32)) * np.uint64(one_in) >> np.uint64(32)
    return places
