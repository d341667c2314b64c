"""Keeps the scores of a part with the hashes of their rows, so that a later job can carry them over.

The scores of a part are one object in ``_carry/``, an Arrow IPC file: two columns of hashes, and the outputs of the
model, in the order of the first hash. The object does not depend on how the results are arranged, and has no kept
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
        """Return the object to store; None without rows. Of rows with equal hashes, the first is kept."""
        if not self._scores:
            return None
        hi, lo = (np.concatenate(found) for found in zip(*self._hashes, strict=True))
        order = np.lexsort((lo, hi)) if _has_equal(hi) else np.argsort(hi)
        hi, lo = hi[order], lo[order]
        is_new = np.append(True, (hi[1:] != hi[:-1]) | (lo[1:] != lo[:-1]))
        if not is_new.all():
            hi, lo, order = hi[is_new], lo[is_new], order[is_new]
        scores = pa.concat_tables(self._scores).take(pa.array(order))
        hashes = [pa.array(hi), pa.array(lo)]
        table = pa.Table.from_arrays(
            [*hashes, *(column.combine_chunks() for column in scores.columns)],
            names=["row_hash_1", "row_hash_2", *scores.column_names],
        )
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as out:
            out.write_table(table, max_chunksize=max(1, table.num_rows))
        body = sink.getvalue().to_pybytes()
        sketch = b64encode(hi[:SKETCHED].astype("<u8").tobytes()).decode()
        return StoredBytes(body=body, sha256=sha256_hex(body), sketch=sketch)


def _has_equal(hashes: Any) -> bool:
    """Return whether two hashes are equal, in which case the order of the rows needs both streams."""
    ordered = np.sort(hashes)
    return bool((ordered[1:] == ordered[:-1]).any())


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
        self._hi, self._lo = (table.column(place).to_numpy() for place in (0, 1))

    def find(self, hi: Any, lo: Any) -> Any:
        """Return the place of the scores of each row, or -1: ndarray of int64."""
        if not len(self._hi):
            return np.full(len(hi), -1, np.int64)
        places = np.searchsorted(self._hi, hi)
        places[places == len(self._hi)] = 0
        same = (self._hi[places] == hi) & (self._lo[places] == lo)
        return np.where(same, places, -1)  # a row whose first hash occurs twice is scored


def sketched(text: str) -> Any:
    """Return the hashes of a sketch: ndarray of uint64. Raises `ValueError`."""
    return np.frombuffer(b64decode(text, validate=True), "<u8")
