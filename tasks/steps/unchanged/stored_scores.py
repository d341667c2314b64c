"""Keeps the scores of a part with the hashes of their rows, so that a later job can carry them over.

The scores of a part are one object in ``_carry/``, an Arrow IPC file: two columns of hashes, and the outputs of the
model, in the order of the results. The object does not depend on how the results are arranged, and has no kept
columns, because those are read again. Its digest is in the receipt of the part.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from scoreline.storage.hashing import sha256_hex

SKETCHED = 32
"""Number of hashes by which a later job recognizes that it needs the scores of a part. 65,536 rows out of a part of
262,144 contain about 8 of them."""
_ANCHOR_ROWS = 1_024
_FEW = 4_096
_LOW_BITS = 18
"""A table of 2^18 bits of which 4,096 are set lets 1.6 percent of the stored rows pass."""


class Unusable(Exception):
    """Raised if stored scores are not those that the manifest names."""


@dataclass(frozen=True, kw_only=True)
class StoredBytes:
    """The scores of a part as they are stored."""

    body: bytes
    sha256: str
    sketch: str
    """The smallest hashes, in base64."""


class ScoresBuffer:
    """Collects the hashes and the scores of a part."""

    def __init__(self) -> None:
        self._hashes: list[tuple[Any, Any]] = []
        self._scores: list[pa.Table] = []

    def add(self, hashes: tuple[Any, Any], scores: pa.Table) -> None:
        """Add scored rows."""
        self._hashes.append(hashes)
        self._scores.append(scores)

    def finish(self) -> StoredBytes | None:
        """Return the object to store; None without rows."""
        if not self._scores:
            return None
        hi, lo = (np.concatenate(found) for found in zip(*self._hashes, strict=True))
        scores = pa.concat_tables(self._scores)
        hashes = [pa.array(hi), pa.array(lo)]
        table = pa.Table.from_arrays(
            [*hashes, *(column.combine_chunks() for column in scores.columns)],
            names=["row_hash_1", "row_hash_2", *scores.column_names],
        )
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as out:
            out.write_table(table, max_chunksize=max(1, table.num_rows))
        body = sink.getvalue().to_pybytes()
        sketch = b64encode(_smallest(hi).astype("<u8").tobytes()).decode()
        return StoredBytes(body=body, sha256=sha256_hex(body), sketch=sketch)


def _smallest(hashes: Any) -> Any:
    """Return the smallest hashes, in order. Of many equal rows, there may be fewer than `SKETCHED`."""
    some = 4 * SKETCHED
    return np.unique(np.partition(hashes, some)[:some] if len(hashes) > some else hashes)[:SKETCHED]


class StoredScores:
    """The scores of a part of an accepted run.

    Parameters
    ----------
    body : bytes
        The object.
    sha256 : str
        Its digest in the manifest.
    outputs : pyarrow.Schema
        The expected scores.

    Raises
    ------
    Unusable
        The object is damaged, or has other columns.
    """

    def __init__(self, body: bytes, sha256: str, outputs: pa.Schema) -> None:
        if sha256_hex(body) != sha256:
            raise Unusable("is damaged")
        try:
            table = pa.ipc.open_file(pa.BufferReader(body)).read_all().combine_chunks()
        except (pa.ArrowException, OSError) as error:
            raise Unusable("is damaged") from error
        scores = table.select(range(2, table.num_columns))
        if not scores.schema.remove_metadata().equals(outputs.remove_metadata()):
            raise Unusable("has other columns")
        self.scores = scores
        self.nbytes: int = table.nbytes
        self._order: Any = None
        self._hi, self._lo = (table.column(place).to_numpy() for place in (0, 1))

    def find(self, hi: Any, lo: Any) -> Any:
        """Return the place of the scores of each row, or -1: ndarray of int64.

        Most rows follow each other as they did before. Some rows, the anchors, are therefore looked up, and the rows
        between them are first compared at the places that follow from these. Only the others are looked up, too.
        """
        found = np.full(len(hi), -1, np.int64)
        if not len(self._hi) or not len(hi):
            return found
        anchors = np.arange(0, len(hi), _ANCHOR_ROWS)
        at = self._look_up(hi[anchors])
        known = np.flatnonzero(at >= 0)
        if len(known):
            shifts, segments = at[known] - anchors[known], np.searchsorted(known, np.arange(len(anchors)), "right")
            for before in (1, 0):  # the shift of the last anchor before a row, and of the next one
                shift = shifts[np.clip(segments - before, 0, len(known) - 1)]
                places = np.arange(len(hi)) + np.repeat(shift, _ANCHOR_ROWS)[: len(hi)]
                np.clip(places, 0, len(self._hi) - 1, out=places)
                found = np.where((found < 0) & (self._hi[places] == hi), places, found)
        left = np.flatnonzero(found < 0)
        found[left] = self._look_up(hi[left])
        return np.where(self._lo[found] == lo, found, -1)  # a row of which only one hash is equal is scored

    def _look_up(self, hi: Any) -> Any:
        """Return the place of each first hash, or -1: ndarray of int64."""
        if len(hi) > _FEW:
            if self._order is None:
                self._order = np.argsort(self._hi)
            among, order = np.arange(len(self._hi)), self._order
        else:  # the low bits rule out almost all stored rows, which takes less time than to sort them
            wanted = np.zeros(1 << _LOW_BITS, bool)
            mask = np.uint64((1 << _LOW_BITS) - 1)
            wanted[hi & mask] = True
            among = np.flatnonzero(wanted[self._hi & mask])
            order = np.argsort(self._hi[among])
        if not len(among):
            return np.full(len(hi), -1, np.int64)
        places = np.searchsorted(self._hi[among[order]], hi)
        places[places == len(among)] = 0
        places = among[order[places]]
        return np.where(self._hi[places] == hi, places, -1)


def sketched(text: str) -> Any:
    """Return the hashes of a sketch: ndarray of uint64. Raises `ValueError`."""
    return np.frombuffer(b64decode(text, validate=True), "<u8")
