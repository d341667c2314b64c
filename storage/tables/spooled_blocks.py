"""Decodes small objects, and writes the rows of several to the spool as a block."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from scoreline.storage.tables.base import Encoded, Pinned, Survey
from scoreline.storage.tables.parquet_alike import decode_together
from scoreline.storage.tables.spool import Spool

_BLOCK_BYTES, _BLOCK_OBJECTS = 1 << 20, 256
"""Size of the objects or their rows, or number of objects, after which rows are written to the spool together."""
_MOST_BYTES = 32 << 20
"""Maximum memory that rows take that are decoded together, however their texts are encoded."""


class SpooledBlocks:
    """Collects the objects that a process writes to its spool.

    Objects with the same columns are decoded together (see `parquet_alike`), all others one after another. The bytes of
    an object that cannot be decoded are written, so that its part explains the error.

    Parameters
    ----------
    spool : Spool
        The spool of the worker.
    """

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self.clear()

    def clear(self) -> None:
        """Forget the objects that are not written yet."""
        self._encoded: list[tuple[Pinned, bytes, Survey, Encoded]] = []
        self._encoded_bytes = self._encoded_most = 0
        self._decoded: list[tuple[Pinned, bytes, pa.RecordBatch]] = []
        self._decoded_bytes = 0

    def add(self, source: Pinned, data: bytes, survey: Survey) -> None:
        """Add an object for which there is space in the spool.

        Parameters
        ----------
        data : bytes
            The bytes of the object.
        """
        encoded = survey.encoded
        if encoded is None:
            self._decode(source, data, survey)
            return
        if self._encoded and (
            self._encoded_bytes > _BLOCK_BYTES
            or self._encoded_most + encoded.most > _MOST_BYTES
            or len(self._encoded) == _BLOCK_OBJECTS
            or encoded.footer.layout != self._encoded[0][3].footer.layout
        ):
            self._write_encoded()
        self._encoded.append((source, data, survey, encoded))
        self._encoded_bytes += max(len(data), encoded.size)
        self._encoded_most += encoded.most

    def flush(self) -> None:
        """Write all objects that were added."""
        self._write_encoded()
        self._write_decoded()

    def _write_encoded(self) -> None:
        objects, self._encoded, self._encoded_bytes, self._encoded_most = self._encoded, [], 0, 0
        if not objects:
            return
        rows = decode_together([encoded for *_, encoded in objects])
        if rows is None:
            for source, data, survey, _ in objects:
                self._decode(source, data, survey)
        else:
            self._write([(source, data, encoded.footer.rows) for source, data, _, encoded in objects], rows)

    def _decode(self, source: Pinned, data: bytes, survey: Survey) -> None:
        batch = None if survey.decode is None else survey.decode()
        if batch is None:
            self._spool.add(source, data, sum(span.rows for span in survey.spans))
            return
        if self._decoded and (
            self._decoded_bytes > _BLOCK_BYTES
            or len(self._decoded) == _BLOCK_OBJECTS
            or not batch.schema.equals(self._decoded[0][2].schema, check_metadata=True)
        ):
            self._write_decoded()
        self._decoded.append((source, data, batch))
        # The columns of a wide object take memory like its bytes. `nbytes` takes a tenth of the time of decoding
        self._decoded_bytes += max(len(data), batch.get_total_buffer_size())

    def _write_decoded(self) -> None:
        objects, self._decoded, self._decoded_bytes = self._decoded, [], 0
        if objects:
            rows = pa.concat_batches([batch for *_, batch in objects])
            self._write([(source, data, batch.num_rows) for source, data, batch in objects], rows)

    def _write(self, objects: Sequence[tuple[Pinned, bytes, int]], rows: pa.RecordBatch) -> None:
        """Write the rows of objects, or their bytes if there is not enough space."""
        if not self._spool.add_rows([(source, count) for source, _, count in objects], rows):
            for source, data, count in objects:
                self._spool.add(source, data, count)
