"""Compressed objects as streams of their bytes: several streams one after the other are one, other bytes a fault."""

from __future__ import annotations

import bz2
import gzip
import io
import zlib
from typing import Any

import pyarrow as pa

from scoreline.storage.errors import UnreadableInput
from scoreline.storage.tables.base import Pinned
from scoreline.storage.tables.ranged import RangedFile

_BUFFER_BYTES = 8 << 20
_CHUNK_BYTES = 256 << 10


class Decompressed:
    """Reads a compressed object from its beginning.

    Parameters
    ----------
    compression : str
        ``gzip``, ``bz2`` or ``zstd``.
    """

    def __init__(self, source: Pinned, compression: str) -> None:
        self._source = source
        raw = RangedFile(source.store, source.key, source.size, source.etag)
        self._file = _open(io.BufferedReader(raw, _BUFFER_BYTES), compression)
        self._place = 0

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes; none at the end.

        Raises
        ------
        UnreadableInput
            It is damaged, ends too early, or is followed by something else.
        """
        try:
            data: bytes = self._file.read(size)
        except (OSError, EOFError, zlib.error, pa.ArrowException) as error:
            raise UnreadableInput(
                f"{self._source.uri} cannot be decompressed: {error} (after some {self._place:,} bytes of its text)"
            ) from error
        self._place += len(data)
        return data


def _open(file: io.BufferedReader, compression: str) -> Any:
    match compression:
        case "gzip":
            return gzip.GzipFile(fileobj=file)
        case "bz2":
            return _Bz2(file)
        case _:
            return pa.CompressedInputStream(pa.PythonFile(file, "r"), compression)


class _Bz2:
    """Streams of bz2, as parallel compressors write them.

    The one of the standard library takes whatever follows the first stream for its end, if it is no stream itself: with
    a damaged one, all rows after it would be missing without a word.
    """

    def __init__(self, file: io.BufferedReader) -> None:
        self._file = file
        self._decoder: bz2.BZ2Decompressor | None = None

    def read(self, size: int) -> bytes:
        while True:
            decoder, data = self._decoder, b""
            if decoder is None or decoder.eof:
                data = (decoder.unused_data if decoder else b"") or self._file.read(_CHUNK_BYTES)
                if not data:
                    return b""
                decoder = self._decoder = bz2.BZ2Decompressor()
            elif decoder.needs_input and not (data := self._file.read(_CHUNK_BYTES)):
                raise EOFError("it ends within a stream")
            if found := decoder.decompress(data, size):
                return found
