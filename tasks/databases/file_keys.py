"""Checks, while the rows of a file are copied, that no key is missing or there twice.

A table may have the first of two rows with one key already, so that this row is not sent. The server then cannot see
that the key is there twice.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


@dataclass(kw_only=True)
class FileKeys:
    """The keys of one file so far. The key is one column of a plain type."""

    pieces: list[pa.Array] = field(default_factory=list)

    def add(self, keys: pa.Array) -> bool:
        """Add the keys of a piece, in ascending order. Return False if one is missing or seen to be there twice.

        Keys of different pieces, and texts, are compared by `are_distinct` alone.
        """
        self.pieces.append(keys)
        if keys.null_count:
            return False
        if not pa.types.is_integer(keys.type):
            return True
        numbers = keys.to_numpy()
        return bool(np.all(numbers[1:] > numbers[:-1]))

    def are_distinct(self) -> bool:
        """Return whether no key is there twice, given that `add` saw none that is.

        Texts that differ only in spaces at their end count as the same.
        """
        if not self.pieces:
            return True
        keys = pa.chunked_array(self.pieces)
        if pa.types.is_integer(keys.type):
            ranges = sorted((piece[0].as_py(), piece[-1].as_py()) for piece in self.pieces)
            if all(before[1] < after[0] for before, after in pairwise(ranges)):
                return True  # each piece is known to have no key twice
        else:
            keys = pc.utf8_rtrim(keys, " ")  # which a varchar(n) may drop
        return bool(pc.count_distinct(keys, mode="all").as_py() == len(keys))
