"""Says which rows of the parts the rows of an arranged file are, in few bytes, for the footer of the file.

The parts of a job with ``--gather`` or ``--partition-by`` are deleted once they are arranged. Each file therefore lists
the parts that it has rows of, in order, and for each of its rows the gap to the row before in the same part. Most gaps
are short, so that they take one byte each, and less when compressed. A row takes next to nothing if neighbouring rows
of a part stay together, 1.2 bytes if they are scattered over 50 folders, and 2.9 if they are scattered over 1,000.
"""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from typing import Any

import numpy as np

from scoreline.storage.typed_json import MALFORMED

FIELD = "scoreline.rows"
"""Name of the metadata field of the footer."""
_WIDE = 255
"""Stands for a gap that does not fit into a byte. It is in a list of its own."""


class RowOrigins:
    """Collects where the rows of one file come from, while the file grows.

    >>> origins = RowOrigins()
    >>> origins.add(3, np.array([0, 1, 5]))
    >>> origins.add(4, np.array([700]))
    >>> text = origins.finish()
    >>> [origin_of(text, row) for row in range(4)]
    [(3, 0), (3, 1), (3, 5), (4, 700)]
    """

    def __init__(self) -> None:
        self._parts: list[list[int]] = []
        self._last = -1
        self._gaps = zlib.compressobj()
        self._packed = bytearray()
        self._wide = bytearray()

    def add(self, part: int, rows: Any) -> None:
        """Add rows of a part.

        Parameters
        ----------
        part : int
            Number of the part; not smaller than before.
        rows : ndarray of int64
            Numbers of the rows among the scored rows of the part, from 0. They ascend, also from call to call.
        """
        if not len(rows):
            return
        if not self._parts or self._parts[-1][0] != part:
            self._parts.append([part, 0])
            self._last = -1
        gaps = np.diff(rows, prepend=self._last) - 1
        self._packed += self._gaps.compress(np.minimum(gaps, _WIDE).astype(np.uint8).tobytes())
        self._wide += gaps[gaps >= _WIDE].astype("<u4").tobytes()
        self._parts[-1][1] += len(rows)
        self._last = int(rows[-1])

    def finish(self) -> str:
        """Return the text for the footer."""
        gaps = bytes(self._packed) + self._gaps.flush()
        found = {"parts": self._parts, "gaps": _text(gaps)}
        if self._wide:
            found["wide"] = _text(zlib.compress(bytes(self._wide)))
        return json.dumps(found, separators=(",", ":"))


def origin_of(text: str, row: int) -> tuple[int, int]:
    """Return the part of a row of an arranged file, and its number among the scored rows of the part, from 0.

    Raises
    ------
    ValueError
        The text is damaged, or the file has no such row.
    """
    try:
        raw = json.loads(text)
        parts = [(int(part), int(rows)) for part, rows in raw["parts"]]
        gaps = np.frombuffer(zlib.decompress(base64.b64decode(raw["gaps"], validate=True)), np.uint8).astype(np.int64)
        wide = zlib.decompress(base64.b64decode(raw["wide"], validate=True)) if "wide" in raw else b""
        large = gaps == _WIDE
        gaps[large] = np.frombuffer(wide, "<u4")
    except (*MALFORMED, zlib.error, binascii.Error) as error:
        raise ValueError(f"its footer does not say where its rows come from: {error}") from error
    if sum(rows for _, rows in parts) != len(gaps) or not 0 <= row < len(gaps):
        raise ValueError(f"its footer says where {len(gaps):,} rows come from, not row {row:,}")
    start = 0
    for part, rows in parts:
        if row < start + rows:
            return part, int(np.sum(gaps[start : row + 1] + 1)) - 1
        start += rows
    raise AssertionError("the parts have all rows")


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
