"""Decompress objects while reading them.

If an object contains several compressed streams in a row, they are read as one. Any other bytes after a stream are an
error.
"""

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


class DecompressedFile:
    """Reads a compressed object from the beginning.

    Parameters
    ----------
    compression : str
        ``gzip``, ``bz2`` or ``zstd``.
    """

    def __init__(self, source: Pinned, compression: str) -> None:
        self._source = source
        raw = RangedFile(source.store, source.key, source.size, source.etag)
        self._file = _open(io.BufferedReader(raw, _BUFFER_BYTES), compression)
        self._position = 0

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes, or empty bytes at the end.

        Raises
        ------
        UnreadableInput
            The object is damaged or truncated, or other bytes follow the compressed data.
        """
        try:
            data: bytes = self._file.read(size)
        except (OSError, EOFError, zlib.error, pa.ArrowException) as error:
            raise UnreadableInput(
                f"{self._source.uri} cannot be decompressed: {error} (after {self._position:,} decompressed bytes)"
            ) from error
        self._position += len(data)
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
    """Reads several bz2 streams in a row, as parallel compressors write them.

    The reader in the standard library ignores all bytes after a stream that are not a valid stream themselves. If a
    later stream were damaged, its rows and all further rows would be lost silently.
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
                raise EOFError("it ends inside a compressed stream")
            if decompressed := decoder.decompress(data, size):
                return decompressed
