"""Decompress objects while reading them.

If an object contains several compressed streams in a row, they are read as one. Any other bytes after a stream are an
error.

A survey notes places at which decompression can begin (see `seek_points`). There are none in zstd, and none inside a
stream of bz2. A process that reads several parts of such an object, one after the other, continues where it stopped.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import zlib
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from scoreline.storage.errors import UnreadableInput
from scoreline.storage.tables.base import Pinned, SeekPoint, Span
from scoreline.storage.tables.ranged import RangedFile
from scoreline.storage.tables.seek_points import CarefulGzip, GzipReader, SeekPoints

_BUFFER_BYTES = 4 << 20
_HEAD_BYTES = 256 << 10
_CHUNK_BYTES = 256 << 10
_SKIP_BYTES = 1 << 20
_MAX_KEPT = 2
"""Number of objects that a process keeps open between parts. Each takes a buffer and up to 8 MiB for zstd."""
_WORTH_SEEKING = 1 << 20
"""An open text is decompressed further unless a place to begin is more than this number of bytes ahead."""


class DecompressedFile:
    """Reads a compressed object from the beginning, or from a place that a survey has noted.

    Parameters
    ----------
    compression : str
        ``gzip``, ``bz2`` or ``zstd``.
    point : SeekPoint, optional
        Where to begin.
    points : SeekPoints, optional
        Collects places while all of the object is read.
    buffer_bytes : int
        Number of bytes to request at a time.
    """

    def __init__(
        self,
        source: Pinned,
        compression: str,
        *,
        point: SeekPoint | None = None,
        points: SeekPoints | None = None,
        buffer_bytes: int = _BUFFER_BYTES,
    ) -> None:
        self._source = source
        self._buffer_bytes = buffer_bytes
        self._file = self._open(compression, point, points)
        self.position = 0 if point is None else point.position
        """Position in the text, in bytes."""

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
                f"{self._source.uri} cannot be decompressed: {error} (after {self.position:,} decompressed bytes)"
            ) from error
        self.position += len(data)
        return data

    def skip_to(self, position: int) -> None:
        """Read on to a position in the text, or to its end."""
        while self.position < position and self.read(min(position - self.position, _SKIP_BYTES)):
            pass

    def _open(self, compression: str, point: SeekPoint | None, points: SeekPoints | None) -> Any:
        match compression:
            case "gzip" if point is not None:
                return GzipReader(self._raw(point.offset), point)
            case "gzip" if points is not None:
                return CarefulGzip(self._raw, points)
            case "gzip":
                return gzip.GzipFile(fileobj=self._raw())
            case "bz2":
                return _Bz2(self._raw(point.offset if point else 0), points)
            case _:
                return pa.CompressedInputStream(pa.PythonFile(self._raw(), "r"), compression)

    def _raw(self, offset: int = 0) -> io.BufferedReader:
        source = self._source
        raw = RangedFile(source.store, source.key, source.size, source.etag)
        raw.seek(offset)
        return io.BufferedReader(raw, self._buffer_bytes)


def open_head(source: Pinned, compression: str) -> DecompressedFile:
    """Open a compressed object to read only its first bytes."""
    return DecompressedFile(source, compression, buffer_bytes=_HEAD_BYTES)


class TextFiles:
    """Opens texts. Compressed ones stay open between parts, because the next part may begin where one ends.

    It avoids locks, because a signal handler may raise an error at any moment.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], DecompressedFile] = {}

    @contextlib.contextmanager
    def to_survey(
        self, source: Pinned, compression: str | None, start: int, points: SeekPoints
    ) -> Iterator[RangedFile | DecompressedFile]:
        """Open a text to read all of it from `start`, and note places at which decompression can begin."""
        if compression is None:
            yield open_plain(source, start)
            return
        file = DecompressedFile(source, compression, points=points)
        file.skip_to(start)
        yield file

    @contextlib.contextmanager
    def to_read(self, source: Pinned, compression: str | None, span: Span) -> Iterator[RangedFile | DecompressedFile]:
        """Open a text to read a span of it."""
        if compression is None:
            yield open_plain(source, span.start)
            return
        name = (source.uri, source.etag)
        file = self._kept.pop(name, None)
        place = span.point.position if span.point is not None else 0
        if file is None or file.position > span.start or file.position + _WORTH_SEEKING < place:
            file = DecompressedFile(source, compression, point=span.point)
        file.skip_to(span.start)
        with contextlib.suppress(GeneratorExit):  # the caller may need only the first rows
            yield file
        self._kept[name] = file
        while len(self._kept) > _MAX_KEPT:
            self._kept.pop(next(iter(self._kept)), None)


def open_plain(source: Pinned, start: int = 0) -> RangedFile:
    """Open a text that is not compressed."""
    file = RangedFile(source.store, source.key, source.size, source.etag)
    file.seek(start)
    return file


class _Bz2:
    """Reads several bz2 streams in a row, as parallel compressors write them.

    The reader in the standard library ignores all bytes after a stream that are not a valid stream themselves. If a
    later stream were damaged, its rows and all further rows would be lost silently.
    """

    def __init__(self, file: io.BufferedReader, points: SeekPoints | None = None) -> None:
        self._file = file
        self._points = points
        self._position = 0
        self._decoder: bz2.BZ2Decompressor | None = None

    def read(self, size: int) -> bytes:
        while True:
            decoder, data = self._decoder, b""
            if decoder is None or decoder.eof:
                data = (decoder.unused_data if decoder else b"") or self._file.read(_CHUNK_BYTES)
                if not data:
                    return b""
                decoder = self._decoder = bz2.BZ2Decompressor()
                if self._points is not None and self._points.is_due(self._position):
                    self._points.add(SeekPoint(position=self._position, offset=self._file.tell() - len(data)))
            elif decoder.needs_input and not (data := self._file.read(_CHUNK_BYTES)):
                raise EOFError("it ends inside a compressed stream")
            if decompressed := decoder.decompress(data, size):
                self._position += len(decompressed)
                return decompressed
